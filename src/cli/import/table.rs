//! The route table as text. It is read back by the parser of the configuration until it has nothing to say.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::Value;

use super::Imported;
use super::operations::Operation;
use super::upstream::Upstream;
use crate::config;
use crate::route::RouteTable;

/// Each reading finds at least one more mistake or is the last; many mistakes are found in one.
const READINGS_MAX: usize = 64;

/// What the parser needs besides to judge prices; never shown.
const NETWORK: &str = "\n[networks.base-sepolia]\nrpc_url = \"http://127.0.0.1:1\"\nsigner = { env = \"SIGNER\" }\n\
    pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n";

/// What the operator has to add.
const MISSING: &str = "# Where the money goes: put in your address and take the \"#\" away. Prices are yours to edit.\n\
    #[networks.base]\n#rpc_url = \"https://mainnet.base.org\"\n#signer = { env = \"BASE_SIGNER\" } # pays gas, holds no revenue\n\
    #pay_to = \"0x…\"\n";

/// The table, without what the configuration would refuse.
pub(super) fn write(
    name: &str,
    document: &Value,
    mut upstream: Upstream,
    mut operations: Vec<Operation>,
    mut hints: Vec<String>,
) -> Imported {
    let mut seen = HashSet::new();
    for operation in &mut operations {
        if operation.left_out.is_none() && !seen.insert(operation.key.clone()) {
            operation.left_out = Some("the same route stands above".to_owned());
        }
    }
    let title = document.pointer("/info/title").and_then(Value::as_str).unwrap_or_default();
    let header = format!("# Made by `tollhouse import` from {:?} ({:?}).\n\n", one_line(name, 80), one_line(title, 80));
    let mut text = String::new();
    for reading in 0..=READINGS_MAX {
        let (rendered, places) = render(&header, &upstream, &operations);
        text = rendered;
        // A table without routes is none that could be read back.
        if places.is_empty() {
            break;
        }
        let wrong = mistakes(&text);
        if wrong.is_empty() {
            break;
        }
        let mut has_changed = false;
        for (line, message) in wrong {
            if let Some(operation) = places.get(&line).and_then(|index| operations.get_mut(*index)) {
                has_changed |= operation.left_out.is_none();
                operation.left_out.get_or_insert(one_line(&message, 200));
            }
        }
        if !has_changed && upstream.is_known() {
            hints.push(
                "the server can't be an upstream: write your origin's host:port under [upstreams.api]".to_owned(),
            );
            upstream = upstream.without_server();
        } else if !has_changed || reading == READINGS_MAX {
            // Whatever is left can't be told apart: nothing is in force then.
            for operation in &mut operations {
                operation.left_out.get_or_insert_with(|| "the table could not be read back with it".to_owned());
            }
            text = render(&header, &upstream, &operations).0;
            break;
        }
    }
    for operation in &operations {
        if let Some(why) = &operation.left_out {
            hints.push(format!("{:?} is left out: {why}", one_line(&operation.key, 120)));
        }
    }
    let left_out = operations.iter().filter(|operation| operation.left_out.is_some()).count();
    Imported { toml: text, hints, routes: operations.len() - left_out, left_out }
}

/// The text, and which operation stands on which line.
fn render(header: &str, upstream: &Upstream, operations: &[Operation]) -> (String, BTreeMap<u32, usize>) {
    let mut text = format!("{header}{}\n{MISSING}\n[routes]\n", upstream.toml());
    let mut line = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
    let mut places = BTreeMap::new();
    for (index, operation) in operations.iter().enumerate() {
        if let Some(why) = &operation.left_out {
            text.push_str(&format!("# left out: {}\n#", one_line(why, 300)));
            line = line.saturating_add(1);
        }
        text.push_str(&operation.line);
        text.push('\n');
        line = line.saturating_add(1);
        if operation.left_out.is_none() {
            places.insert(line, index);
        }
    }
    (text, places)
}

/// What `check` would say of the table beside a network, by line.
fn mistakes(text: &str) -> Vec<(u32, String)> {
    let key = |_name: &str| Some("11".repeat(32));
    let parsed = config::parse(&format!("{text}{NETWORK}"), Path::new("gateway.toml"), &key);
    let mut list = parsed.diagnostics.list;
    if let Some(config) = &parsed.config {
        list.extend(RouteTable::build(&config.routes).err().into_iter().flatten());
    }
    if list.is_empty() && parsed.config.is_none() {
        return vec![(0, "it could not be read".to_owned())];
    }
    list.into_iter().map(|diagnostic| (diagnostic.location.line, diagnostic.message)).collect()
}

/// A text from a stranger as one line: no control characters, no runs of white space, no more than so many characters.
pub(super) fn one_line(text: &str, characters_max: usize) -> String {
    let spaced = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut line = String::new();
    let mut characters = 0;
    for character in spaced {
        if character == ' ' && (line.is_empty() || line.ends_with(' ')) {
            continue;
        }
        if characters == characters_max {
            line.push('…');
            break;
        }
        line.push(character);
        characters += 1;
    }
    line.trim_end().to_owned()
}

/// A TOML basic string; what TOML would not have in one is escaped.
pub(super) fn toml_string(text: &str) -> String {
    // JSON's escapes are TOML's, but for this one character that JSON leaves alone.
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}
