//! A payer with a wallet of its own: gets terms, signs, presents its payment until it knows how it ended, and now and then does
//! what it shouldn't.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::chains::{COSMOS, EVM, Wallets, chain_of, v1_header, v2_header};
use crate::harness::{Answer, Call};
use crate::seed::Rng;
use crate::story::{End, Log, Payment, Story, now_millis};
use crate::world::World;

/// How long to wait before asking again.
const PAUSE_MILLIS: u64 = 250;
/// Answers may be lost; longer waits are for the gateway's dead connections.
const PATIENCE: Duration = Duration::from_secs(12);

/// Pays for one thing after another until the world closes.
pub async fn run(world: Arc<World>, index: usize, wallet: Arc<Wallets>) {
    let mut rng = Rng::of(world.seed, &format!("client {index}"));
    let mut bought = 0;
    while !world.is_closing() {
        let item = format!("c{index}-{bought}");
        bought += 1;
        let route = match rng.below(10) {
            0..=5 => "before",
            // On Cosmos a payer could spend the money while the origin works.
            6..=7 if wallet.chain() != COSMOS => "after",
            6..=7 => "before",
            _ => "named",
        };
        let target = format!("/{route}/{item}");
        let name = (route == "named").then(|| format!("name-{index:06}-{bought:06}"));
        let Some(payment) = sign(&world, &wallet, &target, name.as_deref(), &mut rng).await else { continue };
        pursue(&world, &wallet, payment, &mut rng).await;
    }
}

/// A payment as soon as there is an offer.
pub async fn sign_now(world: &World, wallet: &Wallets, target: &str) -> Arc<Payment> {
    let mut rng = Rng::of(world.seed, target);
    sign(world, wallet, target, None, &mut rng).await.expect("the world is open")
}

/// A payment for what is offered now; nothing when the world closes first.
async fn sign(
    world: &World,
    wallet: &Wallets,
    target: &str,
    name: Option<&str>,
    rng: &mut Rng,
) -> Option<Arc<Payment>> {
    let (v2, v1) = loop {
        if world.is_closing() {
            return None;
        }
        if let Some(offer) = offer(world, wallet.chain(), target).await {
            break offer;
        }
        pause(rng).await;
    };
    let signed = world.chains.pay(wallet, &v2, &v1).await;
    let header = match (&signed.v1, name) {
        (Some(v1), None) if rng.per_mille(150) => v1_header(v1),
        (_, None) => v2_header(&signed.json),
        (_, Some(name)) => {
            let mut json = signed.json.clone();
            json["extensions"] = json!({"payment-identifier": {"info": {"required": false, "id": name}}});
            v2_header(&json)
        }
    };
    Some(world.story.signed(Payment {
        key: signed.key,
        chain: wallet.chain(),
        payer: wallet.address(),
        target: target.to_owned(),
        name: name.map(str::to_owned),
        header,
        log: std::sync::Mutex::new(Log::default()),
    }))
}

/// The chain's offer in a 402, in both dialects.
async fn offer(world: &World, chain: &str, target: &str) -> Option<(Value, Value)> {
    let answer = send(world, &Call::get(target)).await.ok()?;
    if answer.status != 402 {
        return None;
    }
    let pick = |offers: &Value| {
        let offers = offers["accepts"].as_array()?;
        offers.iter().find(|offer| chain_of(offer["network"].as_str().unwrap_or_default()) == chain).cloned()
    };
    let v2 = pick(&decoded(answer.header("payment-required")?)?)?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is_evm_v1 = |offer: &&Value| chain == EVM && offer["network"] == "base-sepolia";
    let v1 = body["accepts"].as_array().and_then(|offers| offers.iter().find(is_evm_v1).cloned());
    Some((v2, v1.unwrap_or(Value::Null)))
}

async fn send(world: &World, call: &Call) -> io::Result<Answer> {
    let exchange = call.send(world.port());
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

async fn pause(rng: &mut Rng) {
    tokio::time::sleep(Duration::from_millis(rng.below(PAUSE_MILLIS) + 20)).await;
}

/// What an answer means to the client.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It has what it paid for.
    Answer,
    /// It knows no more than before.
    Nothing,
    /// As nothing, but the gateway has the payment in its books.
    Known,
    End(End),
}

/// Presents a payment until it has ended.
async fn pursue(world: &World, wallet: &Wallets, payment: Arc<Payment>, rng: &mut Rng) {
    let habit = rng.below(1000);
    match habit {
        // Hangs up before it can be answered.
        0..=79 => hang_up(world, &payment, rng).await,
        // Presents several copies at once.
        80..=229 => {
            let copies = [(); 3].map(|()| present(world, &payment, &payment.target));
            futures::future::join_all(copies).await;
        }
        _ => {}
    }
    // Loses its patience, and comes back when the shop closes.
    if (230..=249).contains(&habit) && payment.chain != COSMOS {
        present(world, &payment, &payment.target).await;
        return;
    }
    let mut has_tried_other = false;
    while payment.end().is_none() {
        let told = present(world, &payment, &payment.target).await;
        if payment.end().is_some() {
            break;
        }
        // What it paid for one thing, it tries to have for another.
        if told == Told::Known && !has_tried_other && (250..=449).contains(&habit) {
            has_tried_other = true;
            steal(world, &payment).await;
        }
        // Lost its payment, and signs another under the same name.
        if payment.name.is_some() && payment.chain == EVM && (450..=599).contains(&habit) && !world.is_closing() {
            let (target, name) = (payment.target.clone(), payment.name.clone());
            let mut own = rng.clone();
            if let Some(next) = sign(world, wallet, &target, name.as_deref(), &mut own).await {
                payment.finish(End::Replaced);
                return Box::pin(follow(world, next, rng)).await;
            }
        }
        pause(rng).await;
    }
    // Presents what is spent.
    if habit >= 850 && payment.end() == Some(End::Served) {
        for _ in 0..3 {
            present(world, &payment, &payment.target).await;
        }
    }
}

