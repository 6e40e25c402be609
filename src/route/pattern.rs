//! A route's path pattern: read, checked, and compared with others. Matching itself is matchit's.

use super::path::{canonicalize, match_key};
use super::views;

/// Parameters a pattern may have: matchit panics at the 26th.
const MAX_PARAMETERS: usize = 25;

/// One segment of a pattern, least specific last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Text only; as in a match key.
    Static,
    /// A parameter with text before or behind it; as in a match key.
    Mixed(String),
    /// A parameter.
    Parameter,
    /// Everything that is left, also nothing.
    CatchAll,
}

/// Which of two patterns that match the same path is the more specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoreSpecific {
    Left,
    Right,
    /// Both say the same but for letter case, trailing slash and parameter names.
    Neither,
}

/// A path pattern in two matchit forms, with parameters renamed by position so that equal patterns are equal texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// For canonical paths.
    pub(super) exact: String,
    /// For match keys.
    pub(super) loose: String,
    segments: Vec<Segment>,
}

/// Why a pattern is refused, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PatternError {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Pattern {
    /// Reads a pattern in matchit syntax.
    ///
    /// # Errors
    /// When matchit refuses it, or when no request could ever match it: its text isn't canonical, or every request for it
    /// would be ambiguous.
    pub(super) fn parse(typed: &str) -> Result<Self, PatternError> {
        let error = |message: String, hint: Option<String>| PatternError { message, hint };
        if typed.contains("{{") || typed.contains("}}") {
            let hint = "write `%7B` and `%7D` for braces".to_owned();
            return Err(error(
                format!("expected parameters as `{{name}}`, got escaped braces in `{typed}`"),
                Some(hint),
            ));
        }
        let parameters = typed.matches('{').count();
        if parameters > MAX_PARAMETERS {
            let hint = "end it with a catch-all, as in `/a/{*rest}`".to_owned();
            return Err(error(
                format!("expected a path pattern of at most {MAX_PARAMETERS} parameters, got {parameters}"),
                Some(hint),
            ));
        }
        matchit::Router::new()
            .insert(typed, ())
            .map_err(|refused| error(format!("expected a path pattern, got `{typed}`: {refused}"), None))?;
        let mut exact = String::with_capacity(typed.len());
        let mut sample = String::with_capacity(typed.len());
        let mut segments = Vec::new();
        for (index, text) in typed.split('/').enumerate() {
            if index > 0 {
                exact.push('/');
                sample.push('/');
            }
            let Some((before, name, behind)) = split_parameter(text) else {
                exact.push_str(text);
                sample.push_str(text);
                if !text.is_empty() {
                    segments.push(Segment::Static);
                }
                continue;
            };
            // matchit has it match across segments: `/api{*rest}` would hold `/api-internal` (threat A10).
            if name.starts_with('*') && !before.is_empty() {
                let hint = "put a `/` before the catch-all".to_owned();
                return Err(error(format!("expected a catch-all as a segment of its own in `{typed}`"), Some(hint)));
            }
            let star = if name.starts_with('*') { "*" } else { "" };
            exact.push_str(&format!("{before}{{{star}p{index}}}{behind}"));
            sample.push_str(&format!("{before}x{behind}"));
            segments.push(match (star, before, behind) {
                ("*", _, _) => Segment::CatchAll,
                (_, "", "") => Segment::Parameter,
                _ => Segment::Mixed(match_key(&format!("{before}{{}}{behind}")).into_owned()),
            });
        }
        check_sample(typed, &sample, segments.iter().all(|segment| *segment == Segment::Static))?;
        let loose = match_key(&exact).into_owned();
        Ok(Self { exact, loose, segments })
    }

    /// What a catch-all covers besides what matchit matches: its own place, left empty.
    pub(super) fn empty_catch_all(matchit_pattern: &str) -> Option<&str> {
        let (parent, last) = matchit_pattern.rsplit_once('/')?;
        last.starts_with("{*").then_some(parent)
    }

    /// Whether a parameter has text round it.
    pub(super) fn is_mixed(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Mixed(_)))
    }

    /// Compares two patterns that match the same path: the first segment that differs in kind decides. Two parameters with
    /// different texts round them can't be ranked; then `self` wins, which the caller makes the priced one.
    pub(super) fn compare(&self, other: &Self) -> MoreSpecific {
        let mut left = self.segments.iter();
        let mut right = other.segments.iter();
        loop {
            match (left.next(), right.next()) {
                (None, None) => return MoreSpecific::Neither,
                // Only a catch-all matches nothing, so the one that has ended is the more specific.
                (None, Some(_)) => return MoreSpecific::Left,
                (Some(_), None) => return MoreSpecific::Right,
                (Some(left), Some(right)) if left == right => {}
                (Some(left), Some(right)) => {
                    return if left.rank() <= right.rank() { MoreSpecific::Left } else { MoreSpecific::Right };
                }
            }
        }
    }
}

