//! HTTP/1.1 by hand, so that tests decide about every byte and see every one.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::HOST;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// No answer may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that a test makes.
#[derive(Debug, Clone)]
pub struct Call {
    pub host: &'static str,
    /// The client's own address.
    pub from: IpAddr,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl Call {
    pub fn get(target: &str) -> Self {
        Self {
            host: HOST,
            from: LOOPBACK,
            method: "GET".to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST".to_owned(), body: Some(body.into()), ..Self::get(target) }
    }

    /// Of the operator's listener, which answers to no other name.
    pub fn local(target: &str) -> Self {
        Self { host: "127.0.0.1", ..Self::get(target) }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.method, self.target, self.host);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }

    /// Sends the request and leaves it at that: what the caller drops is a client that hung up.
    pub async fn open(&self, port: u16) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.from, 0))?;
        let mut socket = socket.connect(SocketAddr::new(LOOPBACK, port)).await?;
        socket.set_nodelay(true)?;
        let (mut reading, mut writing) = socket.split();
        let bytes = self.bytes();
        // A long body that is refused unread must not keep the answer from being read.
        let mut probe = [0; 1];
        tokio::select! {
            written = writing.write_all(&bytes) => written?,
            _ = reading.peek(&mut probe) => {}
        }
        Ok(socket)
    }

    /// Sends the request and reads the answer to the end of the connection.
    pub async fn send(&self, port: u16) -> io::Result<Answer> {
        let exchange = async { Answer::read(self.open(port).await?).await };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What came back.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body is as long as was announced.
    pub is_complete: bool,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        let receipt = self.header("payment-response").map(decode_header);
        formatter
            .debug_struct("Answer")
            .field("status", &self.status)
            .field("receipt", &receipt)
            .field("body", &body.chars().take(300).collect::<String>())
            .field("is_complete", &self.is_complete)
            .finish_non_exhaustive()
    }
}

impl Answer {
    pub async fn read(socket: TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(socket);
        let Some((start, headers)) = read_head(&mut reader).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let status =
            start.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let mut body = Vec::new();
        let is_complete = read_body(&mut reader, &headers, true, &mut body).await.is_ok();
        Ok(Self { status, headers, body, is_complete })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_error| panic!("no JSON: {self:?}"))
    }

    /// The word for what is wrong.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether it asks for a (further) payment.
    pub fn has_terms(&self) -> bool {
        let is_v1_body = serde_json::from_slice::<Value>(&self.body).is_ok_and(|body| body.get("accepts").is_some());
        self.header("payment-required").is_some() || is_v1_body
    }

    /// The settlement's outcome, which must be told under both names.
    pub fn outcome(&self) -> Option<Value> {
        assert_eq!(self.header("payment-response"), self.header("x-payment-response"));
        self.header("payment-response").map(decode_header)
    }
}

pub fn decode_header(value: &str) -> Value {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value).expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Start line and header fields; none at the end of the connection.
pub async fn read_head<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Option<(String, Vec<(String, String)>)>> {
    let mut start = String::new();
    if reader.read_line(&mut start).await? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Some((start.trim_end().to_owned(), headers)))
}

/// Reads a body of whatever framing into `body`, which holds what came before an error too.
pub async fn read_body<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    headers: &[(String, String)],
    until_close: bool,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    if header(headers, "transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_error| io::ErrorKind::InvalidData)?;
            read_exactly(reader, size, body).await?;
            reader.read_line(&mut String::new()).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    match header(headers, "content-length") {
        Some(length) => read_exactly(reader, length.parse().map_err(|_error| io::ErrorKind::InvalidData)?, body).await,
        None if until_close => reader.read_to_end(body).await.map(|_bytes| ()),
        None => Ok(()),
    }
}

async fn read_exactly<R: AsyncBufRead + Unpin>(reader: &mut R, size: usize, body: &mut Vec<u8>) -> io::Result<()> {
    let wanted = body.len() + size;
    reader.take(u64::try_from(size).unwrap()).read_to_end(body).await?;
    if body.len() == wanted { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
