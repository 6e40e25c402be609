//! The house rules of `docs/architecture.md` as a test: who may import what, and how files look.
//!
//! Reads the sources, not the compiler's view of them: a path counts wherever it stands, in a `use` or in the middle of a
//! line. Test code may import what it likes.

mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::source::{Reference, Source};

/// What each module may import of the crate. A word with `::` allows that one name and what is below it, another the whole
/// module. Everybody may import itself, and `crash`, which is empty in a build that is shipped.
const INTERNAL: &[(&str, &[&str])] = &[
    ("crash", &[]),
    ("types", &[]),
    ("telemetry", &["types"]),
    ("protocol", &["types"]),
    ("config", &["types"]),
    ("ledger", &["types"]),
    ("route", &["types", "protocol", "config"]),
    ("payment", &["types", "protocol", "ledger", "telemetry"]),
    // Of the gate only the trait it implements, of the books only what a row holds: never the books themselves.
    (
        "chain",
        &[
            "types",
            "protocol",
            "config",
            "payment::scheme",
            "ledger::AccountNonce",
            "ledger::Attempt",
            "ledger::NewAttempt",
            "ledger::NewPayment",
            "ledger::PaymentId",
            "ledger::PaymentRecord",
            "ledger::RecordId",
            "ledger::SettledBlock",
            "ledger::Settlement",
        ],
    ),
    ("proxy", &["types", "protocol", "config", "route", "payment", "telemetry", "ledger::Digest"]),
    ("service", &["config"]),
    ("admin", &["types", "protocol", "config", "route", "payment", "telemetry", "ledger", "service"]),
    // The deadline of heads is the one thing of HTTP that it shares with the proxy.
    ("facilitator", &["types", "protocol", "config", "payment", "telemetry", "service", "proxy::connection"]),
    ("server", &["types", "config", "proxy", "admin", "facilitator"]),
    (
        "app",
        &[
            "types",
            "telemetry",
            "protocol",
            "config",
            "ledger",
            "route",
            "payment",
            "chain",
            "proxy",
            "admin",
            "facilitator",
            "server",
        ],
    ),
    (
        "cli",
        &[
            "types",
            "telemetry",
            "protocol",
            "config",
            "ledger",
            "route",
            "payment",
            "chain",
            "proxy",
            "admin",
            "server",
            "app",
            "devnet",
        ],
    ),
    ("devnet", &["types"]),
    ("main", &["cli"]),
];