impl Segment {
    fn rank(&self) -> u8 {
        match self {
            Self::Static => 0,
            Self::Mixed(_) => 1,
            Self::Parameter => 2,
            Self::CatchAll => 3,
        }
    }
}

/// Whether a pattern in one of its matchit forms matches a path of that form; for patterns that are kept out of matchit.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let mut wanted = pattern.split('/');
    let mut found = path.split('/');
    loop {
        let (want, got) = match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(want), Some(got)) => (want, got),
            _ => return false,
        };
        let fits = match split_parameter(want) {
            Some((_, name, _)) if name.starts_with('*') => return !got.is_empty(),
            Some((before, _, behind)) => got
                .strip_prefix(before)
                .and_then(|value| value.strip_suffix(behind))
                .is_some_and(|value| !value.is_empty()),
            None => want == got,
        };
        if !fits {
            return false;
        }
    }
}

fn split_parameter(segment: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = segment.split_once('{')?;
    let (name, behind) = rest.split_once('}')?;
    Some((before, name, behind))
}

/// Asks for the path that the pattern's own text makes, with `x` for each parameter.
fn check_sample(typed: &str, sample: &str, is_static: bool) -> Result<(), PatternError> {
    let refuse = |message: String, hint: Option<String>| Err(PatternError { message, hint });
    if sample.contains('?') {
        let hint = "a price holds for every query".to_owned();
        return refuse(format!("expected a path without query, got `{typed}`"), Some(hint));
    }
    let target = match canonicalize(sample.as_bytes()) {
        Ok(target) => target,
        Err(refused) => {
            let hint = "write spaces, control bytes and letters beyond ASCII percent-encoded, as UTF-8".to_owned();
            return refuse(format!("no request can have the path `{typed}`: {refused}"), Some(hint));
        }
    };
    let canonical = target.path().as_str();
    if canonical != sample {
        let hint = is_static.then(|| format!("write `{canonical}`"));
        return refuse(format!("expected a path in canonical form, got `{typed}`"), hint);
    }
    if views::may_be_ambiguous(canonical) && views::other_readings(canonical) != Ok(Vec::new()) {
        let hint = "leave out `;`, `%25`, dots and spaces at the ends of segments; write reserved characters unescaped";
        return refuse(
            format!("every request for `{typed}` would be refused, since origins could read it in two ways"),
            Some(hint.to_owned()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(typed: &str) -> Pattern {
        Pattern::parse(typed).unwrap()
    }

    #[test]
    fn a_static_segment_beats_a_parameter_and_that_a_catch_all() {
        for (winner, loser) in [
            ("/a/b", "/a/{x}"),
            ("/a/{x}", "/{x}/b"),
            ("/a/{x}", "/a/{*r}"),
            ("/a/{x}.json", "/a/{x}"),
            ("/a", "/a/{*r}"),
            ("/", "/{*r}"),
            ("/a/{*r}", "/{x}/b"),
        ] {
            assert_eq!(pattern(winner).compare(&pattern(loser)), MoreSpecific::Left, "{winner} {loser}");
            assert_eq!(pattern(loser).compare(&pattern(winner)), MoreSpecific::Right, "{winner} {loser}");
        }
        for (one, same) in [("/A/{x}", "/a/{y}/"), ("/{*a}", "/{*b}"), ("/X{a}", "/x{b}")] {
            assert_eq!(pattern(one).compare(&pattern(same)), MoreSpecific::Neither, "{one} {same}");
        }
    }

    #[test]
    fn patterns_that_no_request_can_match_are_refused() {
        for typed in [
            "/a//b",
            "/a/../b",
            "/%70aid",
            "/caf\u{e9}",
            "/a b",
            "/a%2Fb",
            "/a;b",
            "/a%3Bb",
            "/a.",
            "/a./b",
            "/a%20",
            "/%2570",
            "/wow%21",
            "/a#b",
            "/a?b",
            "/a\\b",
            "/{{a}}",
            "/{}",
            "/{*}",
            "/{*a}/b",
            "/{a}{b}",
            "/a{*b}",
            "a",
            "/{a",
            "/a%3fb",
            "",
        ] {
            assert!(Pattern::parse(typed).is_err(), "{typed}");
        }
        let parameters = |count: usize| (0..count).map(|number| format!("/{{p{number}}}")).collect::<String>();
        assert!(Pattern::parse(&parameters(MAX_PARAMETERS)).is_ok());
        assert!(Pattern::parse(&parameters(MAX_PARAMETERS + 1)).is_err());
        let refused = Pattern::parse("/%70aid").unwrap_err();
        assert_eq!(refused.hint.as_deref(), Some("write `/paid`"));
    }
}
