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
