//! One spelling for each path (contract §3, threats A1–A6): what comes out is matched and forwarded, nothing else is.

use std::borrow::Cow;
use std::fmt;

/// The longest request target that is read, and the longest that comes out, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Why a request target is refused; always the client's fault (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`TARGET_BYTES_MAX`], as it came or in its canonical form.
    #[error("the request target is longer than {TARGET_BYTES_MAX} bytes")]
    TooLong,
    /// Absolute form, authority form, `*`, empty.
    #[error("the request target doesn't start with `/`")]
    NotOriginForm,
    /// A control byte, a literal space, a byte above ASCII, or `#`.
    #[error("the request target holds byte 0x{0:02x}, which has to be percent-encoded or left out")]
    IllegalByte(u8),
    /// `\`, which some origins read as `/`.
    #[error("the path holds `\\`")]
    Backslash,
    /// `%2F` or `%5C`, which some origins read as separators.
    #[error("the path holds an encoded `/` or `\\`")]
    EncodedSeparator,
    /// `%00` to `%1F`, `%7F`.
    #[error("the path holds an encoded control byte")]
    EncodedControl,
    /// A `%` without two hexadecimal digits behind it.
    #[error("the path holds a `%` that isn't followed by two hexadecimal digits")]
    BadEscape,
    /// Escapes above `%7F` that are no UTF-8.
    #[error("the path's percent-encoded bytes are no UTF-8")]
    NotUtf8,
    /// More `..` than there are segments to leave.
    #[error("the path's `..` segments lead above the root")]
    AboveRoot,
}

/// A path in its one spelling: unreserved bytes (RFC 3986 §2.3) decoded, other escapes in upper case, dot segments and
/// repeated slashes resolved; letter case and trailing slash kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

/// A request target in origin form: a canonical path, and the query as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CanonicalTarget<'a> {
    path: CanonicalPath<'a>,
    query: Option<Cow<'a, str>>,
}

impl CanonicalPath<'_> {
    /// The path that goes to the origin; starts with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What priced routes are matched on: without letter case or trailing slash. Borrowed when that changes nothing.
    #[must_use]
    pub fn match_key(&self) -> Cow<'_, str> {
        match_key(&self.0)
    }
}

impl fmt::Display for CanonicalPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'a> CanonicalTarget<'a> {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &CanonicalPath<'a> {
        &self.path
    }

    /// The query without its `?`, byte for byte as it came; `Some("")` if only the `?` came.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// What goes to the origin. Borrowed when there is no query.
    #[must_use]
    pub fn path_and_query(&self) -> Cow<'_, str> {
        match self.query() {
            Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
            None => Cow::Borrowed(self.path.as_str()),
        }
    }

    /// The same target, free of the request's buffer.
    #[must_use]
    pub fn into_owned(self) -> CanonicalTarget<'static> {
        CanonicalTarget {
            path: CanonicalPath(Cow::Owned(self.path.0.into_owned())),
            query: self.query.map(|query| Cow::Owned(query.into_owned())),
        }
    }
}

/// Puts a request target in origin form into its one spelling; borrows what already is. Doing it twice changes nothing.
///
/// # Errors
/// For every target that servers could read in two ways; see [`PathError`]. `..` above the root is refused, not clamped.
pub fn canonicalize(raw_target: &[u8]) -> Result<CanonicalTarget<'_>, PathError> {
    if raw_target.len() > TARGET_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    if raw_target.first() != Some(&b'/') {
        return Err(PathError::NotOriginForm);
    }
    if let Some(illegal) = raw_target.iter().find(|byte| !byte.is_ascii_graphic() || **byte == b'#') {
        return Err(PathError::IllegalByte(*illegal));
    }
    // Can't fail any more: only graphic ASCII is left.
    let text = std::str::from_utf8(raw_target).map_err(|_error| PathError::NotUtf8)?;
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let path = canonical_path(path)?;
    if path.len() + query.map_or(0, |query| query.len() + 1) > TARGET_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    Ok(CanonicalTarget { path: CanonicalPath(path), query: query.map(Cow::Borrowed) })
}

fn canonical_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if is_canonical_without_escapes(path) {
        return Ok(Cow::Borrowed(path));
    }
    let spelled = normalize_escapes(path)?;
    resolve(&spelled, AboveRoot::Refuse).map(Cow::Owned)
}

fn is_canonical_without_escapes(path: &str) -> bool {
    let bytes_are_plain = path.bytes().all(|byte| byte == b'/' || is_path_byte(byte));
    let mut segments = path.split('/').skip(1).peekable();
    let mut segments_are_plain = true;
    while let Some(segment) = segments.next() {
        let is_trailing_slash = segment.is_empty() && segments.peek().is_none();
        segments_are_plain &= is_trailing_slash || !matches!(segment, "" | "." | "..");
    }
    bytes_are_plain && segments_are_plain
}

