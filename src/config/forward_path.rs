//! From typed to validated: `strip_prefix` and `rewrite`, by which an origin gets another path than the one that was asked.

use super::model::ForwardPath;
use super::raw::Route;
use super::reader::{At, Report, shown};

/// What the route's table says; mistakes have been reported. `route` is its name for messages, `pattern` its path.
pub(super) fn forward_path(route: &str, pattern: &str, table: &Route, report: &mut Report) -> ForwardPath {
    match (&table.strip_prefix, &table.rewrite) {
        (None, None) => ForwardPath::Same,
        (Some(prefix), None) => without(route, pattern, prefix, report),
        (None, Some(path)) => instead(route, pattern, path, report),
        (Some(_), Some(rewrite)) => {
            let message = format!("{route}.rewrite: strip_prefix is there too, and only one of them can have its way");
            report.error(rewrite.location, message);
            ForwardPath::Same
        }
    }
}

/// Every path that the route matches must start with the prefix, or some would go to the origin unchanged.
fn without(route: &str, pattern: &str, prefix: &At<String>, report: &mut Report) -> ForwardPath {
    let At { value, location } = prefix;
    let trimmed = value.trim_end_matches('/');
    let rest = pattern.strip_prefix(trimmed);
    let is_whole = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !is_path(value) || value.contains(['{', '}']) || trimmed.is_empty() || !is_whole {
        let message = format!("{route}.strip_prefix: expected the first segments of {}", shown(pattern));
        let hint = format!("for example {}", shown(&first_segment(pattern)));
        report.error_with_hint(*location, format!("{message}, got {}", shown(value)), hint);
        return ForwardPath::Same;
    }
    ForwardPath::Without(trimmed.to_owned())
}

fn first_segment(pattern: &str) -> String {
    format!("/{}", pattern.split('/').nth(1).unwrap_or_default())
}

fn instead(route: &str, pattern: &str, path: &At<String>, report: &mut Report) -> ForwardPath {
    let At { value, location } = path;
    if !is_path(value) {
        let message = format!("{route}.rewrite: expected a path such as \"/v2/report\", got {}", shown(value));
        report.error_with_hint(*location, message, "it starts with a slash, and has neither query nor dot segments");
        return ForwardPath::Same;
    }
    let own: Vec<&str> = pattern.split('/').filter(|segment| segment.starts_with('{')).collect();
    let count = value.split('/').count();
    for (index, segment) in value.split('/').enumerate() {
        let is_last = index + 1 == count;
        let is_parameter = segment.starts_with('{') && segment.ends_with('}');
        if !is_parameter && !segment.contains(['{', '}']) {
            continue;
        }
        if !is_parameter || !own.contains(&segment) || (segment.starts_with("{*") && !is_last) {
            let message = format!("{route}.rewrite: {} is no segment of {}", shown(segment), shown(pattern));
            report.error_with_hint(*location, message, "{name} stands alone between slashes, {*rest} at the end");
            return ForwardPath::Same;
        }
    }
    ForwardPath::Instead(value.clone())
}

/// Whether a text is a path in the canonical form that origins get (contract §3), but for its parameters.
pub(super) fn is_path(text: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@{}".contains(&byte);
    let is_segment = |segment: &str| !matches!(segment, "." | "..");
    text.starts_with('/') && !text.contains("//") && text.bytes().all(is_unreserved) && text.split('/').all(is_segment)
}