/// Presents a payment until it has ended, and nothing else.
pub async fn follow(world: &World, payment: Arc<Payment>, rng: &mut Rng) {
    while payment.end().is_none() {
        present(world, &payment, &payment.target).await;
        pause(rng).await;
    }
}

async fn hang_up(world: &World, payment: &Payment, rng: &mut Rng) {
    payment.log.lock().unwrap().presented += 1;
    let call = Call::get(&payment.target).with(payment.header.0, payment.header.1.clone());
    let client = call.open(world.port()).await;
    tokio::time::sleep(Duration::from_millis(rng.below(120))).await;
    drop(client);
}

/// Presents the payment for something that it wasn't signed for, once the books have it: that must not be had.
async fn steal(world: &World, payment: &Payment) {
    if !payment.target.starts_with("/before/") {
        return;
    }
    let other = format!("{}-stolen", payment.target);
    let call = Call::get(&other).with(payment.header.0, payment.header.1.clone());
    world.story.note(&format!("steals {} {other}", payment.key));
    if let Ok(answer) = send(world, &call).await
        && (answer.status == 200 || String::from_utf8_lossy(&answer.body).contains("\"origin\""))
    {
        world.story.violate(format!("I2: {} bought {other} besides {}", payment.key, payment.target));
    }
}

/// Presents the payment once.
pub async fn present(world: &World, payment: &Payment, target: &str) -> Told {
    {
        let mut log = payment.log.lock().unwrap();
        log.presented += 1;
        if log.presented == 1 {
            drop(log);
            world.story.note(&format!("presents {}", payment.key));
        }
    }
    let call = Call::get(target).with(payment.header.0, payment.header.1.clone());
    let told = match send(world, &call).await {
        Ok(answer) => hear(&world.story, payment, &answer),
        Err(_lost) => Told::Nothing,
    };
    let end = match &told {
        Told::End(end) => end.clone(),
        Told::Answer => End::Served,
        Told::Nothing | Told::Known => return told,
    };
    if payment.end().is_none() {
        world.story.count(&format!("payments: {}", word_of(&end)));
        payment.finish(end);
    }
    told
}

fn word_of(end: &End) -> String {
    match end {
        End::Served => "served".to_owned(),
        End::Used => "spent, the answer lost".to_owned(),
        End::Owed => "owed".to_owned(),
        End::Refused(reason) => format!("refused: {reason}"),
        End::Replaced => "replaced".to_owned(),
    }
}

/// Reads an answer, and writes down what it says.
fn hear(story: &Story, payment: &Payment, answer: &Answer) -> Told {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let word = body["error"].as_str().unwrap_or_default().to_owned();
    let receipt = answer.header("payment-response").and_then(decoded).unwrap_or_default();
    story.note(&format!("told {} {} {word} {receipt} {}", payment.key, answer.status, answer.is_complete));
    if answer.has_terms() && word != "payment_already_used" {
        payment.log.lock().unwrap().terms.push((now_millis(), word.clone()));
    }
    if answer.has_terms() && answer.status != 402 {
        story.violate(format!("I7: terms with a {}: {answer:?}", answer.status));
    }
    let is_paid = receipt["success"] == true;
    match (answer.status, word.as_str()) {
        // The gateway or the origin was gone in the middle of it.
        (200, _) if !answer.is_complete => Told::Known,
        (_, "") if !answer.is_complete => Told::Nothing,
        (200, _) => {
            payment.log.lock().unwrap().answers += 1;
            if body["target"] != payment.target.as_str() {
                story.violate(format!("I2: {} was answered with {body} for {}", payment.key, payment.target));
            }
            if !is_paid {
                story.violate(format!("I1: {} was answered without a receipt: {answer:?}", payment.key));
            }
            Told::Answer
        }
        (402, "payment_already_used") => Told::End(End::Used),
        (402, _) => Told::End(End::Refused(reason(&word, &receipt))),
        (409, "payment_owed") => Told::End(End::Owed),
        (409, "payment_in_progress") => Told::Nothing,
        // Under a name, the other payment may be the one that counts.
        (409, _) => {
            story.violate(format!("I3: {} was turned away from its own request: {answer:?}", payment.key));
            Told::Nothing
        }
        (503, "settlement_pending") => Told::Known,
        (500..=599, _) if is_paid => Told::Known,
        (500..=599, _) => Told::Nothing,
        _ => {
            story.violate(format!("I3: {} got {answer:?}", payment.key));
            Told::Nothing
        }
    }
}

/// What a header says, unless a gateway that died left half of it.
fn decoded(header: &str) -> Option<Value> {
    let bytes = STANDARD.decode(header).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn reason(word: &str, receipt: &Value) -> String {
    match receipt["errorReason"].as_str() {
        Some(reason) => format!("settlement: {reason}"),
        None => word.to_owned(),
    }
}
