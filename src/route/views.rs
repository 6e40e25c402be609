//! How else an origin might read a canonical path: the other readings must lead to the same route (threats A1, A3, A5).

use super::path::{AboveRoot, escaped_byte, is_path_byte, push_escaped, resolve};

/// A reading that ends in a control byte or can't be made: no route may be chosen on such a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Whether there may be other readings at all; false for almost every path, which keeps them off the hot path.
pub(super) fn may_be_ambiguous(path: &str) -> bool {
    path.bytes().any(|byte| byte == b';' || byte == b'%') || path.contains("./") || path.ends_with('.')
}

/// Every other reading of a canonical path, each in canonical spelling:
/// - escapes decoded once (reserved characters too), and once more than that;
/// - cut off at an encoded `?` or `#`;
/// - `;` and what follows dropped from each segment;
/// - spaces at both ends, and dots at the end, dropped from each segment;
///
/// and all of these together. At most 47.
///
/// # Errors
/// When decoding once more yields a control byte, which may end the path for some origins.
pub(super) fn other_readings(path: &str) -> Result<Vec<String>, Unreadable> {
    let once = decode(path.as_bytes());
    let twice = decode(&once);
    if twice.iter().any(u8::is_ascii_control) {
        return Err(Unreadable);
    }
    let mut readings = vec![path.to_owned()];
    add(&mut readings, resolved(&encode(&once)));
    add(&mut readings, resolved(&encode(&twice)));
    widen(&mut readings, cut_at_encoded_query);
    widen(&mut readings, |reading| map_segments(reading, before_parameters));
    widen(&mut readings, |reading| map_segments(reading, |segment| trim(segment, false)));
    widen(&mut readings, |reading| map_segments(reading, |segment| trim(segment, true)));
    readings.remove(0);
    Ok(readings)
}

fn add(readings: &mut Vec<String>, reading: String) {
    if !readings.contains(&reading) {
        readings.push(reading);
    }
}

fn widen(readings: &mut Vec<String>, change: impl Fn(&str) -> String) {
    let changed: Vec<String> = readings.iter().map(|reading| change(reading)).collect();
    for reading in changed {
        add(readings, reading);
    }
}

/// Decodes every escape once; a `%` that starts none stays as it is, as lenient origins have it.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(decoded) => {
                out.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// Spells decoded bytes as a path; `\` is read as `/`.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match *byte {
            b'/' | b'\\' => out.push('/'),
            byte if is_path_byte(byte) => out.push(char::from(byte)),
            byte => push_escaped(&mut out, byte),
        }
    }
    out
}

fn resolved(path: &str) -> String {
    // Staying at the root can't fail; a failure would be read as the root.
    resolve(path, AboveRoot::StayAtRoot).unwrap_or_else(|_error| "/".to_owned())
}

fn cut_at_encoded_query(path: &str) -> String {
    let end = [path.find("%3F"), path.find("%23")].into_iter().flatten().min().unwrap_or(path.len());
    resolved(path.get(..end).unwrap_or(path))
}

fn map_segments(path: &str, change: impl Fn(&str) -> &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        out.push_str(change(segment));
    }
    resolved(&out)
}

fn before_parameters(segment: &str) -> &str {
    let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min().unwrap_or(segment.len());
    segment.get(..end).unwrap_or(segment)
}

fn trim(segment: &str, dots_too: bool) -> &str {
    let mut rest = segment.trim_start_matches("%20");
    loop {
        let shorter = rest.trim_end_matches("%20");
        let shorter = if dots_too { shorter.trim_end_matches('.') } else { shorter };
        if shorter.len() == rest.len() {
            return rest;
        }
        rest = shorter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trick_has_the_reading_it_is_for() {
        for (path, reading) in [
            ("/paid;jsessionid=1", "/paid"),
            ("/paid%3Bx", "/paid"),
            ("/x/..;/paid", "/paid"),
            ("/x/..;a=b/paid", "/paid"),
            ("/..;/paid", "/paid"),
            ("/paid.", "/paid"),
            ("/paid%20", "/paid"),
            ("/%20paid", "/paid"),
            ("/paid.%20.", "/paid"),
            ("/x/..%20/paid", "/paid"),
            ("/paid.;x%20", "/paid"),
            ("/%2570aid", "/paid"),
            ("/pa%2569d%253Bx", "/paid"),
            ("/x/%252e%252e/paid", "/paid"),
            ("/api%252Fpaid", "/api/paid"),
            ("/api%255Cpaid", "/api/paid"),
            ("/wow%21", "/wow!"),
            ("/paid%3Fx", "/paid"),
            ("/paid%23x", "/paid"),
            ("/paid%253Fx", "/paid"),
        ] {
            assert!(may_be_ambiguous(path), "{path}");
            assert!(other_readings(path).unwrap().iter().any(|other| other == reading), "{path}");
        }
    }

    #[test]
    fn harmless_escapes_have_no_other_reading() {
        for path in ["/a%20b", "/caf%C3%A9", "/50%25", "/a.b/c", "/.hidden", "/100%25-sure"] {
            assert_eq!(other_readings(path), Ok(vec![]), "{path}");
        }
    }

    #[test]
    fn control_bytes_behind_a_second_decoding_are_unreadable() {
        assert_eq!(other_readings("/paid%2500"), Err(Unreadable));
        assert_eq!(other_readings("/paid%250a"), Err(Unreadable));
    }
}
