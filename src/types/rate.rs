//! How often something may happen, as an operator writes it: `100/s`, `20/min`, `10/day`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// The units, each under the names that are taken for it; the first is shown.
const UNITS: [(&[&str], u64); 4] =
    [(&["s", "sec", "second"], 1), (&["min", "m", "minute"], 60), (&["h", "hour"], 3600), (&["day", "d"], 86_400)];

/// So many in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    period_secs: u64,
}

/// Why a text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number and a unit such as \"100/s\", \"20/min\", \"50/h\" or \"10/day\"")]
pub struct RateError;

impl Rate {
    /// How many, at least 1.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count.get()
    }

    /// In how long: a second, a minute, an hour or a day.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_secs(self.period_secs)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = text.split_once('/').ok_or(RateError)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let count = digits.parse().ok().filter(|_| is_number).ok_or(RateError)?;
        let (_, period_secs) = UNITS.iter().find(|(names, _)| names.contains(&unit)).ok_or(RateError)?;
        Ok(Self { count, period_secs: *period_secs })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, secs)| *secs == self.period_secs).and_then(|(names, _)| names.first());
        write!(formatter, "{}/{}", self.count, unit.unwrap_or(&"s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_of_times_in_a_second_minute_hour_or_day() {
        for (text, count, secs, shown) in [
            ("100/s", 100, 1, "100/s"),
            ("20/min", 20, 60, "20/min"),
            ("20/m", 20, 60, "20/min"),
            ("5/hour", 5, 3600, "5/h"),
            ("10/day", 10, 86_400, "10/day"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count(), rate.period().as_secs(), rate.to_string().as_str()), (count, secs, shown));
        }
        for bad in ["", "10", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "10/ s", "10/week", "4294967296/s", "1/s/s"] {
            assert_eq!(bad.parse::<Rate>(), Err(RateError), "{bad}");
        }
    }
}
