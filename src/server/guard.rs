//! A client's connection under its time limits (threat F1): pingora bounds every single read and write, and neither a head
//! as a whole nor how slowly a body or an answer may creep. A head is gathered here, so that pingora gets it whole.

use std::fmt;
use std::future::poll_fn;
use std::io::{Error, ErrorKind, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};

use super::clocks::{Deadline, Pace};
use crate::config::LimitsConfig;
use crate::proxy::connection::{Connection, Stage};

/// What an HTTP/2 client says first (RFC 9113 §3.4), and what pingora waits for as long as it takes: the preface and the head
/// of a frame.
const H2_OPENING_BYTES: usize = 24 + 9;

/// Where that frame says what it is: it must be `SETTINGS`, which the h2 crate doesn't insist on.
const H2_FIRST_KIND_AT: usize = 24 + 3;
const H2_SETTINGS: u8 = 4;

/// Of what came, so much is taken at a time while a head is waited for.
const PIECE_BYTES: usize = 4096;

/// What a connection keeps for its next head, rather than ask for it anew.
const AHEAD_BYTES_KEPT: usize = 2048;

/// A head of more bytes is refused whatever it says: it is looked at no more until it ends, or is longer than pingora reads.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEAD_BYTES_READ_MAX: usize = 1 << 20;
/// A head of more fields is waited for no longer: no request may have so many.
const HEAD_FIELDS_MAX: usize = 128;
/// Line ends that may come before a head (RFC 9112 §2.2: one line, for the sake of old clients).
const LINE_ENDS_MAX: usize = 8;

/// What an answer's head, and a short body with it, may have to leave in one piece.
const HELD_BYTES_MAX: usize = 1460;

/// A connection and its limits.
pub(super) struct Guarded<S> {
    /// Holds a head back until its body follows, and no longer than that: whoever waits for the client has nothing more to say.
    inner: BufWriter<S>,
    /// What has come of a request, and how much of it was read.
    ahead: Vec<u8>,
    taken: usize,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    limits: Arc<LimitsConfig>,
    deadline: Deadline,
    reading: Pace,
    writing: Pace,
    /// How often something was written.
    writes: u64,
    /// Whether some of that may not have left yet: TLS has a queue of its own.
    is_unflushed: bool,
    /// What is missing of the HTTP/2 opening, which has the deadline of a head. There are many requests at a time after it.
    opening_left: usize,
}

impl<S: IO> Guarded<S> {
    /// Nothing, never in practice: see [`Connection::into_digest`].
    pub fn new(inner: S, connection: Arc<Connection>, limits: Arc<LimitsConfig>) -> Option<Self> {
        let digest = Arc::clone(&connection).into_digest().ok()?;
        let reading = Pace::new(limits.min_body_rate);
        let writing = Pace::new(limits.min_response_rate);
        let is_h2 = matches!(inner.selected_alpn_proto(), Some(ALPN::H2));
        let opening_left = if is_h2 { H2_OPENING_BYTES } else { 0 };
        // The h2 crate puts frames together by itself.
        let inner = BufWriter::with_capacity(if is_h2 { 0 } else { HELD_BYTES_MAX }, inner);
        let (ahead, deadline) = (Vec::new(), Deadline::default());
        Some(Self {
            inner,
            ahead,
            taken: 0,
            connection,
            digest,
            limits,
            deadline,
            reading,
            writing,
            writes: 0,
            is_unflushed: false,
            opening_left,
        })
    }

    /// The request is answered, and the next one may come.
    pub fn wait_for_next(&self) {
        self.connection.enter(Stage::Idle);
    }

    /// Waits until the head of a request is there to be read, or bytes that never become one. Whether they came in time, and at
    /// all. Whoever sends line ends instead gets no answer.
    pub async fn gather(&mut self) -> bool {
        let mut seen = 0;
        poll_fn(|context| self.poll_gather(&mut seen, context)).await
    }

