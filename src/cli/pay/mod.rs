//! `tollhouse pay`: a client that pays. One payment is signed at most; it is on disk before it is on the wire, and only
//! that one is ever presented again.

mod choose;
pub(super) mod cosmos;
mod deliver;
#[cfg(test)]
mod fixtures;
mod receipt;
mod saved;
mod send;
mod sign;
mod solana;
pub(super) mod terms;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde_json::{Map, Value, json};

use self::choose::{BankSend, Max, Method as PayMethod, Payable};
use self::cosmos::{CosmosError, CosmosKey, FeeChoice, FeeCoin};
use self::saved::{Saved, SavedPayment};
use self::send::{PaymentHeader, Presented, Request};
use self::sign::{PayerKey, SignError};
use self::solana::SolanaError;
use self::terms::Terms;
use super::human::{amount_text, network_text, printable};
use crate::config::Secret;
use crate::protocol::{Version, encode_json, names};
use crate::types::{ChainKind, Clock, Network, SystemClock};

/// Longest body of a 402 that is read for v1 terms.
const TERMS_BODY_BYTES_MAX: usize = 256 * 1024;

/// `tollhouse pay`.
#[derive(Debug, Args)]
pub struct PayArgs {
    /// What to request
    #[arg(required_unless_present = "resume")]
    pub url: Option<Url>,
    /// Request method [default: GET, or POST with --data]
    #[arg(long, short = 'X', value_name = "METHOD")]
    pub method: Option<Method>,
    /// Request header; may be given several times
    #[arg(long = "header", short = 'H', value_name = "K: V", value_parser = parse_header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Request body, or @FILE to read it from a file
    #[arg(long, short = 'd', value_name = "TEXT|@FILE")]
    pub data: Option<String>,
    /// Most that may be paid: dollars, or atomic units of one asset as '10000 ASSET'
    #[arg(long, default_value = "$0.10", value_name = "AMOUNT")]
    pub max: Max,
    /// Pay on this network only: a name such as base-sepolia, or a CAIP-2 id
    #[arg(long, value_name = "NAME")]
    pub network: Option<Network>,
    /// File with the payer's key: 32 bytes in hex pay on EVM chains, and on Cosmos chains with --grpc-url or a Cosmos
    /// --network; a key pair, as solana-keygen writes it or in base58, pays on Solana [default: the environment variable TOLLHOUSE_KEY]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// JSON-RPC node to ask for a recent block: needed to pay on Solana
    #[arg(long, value_name = "URL", env = solana::RPC_VARIABLE, hide_env_values = true)]
    pub rpc_url: Option<Url>,
    /// gRPC node to ask for the payer's sequence and the gas price: needed to pay on Cosmos
    #[arg(long, value_name = "URL")]
    pub grpc_url: Option<Url>,
    /// Gas limit of a payment on Cosmos [default: 120000]
    #[arg(long, value_name = "N")]
    pub gas: Option<u64>,
    /// Fee of a payment on Cosmos, as '12000 uusdc' [default: the node's minimum for the gas]
    #[arg(long, value_name = "AMOUNT")]
    pub fee: Option<FeeCoin>,
    /// Pay by x402 v1, even if the server speaks v2
    #[arg(long)]
    pub v1: bool,
    /// Present a saved payment again instead of paying: its file or id, or none if only one is saved
    #[arg(long, value_name = "FILE|ID", num_args = 0..=1, default_missing_value = "",
        conflicts_with_all = ["url", "method", "headers", "data", "max", "network", "key_file", "v1", "grpc_url", "gas", "fee"])]
    pub resume: Option<String>,
    /// How long to present the same payment again while its outcome is pending
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub wait: Duration,
    /// Print one JSON object: status, body, receipt
    #[arg(long)]
    pub json: bool,
    /// Where signed payments are saved [default: $XDG_STATE_HOME/tollhouse/payments]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// How `pay` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// An answer below 400.
    Success,
    /// Any other answer, or nothing was paid.
    Failure,
    /// The payment's outcome is still unknown.
    Pending,
}

impl PayArgs {
    /// Whether a key of 32 bytes is meant for a Cosmos chain: nothing in it says so.
    fn is_for_cosmos(&self) -> bool {
        match &self.network {
            Some(network) => network.kind() == ChainKind::Cosmos,
            None => self.grpc_url.is_some(),
        }
    }
}

impl Exit {
    fn of(status: StatusCode) -> Self {
        if status.as_u16() < 400 { Self::Success } else { Self::Failure }
    }

    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Pending => 3,
        }
    }
}

/// Where data and all else go.
pub struct Io<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// All else.
    pub err: &'a mut dyn Write,
}

/// Runs the command for this process.
///
/// # Errors
/// When nothing was paid and there is no answer to show.
pub async fn run(args: PayArgs) -> anyhow::Result<Exit> {
    let variable = std::env::var(sign::KEY_VARIABLE).ok().map(Secret::new);
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    pay(&args, variable.as_ref(), &SystemClock, &mut Io { out: &mut out, err: &mut err }).await
}

