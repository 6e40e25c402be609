//! The answer on its way to stdout, and what it means for the saved payment and the exit code.

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::receipt::Receipt;
use super::saved::Saved;
use super::{Exit, Io};
use crate::cli::human::{printable, time_text};
use crate::protocol::{decode_object, names};
use crate::types::UnixMillis;

/// Longest body that `--json` holds in memory.
const JSON_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Hands out an answer that nothing was paid for.
///
/// # Errors
/// When the answer is cut off or stdout fails.
pub async fn unpaid(response: Response, as_json: bool, io: &mut Io<'_>) -> anyhow::Result<Exit> {
    let status = response.status();
    let body = body(response, as_json, io).await?;
    if let Some(body) = body {
        write_json(io, Some(status), &body, None, None)?;
    }
    if status.is_redirection() {
        writeln!(io.err, "HTTP {}: redirects are not followed", status.as_u16())?;
    }
    Ok(Exit::of(status))
}

/// Hands out the answer to a presented payment. The saved payment is forgotten once its answer is complete: below 500,
/// and either a success or one that the server says was paid for.
///
/// # Errors
/// When the answer is cut off or stdout fails: the payment stays saved.
pub async fn paid(response: Response, saved: &Saved, as_json: bool, io: &mut Io<'_>) -> anyhow::Result<Exit> {
    let status = response.status();
    let receipt = Receipt::of(response.headers());
    let refusal = refusal(&response, receipt.as_ref());
    if let Some(receipt) = &receipt {
        write!(io.err, "{}", receipt.describe(&saved.payment))?;
    }
    let is_paid = receipt.as_ref().map(Receipt::is_success);
    let body = match body(response, as_json, io).await {
        Ok(body) => body,
        Err(error) => return Err(error.context(kept(saved))),
    };
    let is_complete = match is_paid {
        Some(is_paid) => is_paid && status.as_u16() < 500,
        // A redirect that nobody was paid for is no answer to the payment: it went somewhere else.
        None => status.as_u16() < 300,
    };
    let resume = (!is_complete).then(|| saved.resume_line());
    if let Some(body) = body {
        write_json(io, Some(status), &body, receipt.map(Receipt::into_value), resume.as_deref())?;
    }
    if is_complete {
        if is_paid.is_none() {
            writeln!(io.err, "the server sent an answer but no receipt")?;
        }
        saved.remove()?;
    } else {
        if status.is_redirection() {
            writeln!(io.err, "redirects are not followed")?;
        }
        let kept = if status == StatusCode::PAYMENT_REQUIRED { refused(saved) } else { kept(saved) };
        let why = refusal.map(|reason| format!(" ({})", printable(&reason))).unwrap_or_default();
        writeln!(io.err, "HTTP {}{why}\n{kept}", status.as_u16())?;
    }
    Ok(if is_complete { Exit::of(status) } else { Exit::Failure })
}

/// Reports that the outcome is still unknown.
///
/// # Errors
/// When stdout or stderr fails.
pub async fn pending(response: Response, saved: &Saved, as_json: bool, io: &mut Io<'_>) -> anyhow::Result<Exit> {
    let status = response.status();
    let receipt = Receipt::of(response.headers());
    if as_json {
        let body = collect(response).await.unwrap_or_default();
        let receipt = receipt.clone().map(Receipt::into_value);
        write_json(io, Some(status), &body, receipt, Some(&saved.resume_line()))?;
    }
    writeln!(io.err, "HTTP {}: the payment is pending\n{}", status.as_u16(), kept(saved))?;
    Ok(Exit::Pending)
}

/// Reports that no answer came.
///
/// # Errors
/// When stdout or stderr fails.
pub fn unknown(error: &str, saved: &Saved, as_json: bool, io: &mut Io<'_>) -> anyhow::Result<Exit> {
    if as_json {
        write_json(io, None, &[], None, Some(&saved.resume_line()))?;
    }
    writeln!(io.err, "no answer to the payment: {}\n{}", printable(error), kept(saved))?;
    Ok(Exit::Pending)
}

fn kept(saved: &Saved) -> String {
    format!("the signed payment is kept; don't pay again, present the same one:\n  {}", saved.resume_line())
}

fn refused(saved: &Saved) -> String {
    let until = time_text(UnixMillis::from_secs(saved.payment.valid_before_secs));
    format!(
        "the payment was refused, but whoever holds it could still take it until {until}, so it is kept:\n  {}",
        saved.resume_line()
    )
}

/// Why the server says that it served nothing: the settlement's failure first, then the verification's (protocol §1.2).
fn refusal(response: &Response, receipt: Option<&Receipt>) -> Option<String> {
    if let Some(reason) = receipt.and_then(Receipt::error_reason) {
        return Some(reason.to_owned());
    }
    let terms = response.headers().get(names::PAYMENT_REQUIRED)?;
    decode_object(terms.as_bytes()).ok()?.get("error")?.as_str().map(str::to_owned)
}

/// Streams the body to stdout, or collects it for `--json`.
async fn body(mut response: Response, as_json: bool, io: &mut Io<'_>) -> anyhow::Result<Option<Vec<u8>>> {
    if as_json {
        return collect(response).await.map(Some);
    }
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url).context("answer was cut off")? {
        io.out.write_all(&chunk).context("can't write the answer")?;
    }
    io.out.flush().context("can't write the answer")?;
    Ok(None)
}

async fn collect(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url).context("answer was cut off")? {
        if body.len().saturating_add(chunk.len()) > JSON_BODY_BYTES_MAX {
            bail!("the answer is longer than {JSON_BODY_BYTES_MAX} bytes, too long for --json");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// One object: `body` is text if it is UTF-8, else base64, as `body_encoding` says.
fn write_json(
    io: &mut Io<'_>,
    status: Option<StatusCode>,
    body: &[u8],
    receipt: Option<Value>,
    resume: Option<&str>,
) -> anyhow::Result<()> {
    let (body, encoding) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), "text"),
        Err(_) => (STANDARD.encode(body), "base64"),
    };
    let object = json!({
        "status": status.map(|status| status.as_u16()),
        "body": body,
        "body_encoding": encoding,
        "receipt": receipt,
        "resume": resume,
    });
    writeln!(io.out, "{object}").context("can't write the answer")
}