/// Who may use a dependency: the module, and what of the dependency. One that isn't listed here is for everybody.
const EXTERNAL: &[(&str, &[(&str, &str)])] = &[
    (
        "alloy",
        &[
            ("chain::evm", "alloy"),
            ("cli", "alloy"),
            ("devnet", "alloy"),
            ("types", "alloy::primitives::U256"),
            ("types", "alloy::primitives::Address"),
        ],
    ),
    ("solana_sdk", &[("chain::solana", "solana_sdk"), ("cli", "solana_sdk"), ("devnet", "solana_sdk")]),
    (
        "solana_transaction",
        &[("chain::solana", "solana_transaction"), ("cli", "solana_transaction"), ("devnet", "solana_transaction")],
    ),
    ("solana_message", &[("chain::solana", "solana_message"), ("cli", "solana_message"), ("devnet", "solana_message")]),
    ("solana_keypair", &[("chain::solana", "solana_keypair"), ("cli", "solana_keypair"), ("devnet", "solana_keypair")]),
    ("solana_signer", &[("chain::solana", "solana_signer"), ("cli", "solana_signer"), ("devnet", "solana_signer")]),
    // Addresses are read with the configuration.
    (
        "solana_pubkey",
        &[
            ("chain::solana", "solana_pubkey"),
            ("cli", "solana_pubkey"),
            ("devnet", "solana_pubkey"),
            ("types", "solana_pubkey::Pubkey"),
        ],
    ),
    (
        "spl_token_interface",
        &[("chain::solana", "spl_token_interface"), ("cli", "spl_token_interface"), ("devnet", "spl_token_interface")],
    ),
    (
        "spl_associated_token_account_interface",
        &[
            ("chain::solana", "spl_associated_token_account_interface"),
            ("cli", "spl_associated_token_account_interface"),
            ("devnet", "spl_associated_token_account_interface"),
        ],
    ),
    ("wincode", &[("chain::solana", "wincode"), ("cli", "wincode"), ("devnet", "wincode")]),
    ("cosmrs", &[("chain::cosmos", "cosmrs"), ("cli", "cosmrs"), ("devnet", "cosmrs"), ("types", "cosmrs::AccountId")]),
    ("nix", &[("server", "nix")]),
    ("tonic", &[("chain::cosmos", "tonic"), ("cli", "tonic"), ("devnet", "tonic")]),
    ("k256", &[("chain::cosmos", "k256"), ("cli", "k256"), ("devnet", "k256")]),
    (
        "pingora",
        &[
            ("proxy", "pingora"),
            ("server", "pingora"),
            ("admin", "pingora"),
            ("facilitator", "pingora"),
            ("devnet", "pingora"),
        ],
    ),
    ("revm", &[("devnet", "revm")]),
    ("litesvm", &[("devnet::solana", "litesvm")]),
    ("svm_transaction", &[("devnet::solana", "svm_transaction")]),
    ("svm_account", &[("devnet::solana", "svm_account")]),
    ("bincode", &[("devnet::solana", "bincode")]),
    ("bs58", &[("devnet::solana", "bs58")]),
    // What a reload replaces lives in one place.
    ("arc_swap", &[("proxy::snapshot", "arc_swap")]),
    ("sqlx", &[("ledger", "sqlx")]),
    ("toml", &[("config", "toml")]),
    ("serde_saphyr", &[("cli::import", "serde_saphyr")]),
    ("matchit", &[("route", "matchit")]),
    ("prometheus", &[("telemetry", "prometheus")]),
    ("opentelemetry_proto", &[("telemetry::otlp", "opentelemetry_proto")]),
    ("prost", &[("telemetry::otlp", "prost")]),
    ("tracing_subscriber", &[("telemetry", "tracing_subscriber")]),
    ("clap", &[("cli", "clap")]),
    ("anyhow", &[("cli", "anyhow")]),
    ("reqwest", &[("chain", "reqwest"), ("cli", "reqwest"), ("telemetry::otlp", "reqwest")]),
    (
        "rustls",
        &[
            ("chain", "rustls"),
            ("cli", "rustls"),
            ("server::tls", "rustls"),
            ("proxy::upstream::tls", "rustls"),
            ("telemetry::otlp", "rustls"),
        ],
    ),
    // The gate, the books and the chains know no HTTP.
    (
        "http",
        &[
            ("config", "http"),
            ("route", "http"),
            ("proxy", "http"),
            ("service", "http"),
            ("admin", "http"),
            ("facilitator", "http"),
            ("cli", "http"),
            ("devnet", "http"),
        ],
    ),
    ("bytes", &[("proxy", "bytes"), ("server", "bytes"), ("devnet", "bytes")]),
    ("httparse", &[("server", "httparse")]),
    ("hmac", &[("protocol", "hmac")]),
    ("fail", &[("crash", "fail"), ("cli", "fail")]),
    ("libc", &[("crash", "libc"), ("cli", "libc")]),
    // What is only words and rules runs on no runtime.
    (
        "tokio",
        &[
            ("ledger", "tokio"),
            ("payment", "tokio"),
            ("telemetry", "tokio"),
            ("chain", "tokio"),
            ("proxy", "tokio"),
            ("admin", "tokio"),
            ("facilitator", "tokio"),
            ("server", "tokio"),
            ("app", "tokio"),
            ("cli", "tokio"),
            ("devnet", "tokio"),
        ],
    ),
];

/// Lines of a file without its tests. The aim is 150.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Whether `path` is `prefix` or below it.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn module_of(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// What is wrong with a reference in a module, if anything is.
fn objection(module: &str, reference: &Reference) -> Option<String> {
    let own = module_of(module);
    match reference {
        Reference::Internal(path) => {
            let target = module_of(path);
            let row = INTERNAL.iter().find(|(name, _)| *name == own);
            let Some((_, allowed)) = row else { return Some(format!("{own} has no row in the import table")) };
            let is_allowed = target == own || target == "crash" || allowed.iter().any(|prefix| is_under(path, prefix));
            (!is_allowed).then(|| format!("{own} may not import crate::{path}"))
        }
        Reference::External(path) => {
            let (_, allowed) = EXTERNAL.iter().find(|(name, _)| *name == module_of(path))?;
            let is_allowed = allowed.iter().any(|(who, what)| is_under(module, who) && is_under(path, what));
            (!is_allowed).then(|| format!("{module} may not use {path}"))
        }
    }
}

fn objections(source: &Source, dependencies: &BTreeSet<String>) -> Vec<String> {
    let found = source.references(dependencies);
    found
        .iter()
        .filter_map(|(line, reference)| {
            objection(&source.module, reference).map(|text| format!("{}:{line}: {text}", source.file.display()))
        })
        .collect()
}

/// The crate's dependencies as the code spells them.
fn dependencies() -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().map(|name| name.replace('-', "_")).collect()
}

