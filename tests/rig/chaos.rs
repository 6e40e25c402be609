//! What stands between gateway and nodes: proxies that lose, delay, repeat, spoil and falsify, as their seed says.
//!
//! The one for JSON-RPC knows requests and answers; the one for gRPC only connections and the bytes in them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::books::Books;
use crate::harness::Call;
use crate::harness::for_rig::{read_body, read_head};
use crate::seed::Rng;
use crate::story::Story;

/// The id of the transaction in a call that sends one, or nothing if it moves nothing.
pub type Sent = fn(&Value) -> Option<String>;

/// Answers kept to give them again when they are old.
const STALE_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The node hears nothing, the connection is closed.
    Drop,
    /// The node gets it, its answer is lost.
    LoseAnswer,
    Delay,
    /// The node gets it twice.
    Duplicate,
    /// A batch's answers in another order.
    Shuffle,
    TooMany,
    Unavailable,
    /// The node gets it, and the answer is 502.
    LieUnavailable,
    /// Half an answer, well framed.
    Truncate,
    /// What it answered earlier to the same question.
    Stale,
    /// Nothing is known of any transaction.
    LieUnseen,
    /// What was sent is refused in words, though the node took it.
    LieRefused,
}

const FAULTS: [(Fault, &str); 12] = [
    (Fault::Drop, "drop"),
    (Fault::LoseAnswer, "answer lost"),
    (Fault::Delay, "delay"),
    (Fault::Duplicate, "duplicate"),
    (Fault::Shuffle, "reorder"),
    (Fault::TooMany, "429"),
    (Fault::Unavailable, "503"),
    (Fault::LieUnavailable, "502 after the fact"),
    (Fault::Truncate, "truncated"),
    (Fault::Stale, "stale"),
    (Fault::LieUnseen, "unseen"),
    (Fault::LieRefused, "refused after the fact"),
];

/// Calls whose answer tells whether a transaction is there.
const LOOKS: [&str; 3] = ["eth_getTransactionReceipt", "eth_getTransactionByHash", "getTransaction"];

const REFUSALS: [(i64, &str); 4] = [
    (-32000, "already known"),
    (-32000, "nonce too low"),
    (-32000, "replacement transaction underpriced"),
    (-32003, "transaction rejected"),
];

struct State {
    node_port: u16,
    name: &'static str,
    send: &'static str,
    sent: Sent,
    rng: Mutex<Rng>,
    /// Of thousand requests, how many meet a fault.
    level: AtomicU64,
    stale: Mutex<HashMap<String, Value>>,
    story: Arc<Story>,
    books: Arc<Books>,
}

#[derive(Clone)]
pub struct RpcChaos {
    pub port: u16,
    state: Arc<State>,
}

impl RpcChaos {
    pub async fn start(
        node_port: u16,
        (name, send, sent): (&'static str, &'static str, Sent),
        seed: u64,
        story: Arc<Story>,
        books: Arc<Books>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rng = Mutex::new(Rng::of(seed, name));
        let (level, stale) = (AtomicU64::new(0), Mutex::default());
        let state = Arc::new(State { node_port, name, send, sent, rng, level, stale, story, books });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { serve(socket, &state).await.ok() });
            }
        });
        Self { port, state }
    }

    pub fn set_level(&self, per_mille: u64) {
        self.state.level.store(per_mille, Ordering::Relaxed);
    }
}

impl State {
    fn choose(&self) -> Fault {
        let mut rng = self.rng.lock().unwrap();
        if !rng.per_mille(self.level.load(Ordering::Relaxed)) {
            return Fault::None;
        }
        let (fault, word) = *rng.pick(&FAULTS);
        self.story.count(&format!("{}: {word}", self.name));
        fault
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.lock().unwrap().below(bound)
    }

    async fn ask(&self, body: &[u8]) -> Option<Value> {
        let call = Call::post("/", body).with("Content-Type", "application/json");
        let answer = call.send(self.node_port).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// I5: what a node is sent is in the books first.
    async fn check_sent(&self, calls: &[Value]) {
        for call in calls.iter().filter(|call| call["method"] == self.send) {
            let Some(transaction) = (self.sent)(&call["params"]) else { continue };
            self.story.count(&format!("{}: sends", self.name));
            if !self.books.has_attempt(&transaction).await {
                self.story.violate(format!("I5: {} was sent {transaction}, which the books didn't know", self.name));
            }
        }
    }

    /// Remembers an answer; gives what was answered to the same question before.
    fn swap_stale(&self, call: &Value, answer: &Value) -> Option<Value> {
        let question = format!("{} {}", call["method"], call["params"]);
        let mut stale = self.stale.lock().unwrap();
        if stale.len() >= STALE_MAX {
            stale.clear();
        }
        stale.entry(question).or_insert_with(|| answer.clone());
        let question = format!("{} {}", call["method"], call["params"]);
        stale.get(&question).cloned()
    }
}

async fn serve(socket: TcpStream, state: &State) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket);
    while let Some((_, headers)) = read_head(&mut reader).await? {
        let mut body = Vec::new();
        read_body(&mut reader, &headers, false, &mut body).await?;
        let Some((status, answer)) = answer(state, &body).await else { return Ok(()) };
        let head = format!(
            "HTTP/1.1 {status} Some\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        reader.get_mut().write_all(format!("{head}{answer}").as_bytes()).await?;
    }
    Ok(())
}

