//! Days and moments as an operator types them.

use std::time::{Duration, UNIX_EPOCH};

use crate::types::UnixMillis;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A day (`2026-01-31`, in UTC) or a moment (RFC 3339), as the first moment that belongs to it and the first after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Where it starts.
    pub start: UnixMillis,
    /// Where it has ended: a day later, or the same moment.
    pub end: UnixMillis,
}

/// Reads a day or a moment.
///
/// # Errors
/// What was expected.
pub fn parse(text: &str) -> Result<Moment, String> {
    let wrong = || "expected a day such as 2026-01-31, or a moment such as 2026-01-31T12:00:00Z".to_owned();
    let is_day = text.len() == 10;
    let full = if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339(&full).map_err(|_error| wrong())?;
    let since_epoch = time.duration_since(UNIX_EPOCH).map_err(|_error| wrong())?;
    let start = UnixMillis(i64::try_from(since_epoch.as_millis()).map_err(|_error| wrong())?);
    Ok(Moment { start, end: if is_day { start.plus(DAY) } else { start } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_lasts_until_the_next_and_a_moment_does_not_last() {
        let day = parse("2026-01-01").unwrap();
        assert_eq!((day.start.0, day.end.0), (1_767_225_600_000, 1_767_312_000_000));
        let moment = parse("2026-01-01T00:00:01Z").unwrap();
        assert_eq!((moment.start.0, moment.end.0), (1_767_225_601_000, 1_767_225_601_000));
        for bad in ["", "yesterday", "2026-13-01", "2026-1-1", "1969-12-31", "01.01.2026"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
