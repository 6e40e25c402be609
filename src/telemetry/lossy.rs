//! Writes the log's lines from a thread of its own, behind a bounded queue: whoever reads standard error and stalls costs
//! lines, which are counted and told of afterwards, and never holds up a request.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 4096;

/// Bytes that are written at once, more or less.
const BATCH_BYTES: usize = 64 * 1024;

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Takes lines and never waits.
#[derive(Debug, Clone)]
pub(super) struct LossyWriter {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl LossyWriter {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || run(output, &lines, &count))?;
        Ok(Self { queue, lost })
    }

    /// Waits until what was logged is written, or the time is up. Blocks its thread.
    #[allow(clippy::disallowed_methods, reason = "at the process's end, where nothing else runs on the thread")]
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

/// One event at a time: the formatter hands over each as a whole.
impl Write for LossyWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LossyWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Ends when all who log are gone.
fn run(mut output: impl Write, lines: &Receiver<Message>, lost: &AtomicU64) {
    while let Ok(first) = lines.recv() {
        let (mut batch, mut count, mut waiting) = (Vec::new(), 0, Vec::new());
        let mut next = Some(first);
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
        if output.write_all(&batch).and_then(|()| output.flush()).is_err() {
            lost.fetch_add(count, Ordering::Relaxed);
        } else {
            tell_of_losses(lost);
        }
        for done in waiting {
            let _gone = done.try_send(());
        }
    }
}

/// Says it as any other event, in the log's own format; it waits its turn behind what is queued.
fn tell_of_losses(lost: &AtomicU64) {
    let lines = lost.swap(0, Ordering::Relaxed);
    if lines > 0 {
        tracing::warn!(lines, "Log lines were lost: nobody took them from standard error.");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    /// Takes nothing until it is let.
    struct Gated {
        open: mpsc::Receiver<()>,
        is_open: bool,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_open {
                self.is_open = self.open.recv().is_ok();
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_which_are_told_of_once_it_reads_on() {
        let (open, gate) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let gated = Gated { open: gate, is_open: false, written: Arc::clone(&written) };
        let writer = LossyWriter::start(gated).unwrap();
        let log = tracing_subscriber::fmt().with_writer(writer.clone()).with_ansi(false).finish();
        let events = QUEUE_LINES * 3;
        let started = Instant::now();
        tracing::subscriber::with_default(log, || (0..events).for_each(|number| tracing::info!(number, "line")));
        writer.flush(Duration::from_millis(100));
        assert!(started.elapsed() < Duration::from_secs(20), "nobody waits for the reader");
        let lost = writer.lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        open.send(()).unwrap();
        writer.flush(Duration::from_secs(20));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines = u64::try_from(text.lines().count()).unwrap();
        assert_eq!(lines + lost, u64::try_from(events).unwrap(), "a line is written or counted");
        assert_eq!(writer.lost.load(Ordering::Relaxed), 0, "they were told of");
    }
}