/// The command with all that it takes from its surroundings.
///
/// # Errors
/// When nothing was paid and there is no answer to show.
pub(super) async fn pay(
    args: &PayArgs,
    key_variable: Option<&Secret>,
    clock: &dyn Clock,
    io: &mut Io<'_>,
) -> anyhow::Result<Exit> {
    let directory = saved::directory(args.state_dir.as_deref())?;
    if let Some(name) = &args.resume {
        let saved = Saved::open(&directory, name)?;
        return present(args, &saved, io).await;
    }
    let request = request(args)?;
    let response = send::ask(&send::client()?, &request).await?;
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return deliver::unpaid(response, args.json, io).await;
    }
    let terms = read_terms(response, args.v1).await?;
    if terms.offers.is_empty() {
        bail!(
            "nothing was paid: the server offers nothing ({})",
            printable(terms.error.as_deref().unwrap_or("no reason"))
        );
    }
    let mut key = PayerKey::load(args.key_file.as_deref(), key_variable)?;
    if args.is_for_cosmos() {
        key = key.for_cosmos();
    }
    let offer = choose::choose(&terms.offers, key.kind(), args.network.as_ref(), &args.max)?;
    let signed = sign_payment(args, &request, &terms, &offer, &key, clock).await?;
    let saved = Saved::create(&directory, signed).context("nothing was sent: the payment could not be saved")?;
    let asked = amount_text(offer.terms.amount, &offer.terms.network, offer.terms.asset.as_str());
    writeln!(
        io.err,
        "paying {} on {} to {}; if this is cut short:\n  {}",
        printable(&asked),
        network_text(&offer.terms.network),
        offer.pay_to(),
        saved.resume_line()
    )?;
    present(args, &saved, io).await
}

/// Presents a saved payment until its outcome is known or time is up.
async fn present(args: &PayArgs, saved: &Saved, io: &mut Io<'_>) -> anyhow::Result<Exit> {
    let request = saved_request(&saved.payment)?;
    let version = if saved.payment.x402_version == 1 { Version::V1 } else { Version::V2 };
    let header = PaymentHeader::new(version, &saved.payment.payment)?;
    match send::present(&send::client()?, &request, &header, args.wait, io.err).await {
        Presented::Answered(response) => deliver::paid(response, saved, args.json, io).await,
        Presented::Pending(response) => deliver::pending(response, saved, args.json, io).await,
        Presented::Unknown(error) => deliver::unknown(&error, saved, args.json, io),
    }
}

fn request(args: &PayArgs) -> anyhow::Result<Request> {
    let url = args.url.clone().context("no URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("expected an http or https URL");
    }
    let body = match args.data.as_deref().map(|data| (data, data.strip_prefix('@'))) {
        None => None,
        Some((_, Some(file))) => Some(std::fs::read(file).with_context(|| format!("can't read {file}"))?),
        Some((text, None)) => Some(text.as_bytes().to_vec()),
    };
    let default = if body.is_some() { Method::POST } else { Method::GET };
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        if [names::PAYMENT_SIGNATURE, names::X_PAYMENT].contains(&name.as_str()) {
            bail!("{name} is this command's to set; a saved payment is presented with --resume");
        }
        headers.append(name.clone(), value.clone());
    }
    Ok(Request { url, method: args.method.clone().unwrap_or(default), headers, body })
}

async fn read_terms(mut response: Response, v1_only: bool) -> anyhow::Result<Terms> {
    let header = response.headers().get(names::PAYMENT_REQUIRED).map(|value| value.as_bytes().to_vec());
    let mut body = Vec::new();
    if header.is_none() || v1_only {
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            body.extend_from_slice(&chunk);
            if body.len() > TERMS_BODY_BYTES_MAX {
                bail!("the server's terms are longer than {TERMS_BODY_BYTES_MAX} bytes");
            }
        }
    }
    Ok(terms::read(header.as_deref(), &body, v1_only)?)
}

