//! An origin that writes down every byte, answers as it is told, and reads no more into a request than its framing says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{MARKER, is_priced};

/// A request as it came, byte for byte.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub head: Vec<u8>,
    /// With its chunks, where it came in chunks.
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub is_whole: bool,
}

impl Recorded {
    pub fn head(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    pub fn line(&self) -> String {
        self.head().lines().next().unwrap_or_default().to_owned()
    }

    /// All values of a header field.
    pub fn all(&self, name: &str) -> Vec<String> {
        let head = self.head();
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let named = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim().to_owned()).collect()
    }
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Recorded>>,
    /// Bytes that were no request.
    garbage: Mutex<Vec<Vec<u8>>>,
    /// Whole answers, by path.
    answers: Mutex<HashMap<String, String>>,
}

pub struct Recorder {
    pub port: u16,
    state: Arc<State>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (port, state) = (listener.local_addr().unwrap().port(), Arc::<State>::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { serve(socket, &state).await.ok() });
            }
        });
        Self { port, state }
    }

    /// What the path gets from now on: head and body.
    pub fn answer(&self, path: &str, answer: impl Into<String>) {
        self.state.answers.lock().unwrap().insert(path.to_owned(), answer.into());
    }

    /// As `take`, where requests may have been given up half-way.
    pub fn take_whole(&self) -> Vec<Recorded> {
        self.take().into_iter().filter(|request| request.is_whole).collect()
    }

    /// Takes what came since the last time; none of it may have been anything but requests.
    pub fn take(&self) -> Vec<Recorded> {
        let garbage = std::mem::take(&mut *self.state.garbage.lock().unwrap());
        let garbage: Vec<_> = garbage.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        assert!(garbage.is_empty(), "the origin got what is no request: {garbage:?}");
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

async fn serve(socket: TcpStream, state: &State) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket);
    loop {
        let mut request = Recorded::default();
        while !request.head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut request.head).await? == 0 {
                if !request.head.is_empty() {
                    state.garbage.lock().unwrap().push(request.head);
                }
                return Ok(());
            }
        }
        let line = request.line();
        let words: Vec<&str> = line.split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else {
            state.garbage.lock().unwrap().push(request.head);
            return Ok(());
        };
        request.is_whole = read_body(&mut reader, &mut request).await.is_ok();
        let is_read = request.is_whole;
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let marker = if is_priced(&path) { MARKER } else { "" };
        let payer = request.all("x-payment-payer").join(",");
        let body = format!("seen={target}\npayer={payer}\n{marker}\n");
        let told = state.answers.lock().unwrap().get(&path).cloned();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = told.unwrap_or_else(|| if method == "HEAD" { head } else { format!("{head}{body}") });
        state.requests.lock().unwrap().push(request);
        if !is_read {
            return Ok(());
        }
        reader.get_mut().write_all(answer.as_bytes()).await?;
    }
}

async fn read_body(reader: &mut BufReader<TcpStream>, request: &mut Recorded) -> std::io::Result<()> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    if !request.all("transfer-encoding").is_empty() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).await?;
            request.body.extend_from_slice(line.as_bytes());
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_error| invalid())?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).await?;
            request.body.extend_from_slice(&chunk);
            if size == 0 {
                return Ok(());
            }
        }
    }
    let Some(length) = request.all("content-length").pop() else { return Ok(()) };
    request.body = vec![0; length.parse().map_err(|_error| invalid())?];
    reader.read_exact(&mut request.body).await.map(|_bytes| ())
}
