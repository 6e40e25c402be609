//! An origin that knows nothing of payments and writes down each request that reaches it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::http::{header, read_body, read_head};

/// How a request is served.
#[derive(Debug, Clone)]
pub enum Serve {
    /// 200 and a small JSON body.
    Fine,
    /// This status and a small JSON body.
    Status(u16),
    /// As `Fine`, after a while.
    Slow(Duration),
    /// As `Fine`, and meant for every cache on the way.
    Cacheable,
    /// As `Fine`, after an interim answer (103) that says something.
    Hints,
    /// Half of a body.
    CutOff,
    /// The connection is closed instead of an answer.
    NoAnswer,
    /// Nothing, for ever.
    Stall,
    /// After a while half of a body, and then nothing, for ever.
    Half(Duration),
    /// A body of so many bytes, one at a time.
    Pieces(usize),
    /// A body of so many bytes, as fast as they are taken.
    Large(usize),
}

/// A request that reached the origin.
#[derive(Debug, Clone)]
pub struct Hit {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Hit {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

#[derive(Default)]
struct State {
    hits: Mutex<Vec<Hit>>,
    plans: Mutex<VecDeque<Serve>>,
    is_sick: AtomicBool,
}

pub struct Origin {
    pub port: u16,
    state: Arc<State>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Origin {
    pub async fn start() -> Self {
        loop {
            let origin = Self { port: super::free_port(), state: Arc::default(), serving: Mutex::default() };
            if origin.try_up().await {
                return origin;
            }
        }
    }

    /// The next requests are served like this, one each; later ones are fine.
    pub fn then(&self, plans: impl IntoIterator<Item = Serve>) {
        self.state.plans.lock().unwrap().extend(plans);
    }

    /// Whether it says so when it is asked for `/health`.
    pub fn set_sick(&self, is_sick: bool) {
        self.state.is_sick.store(is_sick, Ordering::Relaxed);
    }

    /// All requests so far.
    pub fn hits(&self) -> Vec<Hit> {
        self.state.hits.lock().unwrap().clone()
    }

    /// Refuses connections.
    pub async fn down(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            serving.abort();
            let _aborted = serving.await;
        }
    }

    /// Accepts connections again.
    pub async fn up(&self) {
        assert!(self.try_up().await, "the origin's port is taken");
    }

    async fn try_up(&self) -> bool {
        let Ok(listener) = TcpListener::bind(("127.0.0.1", self.port)).await else { return false };
        let state = Arc::clone(&self.state);
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                // A gateway that goes away in the middle is a part of the tests.
                tokio::spawn(async move { serve(socket, &state).await.ok() });
            }
        });
        *self.serving.lock().unwrap() = Some(serving);
        true
    }
}

async fn serve(socket: TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket);
    let Some((start, headers)) = read_head(&mut reader).await? else { return Ok(()) };
    let mut body = Vec::new();
    read_body(&mut reader, &headers, false, &mut body).await?;
    let mut words = start.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if target == "/health" && state.is_sick.load(Ordering::Relaxed) {
        return reader
            .get_mut()
            .write_all(b"HTTP/1.1 503 Sick\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
    }
    let answer = json!({"origin": true, "target": target, "body_bytes": body.len()}).to_string();
    state.hits.lock().unwrap().push(Hit { method, target, headers, body });
    let plan = state.plans.lock().unwrap().pop_front().unwrap_or(Serve::Fine);
    let cacheable = "Cache-Control: public, s-maxage=600\r\nCDN-Cache-Control: max-age=600\r\n\
                     Cloudflare-CDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\n\
                     Edge-Control: max-age=600\r\nX-Accel-Expires: 600\r\n";
    let more = if matches!(plan, Serve::Cacheable) { cacheable } else { "" };
    let (status, sent) = match plan {
        Serve::Fine | Serve::Cacheable => (200, answer.as_str()),
        Serve::Status(status) => (status, answer.as_str()),
        Serve::CutOff => (200, &answer[..answer.len() / 2]),
        Serve::Hints => {
            reader.get_mut().write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </secret>\r\n\r\n").await?;
            (200, answer.as_str())
        }
        Serve::NoAnswer => return Ok(()),
        Serve::Slow(wait) => {
            tokio::time::sleep(wait).await;
            (200, answer.as_str())
        }
        Serve::Stall => std::future::pending().await,
        Serve::Half(wait) => {
            let mut socket = reader.into_inner();
            tokio::time::sleep(wait).await;
            socket.write_all(b"HTTP/1.1 200 Some\r\nContent-Length: 1000\r\n\r\nx").await?;
            return std::future::pending().await;
        }
        Serve::Large(bytes) => {
            let mut socket = reader.into_inner();
            let head = format!("HTTP/1.1 200 Some\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
            socket.write_all(head.as_bytes()).await?;
            return socket.write_all(&vec![b'x'; bytes]).await;
        }
        Serve::Pieces(bytes) => {
            let mut socket = reader.into_inner();
            let head = format!("HTTP/1.1 200 Some\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
            socket.write_all(head.as_bytes()).await?;
            for _ in 0..bytes {
                socket.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            return Ok(());
        }
    };
    let head = format!(
        "HTTP/1.1 {status} Some\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n",
        answer.len()
    );
    reader.get_mut().write_all(format!("{head}{sent}").as_bytes()).await
}
