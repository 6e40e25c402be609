//! From typed to validated: how a route is called, by example.

use serde_json::Value;

use super::leaf::{JsonObject, Lenient};
use super::model::RouteInput;
use super::raw::Input;
use super::reader::{At, Report};
use super::route_key::RouteKey;

/// Methods whose requests have a body in the eyes of x402's bazaar.
const BODY_METHODS: [&str; 3] = ["POST", "PUT", "PATCH"];

/// The examples, or nothing if a mistake was reported. `route` names the route in messages, `key` is its key.
pub(super) fn input(route: &str, key: &str, typed: &At<Input>, report: &mut Report) -> Option<RouteInput> {
    let Input { query_params, body_type, body } = &typed.value;
    let body = match (body_type, body) {
        (None, None) => None,
        (Some(At { value: Lenient(kind), .. }), Some(At { value: JsonObject(fields), .. })) => {
            Some(((*kind)?, fields.clone()))
        }
        (Some(kind), None) => {
            let message = format!("{route}.input.body_type: there is no body beside it");
            report.error_with_hint(kind.location, message, "add body = { name = \"an example\" }");
            return None;
        }
        (None, Some(body)) => {
            let message = format!("{route}.input.body: its body_type is missing");
            report.error_with_hint(body.location, message, "add body_type = \"json\", \"form-data\" or \"text\"");
            return None;
        }
    };
    let methods = RouteKey::parse(key).map(|key| key.methods).unwrap_or_default();
    let takes_body = methods.is_empty() || methods.iter().any(|method| BODY_METHODS.contains(&method.as_str()));
    if let (Some(At { location, .. }), false) = (&typed.value.body, takes_body) {
        let message = format!("{route}.input.body: none of the route's methods has a body");
        report.error_with_hint(*location, message, "those that have are POST, PUT and PATCH");
        return None;
    }
    let query_params: Option<Value> = query_params.as_ref().map(|params| params.value.0.clone());
    if query_params.is_none() && body.is_none() {
        let message = format!("{route}.input says nothing");
        report.error_with_hint(typed.location, message, "give query_params, or body_type and body; or leave it out");
        return None;
    }
    Some(RouteInput { query_params, body })
}
