//! A JSON-RPC proxy between gateway and node that misbehaves as it is told, and remembers every call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::http::{Call, read_body, read_head};

/// What happens to calls of a method. What can only happen to a whole HTTP request happens to all calls in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The connection is closed; the node hears nothing.
    Drop,
    /// The node gets it; its answer is lost with the connection.
    LoseAnswer,
    /// Passed on after a while.
    Delay(Duration),
    /// Passed on once the fault is lifted.
    Hold,
    /// 503; the node hears nothing.
    Unavailable,
    /// The node gets it; 503 is answered all the same.
    LieUnavailable,
    /// This result instead of the node's, which is not asked.
    Result(Value),
    /// This error instead of the node's answer; the node is not asked.
    Error(i64, &'static str),
    /// The node gets it; this error is answered all the same.
    LieError(i64, &'static str),
}

struct State {
    node_port: u16,
    faults: watch::Sender<HashMap<String, Fault>>,
    calls: Mutex<Vec<(String, Value)>>,
}

#[derive(Clone)]
pub struct Chaos {
    pub port: u16,
    state: Arc<State>,
}

/// A fault that every method has.
const ANY: &str = "*";

impl Chaos {
    pub async fn start(node_port: u16) -> Self {
        let (port, listener) = loop {
            let port = super::free_port();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break (port, listener);
            }
        };
        let state = Arc::new(State { node_port, faults: watch::Sender::default(), calls: Mutex::default() });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { serve(socket, &state).await.ok() });
            }
        });
        Self { port, state }
    }

    /// From now on calls of `method` have this fault.
    pub fn set(&self, method: &str, fault: Fault) {
        self.state.faults.send_modify(|faults| {
            faults.insert(method.to_owned(), fault);
        });
    }

    /// From now on calls of every method without a fault of its own have this one.
    pub fn set_all(&self, fault: Fault) {
        self.set(ANY, fault);
    }

    /// From now on all is well.
    pub fn clear(&self) {
        self.state.faults.send_modify(HashMap::clear);
    }

    /// The parameters of every call of `method` that the gateway made.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        let calls = self.state.calls.lock().unwrap();
        calls.iter().filter(|(known, _)| known == method).map(|(_, params)| params.clone()).collect()
    }

    /// How often `method` was called.
    pub fn count(&self, method: &str) -> usize {
        self.calls(method).len()
    }

    /// Calls that a payment causes, as opposed to those that look after the chain all the time.
    pub fn payment_calls(&self) -> usize {
        [
            "eth_call",
            "eth_estimateGas",
            "eth_getCode",
            "eth_sendRawTransaction",
            "simulateTransaction",
            "sendTransaction",
        ]
        .into_iter()
        .map(|method| self.count(method))
        .sum()
    }

    /// Waits for the next call of `method` after `seen` of them.
    pub async fn wait_for(&self, method: &str, seen: usize) {
        super::eventually(method, Duration::from_secs(20), || async { (self.count(method) > seen).then_some(()) })
            .await;
    }
}

impl State {
    fn fault(&self, method: &str) -> Option<Fault> {
        let faults = self.faults.borrow();
        faults.get(method).or_else(|| faults.get(ANY)).cloned()
    }

    /// The fault of a call, once it isn't held.
    async fn settled_fault(&self, method: &str) -> Option<Fault> {
        let mut changes = self.faults.subscribe();
        loop {
            match self.fault(method) {
                Some(Fault::Hold) => changes.changed().await.ok()?,
                fault => return fault,
            }
        }
    }

    async fn forward(&self, calls: &[Value]) -> Option<Vec<Value>> {
        if calls.is_empty() {
            return Some(Vec::new());
        }
        let body = Value::Array(calls.to_vec()).to_string();
        let call = Call::post("/", body).with("Content-Type", "application/json");
        let answer = call.send(self.node_port).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
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
    let is_batch = asked.is_array();
    let calls = asked.as_array().cloned().unwrap_or_else(|| vec![asked]);
    let mut passed = Vec::new();
    let mut answers = Vec::new();
    let mut lies = Vec::new();
    let mut is_lost = false;
    let mut is_denied = false;
    for call in &calls {
        let method = call["method"].as_str().unwrap_or_default();
        state.calls.lock().unwrap().push((method.to_owned(), call["params"].clone()));
    }
    for call in calls {
        match state.settled_fault(call["method"].as_str().unwrap_or_default()).await {
            Some(Fault::Drop) => return None,
            Some(Fault::Unavailable) => return Some((503, "busy".to_owned())),
            Some(Fault::Result(result)) => {
                answers.push(json!({"jsonrpc": "2.0", "id": call["id"], "result": result}));
                continue;
            }
            Some(Fault::Error(code, message)) => {
                answers.push(json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}));
                continue;
            }
            Some(Fault::LieError(code, message)) => {
                lies.push(json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}));
            }
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::LoseAnswer) => is_lost = true,
            Some(Fault::LieUnavailable) => is_denied = true,
            Some(Fault::Hold) | None => {}
        }
        passed.push(call);
    }
    let is_lied_about = |answer: &Value| lies.iter().any(|lie| lie["id"] == answer["id"]);
    answers.extend(state.forward(&passed).await?.into_iter().filter(|answer| !is_lied_about(answer)));
    if is_denied {
        return Some((503, "busy".to_owned()));
    }
    answers.append(&mut lies);
    let text = if is_batch { Value::Array(answers) } else { answers.pop()? };
    (!is_lost).then(|| (200, text.to_string()))
}
