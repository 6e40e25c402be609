//! Pays one request with crate x402-reqwest 2.0.2 and prints one JSON line about what happened.
//!
//! ```text
//! PAYER_KEY=0x… [PAYER_WALLET=0x…] reqwest_pay URL [--v1] [--header 'Name: value']…
//! ```
//!
//! `--v1` hides the PAYMENT-REQUIRED header from the client, which would otherwise win: the client then pays by the v1
//! terms in the body. `PAYER_WALLET` names a contract that pays with the key's owner signing for it.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, Signature};
use alloy_signer_local::PrivateKeySigner;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use reqwest_middleware::{ClientBuilder, Middleware, Next, Result as SendResult};
use serde_json::{Value, json};
use x402_chain_eip155::v1_eip155_exact::client::SignerLike;
use x402_chain_eip155::{V1Eip155ExactClient, V2Eip155ExactClient};
use x402_reqwest::X402Client;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

type Headers = BTreeMap<String, String>;

struct Command {
    url: String,
    v1: bool,
    headers: HeaderMap,
}

impl Command {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut arguments = std::env::args().skip(1);
        let mut command = Self { url: String::new(), v1: false, headers: HeaderMap::new() };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--v1" => command.v1 = true,
                "--header" => {
                    let line = arguments.next().ok_or("--header wants 'Name: value'")?;
                    let (name, value) = line.split_once(": ").ok_or("--header wants 'Name: value'")?;
                    command.headers.insert(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
                }
                flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}").into()),
                url => url.clone_into(&mut command.url),
            }
        }
        Ok(command)
    }
}

/// The address that pays and the key that signs for it: the same account, or a contract and its owner.
struct Payer {
    address: Address,
    owner: PrivateKeySigner,
}

impl Payer {
    fn from_environment() -> Result<Self, Box<dyn Error>> {
        let owner: PrivateKeySigner = std::env::var("PAYER_KEY")?.parse()?;
        let address = match std::env::var("PAYER_WALLET") {
            Ok(wallet) => wallet.parse()?,
            Err(_) => owner.address(),
        };
        Ok(Self { address, owner })
    }
}

#[async_trait]
impl SignerLike for Payer {
    fn address(&self) -> Address {
        self.address
    }

    async fn sign_hash(&self, hash: &B256) -> Result<Signature, alloy_signer::Error> {
        SignerLike::sign_hash(&self.owner, hash).await
    }
}

/// Sits between the client and the wire.
#[derive(Clone)]
struct Recorder {
    hide_v2: bool,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    last_sent: Headers,
    offer: Option<String>,
}

#[async_trait]
impl Middleware for Recorder {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> SendResult<reqwest::Response> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last_sent = by_name(request.headers());
        let mut answer = next.run(request, extensions).await?;
        if self.hide_v2 {
            answer.headers_mut().remove("payment-required");
        } else if let Some(offer) = by_name(answer.headers()).remove("payment-required") {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).offer.get_or_insert(offer);
        }
        Ok(answer)
    }
}

fn by_name(headers: &HeaderMap) -> Headers {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn decode(header: Option<&String>) -> Result<Value, Box<dyn Error>> {
    Ok(match header {
        Some(header) => serde_json::from_slice(&STANDARD.decode(header)?)?,
        None => Value::Null,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let command = Command::parse()?;
    let payer = Arc::new(Payer::from_environment()?);
    let paying = X402Client::new()
        .register(V2Eip155ExactClient::new(Arc::clone(&payer)))
        .register(V1Eip155ExactClient::new(payer));
    let recorder = Recorder { hide_v2: command.v1, seen: Arc::default() };
    let wire = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT).build()?;
    let client = ClientBuilder::new(wire).with(paying).with(recorder.clone()).build();

    let answer = client.get(&command.url).headers(command.headers).send().await?;
    let status = answer.status().as_u16();
    let headers = by_name(answer.headers());
    let body = answer.text().await?;
    let seen = recorder.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let payment = ["payment-signature", "x-payment"]
        .into_iter()
        .find_map(|name| seen.last_sent.get(name).map(|value| json!({"name": name, "value": value})));
    let report = json!({
        "status": status,
        "body": body,
        "headers": headers,
        "paymentResponse": decode(headers.get("payment-response"))?,
        "xPaymentResponse": decode(headers.get("x-payment-response"))?,
        "paymentHeader": payment,
        "offer": decode(seen.offer.as_ref())?,
    });
    println!("{report}");
    Ok(())
}
