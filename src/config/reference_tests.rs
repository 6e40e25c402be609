//! docs/configuration.md is written from the schema, so that it says what this version takes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::json_schema;

const INTRODUCTION: &str = "\
# Configuration reference

Every key of `gateway.toml`, written by a test from the schema that `tollhouse schema` prints. How the keys work together is in
[deploy.md](deploy.md) and [operations.md](operations.md); `gateway.toml.example` shows each one in its place.

The file is strict: an unknown key, a value of the wrong type or out of its range, and what doesn't fit together are all told at
once by `tollhouse check`, with file, line and column, and nothing starts.

| type | how it is written |
|---|---|
| duration | a string such as `\"500ms\"`, `\"60s\"`, `\"5min\"`, `\"24h\"`, `\"90days\"`; more than nothing and at most ten years |
| rate | a string such as `\"100/s\"`, `\"20/min\"`, `\"50/h\"`, `\"10/day\"` |
| address and port | a string such as `\"127.0.0.1:8402\"` or `\"[::]:8402\"` |
| secret | `{ env = \"NAME\" }`, an environment variable, or `{ file = \"path\" }`, a file that only its owner may read (mode 0600), or that is root's and handed to one group (0640). Never written out |
| signer | as secret, holding the private key in hexadecimal (EVM) or the key pair (Solana); on EVM also `{ keystore = \"path\", password = … }`, where `password` is a secret |
| text or secret | a string, or as secret |
| table of … | a table whose keys are yours to choose |
| … or a list | one value, or several in square brackets |

Paths are relative to the configuration file. **Reload** says whether a change is taken up by `SIGHUP`, `POST /reload` or the
file's own change while the gateway runs (yes), or whether the old configuration stays, loudly, until a restart (no).
";

/// What a table's places in the file are called, and where its rows are explained.
fn place(path: &str) -> (String, String) {
    let heading = match path {
        "networks.NAME.assets.SYMBOL" | "networks.NAME" | "upstreams.NAME" => format!("[{path}]"),
        "routes.KEY" => "[routes]".to_owned(),
        "routes.KEY.input" => "input of a route".to_owned(),
        "server.tls" => "tls of [server]".to_owned(),
        "server.free_for" => "free_for of [server] and of a route".to_owned(),
        _ => format!("[{path}]"),
    };
    let anchor = path.to_lowercase().replace('.', "-");
    (heading, anchor)
}

/// Whether a change takes a restart, as `changes.rs` compares it.
fn needs_restart(path: &str) -> bool {
    let compared = include_str!("changes.rs");
    let mut named = path.match_indices('.').map(|(at, _)| &path[..at]).chain([path]);
    named.any(|part| compared.contains(&format!("(\"{part}\"")))
}

/// The path of what a table of names holds.
fn entry(path: &str) -> String {
    let name = match path {
        "routes" => "KEY",
        "networks.NAME.assets" => "SYMBOL",
        _ => "NAME",
    };
    format!("{path}.{name}")
}

/// What a section is for; the tables of names say more than what one entry is.
fn about<'schema>(path: &str, table: &'schema Value, root: &'schema Value) -> &'schema str {
    let described = match path {
        "networks.NAME" => &root["properties"]["networks"],
        "upstreams.NAME" => &root["properties"]["upstreams"],
        "routes.KEY" => &root["properties"]["routes"],
        _ => table,
    };
    described["description"].as_str().unwrap()
}

fn is_object(schema: &Value) -> bool {
    schema["properties"].is_object()
}

fn has_keys(schema: &Value, keys: &[&str]) -> bool {
    is_object(schema) && schema["properties"].as_object().unwrap().keys().eq(keys.iter())
}

