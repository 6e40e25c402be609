//! An origin that writes down each request before it answers, looks into the books whether it was paid by then, and fails now
//! and then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::books::Books;
use crate::harness::for_rig::{header, read_body, read_head};
use crate::seed::Rng;
use crate::story::Story;

/// A request that reached the origin.
#[derive(Debug, Clone)]
pub struct Hit {
    pub target: String,
    /// The gateway's row.
    pub record: String,
    /// The settlement's transaction, unless it is settled after its request.
    pub transaction: Option<String>,
}

pub struct Origin {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    hits: Mutex<Vec<Hit>>,
    rng: Mutex<Rng>,
    /// Of thousand, how many requests fail.
    failures: Mutex<u64>,
    story: Arc<Story>,
    books: Arc<Books>,
}

enum Serve {
    Fine,
    Slow(Duration),
    Status(u16),
    CutOff,
    NoAnswer,
}

impl Origin {
    pub async fn start(seed: u64, story: Arc<Story>, books: Arc<Books>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rng = Mutex::new(Rng::of(seed, "origin"));
        let state = Arc::new(State { hits: Mutex::default(), rng, failures: Mutex::new(0), story, books });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { serve(socket, &state).await.ok() });
            }
        });
        Self { port, state }
    }

    pub fn set_failures(&self, per_mille: u64) {
        *self.state.failures.lock().unwrap() = per_mille;
    }

    pub fn hits(&self) -> Vec<Hit> {
        self.state.hits.lock().unwrap().clone()
    }
}

impl State {
    fn choose(&self) -> Serve {
        let failures = *self.failures.lock().unwrap();
        let mut rng = self.rng.lock().unwrap();
        if !rng.per_mille(failures) {
            return Serve::Fine;
        }
        match rng.below(5) {
            0 | 1 => Serve::Slow(Duration::from_millis(rng.below(400))),
            2 => Serve::Status(*rng.pick(&[500, 502, 503])),
            3 => Serve::CutOff,
            _ => Serve::NoAnswer,
        }
    }

    /// I1, I6: whatever reaches the origin is in the books as far as it has to be.
    async fn check(&self, hit: &Hit) {
        let standing = self.books.standing(&hit.record).await;
        let state = standing.as_ref().map_or("", |standing| standing.state.as_str());
        let is_after = hit.target.starts_with("/after/");
        let is_right = match &hit.transaction {
            // Not paid yet, as its route says.
            None => is_after && state == "forwarded",
            // A gateway that was killed meanwhile, or a client that hung up, may have ended this delivery already.
            Some(transaction) => {
                matches!(state, "delivering" | "paid" | "owed" | "served")
                    && (self.story.has_reorgs()
                        || standing.as_ref().is_some_and(|standing| standing.settled.as_ref() == Some(transaction)))
            }
        };
        // Likewise here: the gateway lets a claim go whose client is gone.
        if !(is_right || is_after && state == "released") {
            self.story.violate(format!("I1: {hit:?} reached the origin while the books said {standing:?}"));
        }
    }
}

async fn serve(socket: TcpStream, state: &State) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket);
    let Some((start, headers)) = read_head(&mut reader).await? else { return Ok(()) };
    read_body(&mut reader, &headers, false, &mut Vec::new()).await?;
    let target = start.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut plan = Serve::Fine;
    if target != "/health" {
        let text = |name| header(&headers, name).map(str::to_owned);
        let record = text("idempotency-key").unwrap_or_default();
        let hit = Hit { target: target.clone(), record, transaction: text("x-payment-transaction") };
        state.hits.lock().unwrap().push(hit.clone());
        state.story.note(&format!("hit {} {} {:?}", hit.target, hit.record, hit.transaction));
        state.check(&hit).await;
        plan = state.choose();
    }
    let answer = json!({"origin": true, "target": target}).to_string();
    let (status, sent) = match plan {
        Serve::Fine => (200, answer.as_str()),
        Serve::Slow(wait) => {
            state.story.count("origin: slow");
            tokio::time::sleep(wait).await;
            (200, answer.as_str())
        }
        Serve::Status(status) => {
            state.story.count("origin: 5xx");
            (status, answer.as_str())
        }
        Serve::CutOff => {
            state.story.count("origin: cut off");
            (200, &answer[..answer.len() / 2])
        }
        Serve::NoAnswer => {
            state.story.count("origin: no answer");
            return Ok(());
        }
    };
    let head = format!(
        "HTTP/1.1 {status} Some\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    reader.get_mut().write_all(format!("{head}{sent}").as_bytes()).await
}