#[test]
fn every_module_imports_only_what_the_table_allows() {
    let dependencies = dependencies();
    let wrong: Vec<String> =
        Source::read_all(&root()).iter().flat_map(|source| objections(source, &dependencies)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_names_modules_and_dependencies_that_exist() {
    let sources = Source::read_all(&root());
    let modules: BTreeSet<&str> = sources.iter().map(|source| module_of(&source.module)).collect();
    for (module, _) in INTERNAL {
        assert!(modules.contains(module), "no module {module}");
    }
    let dependencies = dependencies();
    for (dependency, _) in EXTERNAL {
        assert!(dependencies.contains(*dependency), "no dependency {dependency}");
    }
    // The readers of sources see something at all: a table over nothing would hold.
    let has = |module: &str, wanted: &Reference| {
        let mut of_module = sources.iter().filter(|source| source.module == module);
        of_module.any(|source| source.references(&dependencies).iter().any(|(_, reference)| reference == wanted))
    };
    assert!(has("app", &Reference::Internal("chain".to_owned())));
    assert!(has("chain::evm", &Reference::Internal("payment::scheme::Scheme".to_owned())));
    assert!(has("ledger::sqlite::store", &Reference::External("sqlx::ConnectOptions".to_owned())));
}

#[test]
fn a_forbidden_import_is_found_wherever_it_hides() {
    let dependencies = dependencies();
    for (module, text) in [
        ("types", "use crate::config::Config;"),
        ("types::money", "use alloy::signers::Signer;"),
        ("protocol", "use pingora::Error;"),
        ("protocol", "fn f() { let x = tokio::spawn(async {}); }"),
        ("payment::gate", "use http::StatusCode;"),
        ("payment::gate", "use super::super::chain::evm;"),
        ("payment::gate", "fn f() -> crate::proxy::Parts { todo!() }"),
        ("payment", "use {serde_json::Value, alloy::primitives::U256};"),
        ("payment", "use crate::{types::Network, config::{self, Config}};"),
        ("payment", "use crate::*;"),
        ("payment", "use crate as tollhouse;"),
        ("payment", "use sqlx;"),
        ("payment", "use alloy as a;"),
        ("payment", "extern crate alloy;"),
        ("payment", "fn f() { ::alloy::hex::encode([0]); }"),
        ("payment", "pub(in crate::payment) fn f(x: crate::config::Secret) {}"),
        ("chain", "use alloy::primitives::U256;"),
        ("chain::evm", "use crate::ledger::{PaymentRecord, SqliteLedger};"),
        ("chain::evm", "use crate::ledger;"),
        ("chain::evm", "use crate::payment::Gate;"),
        ("chain::evm", "use crate::payment::{self};"),
        ("proxy::phases", "use crate::ledger::Ledger;"),
        ("proxy::phases", "use crate::chain::Chain;"),
        ("cli", "use sqlx::Row;"),
        ("newcomer", "use crate::types::Network;"),
        ("payment", "#[cfg(test)] mod tests { use http::Uri; } use http::Uri;"),
        ("payment", "#[cfg(not(test))] use http::Uri;"),
        ("payment", "#[derive(clap::Parser)] struct A;"),
        ("payment", r#"fn f<'a>(_: &'a str) { let _ = ('"', "//"); http::Uri::default(); }"#),
    ] {
        let source = Source::of_text(module, text);
        assert!(!objections(&source, &dependencies).is_empty(), "{module}: {text}");
    }
}

#[test]
fn what_is_allowed_quoted_or_only_tested_is_left_alone() {
    let dependencies = dependencies();
    for (module, text) in [
        ("payment::gate", "use crate::{ledger::{Ledger, PaymentId}, types::Network}; use super::flight::Flight;"),
        ("payment::gate", "// use http::Uri;\n/* use crate::proxy; /* nested */ */ /// [`crate::config::Secret`]\n"),
        ("payment::gate", r##"fn f() { let _ = ("crate::proxy::x", r#"use "http::Uri;"#, b"sqlx::", '\''); }"##),
        ("payment::gate", "#[cfg(test)]\nmod tests { use http::Uri; fn f() { if true { crate::config::x() } } }"),
        ("payment::gate", "#[cfg(test)]\nuse http::Uri;\n#[cfg(test)] fn f() -> crate::proxy::Parts { loop {} }"),
        ("payment::gate", "crate::crash::point(\"x\"); headers::http(); self.http.x(); a::http::b();"),
        ("types::money", "use alloy::primitives::U256;"),
        ("chain::evm::lanes", "use alloy::signers::Signer; use crate::payment::scheme::{self, Scheme};"),
        ("config::section", "macro_rules! x { () => { $crate::config::reader::Y } }"),
    ] {
        let source = Source::of_text(module, text);
        assert_eq!(objections(&source, &dependencies), Vec::<String>::new(), "{module}: {text}");
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let all = Source::read_every(&root());
    let silent: Vec<_> =
        all.iter().filter(|source| !source.text.starts_with("//! ")).map(|source| source.file.display()).collect();
    assert!(silent.is_empty(), "no `//!` in the first line: {silent:?}");
}

#[test]
fn no_file_is_too_long() {
    let all = Source::read_all(&root());
    let long: Vec<String> = all
        .iter()
        .filter(|source| source.lines_without_tests() > LINES_MAX)
        .map(|source| format!("{}: {} lines", source.file.display(), source.lines_without_tests()))
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines without tests: {long:?}");
}
