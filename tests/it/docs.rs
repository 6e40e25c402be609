//! Every command that the documents show is run here, or is named below with the reason why not; and what they show of
//! `tollhouse`, in blocks or in sentences, is what its command line takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::{CommandFactory as _, Parser as _};
use tollhouse::cli::Cli;
use tollhouse::ledger::PaymentState;

use crate::harness::{Serve, Shop, free_port};

/// What becomes of a block of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A test of this file runs it, with its ports and places.
    Run,
    /// Something else runs it.
    RunBy(&'static str),
    /// Nothing does.
    Not(&'static str),
}

/// Each block by its document and its first line.
const BLOCKS: [(&str, &str, Fate); 21] = [
    ("README.md", "cargo build --release", Fate::RunBy("tests/run.sh and the Dockerfile build it")),
    ("README.md", "cargo run --release -- dev --dir dev-shop", Fate::Run),
    ("README.md", "npm ci --prefix tests/node-tools", Fate::Run),
    ("README.md", "echo '{\"answer\": 42}' > shop/site/api/data", Fate::Run),
    ("README.md", "cat > shop/gateway.toml <<'END'", Fate::Run),
    ("README.md", "curl -i http://127.0.0.1:8402/api/data", Fate::Run),
    ("README.md", "export TOLLHOUSE_KEY=", Fate::Run),
    ("README.md", "tollhouse payments list --config shop/gateway.toml", Fate::Run),
    (
        "README.md",
        "tollhouse pay --key-file evm.key",
        Fate::Not("real testnets, real hosts; tests/it pays all three families"),
    ),
    ("README.md", "curl -sD- -o /dev/null https://YOUR-HOST", Fate::Run),
    (
        "docs/cosmos-exact.md",
        "tollhouse pay --network cosmos:grand-1",
        Fate::Not("a real testnet; tests/it/cosmos.rs pays so"),
    ),
    ("docs/deploy.md", "cargo build --profile lto", Fate::RunBy("the Dockerfile, in tests/container.sh")),
    (
        "docs/deploy.md",
        "OPENSSL_NO_VENDOR=1 cargo build",
        Fate::RunBy("tests/run.sh builds it and runs the tests of TLS"),
    ),
    ("docs/deploy.md", "install -d -m 0700 /etc/tollhouse/secrets", Fate::Run),
    ("docs/deploy.md", "install -m 0644 deploy/systemd/tollhouse.service", Fate::Not("needs systemd and root")),
    ("docs/deploy.md", "systemctl daemon-reload", Fate::Not("needs systemd and root")),
    ("docs/deploy.md", "groupadd --system tollhouse-tls", Fate::Not("needs systemd and root")),
    ("docs/deploy.md", "install -d -m 0755 /etc/tollhouse/tls", Fate::Run),
    ("docs/deploy.md", "docker build -t tollhouse .", Fate::RunBy("tests/container.sh")),
    (
        "docs/deploy.md",
        "createuser --pwprompt tollhouse",
        Fate::Not("asks for a password; the harness makes its own database"),
    ),
    (
        "docs/money.md",
        "cargo nextest run --features",
        Fate::RunBy("tests/run.sh; a soak is as long as its operator likes"),
    ),
];

/// Blocks whose commands work on the books.
const BOOKS: (&str, &str) = ("docs/operations.md", "tollhouse payments list ");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Name and text of each document.
fn documents() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    files.extend(["README.md", "SECURITY.md"].map(|name| root().join(name)).into_iter().filter(|path| path.is_file()));
    files.sort();
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, std::fs::read_to_string(path).unwrap())
    };
    files.into_iter().map(named).collect()
}

/// What stands in a document between "```sh" and "```".
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (&mut open, line) {
            (None, "```sh" | "```bash" | "```console" | "```shell") => open = Some(String::new()),
            (Some(_), "```") => found.extend(open.take()),
            (Some(block), _) => *block += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    found
}

/// The one block of a document that begins so.
fn block(document: &str, start: &str) -> String {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let mut found = blocks(&text).into_iter().filter(|block| block.starts_with(start));
    let block = found.next().unwrap_or_else(|| panic!("{document} has no block that begins with {start}"));
    assert!(found.next().is_none(), "{document} has two blocks that begin with {start}");
    block
}