/// The type in words; for a table, what it is a table of.
fn type_of(schema: &Value, path: &str) -> String {
    if has_keys(schema, &["env", "file"]) {
        return "secret".to_owned();
    }
    if has_keys(schema, &["env", "file", "keystore", "password"]) {
        return "signer".to_owned();
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        let names: Vec<String> = kinds.iter().map(|kind| type_of(kind, path)).collect();
        return match names.as_slice() {
            [one, list] if *list == format!("list of {one}") => format!("{one}, or a list"),
            [text, secret] if text == "string" && secret == "secret" => "text or secret".to_owned(),
            _ => names.join(" or "),
        };
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    let example = schema["examples"][0].as_str().unwrap_or_default();
    match schema["type"].as_str().unwrap() {
        "string" if example == "60s" => "duration".to_owned(),
        "string" if example == "100/s" => "rate".to_owned(),
        "string" if example == "127.0.0.1:8402" => "address and port".to_owned(),
        "string" => "string".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => "whole number".to_owned(),
        "number" => format!("number, {} to {}", schema["minimum"], schema["maximum"]),
        "array" => format!("list of {}", type_of(&schema["items"], path)),
        "object" if is_object(schema) => {
            // It is explained once, whoever uses it.
            let at = if path.ends_with("free_for") { "server.free_for" } else { path };
            format!("[table](#{})", place(at).1)
        }
        "object" if schema["additionalProperties"].is_object() => {
            format!("table of {}", type_of(&schema["additionalProperties"], &entry(path)))
        }
        "object" => "any table".to_owned(),
        other => panic!("no word for {other}"),
    }
}

/// The tables below a value, with their paths.
fn tables<'schema>(schema: &'schema Value, path: &str, found: &mut Vec<(String, &'schema Value)>) {
    if type_of(schema, path) == "secret"
        || type_of(schema, path).starts_with("signer")
        || path.ends_with("route.free_for")
    {
        return;
    }
    for kind in schema["anyOf"].as_array().into_iter().flatten().chain(schema.get("items")) {
        tables(kind, path, found);
    }
    if schema["additionalProperties"].is_object() {
        tables(&schema["additionalProperties"], &entry(path), found);
    }
    if is_object(schema) && !found.iter().any(|(known, _)| known == path) && path != "routes.KEY.free_for" {
        found.push((path.to_owned(), schema));
        for (key, value) in schema["properties"].as_object().unwrap() {
            tables(value, &format!("{path}.{key}"), found);
        }
    }
}

/// A value as the file writes it.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(table) if table.is_empty() => String::new(),
        other => format!("`{other}`"),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn reference() -> String {
    let schema = json_schema();
    let mut found = Vec::new();
    for (key, value) in schema["properties"].as_object().unwrap() {
        tables(value, key, &mut found);
    }
    let mut text = INTRODUCTION.to_owned();
    text += "\n| section | what for |\n|---|---|\n";
    for (path, table) in &found {
        let (heading, anchor) = place(path);
        let about = cell(about(path, table, &schema));
        writeln!(text, "| [`{heading}`](#{anchor}) | {about} |").unwrap();
    }
    for (path, table) in &found {
        let (heading, anchor) = place(path);
        let about = about(path, table, &schema);
        write!(text, "\n<a id=\"{anchor}\"></a>\n\n## `{heading}`\n\n{about}\n\n").unwrap();
        if path == "routes.KEY" {
            text += "The value is a price alone, or a table of these keys. \"deny\" answers 404, \"free\" forwards without payment.\n\n";
        }
        text += "| key | type | default | reload | meaning |\n|---|---|---|---|---|\n";
        let required: Vec<&str> =
            table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in table["properties"].as_object().unwrap() {
            let whole = format!("{path}.{key}");
            let default =
                if required.contains(&key.as_str()) { "**required**".to_owned() } else { shown(&value["default"]) };
            let default = if value.get("default").is_none() && !required.contains(&key.as_str()) {
                String::new()
            } else {
                default
            };
            let reload = if needs_restart(&whole) { "no" } else { "yes" };
            let meaning = cell(value["description"].as_str().unwrap());
            let kind = cell(&type_of(value, &whole));
            writeln!(text, "| <a id=\"{anchor}-{key}\"></a>`{key}` | {kind} | {default} | {reload} | {meaning} |")
                .unwrap();
        }
    }
    text
}

/// `UPDATE_EXPECTED=1` writes it anew; read the difference before it is committed.
#[test]
fn the_configuration_reference_is_what_the_schema_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = reference();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == text,
        "docs/configuration.md isn't what the schema says: run this test with UPDATE_EXPECTED=1"
    );
}

#[test]
fn every_key_of_the_schema_is_in_the_reference_once_with_an_explanation() {
    fn keys(schema: &Value, count: &mut usize) {
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            assert!(value["description"].as_str().is_some_and(|text| text.len() >= 8), "{key}");
            *count += 1;
        }
        let inner = ["items", "additionalProperties"].into_iter().filter_map(|word| schema.get(word));
        let inner = inner.chain(schema["anyOf"].as_array().into_iter().flatten());
        inner
            .chain(schema["properties"].as_object().into_iter().flat_map(|all| all.values()))
            .for_each(|one| keys(one, count));
    }
    let mut count = 0;
    keys(&json_schema(), &mut count);
    assert!(count > 120, "{count}");
    let text = reference();
    for key in
        ["server-listen", "server-limits-connections", "networks-name-rpc_url", "routes-key-price", "admin-token"]
    {
        assert_eq!(text.matches(&format!("<a id=\"{key}\">")).count(), 1, "{key}");
    }
}
