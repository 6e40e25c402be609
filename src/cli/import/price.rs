//! What an operation says of its price. What can't be understood is an error, never the default: a guess could sell for too
//! little.

use serde_json::{Map, Value};

use super::table::one_line;
use crate::types::Price;

/// The price in the words of the route table, the default where the operation says nothing, or why there is none.
pub(super) fn of(operation: &Map<String, Value>, default: &str) -> Result<String, String> {
    let is_free = match operation.get("x-free") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err("x-free is neither true nor false".to_owned()),
    };
    let stated = match (operation.get("x-price"), operation.get("x-payment-info")) {
        (Some(_), Some(_)) => return Err("it has both x-price and x-payment-info".to_owned()),
        (Some(price), None) => Some(x_price(price)?),
        (None, Some(info)) => Some(payment_info(info)?),
        (None, None) => None,
    };
    match (is_free, stated) {
        (true, Some(_)) => Err("it is said to be free and to have a price".to_owned()),
        (true, None) => Ok("free".to_owned()),
        (false, stated) => Ok(stated.unwrap_or_else(|| default.to_owned())),
    }
}

fn x_price(price: &Value) -> Result<String, String> {
    let Some(text) = price.as_str() else {
        return Err("x-price is no text such as \"$0.01\"".to_owned());
    };
    match text.parse::<Price>() {
        Ok(Price::Usd(_) | Price::Free | Price::Deny) => Ok(text.to_owned()),
        Ok(Price::Atomic { .. }) => Err("x-price is in atomic units; write it by hand for your network".to_owned()),
        Err(error) => Err(format!("x-price {:?}: {error}", one_line(text, 40))),
    }
}

/// `{price: {mode: "fixed", currency: "USD", amount: "0.05"}}`, or the older `{pricingMode: "fixed", price: "0.05"}`.
fn payment_info(info: &Value) -> Result<String, String> {
    let word = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let (mode, currency, amount) = match info.get("price") {
        Some(price @ Value::Object(_)) => (word(price, "mode"), word(price, "currency"), word(price, "amount")),
        Some(Value::String(amount)) => (word(info, "pricingMode"), None, Some(amount.clone())),
        _ => return Err("x-payment-info has no price as text".to_owned()),
    };
    if mode.as_deref().is_some_and(|mode| mode != "fixed") {
        return Err("x-payment-info asks a price that is not fixed".to_owned());
    }
    if currency.as_deref().is_some_and(|currency| currency != "USD") {
        return Err("x-payment-info asks another currency than USD".to_owned());
    }
    let Some(amount) = amount else { return Err("x-payment-info has no amount as text".to_owned()) };
    let price = format!("${}", amount.strip_prefix('$').unwrap_or(&amount));
    match price.parse::<Price>() {
        Ok(Price::Usd(_)) => Ok(price),
        _ => Err(format!("x-payment-info asks {:?}, which is no price", one_line(&amount, 40))),
    }
}
