//! A TCP connection's middle that can stop passing anything on, as a network does that loses every packet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Even: connections of this age pass bytes on. Odd: nothing does, new ones included.
#[derive(Clone)]
pub struct Tap {
    pub port: u16,
    age: Arc<AtomicU64>,
    /// Where it hangs by itself: at this word of a client's, which passes or doesn't.
    last_word: Arc<OnceLock<(&'static [u8], bool)>>,
}

impl Tap {
    pub async fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (port, age) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        let last_word = Arc::new(OnceLock::new());
        let (shared, word) = (Arc::clone(&age), Arc::clone(&last_word));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (age, word) = (Arc::clone(&shared), Arc::clone(&word));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
                    let of = age.load(Ordering::SeqCst);
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let none = OnceLock::new();
                    tokio::join!(
                        pass(from_client, to_server, of, Arc::clone(&age), &word),
                        pass(from_server, to_client, of, age, &none)
                    );
                });
            }
        });
        Self { port, age, last_word }
    }

    /// Hangs as soon as a client says this word; the word itself passes, or doesn't.
    pub fn hang_at(&self, word: &'static [u8], passes: bool) {
        assert_eq!(self.age.load(Ordering::SeqCst), 0, "only before it hung for the first time");
        self.last_word.set((word, passes)).expect("one word");
    }

    pub fn is_hanging(&self) -> bool {
        self.age.load(Ordering::SeqCst) % 2 == 1
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

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    of: u64,
    age: Arc<AtomicU64>,
    last_word: &OnceLock<(&'static [u8], bool)>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let said = last_word.get().filter(|(word, _)| buffer[..read].windows(word.len()).any(|some| some == *word));
        let hung = said.is_some() && age.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let passes = hung && said.is_some_and(|(_, passes)| *passes);
        while !passes && (age.load(Ordering::SeqCst) != of || of % 2 == 1) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}
