//! WebSockets: what a price buys is the connection, for a while.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Plan, Shop, Terms, free_port};

/// An origin that accepts every handshake and then sends back what it gets; it counts connections that got that far.
async fn echo() -> (u16, tokio::sync::watch::Receiver<usize>) {
    let (counter, count) = tokio::sync::watch::channel(0);
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                assert!(head.contains("upgrade: websocket") && !head.contains("payment-signature"), "{head}");
                counter.send_modify(|count| *count += 1);
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                socket.write_all(answer).await?;
                let mut piece = [0; 64];
                loop {
                    let count = socket.read(&mut piece).await?;
                    if count == 0 {
                        return std::io::Result::Ok(());
                    }
                    socket.write_all(&piece[..count]).await?;
                }
            });
        }
    });
    (port, count)
}

async fn shop() -> (Shop, tokio::sync::watch::Receiver<usize>) {
    let (port, count) = echo().await;
    let upstream = format!("[upstreams.live]\nservers = [\"127.0.0.1:{port}\"]");
    let routes = "\"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n\
                  \"/no\" = { price = \"free\", upstream = \"live\" }\n\
                  \"/free\" = { price = \"free\", upstream = \"live\", websocket = true, max_duration = \"2s\" }\n\
                  \"/paid\" = { price = \"$0.01\", upstream = \"live\", websocket = true, max_duration = \"2s\" }\n";
    (Shop::open_with(Plan { upstream, routes: routes.to_owned(), ..Plan::default() }).await, count)
}

fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: shop.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

async fn open(shop: &Shop, path: &str, more: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", shop.port)).await.unwrap();
    socket.write_all(handshake(path, more).as_bytes()).await.unwrap();
    socket
}

/// The head of an answer, and not a byte more.
async fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Talks until the connection is closed; for how long that was.
async fn talk(mut socket: TcpStream) -> Duration {
    let started = Instant::now();
    let talking = async {
        let mut back = [0; 4];
        loop {
            if socket.write_all(b"ping").await.is_err() || socket.read_exact(&mut back).await.is_err() {
                return;
            }
            assert_eq!(&back, b"ping");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), talking).await.expect("it went on");
    started.elapsed()
}

#[tokio::test]
async fn a_paid_connection_lasts_as_long_as_the_route_says_and_an_unpaid_one_never_begins() {
    let (shop, count) = shop().await;
    let unpaid = Answer::read(open(&shop, "/paid", "").await).await.unwrap();
    let terms = Terms::read(&unpaid);
    assert_eq!(*count.borrow(), 0);
    let payment = shop.payer.pay(&terms);
    let (name, value) = payment.v2();
    let mut socket = open(&shop, "/paid", &format!("{name}: {value}\r\n")).await;
    let head = head(&mut socket).await;
    assert!(head.starts_with("http/1.1 101") && head.contains("payment-response: "), "{head}");
    let lasted = talk(socket).await;
    assert!(lasted > Duration::from_millis(1500) && lasted < Duration::from_secs(4), "{lasted:?}");
    shop.wait_state(PaymentState::Served).await;
    let again = Answer::read(open(&shop, "/paid", &format!("{name}: {value}\r\n")).await).await.unwrap();
    assert_eq!(again.error(), "payment_already_used");
    assert_eq!(*count.borrow(), 1);
    shop.audit().await;
}

#[tokio::test]
async fn a_silent_connection_ends_too_and_no_other_route_lets_one_begin() {
    let (shop, count) = shop().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = open(&shop, "/free", "").await;
        assert!(head(&mut socket).await.starts_with("http/1.1 101"));
        let started = Instant::now();
        sockets.push(tokio::spawn(async move {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest)).await;
            drop(read.expect("it went on"));
            (started.elapsed(), rest)
        }));
    }
    for socket in sockets {
        let (lasted, rest) = socket.await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
        assert!(lasted > Duration::from_millis(1500) && lasted < Duration::from_secs(5), "{lasted:?}");
    }
    for path in ["/no", "/api/data"] {
        let refused = Answer::read(open(&shop, path, "").await).await.unwrap();
        assert_eq!((refused.status, refused.error().as_str()), (400, "upgrade_not_supported"), "{path}");
    }
    assert_eq!(*count.borrow(), 20);
    shop.audit().await;
}

#[tokio::test]
async fn a_connection_that_nobody_reads_ends_in_time_in_both_directions() {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (teller, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let teller = teller.clone();
            tokio::spawn(async move {
                let mut first = [0; 4];
                // What only looks whether somebody is there sends nothing.
                if socket.read_exact(&mut first).await.is_err() {
                    return;
                }
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                socket.write_all(answer).await.unwrap();
                let started = Instant::now();
                let (mut reading, mut writing) = socket.into_split();
                // Says a lot, and reads nothing more than the rest of the head.
                let mut head = [0; 64];
                let _head = reading.read(&mut head).await;
                while writing.write_all(&[0; 65_536]).await.is_ok() {}
                teller.send(started.elapsed()).unwrap();
            });
        }
    });
    let upstream = format!("[upstreams.live]\nservers = [\"127.0.0.1:{port}\"]");
    let routes = "\"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n\
                  \"/free\" = { price = \"free\", upstream = \"live\", websocket = true, max_duration = \"2s\" }\n";
    let shop = Shop::open_with(Plan { upstream, routes: routes.to_owned(), ..Plan::default() }).await;
    let mut client = open(&shop, "/free", "").await;
    assert!(head(&mut client).await.starts_with("http/1.1 101"));
    // Writes as long as it is let, and reads nothing.
    let writing =
        tokio::time::timeout(Duration::from_secs(10), async { while client.write_all(&[0; 65_536]).await.is_ok() {} });
    writing.await.expect("the client's side went on");
    let lasted =
        tokio::time::timeout(Duration::from_secs(10), told.recv()).await.expect("the origin's side went on").unwrap();
    assert!(lasted > Duration::from_millis(1500) && lasted < Duration::from_secs(5), "{lasted:?}");
    shop.audit().await;
}
