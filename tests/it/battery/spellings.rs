//! Spellings of priced paths: every trick at every place, then tricks in pairs.

use std::collections::BTreeSet;

/// What a byte may be written as.
fn spelled(byte: u8) -> Vec<Vec<u8>> {
    let text = |text: String| text.into_bytes();
    let mut all = vec![
        text(format!("%{byte:02X}")),
        text(format!("%{byte:02x}")),
        text(format!("%25{byte:02X}")),
        text(format!("%2525{byte:02x}")),
        text(format!("%%{byte:02x}")),
        text(format!("%u00{byte:02x}")),
        text(format!("\\x{byte:02x}")),
        text(format!("&#{byte};")),
        // Overlong in two and in three bytes (RFC 3629 §3), in escapes and raw.
        text(format!("%{:02x}%{:02x}", 0xc0 | byte >> 6, 0x80 | byte & 0x3f)),
        text(format!("%e0%{:02x}%{:02x}", 0x80 | byte >> 6, 0x80 | byte & 0x3f)),
        vec![0xc0 | byte >> 6, 0x80 | byte & 0x3f],
        // With the eighth bit set.
        vec![byte | 0x80],
        text(format!("%{:02x}", byte | 0x80)),
        // Its wide twin (U+FF01 …), in escapes and raw.
        escaped(char::from_u32(0xfee0 + u32::from(byte)).unwrap()),
        char::from_u32(0xfee0 + u32::from(byte)).unwrap().to_string().into_bytes(),
    ];
    if byte.is_ascii_alphabetic() {
        all.push(vec![byte ^ 0x20]);
        all.push(text(format!("%{:02x}", byte ^ 0x20)));
    }
    all
}

fn escaped(char: char) -> Vec<u8> {
    char.to_string().bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect()
}

/// What may stand where a `/` stood.
const SEPARATORS: [&str; 46] = [
    "//",
    "///",
    "/./",
    "/././",
    "/.//",
    "/%2e/",
    "/%2E/",
    "/%252e/",
    "/x/../",
    "/x/%2e%2e/",
    "/x/.%2e/",
    "/x/%2e./",
    "/x/y/../../",
    "/x/%252e%252e/",
    "/x/..;/",
    "/x/..;a=b/",
    "/x/..%3b/",
    "/x/..%00/",
    "/x/...",
    "/.;/",
    "/%2e;/",
    "/;/",
    "/;a=b/",
    "/%3b/",
    "/%20/",
    "/ /",
    "/%09/",
    "%2f",
    "%2F",
    "%252f",
    "%25252F",
    "\\",
    "/\\",
    "\\/",
    "%5c",
    "%5C",
    "%255c",
    "%c0%af",
    "%c1%9c",
    "%e0%80%af",
    "%ef%bc%8f",
    "%e2%88%95",
    "%u002f",
    "/x/..%2f",
    "/x/..%5c",
    "/x\\..\\",
];

const SUFFIXES: [&str; 62] = [
    "/",
    "//",
    "/.",
    "/./",
    "/%2e",
    "/x/..",
    "/x/../",
    "/x/%2e%2e",
    ";",
    ";x",
    ";a=b",
    ";a=b;c",
    ";/",
    "/;",
    "/;x",
    "%3b",
    "%3Bx",
    "%253b",
    ".",
    "..",
    "...",
    "%2e",
    "%20",
    "%20%20",
    "%20.",
    ".%20",
    "%2520",
    " ",
    "\t",
    "%09",
    "%00",
    "%00.html",
    "%2500",
    "\0",
    "%0a",
    "%0d%0a",
    "%0D%0AX:y",
    "%3f",
    "%3Fq",
    "%253f",
    "%23",
    "%23q",
    "#",
    "#x",
    "?",
    "?q",
    "?/..",
    "?;",
    "??",
    "?a=%2f..%2f",
    "\\",
    "/\\",
    "%5c",
    "::$DATA",
    "%7f",
    "%80",
    "%ff",
    "%",
    "%2",
    "%zz",
    "%u0020",
    "\u{a0}",
];

const PREFIXES: [&str; 34] = [
    "/",
    "//",
    "/.",
    "/./",
    "/%2e",
    "/%252e",
    "/x/..",
    "/x/%2e%2e",
    "/x/..;",
    "/..",
    "/%2e%2e",
    "/..;",
    "/..;a=b",
    "/;",
    "/;a=b",
    "/%20",
    "/%09",
    "/%00",
    "\\",
    "/\\",
    "\\\\",
    "/%5c",
    "/%5C..",
    "/%2f",
    "/%252f",
    "//evil.test/..",
    "//evil.test/%2e%2e",
    "/x//..",
    "/x//../..",
    "/...",
    "/%c0%ae%c0%ae",
    "/%c0%ae",
    "/%ef%bc%8e",
    "/~/..",
];

/// Paths that are priced in every battery's configuration.
pub const BASES: [&str; 4] = ["/api/paid", "/premium/report.json", "/files/a/b.txt", "/wow!"];

/// At least 2,000 targets, each of which some server might take for a priced path, and each but once.
pub fn all() -> Vec<Vec<u8>> {
    let mut all = BTreeSet::new();
    for base in BASES {
        let bytes = base.as_bytes();
        all.insert(bytes.to_vec());
        all.insert(base.to_uppercase().into_bytes());
        all.insert(bytes.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()).collect());
        all.insert(
            bytes
                .iter()
                .flat_map(|byte| if *byte == b'/' { vec![*byte] } else { format!("%{byte:02X}").into() })
                .collect(),
        );
        for (at, byte) in bytes.iter().enumerate() {
            let around = |middle: &[u8]| [&bytes[..at], middle, &bytes[at + 1..]].concat();
            for spelling in spelled(*byte) {
                all.insert(around(&spelling));
            }
            // What some servers skip.
            for nothing in ["%00", "\0", "%0a", "%ad", "%c2%ad", "%e2%80%8b", "%ef%bb%bf", "\t"] {
                all.insert([&bytes[..=at], nothing.as_bytes(), &bytes[at + 1..]].concat());
            }
            for separator in SEPARATORS.iter().filter(|_| *byte == b'/') {
                all.insert(around(separator.as_bytes()));
            }
        }
        for suffix in SUFFIXES {
            all.insert(format!("{base}{suffix}").into_bytes());
        }
        for prefix in PREFIXES {
            all.insert(format!("{prefix}{base}").into_bytes());
        }
    }
    // Two tricks at once, every pair of kinds, on the shortest path and in turn on the others.
    for (index, prefix) in PREFIXES.iter().enumerate() {
        for (other, suffix) in SUFFIXES.iter().enumerate() {
            let base = BASES[(index + other) % BASES.len()];
            all.insert(format!("{prefix}{base}{suffix}").into_bytes());
        }
    }
    for (index, separator) in SEPARATORS.iter().enumerate() {
        for (other, suffix) in SUFFIXES.iter().enumerate().filter(|(other, _)| (other + index) % 3 == 0) {
            let base = BASES[other % 2];
            let (first, rest) = base[1..].split_once('/').unwrap();
            let flipped = if index % 2 == 0 { first.to_uppercase() } else { first.to_owned() };
            all.insert(format!("/{flipped}{separator}{rest}{suffix}").into_bytes());
        }
    }
    all.into_iter().collect()
}

#[test]
fn there_are_enough_of_them() {
    assert!(all().len() >= 2_000, "{}", all().len());
}