/// The words of a command as a shell takes them, up to where it is piped, redirected or commented.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '&' | ';') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ' | '\n' | '\t') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// The commands of `tollhouse` in a block.
fn commands(block: &str) -> Vec<Vec<String>> {
    let whole = block.replace("\\\n", " ").replace("cargo run --release -- ", "tollhouse ");
    whole.lines().map(str::trim).filter(|line| line.starts_with("tollhouse ")).map(words).collect()
}

#[test]
fn every_command_in_the_documents_is_run_or_has_a_reason_not_to_be() {
    let mut unused: Vec<(&str, &str)> = BLOCKS.iter().map(|(document, start, _)| (*document, *start)).collect();
    unused.push(BOOKS);
    let mut unknown = Vec::new();
    for (document, text) in documents() {
        for block in blocks(&text) {
            let known = |entry: &(&str, &str)| document == entry.0 && block.starts_with(entry.1);
            match unused.iter().position(known) {
                Some(index) => drop(unused.remove(index)),
                None => unknown.push(format!("{document}: {}", block.lines().next().unwrap_or_default())),
            }
        }
    }
    assert_eq!(unknown, Vec::<String>::new(), "neither run nor excused");
    assert_eq!(unused, [], "excused and not there");
    for (_, start, fate) in BLOCKS {
        let (Fate::RunBy(reason) | Fate::Not(reason)) = fate else { continue };
        assert!(reason.len() > 10, "{start}");
    }
}

#[test]
fn every_command_of_tollhouse_in_a_block_is_one_that_it_takes() {
    let mut count = 0;
    for (document, text) in documents() {
        for command in blocks(&text).iter().flat_map(|block| commands(block)) {
            count += 1;
            if let Err(error) = Cli::try_parse_from(&command) {
                panic!("{document}: {}: {error}", command.join(" "));
            }
        }
    }
    assert!(count >= 15, "{count}");
}

#[test]
fn every_option_of_tollhouse_in_a_sentence_is_one_that_it_has() {
    let mut root = Cli::command();
    root.build();
    let (mut count, mut wrong) = (0, Vec::new());
    for (document, text) in documents() {
        // What stands in backticks inside a line or over two of them.
        for said in text.split('`').skip(1).step_by(2).filter(|said| said.starts_with("tollhouse ")) {
            count += 1;
            let mut command = &root;
            for word in words(said).iter().skip(1) {
                if let Some(option) = word.strip_prefix("--") {
                    let name = option.split('=').next().unwrap_or_default();
                    if !command.get_arguments().any(|argument| argument.get_long() == Some(name)) {
                        wrong.push(format!("{document}: {said}: --{name}"));
                    }
                } else if let Some(inner) = command.find_subcommand(word) {
                    command = inner;
                }
            }
            if command.get_name() == root.get_name() {
                wrong.push(format!("{document}: {said}: no such command"));
            }
        }
    }
    assert!(count >= 20, "{count}");
    assert_eq!(wrong, Vec::<String>::new());
}

/// The sources, and the scripts of the tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name().display().to_string();
        if kind.is_dir() && !matches!(name.as_str(), "node_modules" | "target" | "python" | "migrations" | "artifacts")
        {
            sources(&path, found);
        } else if kind.is_file() && [".rs", ".py", ".mjs", ".js", ".sh", ".sol"].iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
}

/// What stands behind each of these words in a text: "A1" of "threat A1", "A1" and "B2" of "threats A1, B2 and …".
fn cited<'text>(text: &'text str, word: &str) -> Vec<&'text str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(word) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(char::is_alphanumeric) {
            continue;
        }
        let rest = text[at + word.len()..].trim_start_matches('s').trim_start();
        for name in rest.split([',', ' ']).filter(|name| !name.is_empty() && *name != "and") {
            let end = name.find(|letter: char| !(letter.is_ascii_alphanumeric() || "§.".contains(letter)));
            let whole = &name[..end.unwrap_or(name.len())];
            let bare = whole.trim_end_matches('.');
            let is_place =
                bare.strip_prefix('§').is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()));
            let is_row = bare.len() >= 2
                && bare.starts_with(|c: char| ('A'..='I').contains(&c))
                && bare[1..].bytes().all(|digit| digit.is_ascii_digit());
            if !is_place && !is_row {
                break;
            }
            found.push(bare);
            if bare.len() < name.len() {
                break;
            }
        }
    }
    found
}

