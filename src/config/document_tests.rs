//! Every configuration that the documents show is one that the gateway takes.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// What completes a part of a configuration that a document shows by itself.
const REST: [(&str, &str); 3] = [
    ("[upstreams", "[upstreams.api]\nservers = [\"127.0.0.1:9000\"]\n"),
    (
        "[networks",
        "[networks.base]\nrpc_url = \"https://a.example\"\nsigner = { env = \"BASE_SIGNER\" }\n\
         pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n",
    ),
    ("[routes", "[routes]\n\"GET /api/data\" = \"$0.01\"\n"),
];

const NODE_URL: &str = "https://node.example/key";
const LEDGER_URL: &str = "postgres://tollhouse:password@db.internal/tollhouse?sslmode=verify-full";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, and the configurations that are shipped as files.
fn documents() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    files.push(root().join("README.md"));
    files.sort();
    files
}

/// What stands in a document between "```toml" and "```", with the line that it begins on.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line) {
            (None, "```toml") => open = Some((index + 2, String::new())),
            (Some(_), "```") => found.extend(open.take()),
            (Some((_, block)), _) => *block += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    found
}

/// Secrets as an environment holds them, by what their names say.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        _ if name.ends_with("SIGNER") => "11".repeat(32),
        _ if name.ends_with("LEDGER_URL") => LEDGER_URL.to_owned(),
        _ if name.ends_with("URL") => NODE_URL.to_owned(),
        _ => "k".repeat(32),
    };
    Some(value)
}

/// Puts every file that a configuration names where it is looked for, below `dir`, and says the configuration so.
fn with_files(text: &str, dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let text = ["/etc/", "/run/"].iter().fold(text.to_owned(), |text, start| {
        text.replace(&format!("= \"{start}"), &format!("= \"{}{start}", dir.display()))
    });
    let words = ["file = \"", "cert = \"", "key = \"", "keystore = \""];
    for word in words {
        for (at, _) in text.match_indices(word) {
            let name = text[at + word.len()..].split('"').next().unwrap();
            let file = dir.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let text = match name {
                _ if name.ends_with("ledger-url") => LEDGER_URL.to_owned(),
                _ if name.ends_with("rpc") => NODE_URL.to_owned(),
                _ => "11".repeat(32),
            };
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    text
}

fn mistakes_of(text: &str) -> Vec<Diagnostic> {
    let dir = tempfile::tempdir().unwrap();
    let missing = REST.iter().filter(|(section, _)| !text.contains(section)).map(|(_, rest)| *rest);
    let whole = std::iter::once(text).chain(missing).collect::<Vec<_>>().join("\n");
    parse(&with_files(&whole, dir.path()), &dir.path().join("gateway.toml"), &environment).diagnostics.list
}

#[test]
fn every_configuration_in_the_documents_is_taken() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for document in documents() {
        for (line, block) in blocks(&fs::read_to_string(&document).unwrap()) {
            count += 1;
            let name = document.file_name().unwrap().display().to_string();
            wrong
                .extend(mistakes_of(&block).into_iter().map(|mistake| format!("{name}, block at {line}: {mistake:?}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 6, "{count}");
}

#[test]
fn every_configuration_that_is_shipped_is_taken() {
    let text = fs::read_to_string(root().join("deploy/compose/gateway/gateway.toml")).unwrap();
    assert_eq!(mistakes_of(&text), []);
}

#[test]
fn a_configuration_that_is_wrong_would_be_found() {
    assert!(!mistakes_of("[server]\nlistn = \"127.0.0.1:80\"\n").is_empty());
    assert!(!mistakes_of("[routes]\n\"/a\" = \"free\"\n[upstreams.api]\nservers = []\n").is_empty());
}