    fn poll_gather(&mut self, seen: &mut usize, context: &mut Context<'_>) -> Poll<bool> {
        self.ahead.drain(..std::mem::take(&mut self.taken));
        loop {
            if self.ahead.len() > *seen {
                // Whoever read the request before may have left it.
                if self.connection.stage().0 == Stage::Idle {
                    self.connection.enter(Stage::Head);
                }
                if is_idle_talk(&self.ahead) {
                    return Poll::Ready(false);
                }
                if is_decided(&self.ahead, *seen) {
                    return Poll::Ready(true);
                }
                *seen = self.ahead.len();
            }
            let mut piece = [MaybeUninit::uninit(); PIECE_BYTES];
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(self.poll_fresh(context, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => self.ahead.extend_from_slice(piece.filled()),
                Ok(()) | Err(_) => return Poll::Ready(false),
            }
        }
    }

    fn poll_fresh(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Pending => {
                if self.is_unflushed
                    && let Poll::Ready(flushed) = Pin::new(&mut *self).poll_flush(context)
                {
                    flushed?;
                }
                self.poll_overdue(context)
            }
            Poll::Ready(read) => {
                let fresh = buffer.filled().get(before..).unwrap_or_default();
                Poll::Ready(self.has_read(fresh).and(read))
            }
        }
    }

    /// Nothing is there to be read: whether the client has had its time.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let (stage, number) = self.connection.stage();
        match stage {
            // As if the client had closed, which is no error between requests.
            Stage::Idle => self.deadline.poll((number, 0), self.limits.idle_timeout, context).map(Ok),
            Stage::Head => self.deadline.poll((number, 0), self.limits.head_timeout, context).map(|()| too_slow()),
            Stage::Body => self.reading.poll_overdue(context).map(|()| too_slow()),
            Stage::Open => match (self.connection.open_for(), self.connection.silence()) {
                (Some(limit), _) => self.deadline.poll((number, 0), limit, context).map(|()| too_slow()),
                (None, Some(limit)) => {
                    ready!(self.deadline.poll_patiently((number, self.writes), limit, context));
                    self.connection.give_up_on_origin();
                    Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the origin is too slow")))
                }
                (None, None) => Poll::Pending,
            },
        }
    }

    /// What became something else than HTTP ends in time, whichever way bytes go and however many there are.
    fn check_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(limit) = self.connection.open_for() else { return Ok(()) };
        let (_, number) = self.connection.stage();
        match self.deadline.poll((number, 0), limit, context) {
            Poll::Ready(()) => too_slow(),
            Poll::Pending => Ok(()),
        }
    }

    fn has_read(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self.connection.stage().0 {
            Stage::Idle => self.connection.enter(Stage::Head),
            Stage::Body => self.reading.moved(bytes.len()),
            Stage::Head if self.opening_left > 0 => {
                let seen = H2_OPENING_BYTES.saturating_sub(self.opening_left);
                let kind = H2_FIRST_KIND_AT.checked_sub(seen).and_then(|at| bytes.get(at));
                if kind.is_some_and(|kind| *kind != H2_SETTINGS) {
                    return Err(Error::new(ErrorKind::InvalidData, "the first HTTP/2 frame isn't SETTINGS"));
                }
                self.opening_left = self.opening_left.saturating_sub(bytes.len());
                if self.opening_left == 0 {
                    self.connection.enter(Stage::Open);
                }
            }
            Stage::Head | Stage::Open => {}
        }
        Ok(())
    }

    /// Passes on what a write says, and gives up on a client that takes too little.
    fn poll_written<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        match written {
            Poll::Pending => self.writing.poll_overdue(context).map(|()| too_slow()),
            Poll::Ready(written) => {
                self.writes = self.writes.wrapping_add(1);
                Poll::Ready(written)
            }
        }
    }
}

