//! Configurations that are read, and every mistake that is reported: one fixture for each sort of mistake.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// What the fixtures take for the environment.
fn fixture_env(name: &str) -> Option<String> {
    let value = match name {
        "SIGNER" => "11".repeat(32),
        "SIGNER_0X" => format!("0x{}", "11".repeat(32)),
        "ZERO" => "00".repeat(32),
        "HUGE" => "ff".repeat(32),
        "SHORT" => "hunter2".to_owned(),
        "SPACED" => "two words that together are longer than 32 bytes".to_owned(),
        "EMPTY" => " ".to_owned(),
        _ => return None,
    };
    Some(value)
}

fn fixtures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config");
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
    files.sort();
    files
}

/// The mistakes of a fixture, with the file's bare name.
fn mistakes_of(file: &Path) -> Diagnostics {
    let text = fs::read_to_string(file).unwrap();
    parse(&text, Path::new(file.file_name().unwrap()), &fixture_env).diagnostics
}

/// `UPDATE_EXPECTED=1` writes the files anew; read the difference before it is committed.
#[test]
fn every_bad_configuration_is_refused_with_the_expected_words() {
    let mut wrong = Vec::new();
    for file in fixtures() {
        let diagnostics = mistakes_of(&file);
        assert!(!diagnostics.list.is_empty(), "{} was accepted", file.display());
        let (expected, got) = (file.with_extension("expected"), diagnostics.to_string());
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &got).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != got {
            wrong.push(format!("{}:\n{got}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fixtures_hold_more_than_a_hundred_distinct_mistakes() {
    let all: Vec<Diagnostics> = fixtures().iter().map(|file| mistakes_of(file)).collect();
    let distinct: BTreeSet<&str> =
        all.iter().flat_map(|found| &found.list).map(|found| found.message.as_str()).collect();
    assert!(distinct.len() >= 100, "{}", distinct.len());
}

#[test]
fn no_secret_of_the_fixtures_stands_in_a_message() {
    for file in fixtures() {
        let shown = mistakes_of(&file).to_string();
        for secret in ["hunter2", "59c6995e998f97a5a0044966f0945389", "1111111111", "two words", "00112233445566778899"]
        {
            assert!(!shown.contains(secret), "{secret} in the mistakes of {}", file.display());
        }
    }
}

fn example() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml.example")).unwrap()
}

/// The example with every key that is commented out, and nothing but explanations as comments.
fn example_with_all_keys() -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    example().lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// The same as a configuration that holds together: a TLS name means nothing without TLS, which is off by default.
fn full_example() -> String {
    example_with_all_keys().replace("\ntls = false\n", "\ntls = true\n")
}

/// A directory with the secret files that the example names, readable by their owner only.
fn example_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [("local.key", "22".repeat(32) + "\n"), ("local.json", "{}".to_owned())];
    // Certificates are only looked for here; that they can be used is found out where TLS is spoken.
    let certificates = [
        ("shop.pem", String::new()),
        ("shop.key", String::new()),
        ("origin-ca.pem", String::new()),
        ("gateway.pem", String::new()),
        ("gateway.key", String::new()),
    ];
    for (name, text) in files.into_iter().chain(certificates) {
        write_with_mode(&dir.path().join(name), &text, 0o600);
    }
    dir
}

fn write_with_mode(path: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn example_env(name: &str) -> Option<String> {
    let value = match name {
        "BASE_SEPOLIA_SIGNER" | "SOLANA_SIGNER" => "11".repeat(32),
        "PARTNER_KEY" => "a-key-of-16-bytes".to_owned(),
        "ORIGIN_AUTHORIZATION" | "OTLP_AUTHORIZATION" => "Bearer x".to_owned(),
        "LOCAL_RPC_URL" => "https://local.example/token".to_owned(),
        "LOCAL_PASSWORD" | "TOLLHOUSE_ADMIN_TOKEN" | "TOLLHOUSE_FACILITATOR_TOKEN" | "TOLLHOUSE_FRONT_TOKEN" => {
            "password".to_owned()
        }
        "TOLLHOUSE_QUOTE_KEY" => "k".repeat(32),
        _ => return None,
    };
    Some(value)
}

fn parsed(text: &str, dir: &Path) -> Config {
    parse(text, &dir.join("gateway.toml"), &example_env).into_result().unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn the_example_is_a_small_shop_and_stays_valid_with_every_key_set() {
    let dir = example_dir();
    let shop = parsed(&example(), dir.path());
    assert_eq!((shop.upstreams.len(), shop.networks.len(), shop.routes.len()), (1, 1, 2));
    let RouteAction::Paid(paid) = &shop.routes[1].action else { panic!("not priced") };
    assert_eq!(paid.offers[0].amount.to_string(), "10000");
    assert_eq!(shop.ledger.url, LedgerUrl::Sqlite(dir.path().join("tollhouse.db")));

    let full = parsed(&full_example(), dir.path());
    assert_eq!((full.upstreams.len(), full.networks.len(), full.routes.len()), (1, 4, 6));
    let ChainConfig::Evm(local) = &full.networks[1].chain else { panic!("not EVM") };
    assert_eq!(local.signers.len(), 2);
    assert_eq!(local.rpc_urls[1].expose(), "https://local.example/token");
    let ChainConfig::Solana(solana) = &full.networks[2].chain else { panic!("not Solana") };
    assert_eq!(solana.max_fee, crate::types::AtomicAmount::from(100_000));
    let ChainConfig::Cosmos(cosmos) = &full.networks[3].chain else { panic!("not Cosmos") };
    assert_eq!(cosmos.bech32_prefix, "noble");
    let RouteAction::Paid(report) = &full.routes[4].action else { panic!("not priced") };
    let memos: Vec<_> = report.offers.iter().map(|offer| offer.memo.as_deref()).collect();
    assert_eq!(memos, [None, Some("report"), Some("report")]);
}

/// Every `(path of section, key, default)` of the schema; a key of the operator's choice is `*`.
fn keys_of(schema: &serde_json::Value, path: &str, found: &mut Vec<(String, Option<serde_json::Value>)>) {
    for branch in schema.get("anyOf").and_then(|branches| branches.as_array()).into_iter().flatten() {
        keys_of(branch, path, found);
    }
    if let Some(items) = schema.get("items") {
        keys_of(items, path, found);
    }
    if let Some(named) = schema.get("additionalProperties").filter(|named| named.is_object()) {
        keys_of(named, &format!("{path}.*"), found);
    }
    for (key, property) in schema.get("properties").and_then(|all| all.as_object()).into_iter().flatten() {
        let path = format!("{path}.{key}");
        let default = property.get("default").filter(|default| !default.is_object()).cloned();
        found.push((path.clone(), default));
        keys_of(property, &path, found);
    }
}

/// Every value in a TOML document by its path, with the operator's own names replaced by `*`.
fn values_of(value: &toml::Value, path: &str, found: &mut Vec<(String, toml::Value)>) {
    found.push((path.to_owned(), value.clone()));
    let own_names = [".upstreams", ".networks", ".routes"].contains(&path)
        || (path.ends_with(".assets") || path.ends_with(".*.pay_to") || path.ends_with(".set_headers"))
        || path == ".telemetry.headers";
    match value {
        toml::Value::Table(_) if path.ends_with(".output_schema") => {}
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if own_names { "*" } else { key };
                values_of(value, &format!("{path}.{key}"), found);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| values_of(item, path, found)),
        _ => {}
    }
}

#[test]
fn the_example_documents_every_key_of_the_schema_at_its_default() {
    let mut keys = Vec::new();
    keys_of(&json_schema(), "", &mut keys);
    let document: toml::Value = toml::from_str(&example_with_all_keys()).unwrap();
    let mut values = Vec::new();
    values_of(&document, "", &mut values);
    assert!(keys.len() > 60, "{}", keys.len());
    for (path, default) in &keys {
        // Secrets look alike everywhere: it is enough that each way to give one is shown somewhere.
        let secret_key =
            ["env", "file", "keystore", "password"].into_iter().find(|key| path.ends_with(&format!(".{key}")));
        let is_meant = |other: &str| match secret_key {
            Some(key) => other.ends_with(&format!(".{key}")) || other.contains(&format!(".{key}.")),
            None => other == path,
        };
        let shown: Vec<_> = values.iter().filter(|(other, _)| is_meant(other)).map(|(_, value)| value).collect();
        assert!(!shown.is_empty(), "{path} is not in the example");
        if let Some(default) = default {
            let as_json = |value: &&toml::Value| serde_json::to_value(value).unwrap();
            // Of own assets the example shows one at the default and one that isn't.
            let is_shown = shown.iter().any(|value| as_json(value) == *default);
            assert!(is_shown, "{path} is shown as {shown:?}, and its default is {default}");
        }
    }
}

#[test]
fn every_default_in_the_schema_is_the_default_in_force() {
    let dir = example_dir();
    let shop = parsed(&example(), dir.path());
    let mut full = parsed(&full_example(), dir.path());
    // What has no default, or stands in the example as an example.
    full.server.threads = shop.server.threads;
    full.server.public_url = None;
    full.server.quote_key = None;
    full.server.tls = Vec::new();
    full.server.trusted_proxies = Vec::new();
    full.server.free_for = FreeFor::default();
    full.server.limits.rates = Rates::default();
    full.server.upgrade_socket = None;
    full.admin.token = None;
    full.facilitator = None;
    full.telemetry = None;
    full.upstreams[0].set_headers = Vec::new();
    full.upstreams[0].tls = false;
    full.upstreams[0].tls_server_name = None;
    full.upstreams[0].tls_ca = None;
    full.upstreams[0].tls_client = None;
    full.upstreams[0].health = None;
    full.upstreams[0].total_timeout = None;
    full.upstreams[0].max_concurrent = None;
    full.networks[0].assets.truncate(1);
    if let crate::config::ChainConfig::Evm(evm) = &mut full.networks[0].chain {
        evm.fees = crate::config::FeeRules::default();
    }
    let without_places = |text: String| {
        text.lines()
            .filter(|line| !line.contains("line: ") && !line.contains("column: "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let same = |one: &dyn std::fmt::Debug, other: &dyn std::fmt::Debug| {
        assert_eq!(without_places(format!("{one:#?}")), without_places(format!("{other:#?}")));
    };
    same(&shop.server, &full.server);
    same(&shop.admin, &full.admin);
    same(&shop.facilitator, &full.facilitator);
    same(&shop.ledger, &full.ledger);
    same(&shop.log, &full.log);
    same(&shop.telemetry, &full.telemetry);
    same(&shop.upstreams[0], &full.upstreams[0]);
    same(&shop.networks[0], &full.networks[0]);
}

#[test]
fn every_default_can_be_read() {
    let mut keys = Vec::new();
    keys_of(&json_schema(), "", &mut keys);
    assert!(keys.iter().filter(|(_, default)| default.is_some()).count() >= 25);
    let nothing = parse("", Path::new("x.toml"), &|_| None);
    assert!(nothing.config.is_some(), "a default is unreadable");
    assert!(raw::Route::with_defaults().is_some());
}

#[test]
fn schema_and_parser_agree_on_every_key() {
    let mut keys = Vec::new();
    keys_of(&json_schema(), "", &mut keys);
    // The parser refuses what the schema doesn't know, and the example with every key of the schema is accepted (above).
    for (path, _) in keys {
        let Some((section, key)) = path.trim_start_matches('.').rsplit_once('.') else { continue };
        if section.contains(['*', '.']) || section.is_empty() {
            continue;
        }
        let text = format!("[{section}]\n{key}_x = 1\n");
        let mistakes = parse(&text, Path::new("x.toml"), &|_| None).diagnostics.to_string();
        assert!(mistakes.contains(&format!("unknown key \"{key}_x\"")), "{mistakes}");
    }
}

const SHOP_TAIL: &str = "
[upstreams.api]
servers = [\"127.0.0.1:9000\"]
[routes]
\"/a\" = \"$0.01\"
";

fn shop_with_signer(signer: &str) -> String {
    format!(
        "[networks.base]\nrpc_url = \"https://a.example\"\nsigner = {signer}\n\
         pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n{SHOP_TAIL}"
    )
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    for name in ["signer = { file = \"k\" }", "keystore"] {
        let signer = if name == "keystore" {
            "{ keystore = \"k\", password = { env = \"LOCAL_PASSWORD\" } }"
        } else {
            "{ file = \"k\" }"
        };
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            write_with_mode(&dir.path().join("k"), &"33".repeat(32), mode);
            // What root owns is a case of its own; where the tests run as root, the file becomes somebody else's.
            let _not_root = std::os::unix::fs::chown(dir.path().join("k"), Some(65_534), None);
            let mistakes = parse(&shop_with_signer(signer), &file, &example_env).into_result().unwrap_err().to_string();
            assert!(mistakes.contains("is open to others"), "{mistakes}");
            assert!(mistakes.contains("chmod 600"), "{mistakes}");
        }
        for mode in [0o600, 0o400] {
            write_with_mode(&dir.path().join("k"), &"33".repeat(32), mode);
            assert!(parse(&shop_with_signer(signer), &file, &example_env).into_result().is_ok());
        }
    }
}

#[test]
fn a_key_file_without_a_key_is_refused_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    for (text, expected) in
        [("", "is empty"), ("\n", "is empty"), ("swordfish", "64 hexadecimal digits"), (&"0".repeat(64), "zero")]
    {
        write_with_mode(&dir.path().join("k"), text, 0o600);
        let text = shop_with_signer("{ file = \"k\" }");
        let mistakes = parse(&text, &file, &example_env).into_result().unwrap_err().to_string();
        assert!(mistakes.contains(expected), "{mistakes}");
        assert!(!mistakes.contains("swordfish"), "{mistakes}");
    }
}

#[test]
fn a_file_that_is_missing_or_not_text_is_a_mistake_with_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let missing = load(&dir.path().join("gateway.toml"), &example_env).unwrap_err();
    assert_eq!(missing.list[0].location, Location { line: 1, column: 1 });
    let file = dir.path().join("bad.toml");
    fs::write(&file, b"# \xc3\xa4\n# \xff\n").unwrap();
    let mistakes = load(&file, &example_env).unwrap_err();
    assert_eq!(mistakes.list[0].location, Location { line: 2, column: 3 });
}

#[test]
fn own_assets_and_names_of_one_chain_resolve_to_what_was_meant() {
    let text = "
[upstreams.api]
servers = [\"[::1]:9000\"]
[networks.\"eip155:8453\"]
rpc_url = \"https://a.example\"
signer = { env = \"BASE_SEPOLIA_SIGNER\" }
pay_to = \"0x209693bc6afc0c5328ba36faf03c514ef312287c\"
asset = \"COIN\"
assets.COIN = { address = \"0x808456652fdb597867f38412077a9182bf77359f\", decimals = 18, name = \"Coin\", version = \"1\" }
[networks.avalanche]
rpc_url = \"https://a.example\"
signer = { env = \"BASE_SEPOLIA_SIGNER\" }
pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"
[routes]
\"/a\" = { price = \"$1.50\", networks = [\"avalanche\", \"base\"], pay_to = { base = \"0x808456652fdb597867f38412077A9182bf773590\" } }
\"/b\" = \"5 COIN\"
";
    let text = text.replace("0x808456652fdb597867f38412077A9182bf773590", "0x0000000000000000000000000000000000000b0b");
    let config = parse(&text, Path::new("x.toml"), &example_env).into_result().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.networks[0].pay_to.as_str(), "0x209693Bc6afc0C5328bA36FaF03C514EF312287C");
    let symbols: Vec<_> = config.networks[0].assets.iter().map(|asset| asset.symbol.as_str()).collect();
    assert_eq!(symbols, ["COIN", "USDC"]);
    let offers = |index: usize| match &config.routes[index].action {
        RouteAction::Paid(paid) => paid.offers.clone(),
        other => panic!("{other:?}"),
    };
    let terms: Vec<_> = offers(0)
        .iter()
        .map(|offer| {
            (offer.network.to_string(), offer.asset.symbol.clone(), offer.amount.to_string(), offer.pay_to.to_string())
        })
        .collect();
    assert_eq!(terms[0].0, "eip155:43114");
    assert_eq!((terms[1].0.as_str(), terms[1].1.as_str(), terms[1].2.as_str()), ("eip155:8453", "USDC", "1500000"));
    assert!(terms[1].3.eq_ignore_ascii_case("0x0000000000000000000000000000000000000b0b"));
    assert_eq!(offers(1).len(), 1);
    assert_eq!(offers(1)[0].amount.to_string(), "5");
}

#[test]
fn methods_and_hosts_are_read_from_the_key() {
    let key = route_key::RouteKey::parse("GET,PROPFIND shop.example/a/{id}").unwrap();
    assert_eq!(key.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(), ["GET", "PROPFIND"]);
    assert_eq!((key.host.as_deref(), key.path.as_str()), (Some("shop.example"), "/a/{id}"));
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that make deep and wrong configurations likelier than letters do.
    fn toml_like() -> impl Strategy<Value = String> {
        let mut pieces: Vec<String> = [
            "\n",
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            ".",
            ",",
            "\"",
            "'''",
            "\\u0000",
            "#",
            " ",
            "é",
            "\r\n",
            "-1",
            "0x",
            "1e400",
            "nan",
            "2026-01-01",
            "true",
            "server",
            "routes",
            "networks",
            "upstreams",
            "base",
            "assets",
            "\"/a\"",
            "\"$0.01\"",
            "env",
            "price",
            "signer",
            "rpc_url",
            "pay_to",
            "[routes]\n",
            "[networks.base]\n",
            "[upstreams.a]\n",
            "[networks.base.assets.X]\n",
        ]
        .map(str::to_owned)
        .to_vec();
        pieces.extend(example_with_all_keys().lines().map(|line| format!("{line}\n")));
        prop::collection::vec(prop::sample::select(pieces), 0..60).prop_map(|pieces| pieces.concat())
    }

    fn check(text: &str) {
        let parsed = parse(text, Path::new("x.toml"), &|_| Some("11".repeat(32)));
        let lines = u32::try_from(text.lines().count()).unwrap();
        for mistake in &parsed.diagnostics.list {
            assert!(mistake.location.line >= 1 && mistake.location.column >= 1, "{mistake:?}");
            assert!(mistake.location.line <= lines + 1, "{mistake:?}");
        }
        let _text = parsed.diagnostics.to_string();
        assert!(parsed.config.is_some() || !parsed.diagnostics.list.is_empty());
        let silent = parsed.diagnostics.list.iter().any(|mistake| mistake.message.starts_with("a part of"));
        assert!(!silent, "something was left out without a word:\n{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_pieces_of_a_configuration_panic_the_parser(text in toml_like()) {
            check(&text);
        }

        #[test]
        fn no_bytes_panic_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            check(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_edit_of_the_example_panics_the_parser(at in 0usize..8000, length in 0usize..40, insert in "[ -~\\n]{0,6}") {
            let mut text: Vec<char> = example_with_all_keys().chars().collect();
            let start = at.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, insert.chars());
            check(&text.into_iter().collect::<String>());
        }
    }
}