/// Signs the one payment of this run and puts it together with its request.
async fn sign_payment(
    args: &PayArgs,
    request: &Request,
    terms: &Terms,
    offer: &Payable,
    key: &PayerKey,
    clock: &dyn Clock,
) -> anyhow::Result<SavedPayment> {
    let mut nonce = [0_u8; 32];
    getrandom::fill(&mut nonce).map_err(|error| anyhow!("no randomness for the payment's nonce: {error}"))?;
    let now_secs = clock.now().as_secs();
    let lifetime = match offer.method {
        PayMethod::Eip3009(_) | PayMethod::Send(_) => offer.terms.max_timeout_seconds,
        PayMethod::Spl(_) => solana::LIFETIME_SECS,
    };
    let valid_before = now_secs.checked_add(lifetime).ok_or(SignError::Window)?;
    let payload = sign_payload(args, offer, key, valid_before, nonce).await?;
    let mut headers = Vec::new();
    for (name, value) in &request.headers {
        let value = value.to_str().with_context(|| format!("header {name} is not plain text and can't be saved"))?;
        headers.push((name.to_string(), value.to_owned()));
    }
    Ok(SavedPayment {
        format: 0,
        id: alloy::hex::encode(nonce.get(..8).unwrap_or_default()),
        signed_at_secs: now_secs,
        valid_before_secs: valid_before,
        method: request.method.to_string(),
        url: request.url.to_string(),
        headers,
        body: request.body.as_ref().map(|body| STANDARD.encode(body)),
        x402_version: if terms.version == Version::V1 { 1 } else { 2 },
        payment: payment_value(terms, offer, payload),
        network: offer.terms.network.clone(),
        asset: offer.terms.asset.clone(),
        amount: offer.terms.amount,
        pay_to: offer.terms.pay_to.clone(),
        payer: key.address(offer)?,
    })
}

/// What the payer signs for an offer that its key was chosen for.
async fn sign_payload(
    args: &PayArgs,
    offer: &Payable,
    key: &PayerKey,
    valid_before: u64,
    nonce: [u8; 32],
) -> anyhow::Result<Value> {
    match (&offer.method, key) {
        (PayMethod::Eip3009(evm), PayerKey::Evm(key)) => {
            Ok(sign::authorize(key, evm, offer.terms.amount, valid_before, nonce)?)
        }
        (PayMethod::Spl(spl), PayerKey::Solana(key)) => {
            let node = args.rpc_url.as_ref().ok_or(SolanaError::NoNode)?;
            let amount = u64::try_from(offer.terms.amount.value()).map_err(|_error| SolanaError::Amount)?;
            let recent = solana::recent(&send::client()?, node, &spl.mint).await?;
            let memo = alloy::hex::encode(nonce.get(..16).unwrap_or(&nonce));
            Ok(json!({"transaction": solana::transaction(key, spl, amount, &recent, &memo)?}))
        }
        (PayMethod::Send(send), PayerKey::Cosmos(key)) => sign_send(args, offer, send, key).await,
        _ => bail!("nothing was paid: the key is for other chains than the offer"),
    }
}

async fn sign_send(args: &PayArgs, offer: &Payable, send: &BankSend, key: &CosmosKey) -> anyhow::Result<Value> {
    let node = args.grpc_url.as_ref().ok_or(CosmosError::NoNode)?;
    let window = Duration::from_secs(offer.terms.max_timeout_seconds);
    let choice = FeeChoice { gas: args.gas, fee: args.fee.clone() };
    let recent = cosmos::recent(node, &key.address(&send.prefix)?, send, window, &choice).await?;
    if let (None, Some(fee)) = (&args.fee, &recent.fee)
        && fee.denom == send.denom
        && !choose::is_fee_within(fee.amount, &offer.terms, &args.max)
    {
        bail!("nothing was paid: the node wants a fee above --max; allow it by --fee '{fee}'");
    }
    Ok(json!({"transaction": cosmos::transaction(key, send, offer.terms.amount, &recent)?}))
}

/// The payment header's value (protocol §2.1, §2.2): v2 echoes the offer whole, with the sealed quote in its `extra`.
fn payment_value(terms: &Terms, offer: &Payable, payload: Value) -> String {
    let mut object = Map::new();
    match terms.version {
        Version::V1 | Version::Vitwit => {
            object.insert("x402Version".to_owned(), json!(1));
            object.insert("scheme".to_owned(), json!(offer.terms.scheme));
            object.insert("network".to_owned(), offer.raw.get("network").cloned().unwrap_or_default());
        }
        Version::V2 => {
            object.insert("x402Version".to_owned(), json!(2));
            object.insert("accepted".to_owned(), offer.raw.clone());
            for (key, value) in [("resource", &terms.resource), ("extensions", &terms.extensions)] {
                if let Some(value) = value {
                    object.insert(key.to_owned(), value.clone());
                }
            }
        }
    }
    object.insert("payload".to_owned(), payload);
    encode_json(&Value::Object(object))
}

fn saved_request(saved: &SavedPayment) -> anyhow::Result<Request> {
    let damaged = "the saved payment is damaged";
    let mut headers = HeaderMap::new();
    for (name, value) in &saved.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).context(damaged)?;
        headers.append(name, HeaderValue::from_str(value).context(damaged)?);
    }
    Ok(Request {
        url: Url::parse(&saved.url).context(damaged)?,
        method: Method::from_bytes(saved.method.as_bytes()).context(damaged)?,
        headers,
        body: saved.body.as_ref().map(|body| STANDARD.decode(body)).transpose().context(damaged)?,
    })
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'Name: value'")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}
