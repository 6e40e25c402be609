//! The server's word on the money: `PAYMENT-RESPONSE` and `X-PAYMENT-RESPONSE` (protocol §2.1, §2.2).

use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

use super::saved::SavedPayment;
use crate::cli::human::{amount_text, network_text, printable};
use crate::protocol::{Reason, decode_object, names};
use crate::types::{AtomicAmount, Network};

/// A settlement response as it came. It is a claim of the server's: only the chain proves it.
#[derive(Debug, Clone)]
pub struct Receipt(Map<String, Value>);

impl Receipt {
    /// The receipt of an answer, if it carries one that can be read.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        [names::PAYMENT_RESPONSE, names::X_PAYMENT_RESPONSE]
            .into_iter()
            .filter_map(|name| headers.get(name))
            .find_map(|value| decode_object(value.as_bytes()).ok())
            .map(Self)
    }

    /// Whether the server says that the money moved.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.0.get("success") == Some(&Value::Bool(true))
    }

    /// Whether the server doesn't know yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.text("errorReason") == Some(Reason::SettlementPending.as_str())
    }

    /// Why the money did not move.
    #[must_use]
    pub fn error_reason(&self) -> Option<&str> {
        self.text("errorReason")
    }

    /// As it came.
    #[must_use]
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// For people; what the server leaves out is taken from what was signed.
    #[must_use]
    pub fn describe(&self, signed: &SavedPayment) -> String {
        let network = self.text("network").and_then(|text| text.parse::<Network>().ok());
        let network = network.as_ref().unwrap_or(&signed.network);
        let amount = self.text("amount").and_then(|text| text.parse::<AtomicAmount>().ok()).unwrap_or(signed.amount);
        let lines = [
            ("network", network_text(network)),
            ("transaction", self.text("transaction").unwrap_or("none").to_owned()),
            ("amount", format!("{} ({amount} atomic units)", amount_text(amount, network, signed.asset.as_str()))),
            ("payer", self.text("payer").unwrap_or(&signed.payer).to_owned()),
        ];
        let outcome = if self.is_success() { "paid" } else { "not paid" };
        let mut text = format!("receipt: {outcome}\n");
        for (key, value) in lines {
            text.push_str(&format!("  {key:<12} {}\n", printable(&value)));
        }
        text
    }
}