/// Whether more line ends came than may precede a request.
fn is_idle_talk(bytes: &[u8]) -> bool {
    bytes.len() > LINE_ENDS_MAX && bytes.iter().take(LINE_ENDS_MAX + 1).all(|byte| is_line_end(*byte))
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Whether it shows what a request's bytes are: a head, whole, or none. Of the first `seen` of them it wasn't to be seen. The whole
/// is parsed only while it is short, and when a line has ended: or who sends a byte at a time gets much work done.
fn is_decided(bytes: &[u8], seen: usize) -> bool {
    let from = |position: usize| bytes.get(position..).unwrap_or(bytes);
    if bytes.len() > HEAD_BYTES_MAX {
        // An empty line may have begun before.
        let last = from(seen.saturating_sub(2));
        let has_empty_line =
            last.windows(2).any(|two| two == b"\n\n") || last.windows(3).any(|three| three == b"\n\r\n");
        return has_empty_line || bytes.len() > HEAD_BYTES_READ_MAX;
    }
    if !from(seen).contains(&b'\n') {
        return false;
    }
    if bytes.ends_with(b"\r\n\r\n") && !bytes.first().copied().is_some_and(is_line_end) {
        return true;
    }
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    !matches!(httparse::Request::new(&mut fields).parse(bytes), Ok(httparse::Status::Partial))
}

fn too_slow<T>() -> Result<T> {
    Err(Error::new(ErrorKind::TimedOut, "the client is too slow"))
}

impl<S: IO> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.check_end(context)?;
        if self.ahead.is_empty() {
            return self.poll_fresh(context, buffer);
        }
        let left = self.ahead.get(self.taken..).unwrap_or_default();
        let piece = left.get(..buffer.remaining()).unwrap_or(left);
        buffer.put_slice(piece);
        let count = piece.len();
        self.taken += count;
        if self.taken == self.ahead.len() {
            self.taken = 0;
            self.ahead.clear();
            self.ahead.shrink_to(AHEAD_BYTES_KEPT);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: IO> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.check_end(context)?;
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.writing.moved(*count);
            self.is_unflushed = true;
        }
        self.poll_written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.check_end(context)?;
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        if let Poll::Ready(Ok(count)) = &written {
            self.writing.moved(*count);
            self.is_unflushed = true;
        }
        self.poll_written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_ready() {
            // The wait is over: from here on it is the origin that is waited for.
            self.writing.moved(0);
            self.is_unflushed = false;
        }
        self.poll_written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.poll_written(context, shut)
    }
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guarded").field("connection", &self.connection).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: IO> Shutdown for Guarded<S> {
    async fn shutdown(&mut self) {
        // With what is still held, to a client that takes it.
        let _gone = AsyncWriteExt::shutdown(self).await;
    }
}

impl<S: IO> UniqueID for Guarded<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().id()
    }
}

impl<S: IO> Ssl for Guarded<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ref().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.get_ref().selected_alpn_proto()
    }
}

impl<S: IO> GetTimingDigest for Guarded<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_ref().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_ref().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_ref().get_write_pending_time()
    }
}

impl<S: IO> GetProxyDigest for Guarded<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl<S: IO> GetSocketDigest for Guarded<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_ref().get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.get_mut().set_socket_digest(digest);
    }
}