/// Unreserved, sub-delims, `:` and `@`: what stands unescaped in a path segment (RFC 3986 §3.3).
pub(super) fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Appends `%XX`.
pub(super) fn push_escaped(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.extend([byte >> 4, byte & 0xf].iter().filter_map(|nibble| DIGITS.get(usize::from(*nibble))));
}

/// The byte that the escape at the start of `bytes` stands for, if there is one.
pub(super) fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

fn normalize_escapes(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut high_bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            flush_utf8(&mut high_bytes)?;
            match byte {
                b'\\' => return Err(PathError::Backslash),
                b'/' => out.push('/'),
                _ if is_path_byte(byte) => out.push(char::from(byte)),
                // Not legal in a path (`"<>^`{|}`): origins see them escaped, so that raw and escaped are one spelling.
                _ => push_escaped(&mut out, byte),
            }
            continue;
        }
        let [high, low, after @ ..] = after else { return Err(PathError::BadEscape) };
        rest = after;
        let decoded = escaped_byte(&[b'%', *high, *low]).ok_or(PathError::BadEscape)?;
        if decoded < 0x80 {
            flush_utf8(&mut high_bytes)?;
        } else {
            high_bytes.push(decoded);
        }
        match decoded {
            b'/' | b'\\' => return Err(PathError::EncodedSeparator),
            _ if decoded.is_ascii_control() => return Err(PathError::EncodedControl),
            _ if is_unreserved(decoded) => out.push(char::from(decoded)),
            _ => push_escaped(&mut out, decoded),
        }
    }
    flush_utf8(&mut high_bytes)?;
    Ok(out)
}

/// A run of escapes above ASCII must be whole UTF-8 by itself: overlong and cut-off forms are read differently by origins.
fn flush_utf8(run: &mut Vec<u8>) -> Result<(), PathError> {
    std::str::from_utf8(run).map_err(|_error| PathError::NotUtf8)?;
    run.clear();
    Ok(())
}

/// What becomes of `..` that has nothing left to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AboveRoot {
    Refuse,
    /// As most origins do.
    StayAtRoot,
}

