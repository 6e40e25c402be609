//! The access log: one JSON object a line for each request, to stdout or to a file. Knows nothing of HTTP.
//!
//! A thread of its own writes, behind a bounded queue: a disk that is slow or full costs lines, which are counted, and never
//! holds up a request.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::Metrics;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 8192;

/// Bytes that are written at once, more or less.
const BATCH_BYTES: usize = 64 * 1024;

/// How often the writer looks whether it is to open its file again.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often a failure to write is told of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Who may read a file that is created: its owner and its group. It names who paid for what.
const FILE_MODE: u32 = 0o640;

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output, on which there is nothing else.
    Stdout,
    /// A file that is appended to, and opened anew when asked.
    File(PathBuf),
}

/// One request. Every text is escaped by JSON; what a client chose is bounded by whoever fills this in.
#[derive(Debug, Serialize)]
pub struct AccessLine<'a> {
    /// When it began, RFC 3339 in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The client's address, as far as the proxies in front are trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The method.
    pub method: &'a str,
    /// `Host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    /// The path as it was asked for, without the query.
    pub path: &'a str,
    /// The status that was sent; 0 if none was.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub bytes: usize,
    /// From the head's arrival to the last byte, in microseconds.
    pub micros: u64,
    /// The route's key.
    pub route: &'a str,
    /// What became of it, as in the metrics.
    pub outcome: &'a str,
    /// The trace that it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The payment it came with, once that is in the books.
    #[serde(flatten)]
    pub payment: Option<PaymentFields>,
}

/// Which payment a request came with: what the books say, and nothing that could be presented again.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentFields {
    /// The ledger row's id.
    pub payment: String,
    /// CAIP-2.
    pub network: String,
    /// The token.
    pub asset: String,
    /// In atomic units, as a text: JSON readers lose digits of large numbers.
    pub amount: String,
    /// Who paid.
    pub payer: String,
    /// The transaction that moved the money; none while it has not moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The access log.
#[derive(Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// When the file can't be opened, or there is no thread.
    pub fn open(target: AccessTarget, metrics: Arc<Metrics>) -> io::Result<Self> {
        let output = Output::open(&target)?;
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let reopen = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            target,
            output,
            reopen: Arc::clone(&reopen),
            metrics: Arc::clone(&metrics),
            is_torn: false,
            complained: None,
        };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Self { queue, reopen, metrics })
    }

    /// Logs a request. Never waits.
    pub fn log(&self, line: &AccessLine<'_>) {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return self.metrics.access_lines_dropped(1) };
        escape_controls(&mut bytes);
        bytes.push(b'\n');
        if self.queue.try_send(Message::Line(bytes)).is_err() {
            self.metrics.access_lines_dropped(1);
        }
    }

    /// Opens the file again before the next line, for a log that was rotated.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits until what was logged is written, or the time is up. Blocks its thread.
    #[allow(clippy::disallowed_methods, reason = "the caller gives it a thread that may block")]
    pub fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            std::thread::sleep(Duration::from_millis(10));
        }
        let _late = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// What JSON lets through and a terminal may obey: DEL, and the controls from U+0080 to U+009F.
fn escape_controls(json: &mut Vec<u8>) {
    let Ok(text) = std::str::from_utf8(json) else { return };
    if text.chars().any(char::is_control) {
        let escaped: String = text
            .chars()
            .map(
                |letter| if letter.is_control() { format!("\\u{:04x}", u32::from(letter)) } else { letter.to_string() },
            )
            .collect();
        *json = escaped.into_bytes();
    }
}

enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn open(target: &AccessTarget) -> io::Result<Self> {
        match target {
            AccessTarget::Stdout => Ok(Self::Stdout),
            AccessTarget::File(path) => {
                let mut options = OpenOptions::new();
                options.create(true).append(true).mode(FILE_MODE);
                options.open(path).map(Self::File)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::File(file) => file.write_all(bytes),
        }
    }
}