/// What to answer; nothing closes the connection.
async fn answer(state: &State, body: &[u8]) -> Option<(u16, String)> {
    let asked: Value = serde_json::from_slice(body).ok()?;
    let calls = asked.as_array().cloned().unwrap_or_else(|| vec![asked.clone()]);
    state.check_sent(&calls).await;
    let fault = state.choose();
    match fault {
        Fault::Drop => return None,
        Fault::TooMany => return Some((429, "slow down".to_owned())),
        Fault::Unavailable => return Some((503, "busy".to_owned())),
        Fault::Delay => tokio::time::sleep(Duration::from_millis(state.below(1500))).await,
        Fault::Duplicate => drop(state.ask(body).await),
        _ => {}
    }
    let mut told = state.ask(body).await?;
    match fault {
        Fault::LoseAnswer => return None,
        Fault::LieUnavailable => return Some((502, "bad gateway".to_owned())),
        _ => {}
    }
    falsify(state, fault, &calls, &mut told);
    let text = told.to_string();
    let sent = if fault == Fault::Truncate { text[..text.len() / 2].to_owned() } else { text };
    Some((200, sent))
}

fn falsify(state: &State, fault: Fault, calls: &[Value], told: &mut Value) {
    if let (Fault::Shuffle, Some(answers)) = (fault, told.as_array_mut()) {
        answers.reverse();
    }
    let answers: Vec<&mut Value> = match told {
        Value::Array(answers) => answers.iter_mut().collect(),
        one => vec![one],
    };
    for answer in answers {
        let Some(call) = calls.iter().find(|call| call["id"] == answer["id"]) else { continue };
        let method = call["method"].as_str().unwrap_or_default();
        let is_look = LOOKS.contains(&method);
        if method == "getFirstAvailableBlock" && answer.get("result").is_some() {
            // A chain of minutes has dropped nothing, but numbers its blocks as if it were old: a payment could never be shown to be
            // younger than its history.
            answer["result"] = json!(0);
            continue;
        }
        if method != state.send && answer.get("result").is_some() {
            let old = state.swap_stale(call, &answer["result"]);
            if let (Fault::Stale, Some(old)) = (fault, old) {
                answer["result"] = old;
            }
        }
        if fault == Fault::LieUnseen && is_look {
            answer["result"] = Value::Null;
        }
        if fault == Fault::LieRefused && method == state.send {
            let (code, message) = REFUSALS[usize::try_from(state.below(4)).unwrap()];
            *answer = json!({"jsonrpc": "2.0", "id": answer["id"], "error": {"code": code, "message": message}});
        }
    }
}

struct WireState {
    node_port: u16,
    name: &'static str,
    rng: Mutex<Rng>,
    level: AtomicU64,
    story: Arc<Story>,
}

/// For gRPC: faults of connections.
#[derive(Clone)]
pub struct WireChaos {
    pub port: u16,
    state: Arc<WireState>,
}

impl WireChaos {
    pub async fn start(node_port: u16, name: &'static str, seed: u64, story: Arc<Story>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (rng, level) = (Mutex::new(Rng::of(seed, name)), AtomicU64::new(0));
        let state = Arc::new(WireState { node_port, name, rng, level, story });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { carry(socket, &state).await.ok() });
            }
        });
        Self { port, state }
    }

    pub fn set_level(&self, per_mille: u64) {
        self.state.level.store(per_mille, Ordering::Relaxed);
    }
}

impl WireState {
    /// What happens to some bytes on their way to the node (`is_up`) or back: how long they take, and whether they get there.
    fn choose(&self, is_up: bool) -> (Duration, bool) {
        let mut rng = self.rng.lock().unwrap();
        // There are many more of these than of requests.
        if !rng.per_mille(self.level.load(Ordering::Relaxed) / 4) {
            return (Duration::ZERO, true);
        }
        let way = if is_up { "request" } else { "answer" };
        match rng.below(3) {
            0 => {
                self.story.count(&format!("{}: {way} cut", self.name));
                (Duration::ZERO, false)
            }
            _ => {
                self.story.count(&format!("{}: {way} delayed", self.name));
                (Duration::from_millis(rng.below(1000)), true)
            }
        }
    }
}

/// Until either side ends, or a cut ends both.
async fn carry(client: TcpStream, state: &WireState) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let node = TcpStream::connect(("127.0.0.1", state.node_port)).await?;
    node.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (node_read, node_write) = node.into_split();
    tokio::select! {
        up = pump(client_read, node_write, true, state) => up,
        down = pump(node_read, client_write, false, state) => down,
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_up: bool,
    state: &WireState,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let (wait, is_passed) = state.choose(is_up);
        tokio::time::sleep(wait).await;
        if !is_passed {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
