//! The connection to an origin that a WebSocket goes through. Pingora ends one at once if the origin accepts it before the
//! empty body of the handshake has passed through its queue, which is a matter of luck on a fast network. Here what the
//! origin says is held back for a few turns of the task after every write, in which the queue empties.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, OrErr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Turns that are enough, and some more.
const TURNS: u8 = 8;

/// Connects like pingora does, but for what the module says.
#[derive(Debug)]
pub(super) struct Patiently;

#[async_trait]
impl Connect for Patiently {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let address = address.as_inet().ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        let socket = TcpStream::connect(address).await.or_err(ErrorType::ConnectError, "for a WebSocket")?;
        // Only a matter of speed.
        let _refused = socket.set_nodelay(true);
        Ok(VirtualSocketStream::new(Box::new(Patient { socket, turns_left: TURNS })).into())
    }
}

#[derive(Debug)]
struct Patient<S> {
    socket: S,
    turns_left: u8,
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if self.turns_left > 0 {
            self.turns_left -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.turns_left = TURNS;
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl VirtualSocket for Patient<TcpStream> {
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
        let mut patient = Patient { socket, turns_left: 0 };
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
}