/// Resolves dot segments and repeated slashes.
pub(super) fn resolve(path: &str, above_root: AboveRoot) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in path.split('/') {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." if kept.pop().is_none() && above_root == AboveRoot::Refuse => return Err(PathError::AboveRoot),
            ".." => {}
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_slash || kept.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// A canonical path (or pattern) without letter case and trailing slash. Letters beyond ASCII are folded too, since origins
/// that ignore case may ignore theirs.
pub(super) fn match_key(path: &str) -> Cow<'_, str> {
    let path = match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter,
        _ => path,
    };
    if !path.bytes().any(|byte| byte == b'%' || byte.is_ascii_uppercase()) {
        return Cow::Borrowed(path);
    }
    if !path.contains('%') {
        return Cow::Owned(path.to_ascii_lowercase());
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(high) if high >= 0x80 => {
                decoded.push(high);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    let text = String::from_utf8_lossy(&decoded);
    // Up and down again: the Kelvin sign and the long s meet `k` and `s` only that way.
    Cow::Owned(text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path_of(raw: &str) -> Result<String, PathError> {
        canonicalize(raw.as_bytes()).map(|target| target.path().as_str().to_owned())
    }

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        let table = [
            // A1
            ("/%70aid", "/paid"),
            ("/pai%64", "/paid"),
            ("/%7euser", "/~user"),
            ("/%2570aid", "/%2570aid"),
            ("/a%2cb%3b", "/a%2Cb%3B"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a{b}|\"<>^`", "/a%7Bb%7D%7C%22%3C%3E%5E%60"),
            // A3
            ("/./paid", "/paid"),
            ("/x/../paid", "/paid"),
            ("/x/%2e%2E/paid", "/paid"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/x/..;/paid", "/x/..;/paid"),
            ("/...", "/..."),
            // A4
            ("//paid", "/paid"),
            ("/api//paid", "/api/paid"),
            ("///", "/"),
            ("/a//../b", "/b"),
            ("//host/paid", "/host/paid"),
            // A5
            ("/PAID", "/PAID"),
            ("/paid/", "/paid/"),
            ("/paid.", "/paid."),
            ("/paid%20", "/paid%20"),
            ("/", "/"),
        ];
        for (raw, expected) in table {
            assert_eq!(path_of(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn what_servers_read_in_two_ways_is_refused() {
        let table: &[(&[u8], PathError)] = &[
            (b"/%zz", PathError::BadEscape),
            (b"/%c", PathError::BadEscape),
            (b"/%", PathError::BadEscape),
            (b"/%+1", PathError::BadEscape),
            (b"/%c0%af", PathError::NotUtf8),
            (b"/%c3", PathError::NotUtf8),
            (b"/%c3x%a9", PathError::NotUtf8),
            (b"/%e0%80%af", PathError::NotUtf8),
            (b"/%ed%a0%80", PathError::NotUtf8),
            (b"/api%2Fpremium", PathError::EncodedSeparator),
            (b"/api%2fpremium", PathError::EncodedSeparator),
            (b"/api%5Cpremium", PathError::EncodedSeparator),
            (b"/api%5cpremium", PathError::EncodedSeparator),
            (b"/\\paid", PathError::Backslash),
            (b"/paid\\", PathError::Backslash),
            (b"/../paid", PathError::AboveRoot),
            (b"/%2e%2e/paid", PathError::AboveRoot),
            (b"/a/../../paid", PathError::AboveRoot),
            (b"/paid%00", PathError::EncodedControl),
            (b"/paid%0d%0a", PathError::EncodedControl),
            (b"/paid%7F", PathError::EncodedControl),
            (b"/paid\0", PathError::IllegalByte(0)),
            (b"/pa id", PathError::IllegalByte(b' ')),
            (b"/paid#x", PathError::IllegalByte(b'#')),
            (b"/paid?a#x", PathError::IllegalByte(b'#')),
            (b"/paid?a b", PathError::IllegalByte(b' ')),
            (b"/paid\x7f", PathError::IllegalByte(0x7f)),
            (b"/caf\xc3\xa9", PathError::IllegalByte(0xc3)),
            (b"/paid?\xc3", PathError::IllegalByte(0xc3)),
            (b"", PathError::NotOriginForm),
            (b"paid", PathError::NotOriginForm),
            (b"?/paid", PathError::NotOriginForm),
            (b"*", PathError::NotOriginForm),
            (b"foo:bar://e/paid", PathError::NotOriginForm),
            (b"http://h/paid", PathError::NotOriginForm),
            (b"http:///paid", PathError::NotOriginForm),
            (b"h:443", PathError::NotOriginForm),
        ];
        for (raw, expected) in table {
            let refused = canonicalize(raw).map(CanonicalTarget::into_owned);
            assert_eq!(refused, Err(*expected), "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn the_query_is_kept_byte_for_byte() {
        let target = canonicalize(b"/a/../b?x=%70%2f..//\\%zz?&").unwrap();
        assert_eq!(target.path().as_str(), "/b");
        assert_eq!(target.query(), Some("x=%70%2f..//\\%zz?&"));
        assert_eq!(target.path_and_query(), "/b?x=%70%2f..//\\%zz?&");
        assert_eq!(canonicalize(b"/b?").unwrap().path_and_query(), "/b?");
        assert_eq!(canonicalize(b"/b").unwrap().query(), None);
    }

    #[test]
    fn targets_over_the_bound_are_refused_before_and_after() {
        let at_bound = format!("/{}", "a".repeat(TARGET_BYTES_MAX - 1));
        assert!(path_of(&at_bound).is_ok());
        assert_eq!(path_of(&format!("{at_bound}a")), Err(PathError::TooLong));
        let grows = format!("/{}", "|".repeat(TARGET_BYTES_MAX - 1));
        assert_eq!(path_of(&grows), Err(PathError::TooLong));
    }

    #[test]
    fn a_path_that_is_canonical_is_borrowed() {
        let target = canonicalize(b"/api/data;v=1,2:@/x.json").unwrap();
        assert!(matches!(target.path.0, Cow::Borrowed(_)));
        assert!(matches!(canonicalize(b"/api/data").unwrap().path.match_key(), Cow::Borrowed("/api/data")));
        assert!(matches!(canonicalize(b"/api/data/").unwrap().path.match_key(), Cow::Borrowed("/api/data")));
    }

    #[test]
    fn match_keys_forget_case_and_trailing_slash() {
        for (raw, key) in [
            ("/PAID/", "/paid"),
            ("/", "/"),
            ("/A%2C/", "/a%2c"),
            ("/caf%C3%89", "/café"),
            ("/%E2%84%AAey", "/key"),
            ("/%c5%bfhop", "/shop"),
        ] {
            assert_eq!(canonicalize(raw.as_bytes()).unwrap().path().match_key(), key, "{raw}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn canonicalizing_twice_changes_nothing(raw in "/([a-zA-Z/.;%~{|!]|%[0-9a-fA-F]{2}|%C3%A9|\\.\\./|//){0,24}(\\?[a-z%/.]{0,8})?") {
            if let Ok(once) = canonicalize(raw.as_bytes()) {
                let spelled = once.path_and_query().into_owned();
                let twice = canonicalize(spelled.as_bytes()).map(CanonicalTarget::into_owned);
                prop_assert_eq!(twice.map(|target| target.path_and_query().into_owned()), Ok(spelled.clone()));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_come_out_illegal(mut raw in proptest::collection::vec(any::<u8>(), 0..64), slash in any::<bool>()) {
            if slash {
                raw.insert(0, b'/');
            }
            if let Ok(target) = canonicalize(&raw) {
                let out = target.path().as_str();
                prop_assert!(out.starts_with('/') && !out.contains("//") && !out.contains("/../") && !out.ends_with("/.."));
                prop_assert!(out.bytes().all(|byte| byte == b'/' || byte == b'%' || is_path_byte(byte)), "{}", out);
            }
        }
    }
}