#[test]
fn what_the_source_cites_of_the_documents_stands_there() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let (mut count, mut missing) = (0, std::collections::BTreeSet::new());
    for (word, document) in [("threat", "threats"), ("contract", "contract"), ("protocol", "protocol")] {
        let text = std::fs::read_to_string(root().join(format!("docs/{document}.md"))).unwrap();
        for file in files.iter().filter(|file| !file.ends_with("it/docs.rs")) {
            let source = std::fs::read_to_string(file).unwrap();
            for name in cited(&source, word) {
                count += 1;
                let is_there = match name.strip_prefix('§') {
                    Some(number) => text.lines().any(|line| {
                        let title = line.trim_start_matches('#');
                        let begins = title.trim_start().strip_prefix(number);
                        title.len() < line.len() && begins.is_some_and(|rest| rest.starts_with([' ', '.']))
                    }),
                    None => text.contains(&format!("\n| {name} | ")),
                };
                if !is_there {
                    missing.insert(format!("{word} {name}: {}", file.display()));
                }
            }
        }
    }
    assert_eq!(missing, std::collections::BTreeSet::new());
    assert!(count > 150, "{count}");
}

#[test]
fn every_reason_and_every_alert_is_explained() {
    let protocol = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    for reason in tollhouse::protocol::Reason::ALL {
        assert!(protocol.contains(&format!("\n| `{}` | ", reason.as_str())), "{}", reason.as_str());
    }
    let alerts = std::fs::read_to_string(root().join("deploy/monitoring/alerts.yml")).unwrap();
    let operations = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 10);
    for name in names {
        assert!(operations.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let slug = |title: &str| {
        let kept = title.to_lowercase();
        let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect::<String>()
    };
    let mut wrong = Vec::new();
    for (document, text) in documents() {
        for (at, start) in text.match_indices("](") {
            let target = text[at + start.len()..].split([')', ' ']).next().unwrap_or_default();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let here = root().join(&document);
            let path = if file.is_empty() { here } else { here.parent().unwrap().join(file) };
            let is_there = match std::fs::read_to_string(&path) {
                Ok(text) if !anchor.is_empty() => {
                    let titles = text.lines().filter(|line| line.starts_with('#'));
                    text.contains(&format!("id=\"{anchor}\""))
                        || titles.map(|line| slug(line.trim_start_matches('#').trim())).any(|title| title == anchor)
                }
                _ => path.exists(),
            };
            if !is_there {
                wrong.push(format!("{document}: {target}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Runs commands as one bash in a folder of their own, in which the clone's `tests` can be seen and `tollhouse` is found.
async fn run(folder: &Path, script: String, environment: Vec<(&'static str, String)>) -> Output {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let _again = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tollhouse"), bin.join("tollhouse"));
    let _again = std::os::unix::fs::symlink(root().join("tests"), folder.join("tests"));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    // Whatever happens, nothing stays behind.
    let whole = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "240", "bash", "-e", "-o", "pipefail", "-c", &whole]);
    command.current_dir(folder).env("PATH", path).env("HOME", folder).env_remove("XDG_STATE_HOME");
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.envs(environment);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}\n{}", script, shown(&output));
    output
}

fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[tokio::test]
async fn the_way_from_nothing_to_a_paid_request_leads_there_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let starts = BLOCKS.iter().filter(|(document, _, fate)| *document == "README.md" && *fate == Fate::Run);
    let walk: Vec<String> = starts.skip(1).take(6).map(|(document, start, _)| block(document, start)).collect();
    let (public, admin, node, origin) = (free_port(), free_port(), free_port(), free_port());
    let listen = format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n\n[upstreams.api]");
    let script = walk
        .join("\n")
        // tests/run.sh has done so.
        .replace("npm ci --prefix tests/node-tools\n", "")
        .replace("[upstreams.api]", &listen)
        .replace(":8402", &format!(":{public}"))
        .replace(":8403", &format!(":{admin}"))
        .replace(":8545", &format!(":{node}"))
        .replace("--port 8545", &format!("--port {node}"))
        .replace("place.mjs", &format!("place.mjs http://127.0.0.1:{node}"))
        .replace(":9000", &format!(":{origin}"))
        .replace("http.server 9000", &format!("http.server {origin}"));
    let output = run(folder.path(), script, Vec::new()).await;
    let text = shown(&output);
    for part in ["HTTP/1.1 402 Payment Required", "{\"answer\": 42}", "receipt: paid", "served"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

#[tokio::test]
async fn the_two_commands_open_a_shop_and_pay_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let both = block("README.md", "cargo run --release -- dev").replace("cargo run --release -- ", "tollhouse ");
    let both = both.replace("dev --dir", &format!("dev --port {port} --dir")).replace(":8402", &format!(":{port}"));
    let (open, pay) = both.split_once('\n').unwrap();
    let wait = "until [ -s dev-shop/payer.key ]; do sleep 0.2; done";
    let ready = format!("until curl -s -o page http://127.0.0.1:{port}/weather; do sleep 0.2; done");
    let script = format!("{open} > dev.log 2>&1 &\n{wait}\n{ready}\n{pay}\nkill %1 && wait %1\n");
    let text = shown(&run(folder.path(), script, Vec::new()).await);
    assert!(text.contains("receipt: paid"), "{text}");
}

#[tokio::test]
async fn the_commands_of_the_books_work_on_a_shop_that_owes() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(503), Serve::Status(503)]);
    let payment = shop.payment().await;
    for _ in 0..2 {
        assert_eq!(shop.present(&payment.v2()).await.status, 503);
    }
    let owed = shop.wait_state(PaymentState::Owed).await;
    let script = block(BOOKS.0, BOOKS.1)
        .replace("pay_45a18d63c2e7c79d757d01f56992ac6e", &owed.record.0)
        .replace("0x…", &format!("0x{}", "cd".repeat(32)));
    let folder = shop.config().parent().unwrap().to_owned();
    let config = folder.join("gateway.toml");
    if !config.exists() {
        std::os::unix::fs::symlink(shop.config(), &config).unwrap();
    }
    let environment = crate::harness::Chain::environment(shop.node.as_ref(), &shop.plan);
    run(&folder, script, environment.into_iter().collect()).await;
    assert!(std::fs::read_to_string(folder.join("payments.csv")).unwrap().contains(&owed.record.0));

    // And what the README says of reading terms.
    let terms =
        block("README.md", "curl -sD-").replace("https://YOUR-HOST", &format!("http://127.0.0.1:{}", shop.port));
    let read = run(&folder, terms, Vec::new()).await;
    let terms: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(terms["x402Version"], 2);
}

#[tokio::test]
async fn secrets_and_certificates_are_put_in_place_with_the_modes_that_the_gateway_takes() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("etc");
    let here =
        |text: String| text.replace("/etc/tollhouse", &place.display().to_string()).replace("-g tollhouse-tls ", "");
    let keygen = "solana-keygen() { echo '[]' > \"${@: -1}\"; }\n";
    let certificate = "export RENEWED_LINEAGE=$PWD\necho key > privkey.pem\necho chain > fullchain.pem\n";
    let secrets = here(block("docs/deploy.md", "install -d -m 0700 /etc/tollhouse/secrets"));
    let tls = here(block("docs/deploy.md", "install -d -m 0755 /etc/tollhouse/tls"));
    run(folder.path(), format!("{keygen}{secrets}{certificate}{tls}"), Vec::new()).await;
    for (file, mode) in [
        ("secrets/base-signer", 0o600),
        ("secrets/solana-signer", 0o600),
        ("secrets/admin-token", 0o600),
        ("tls/privkey.pem", 0o640),
        ("tls/fullchain.pem", 0o644),
    ] {
        let found = std::fs::metadata(place.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}");
    }
}
