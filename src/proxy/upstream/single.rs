//! A connection to an origin that ends at a certain time, whichever way bytes go on it: pingora bounds single reads and
//! writes, and looks at neither while the other waits.
//!
//! Also the one that a WebSocket goes through. Pingora ends one at once if the origin accepts it before the
//! empty body of the handshake has passed through its queue, which is a matter of luck on a fast network. Here what the
//! origin says is held back for a few turns of the task after every write, in which the queue empties.

use std::future::Future as _;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{ErrorType, OrErr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Turns that are enough, and some more.
const TURNS: u8 = 8;

/// When a connection ends, once that is known. For one request only: such connections are not shared.
pub(in crate::proxy) type End = Arc<OnceLock<Instant>>;

/// Connects like pingora does, but for what the module says.
#[derive(Debug)]
pub(super) struct Bounded {
    end: End,
    turns: u8,
}

impl Bounded {
    /// For a WebSocket.
    pub fn patiently(end: End) -> Self {
        Self { end, turns: TURNS }
    }

    /// For any other request.
    pub fn until(end: End) -> Self {
        Self { end, turns: 0 }
    }
}

#[async_trait]
impl Connect for Bounded {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let address = address.as_inet().ok_or_else(|| pingora::Error::new_in(ErrorType::InternalError))?;
        let socket = TcpStream::connect(address).await.or_err(ErrorType::ConnectError, "for a single request")?;
        // Only a matter of speed.
        let _refused = socket.set_nodelay(true);
        let end = Ending { at: Arc::clone(&self.end), sleep: None };
        let stream = Single { socket, turns: self.turns, turns_left: self.turns, end };
        Ok(VirtualSocketStream::new(Box::new(stream)).into())
    }
}

#[derive(Debug)]
struct Single<S> {
    socket: S,
    /// Turns of the task that reading waits after each write.
    turns: u8,
    turns_left: u8,
    end: Ending,
}

/// The time at which all reading and writing ends.
#[derive(Debug)]
struct Ending {
    at: End,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Ending {
    /// Fails once the time has come; until then the task is woken for it.
    fn check(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(at) = self.at.get() else { return Ok(()) };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(*at)));
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Err(Error::new(ErrorKind::TimedOut, "the time of this request is over")),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Single<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.end.check(context)?;
        if self.turns_left > 0 {
            self.turns_left -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Single<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.end.check(context)?;
        self.turns_left = self.turns;
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl VirtualSocket for Single<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            // Nothing else is asked for.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_held_back_for_a_few_turns_after_every_write_and_then_comes() {
        let (mut origin, socket) = duplex(64);
        let end = Ending { at: End::default(), sleep: None };
        let mut patient = Single { socket, turns: TURNS, turns_left: 0, end };
        for _ in 0..2 {
            patient.write_all(b"question").await.unwrap();
            origin.write_all(b"answer").await.unwrap();
            let mut turns = 0;
            let mut room = [0; 6];
            let mut buffer = ReadBuf::new(&mut room);
            poll_fn(|context| {
                let read = Pin::new(&mut patient).poll_read(context, &mut buffer);
                turns += u8::from(read.is_pending());
                read
            })
            .await
            .unwrap();
            assert_eq!((turns, buffer.filled()), (TURNS, b"answer".as_slice()));
            origin.read_exact(&mut [0; 8]).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reading_and_writing_both_end_in_time_however_lively_the_other_side_is() {
        let after = |secs| Instant::now() + std::time::Duration::from_secs(secs);
        let (mut origin, socket) = duplex(64);
        let end = Ending { at: End::default(), sleep: None };
        end.at.set(after(5)).unwrap();
        let mut single = Single { socket, turns: 0, turns_left: 0, end };
        let talking = tokio::spawn(async move {
            while origin.write_all(b"x").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        let started = Instant::now();
        let mut byte = [0; 1];
        let error = loop {
            if let Err(error) = single.read_exact(&mut byte).await {
                break error;
            }
        };
        assert_eq!((error.kind(), started.elapsed().as_secs()), (ErrorKind::TimedOut, 5));
        talking.abort();

        let (_deaf, socket) = duplex(1);
        let end = Ending { at: End::default(), sleep: None };
        end.at.set(after(5)).unwrap();
        let mut single = Single { socket, turns: 0, turns_left: 0, end };
        let started = Instant::now();
        let error = single.write_all(b"more than there is room for").await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed().as_secs()), (ErrorKind::TimedOut, 5));
    }
}
