//! `GET /stats` and `GET /latency`: what was earned, what stands where, and how long the stages of the money path take.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::StatusCode;
use serde_json::{Value, json};

use super::books::within_time;
use super::problem::problem;
use super::shop;
use crate::config::Config;
use crate::ledger::{DAY_MILLIS, Earning, Ledger, Total};
use crate::service::Answer;
use crate::telemetry::Metrics;
use crate::types::UnixMillis;

const DAYS_DEFAULT: u32 = 30;
const DAYS_MAX: u32 = 366;

/// How long a summary is shown again: each reads all of the books.
const AGE_MAX: Duration = Duration::from_secs(2);

/// The last summary: of how many days, when, and what it said.
#[derive(Default)]
pub(super) struct LastStats(tokio::sync::Mutex<Option<(u32, Instant, Vec<u8>)>>);

impl LastStats {
    /// Earnings of the last days, today among them, and totals of all time. However many ask, the books are read by one.
    pub(super) async fn answer(&self, ledger: &dyn Ledger, config: &Config, now: UnixMillis, query: &str) -> Answer {
        let Some(days) = days(query) else {
            return problem(StatusCode::BAD_REQUEST, "bad_days", "days is 1 to 366, and the only parameter");
        };
        let mut last = self.0.lock().await;
        let known = last.as_ref().filter(|(of, at, _)| *of == days && at.elapsed() < AGE_MAX);
        if let Some((_, _, body)) = known {
            return Answer::new(StatusCode::OK, "application/json", body.clone());
        }
        let today = now.0.div_euclid(DAY_MILLIS);
        let since = UnixMillis((today - i64::from(days) + 1).saturating_mul(DAY_MILLIS));
        let reading = async { Ok((ledger.earnings(since).await?, ledger.totals().await?)) };
        let (earnings, totals) = match within_time(reading).await {
            Ok(read) => read,
            Err(answer) => return answer,
        };
        let body = summary(config, now, (days, today), &earnings, &totals).to_string().into_bytes();
        *last = Some((days, Instant::now(), body.clone()));
        Answer::new(StatusCode::OK, "application/json", body)
    }
}

fn days(query: &str) -> Option<u32> {
    let mut days = None;
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        if key != "days" || days.is_some() || !is_plain {
            return None;
        }
        days = Some(value.parse().ok().filter(|days| (1..=DAYS_MAX).contains(days))?);
    }
    Some(days.unwrap_or(DAYS_DEFAULT))
}

fn summary(
    config: &Config,
    now: UnixMillis,
    (days, today): (u32, i64),
    earnings: &[Earning],
    totals: &[Total],
) -> Value {
    let assets: BTreeSet<_> = totals.iter().map(|total| (&total.network, &total.asset)).collect();
    let total = |total: &Total| {
        json!({
            "state": total.state.as_str(),
            "network": total.network.as_str(),
            "asset": total.asset.as_str(),
            "count": total.count,
            "amount": total.amount.to_string(),
        })
    };
    let earning = |earning: &Earning| {
        json!({
            "day": day_text(earning.day),
            "network": earning.network.as_str(),
            "asset": earning.asset.as_str(),
            "route": earning.route,
            "count": earning.count,
            "amount": earning.amount.to_string(),
        })
    };
    json!({
        "at_millis": now.0,
        "days": days,
        "today": day_text(today),
        "assets": assets.iter().filter_map(|(network, asset)| shop::asset(config, network, asset)).collect::<Vec<_>>(),
        "totals": totals.iter().map(total).collect::<Vec<_>>(),
        "earnings": earnings.iter().map(earning).collect::<Vec<_>>(),
    })
}

/// `2026-01-31`.
fn day_text(day: i64) -> String {
    // The last day of the year 9999, beyond which the formatter panics.
    const DAY_MAX: u64 = 2_932_896;
    let secs = u64::try_from(day).unwrap_or_default().min(DAY_MAX).saturating_mul(86_400);
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(secs)).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// How long each stage took since the start, as cumulative histograms.
pub(super) fn latency(metrics: &Metrics) -> Answer {
    let stage = |stage: &crate::telemetry::StageLatency| {
        let bucket = |(le, count): &(f64, u64)| json!({ "le_seconds": le, "count": count });
        json!({
            "stage": stage.stage,
            "count": stage.count,
            "seconds_total": stage.seconds_total,
            "buckets": stage.buckets.iter().map(bucket).collect::<Vec<_>>(),
        })
    };
    let stages: Vec<Value> = metrics.stage_latencies().iter().map(stage).collect();
    Answer::json(StatusCode::OK, &json!({ "stages": stages }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_bounded_and_written_as_dates() {
        assert_eq!((days(""), days("days=366")), (Some(30), Some(366)));
        for bad in ["days=0", "days=367", "days=", "days=%2B1", "days=1&days=1", "day=1", "x"] {
            assert_eq!(days(bad), None, "{bad}");
        }
        assert_eq!(day_text(0), "1970-01-01");
        assert_eq!(day_text(20_454), "2026-01-01");
        assert_eq!(day_text(i64::MAX), "9999-12-31");
        assert_eq!(day_text(-1), "1970-01-01");
    }
}