struct Writer {
    target: AccessTarget,
    output: Output,
    reopen: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// Whether the last line may be there in part.
    is_torn: bool,
    complained: Option<Instant>,
}

impl Writer {
    /// Ends when the log was dropped.
    fn run(&mut self, lines: &Receiver<Message>) {
        loop {
            let first = match lines.recv_timeout(LOOK_EVERY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.look();
            let (mut batch, mut count, mut waiting) = (Vec::new(), 0, Vec::new());
            let mut next = first;
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        count += 1;
                    }
                    Message::Flush(done) => waiting.push(done),
                }
                next = if batch.len() < BATCH_BYTES { lines.try_recv().ok() } else { None };
            }
            if count > 0 {
                self.write(batch, count);
            }
            for done in waiting {
                let _gone = done.try_send(());
            }
        }
    }

    fn look(&mut self) {
        if !self.reopen.swap(false, Ordering::Relaxed) {
            return;
        }
        match Output::open(&self.target) {
            Ok(output) => (self.output, self.is_torn) = (output, false),
            Err(error) => tracing::error!(%error, "The access log could not be opened again; the old file goes on."),
        }
    }

    fn write(&mut self, batch: Vec<u8>, count: u64) {
        // A line that was cut off must not swallow the next.
        let bytes = if self.is_torn { [b"\n".as_slice(), &batch].concat() } else { batch };
        match self.output.write(&bytes) {
            Ok(()) => self.is_torn = false,
            Err(error) => {
                self.is_torn = true;
                self.metrics.access_lines_dropped(count);
                if self.complained.is_none_or(|told| told.elapsed() >= COMPLAIN_EVERY) {
                    self.complained = Some(Instant::now());
                    tracing::error!(%error, "The access log could not be written.");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn line(path: &str) -> AccessLine<'_> {
        AccessLine {
            time: SystemTime::UNIX_EPOCH,
            client: Some("192.0.2.1".parse().unwrap()),
            method: "GET",
            host: None,
            path,
            status: 200,
            bytes: 5,
            micros: 10,
            route: "/a",
            outcome: "free",
            trace: None,
            payment: None,
        }
    }

    fn is_complete(metrics: &Metrics) -> bool {
        String::from_utf8(metrics.render().unwrap()).unwrap().contains("tollhouse_access_lines_dropped_total 0")
    }

    #[test]
    fn a_line_is_one_line_whatever_a_client_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(AccessTarget::File(path.clone()), Arc::new(Metrics::new().unwrap())).unwrap();
        let hostile = "/a\n{\"status\":200}\r\u{1b}[31m\u{9b}\u{7f}\"";
        log.log(&line(hostile));
        log.flush(Duration::from_secs(5));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "nobody but the owner and the group: {mode:o}");
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["path"], hostile);
        assert_eq!(read["time"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_rotated_log_goes_on_in_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::open(AccessTarget::File(path.clone()), Arc::new(Metrics::new().unwrap())).unwrap();
        log.log(&line("/first"));
        log.flush(Duration::from_secs(5));
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        log.log(&line("/second"));
        log.flush(Duration::from_secs(5));
        assert!(std::fs::read_to_string(old).unwrap().contains("/first"));
        let new = std::fs::read_to_string(path).unwrap();
        assert!(new.contains("/second") && !new.contains("/first"), "{new}");
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = AccessLog::open(AccessTarget::File("/dev/full".into()), Arc::clone(&metrics)).unwrap();
        assert!(is_complete(&metrics));
        log.log(&line("/a"));
        log.flush(Duration::from_secs(5));
        assert!(!is_complete(&metrics));
    }

    #[test]
    fn a_disk_that_stands_still_holds_up_nobody() {
        // A pipe that nobody reads is full after 64 KiB; reading and writing, so that opening it waits for nobody.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let _end = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = AccessLog::open(AccessTarget::File(path), Arc::clone(&metrics)).unwrap();
        let started = Instant::now();
        for _ in 0..3 * QUEUE_LINES {
            log.log(&line("/a"));
        }
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(!is_complete(&metrics));
    }
}
