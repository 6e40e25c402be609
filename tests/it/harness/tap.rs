//! A TCP connection's middle that can stop passing anything on, as a network does that loses every packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Even: connections of this age pass bytes on. Odd: nothing does, new ones included.
#[derive(Clone)]
pub struct Tap {
    pub port: u16,
    age: Arc<AtomicU64>,
}

impl Tap {
    pub async fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (port, age) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        let shared = Arc::clone(&age);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let age = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
                    let of = age.load(Ordering::SeqCst);
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(
                        pass(from_client, to_server, of, Arc::clone(&age)),
                        pass(from_server, to_client, of, age)
                    );
                });
            }
        });
        Self { port, age }
    }

    /// From now on nothing passes, and no connection ends.
    pub fn hang(&self) {
        self.age.fetch_or(1, Ordering::SeqCst);
    }

    /// From now on what connects anew passes; what hangs, hangs.
    pub fn pass_new(&self) {
        self.age.fetch_add(1, Ordering::SeqCst);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, of: u64, age: Arc<AtomicU64>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        while age.load(Ordering::SeqCst) != of || of % 2 == 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}
