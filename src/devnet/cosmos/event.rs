//! What a transaction tells of itself: typed lists of attributes, in the form of the node's release.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cosmrs::proto::cosmos::base::abci::v1beta1::{AbciMessageLog, Attribute, StringEvent};
use cosmrs::proto::tendermint::abci;

use super::params::{Dialect, EventForm};

/// An event as the module wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    kind: &'static str,
    attributes: Vec<(&'static str, String)>,
}

impl Event {
    pub(super) fn new(kind: &'static str, attributes: &[(&'static str, &str)]) -> Self {
        let attributes = attributes.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Self { kind, attributes }
    }

    /// Whether it is of this kind and says this.
    pub(super) fn says(&self, kind: &str, key: &str, value: &str) -> bool {
        self.kind == kind && self.attributes.iter().any(|(known, said)| *known == key && said == value)
    }
}

/// What the bank says when money moves; a fee moves the same way as a payment does.
pub(super) fn transfer(sender: &str, recipient: &str, amount: &str) -> Vec<Event> {
    vec![
        Event::new("coin_spent", &[("spender", sender), ("amount", amount)]),
        Event::new("coin_received", &[("receiver", recipient), ("amount", amount)]),
        Event::new("transfer", &[("recipient", recipient), ("sender", sender), ("amount", amount)]),
        Event::new("message", &[("sender", sender)]),
    ]
}

/// The events of a result: the fee's first, then the messages', which newer releases number.
pub(super) fn to_abci(ante: &[Event], messages: &[Event], form: EventForm, dialect: Dialect) -> Vec<abci::Event> {
    if form == EventForm::LogsOnly {
        return Vec::new();
    }
    let of_ante = ante.iter().map(|event| one(event, None, form));
    let index = (dialect == Dialect::Sdk053).then_some("0");
    of_ante.chain(messages.iter().map(|event| one(event, index, form))).collect()
}

fn one(event: &Event, msg_index: Option<&str>, form: EventForm) -> abci::Event {
    let written = |text: &str| if form == EventForm::Base64 { STANDARD.encode(text) } else { text.to_owned() };
    let plain = event.attributes.iter().map(|(key, value)| (*key, value.as_str()));
    let attributes = plain
        .chain(msg_index.map(|index| ("msg_index", index)))
        .map(|(key, value)| abci::EventAttribute { key: written(key), value: written(value), index: true })
        .collect();
    abci::Event { r#type: event.kind.to_owned(), attributes }
}

/// The log of the messages, which older releases add: the events of one type in one.
pub(super) fn to_logs(messages: &[Event], dialect: Dialect) -> Vec<AbciMessageLog> {
    if dialect == Dialect::Sdk053 || messages.is_empty() {
        return Vec::new();
    }
    let mut events: Vec<StringEvent> = Vec::new();
    for event in messages {
        let attributes =
            event.attributes.iter().map(|(key, value)| Attribute { key: (*key).to_owned(), value: value.clone() });
        match events.iter_mut().find(|merged| merged.r#type == event.kind) {
            Some(merged) => merged.attributes.extend(attributes),
            None => events.push(StringEvent { r#type: event.kind.to_owned(), attributes: attributes.collect() }),
        }
    }
    events.sort_by(|one, other| one.r#type.cmp(&other.r#type));
    vec![AbciMessageLog { msg_index: 0, log: String::new(), events }]
}