impl<S: IO> Peek for Guarded<S> {}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::server::clocks::{DELAY, DELAYS};

    fn guarded(capacity: usize) -> (DuplexStream, Guarded<DuplexStream>, Arc<Connection>) {
        let (client, server) = duplex(capacity);
        let connection = Arc::new(Connection::new([127, 0, 0, 1].into(), None));
        let guarded = Guarded::new(server, Arc::clone(&connection), Arc::new(limits())).unwrap();
        (client, guarded, connection)
    }

    fn limits() -> LimitsConfig {
        LimitsConfig {
            connections: 1,
            connections_per_address: 1,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            min_body_rate: 100,
            min_response_rate: 100,
            rates: crate::config::Rates::default(),
            payments_per_address: 1,
            verifications: 1,
        }
    }

    /// Sends `bytes` every `every` for ever.
    fn drip(mut client: DuplexStream, bytes: usize, every: Duration) {
        tokio::spawn(async move {
            while client.write_all(&vec![b'x'; bytes]).await.is_ok() {
                tokio::time::sleep(every).await;
            }
        });
    }

    /// When reading ended, how, and after how many bytes.
    async fn read_out(mut guarded: Guarded<DuplexStream>, bytes_max: usize) -> (u64, Option<ErrorKind>, usize) {
        let (started, mut total, mut piece) = (Instant::now(), 0, [0; 1024]);
        let kind = loop {
            match guarded.read(&mut piece).await {
                Ok(0) => break None,
                Ok(count) => total += count,
                Err(error) => break Some(error.kind()),
            }
            if total >= bytes_max {
                break None;
            }
        };
        (started.elapsed().as_secs(), kind, total)
    }

    #[tokio::test]
    async fn a_head_waits_for_its_body_but_not_while_the_client_is_waited_for() {
        let (mut client, mut server, _) = guarded(4096);
        let mut seen = [0; 64];
        server.write_all(b"head ").await.unwrap();
        assert!(futures::poll!(Box::pin(client.read(&mut seen))).is_pending(), "held");
        server.write_all(b"body").await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read(&mut seen).await.unwrap(), 9);
        server.write_all(b"head ").await.unwrap();
        let mut request = [0; 1];
        assert!(futures::poll!(Box::pin(server.read(&mut request))).is_pending());
        assert_eq!(client.read(&mut seen).await.unwrap(), 5, "sent as nothing came");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_gathered_whole_and_read_with_what_follows_it() {
        let (mut client, mut server, connection) = guarded(1024);
        let sent = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        connection.enter(Stage::Idle);
        for (number, byte) in sent.iter().enumerate() {
            client.write_all(&[*byte]).await.unwrap();
            let gathered = futures::poll!(Box::pin(server.gather()));
            let is_whole = number + 1 == sent.len() - 3;
            assert_eq!(gathered.is_ready(), is_whole, "{number}");
            if is_whole {
                break;
            }
        }
        assert_eq!(connection.stage().0, Stage::Head);
        client.write_all(b"abc").await.unwrap();
        let mut read = vec![0; sent.len()];
        for piece in read.chunks_mut(7) {
            server.read_exact(piece).await.unwrap();
        }
        assert_eq!(read, sent);
        // Two, of which only the first is read.
        client.write_all(&sent.repeat(2)).await.unwrap();
        assert!(server.gather().await);
        server.read_exact(&mut read).await.unwrap();
        server.wait_for_next();
        assert!(server.gather().await, "the second is there");
        assert_eq!(connection.stage().0, Stage::Head);
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
        // All at once.
        client.write_all(sent).await.unwrap();
        assert!(server.gather().await);
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
        drop(client);
        assert!(!server.gather().await, "closed");
    }

    #[tokio::test]
    async fn what_was_left_unread_comes_before_what_comes_later() {
        let (mut client, mut server, _connection) = guarded(1024);
        let sent = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
        let (first, last) = sent.split_at(30);
        client.write_all(first).await.unwrap();
        let mut read = [0; 19];
        assert!(server.gather().await);
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent[..19]);
        assert!(futures::poll!(Box::pin(server.gather())).is_pending(), "a part of the second is there");
        client.write_all(last).await.unwrap();
        assert!(server.gather().await);
        let mut piece = [0; 7];
        server.read_exact(&mut piece).await.unwrap();
        assert!(server.gather().await, "the rest of the second, and the third");
        let mut rest = [0; 31];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!([&piece[..], &rest].concat(), sent[19..]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_becomes_a_head_is_not_waited_for() {
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"A: b\r\n".repeat(HEAD_FIELDS_MAX + 1)].concat();
        for bytes in [b"no\0thing\n".as_slice(), b"GET / HTTP/1.1\r\nA b\r\n", b"GET / HTTP/9.9\r\n", &many] {
            let (mut client, mut server, _connection) = guarded(2 * HEAD_BYTES_MAX);
            client.write_all(bytes).await.unwrap();
            let waited = tokio::time::timeout(Duration::from_secs(5), server.gather()).await;
            assert_eq!(waited.ok(), Some(true), "{:?}", String::from_utf8_lossy(&bytes[..9]));
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_gathered_to_its_end_and_no_further_than_it_is_read() {
        let begun = [b"\r\nGET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        let (mut client, mut server, _connection) = guarded(4 * HEAD_BYTES_READ_MAX);
        client.write_all(&begun).await.unwrap();
        let mut gathering = pin!(server.gather());
        assert!(futures::poll!(&mut gathering).is_pending());
        for (last, is_end) in [(b"\r".as_slice(), false), (b"\n", false), (b"\r", false), (b"\n", true)] {
            client.write_all(last).await.unwrap();
            assert_eq!(futures::poll!(&mut gathering).is_ready(), is_end, "{last:?}");
        }
        let (mut client, mut server, _connection) = guarded(4 * HEAD_BYTES_READ_MAX);
        client.write_all(&vec![b'x'; HEAD_BYTES_READ_MAX]).await.unwrap();
        let mut gathering = pin!(server.gather());
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut gathering).await.is_err());
        client.write_all(b"x").await.unwrap();
        assert!(gathering.await);
    }

    #[tokio::test]
    async fn who_sends_line_ends_only_gets_no_answer() {
        let (mut client, mut server, _connection) = guarded(1024);
        client.write_all(b"\r\n\r\n").await.unwrap();
        assert!(futures::poll!(Box::pin(server.gather())).is_pending(), "no head, however it ends");
        client.write_all(b"\n\n\n\n\n").await.unwrap();
        assert!(!server.gather().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_waited_for_no_longer_than_it_may_take() {
        for (stage, seconds) in [(Stage::Head, 10), (Stage::Idle, 75)] {
            let (client, mut server, connection) = guarded(1024);
            connection.enter(stage);
            let started = Instant::now();
            assert!(!server.gather().await);
            assert_eq!(started.elapsed().as_secs(), seconds);
            drop(client);
        }
        let (client, mut server, _connection) = guarded(1024);
        drip(client, 1, Duration::from_secs(1));
        let started = Instant::now();
        assert!(!server.gather().await);
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_creeps_is_cut_off_at_its_deadline() {
        let (client, guarded, _connection) = guarded(1024);
        drip(client, 1, Duration::from_secs(1));
        let (after, kind, _bytes) = read_out(guarded, usize::MAX).await;
        assert_eq!((after, kind), (10, Some(ErrorKind::TimedOut)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_2_preface_has_the_deadline_of_a_head_and_nothing_after_it_has() {
        let (client, mut guarded, _connection) = guarded(1024);
        guarded.opening_left = H2_OPENING_BYTES;
        drip(client, 2, Duration::from_secs(1));
        let (after, kind, _bytes) = read_out(guarded, usize::MAX).await;
        assert_eq!((after, kind), (10, Some(ErrorKind::TimedOut)));

        let (mut client, mut guarded, connection) = self::guarded(1024);
        guarded.opening_left = H2_OPENING_BYTES;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        guarded.read_exact(&mut [0; 24]).await.unwrap();
        assert_eq!(connection.stage().0, Stage::Head);
        guarded.read_exact(&mut [0; 9]).await.unwrap();
        assert_eq!(connection.stage().0, Stage::Open);
        let mut byte = [0; 1];
        assert!(tokio::time::timeout(Duration::from_secs(1000), guarded.read(&mut byte)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_2_client_that_says_something_else_than_settings_first_is_cut_off() {
        for piece in [1, 5, 24, 27, 28, 33] {
            let (mut client, mut guarded, _connection) = self::guarded(1024);
            guarded.opening_left = H2_OPENING_BYTES;
            let headers_first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x01\x05\0\0\0\x01\x04\x04\x04\x04";
            client.write_all(headers_first).await.unwrap();
            let mut buffer = vec![0; piece];
            let refused = loop {
                match guarded.read(&mut buffer).await {
                    Ok(_) => {}
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(refused, ErrorKind::InvalidData, "read {piece} at a time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_and_the_head_of_a_later_request_has_its_own_deadline() {
        let (client, guarded, connection) = guarded(1024);
        connection.enter(Stage::Idle);
        let keep = client;
        let (after, kind, _bytes) = read_out(guarded, usize::MAX).await;
        assert_eq!((after, kind), (75, None));
        drop(keep);

        let (mut client, guarded, connection) = self::guarded(1024);
        connection.enter(Stage::Idle);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drip(client, 1, Duration::from_secs(1));
            client = duplex(1).0;
            drop(client);
        });
        let (after, kind, _bytes) = read_out(guarded, usize::MAX).await;
        assert_eq!((after, kind), (70, Some(ErrorKind::TimedOut)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_keep_its_pace_and_may_pause() {
        let (client, guarded, connection) = guarded(1024);
        connection.enter(Stage::Body);
        drip(client, 10, Duration::from_secs(1));
        let (after, kind, _bytes) = read_out(guarded, usize::MAX).await;
        assert_eq!((after, kind), (20, Some(ErrorKind::TimedOut)));

        let (client, guarded, connection) = self::guarded(4096);
        connection.enter(Stage::Body);
        drip(client, 2100, Duration::from_secs(15));
        let (after, kind, bytes) = read_out(guarded, 21_000).await;
        assert_eq!((after, kind, bytes), (135, None, 21_000));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_of_a_client_whose_request_is_complete() {
        let (client, mut guarded, connection) = guarded(1024);
        connection.enter(Stage::Open);
        let mut byte = [0; 1];
        let reading = tokio::time::timeout(Duration::from_secs(100_000), guarded.read(&mut byte));
        assert!(reading.await.is_err());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_take_its_answer_is_cut_off() {
        let (mut client, mut guarded, _connection) = guarded(64);
        tokio::spawn(async move {
            while client.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        let error = guarded.write_all(&[0; 100_000]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_slowly_is_not_the_client_s_fault() {
        let (mut client, mut guarded, _connection) = guarded(64);
        let taking = tokio::spawn(async move {
            let mut taken = Vec::new();
            client.read_to_end(&mut taken).await.unwrap();
            taken.len()
        });
        for _ in 0..10 {
            guarded.write_all(&[0; 100]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        guarded.flush().await.unwrap();
        drop(guarded);
        assert_eq!(taking.await.unwrap(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_s_silence_after_a_flush_that_waited_is_not_the_client_s_fault() {
        let (mut client, mut guarded, _connection) = guarded(64);
        let taking = tokio::spawn(async move {
            let (mut taken, mut piece) = (0, [0; 10]);
            // Slowly enough that each flush waits, and ten times as fast as it must.
            while let Ok(count @ 1..) = client.read(&mut piece).await {
                taken += count;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            taken
        });
        for _ in 0..10 {
            guarded.write_all(&[0; 100]).await.unwrap();
            guarded.flush().await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        drop(guarded);
        assert_eq!(taking.await.unwrap(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_is_given_up_when_its_client_got_nothing_for_too_long_and_not_before() {
        let (_client, mut guarded, connection) = guarded(1 << 20);
        let mut byte = [0];
        let limit = Duration::from_secs(60);
        for _ in 0..2 {
            connection.enter(Stage::Open);
            connection.wait_for_origin(Some(limit));
            for _ in 0..4 {
                let shortly = Duration::from_secs(50);
                assert!(tokio::time::timeout(shortly, guarded.read(&mut byte)).await.is_err());
                guarded.write_all(b"a piece").await.unwrap();
            }
            let started = Instant::now();
            assert_eq!(guarded.read(&mut byte).await.unwrap_err().kind(), ErrorKind::TimedOut);
            assert_eq!((started.elapsed().as_secs(), connection.is_origin_overdue()), (60, true));
        }
        connection.enter(Stage::Idle);
        let started = Instant::now();
        assert_eq!(guarded.read(&mut byte).await.unwrap(), 0);
        assert_eq!(started.elapsed().as_secs(), 75);
        connection.enter(Stage::Open);
        connection.wait_for_origin(None);
        assert!(!connection.is_origin_overdue());
        assert!(tokio::time::timeout(Duration::from_secs(1000), guarded.read(&mut byte)).await.is_err());
    }

    /// As TLS does: what it takes is not sent yet, and only a flush goes on with it.
    #[derive(Debug)]
    struct Queueing(BufWriter<DuplexStream>);

    impl AsyncRead for Queueing {
        fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Queueing {
        fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_flush(context)
        }

        fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_shutdown(context)
        }
    }

    #[async_trait]
    impl Shutdown for Queueing {
        async fn shutdown(&mut self) {}
    }

    impl UniqueID for Queueing {
        fn id(&self) -> UniqueIDType {
            0
        }
    }

    impl Ssl for Queueing {}

    impl GetTimingDigest for Queueing {
        fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
            Vec::new()
        }
    }

    impl GetProxyDigest for Queueing {
        fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
            None
        }
    }

    impl GetSocketDigest for Queueing {
        fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
            None
        }
    }

    impl Peek for Queueing {}

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_client_has_yet_to_take_goes_on_while_its_origin_is_silent() {
        let (mut client, server) = duplex(64);
        let connection = Arc::new(Connection::new([127, 0, 0, 1].into(), None));
        let limits = Arc::new(LimitsConfig { min_response_rate: 100, ..limits() });
        let queueing = Queueing(BufWriter::with_capacity(64 * 1024, server));
        let mut guarded = Guarded::new(queueing, Arc::clone(&connection), limits).unwrap();
        connection.enter(Stage::Open);
        guarded.write_all(&[0; 2000]).await.unwrap();
        let mut piece = [0; 500];
        for _ in 0..4 {
            let took = tokio::time::timeout(Duration::from_secs(60), async {
                tokio::select! {
                    _ = guarded.read_u8() => panic!("the client says nothing"),
                    read = client.read_exact(&mut piece) => read.map(|_| ()),
                }
            });
            took.await.expect("what was written").unwrap();
            // Its time is not measured where it isn't waited for.
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        let silent = tokio::time::timeout(Duration::from_secs(100), guarded.read_u8());
        assert!(silent.await.is_err(), "nobody is to blame");
        guarded.write_all(&[0; 100]).await.unwrap();
        guarded.flush().await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_is_overdue_is_waited_for_a_little_longer() {
        let (_client, mut guarded, connection) = guarded(1024);
        connection.enter(Stage::Open);
        connection.wait_for_origin(Some(Duration::from_secs(5)));
        let mut byte = [0];
        let mut reading = pin!(guarded.read(&mut byte));
        assert!(futures::poll!(&mut reading).is_pending());
        tokio::time::advance(Duration::from_secs(3600)).await;
        for _ in 0..DELAYS {
            // However often it is looked at.
            for _ in 0..3 {
                assert!(futures::poll!(&mut reading).is_pending());
            }
            tokio::time::advance(DELAY).await;
        }
        assert!(futures::poll!(&mut reading).is_ready());
        assert!(connection.is_origin_overdue());
    }
}
