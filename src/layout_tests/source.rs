//! Just enough of Rust's grammar to see which paths a file names: words and separators, without comments, literals and
//! test code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A path that a file names, and that leads out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// Into the crate; without `crate::`, and empty for the crate itself.
    Internal(String),
    /// Into a dependency, whose name comes first.
    External(String),
}

/// A source file.
#[derive(Debug)]
pub struct Source {
    /// Below `src`.
    pub file: PathBuf,
    /// Its module path without `crate`: `chain::evm::lanes`, or `chain::evm` for `chain/evm/mod.rs`.
    pub module: String,
    pub text: String,
    words: Vec<Word>,
}

/// An identifier, `::`, or one other character, and the line it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    line: usize,
}

impl Source {
    pub fn of_text(module: &str, text: &str) -> Self {
        Self { file: module.into(), module: module.to_owned(), text: text.to_owned(), words: words(text) }
    }

    /// Every file below a folder.
    pub fn read_every(root: &Path) -> Vec<Self> {
        let mut files = Vec::new();
        list(root, &mut files);
        files.sort();
        files
            .into_iter()
            .map(|file| {
                let text = std::fs::read_to_string(&file).unwrap();
                let file = file.strip_prefix(root).unwrap().to_owned();
                Self { words: words(&text), module: module_path(&file), file, text }
            })
            .collect()
    }

    /// Every file that is compiled into the program: without those that only tests declare, and the crate's root, which is
    /// nothing but a list of modules.
    pub fn read_all(root: &Path) -> Vec<Self> {
        let all = Self::read_every(root);
        let tests: Vec<String> = all.iter().flat_map(Self::test_modules).collect();
        let is_test = |module: &str| {
            tests.iter().any(|test| {
                module.strip_prefix(test.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })
        };
        all.into_iter().filter(|source| !source.module.is_empty() && !is_test(&source.module)).collect()
    }

    /// Modules in files of their own that are declared under `#[cfg(test)]`.
    fn test_modules(&self) -> Vec<String> {
        let mut found = Vec::new();
        for range in test_items(&self.words) {
            let item = &self.words[range];
            let declared = item.windows(3).find(|words| words[0].text == "mod" && words[2].text == ";");
            if let Some(words) = declared {
                let separator = if self.module.is_empty() { "" } else { "::" };
                found.push(format!("{}{separator}{}", self.module, words[1].text));
            }
        }
        found
    }

    fn words_without_tests(&self) -> Vec<Word> {
        let tests = test_items(&self.words);
        let is_test = |position: usize| tests.iter().any(|range| range.contains(&position));
        self.words.iter().enumerate().filter(|(at, _)| !is_test(*at)).map(|(_, word)| word.clone()).collect()
    }

    pub fn lines_without_tests(&self) -> usize {
        let of_tests: usize = test_items(&self.words)
            .into_iter()
            .map(|range| &self.words[range])
            .map(|item| item[item.len() - 1].line - item[0].line + 1)
            .sum();
        self.text.lines().count() - of_tests
    }

    /// All paths that lead out of the file, with their lines.
    pub fn references(&self, dependencies: &BTreeSet<String>) -> Vec<(usize, Reference)> {
        let words = self.words_without_tests();
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let starts_path = is_name(&words[at].text) && !continues_path(&words, at);
            if words[at].text == "use" || (words[at].text == "extern" && text(&words, at + 1) == "crate") {
                let skip = if words[at].text == "use" { 1 } else { 2 };
                let mut paths = Vec::new();
                let line = words[at].line;
                at = use_tree(&words, at + skip, &[], &mut paths);
                found.extend(paths.iter().filter_map(|path| Some((line, self.resolve(path, true, dependencies)?))));
            } else if starts_path && text(&words, at + 1) == "::" {
                let line = words[at].line;
                let mut path = vec![words[at].text.clone()];
                while text(&words, at + 1) == "::" && is_name(text(&words, at + 2)) {
                    path.push(words[at + 2].text.clone());
                    at += 2;
                }
                found.extend(self.resolve(&path, false, dependencies).map(|reference| (line, reference)));
                at += 1;
            } else {
                at += 1;
            }
        }
        found
    }

    fn resolve(&self, path: &[String], is_use: bool, dependencies: &BTreeSet<String>) -> Option<Reference> {
        let first = path.first()?;
        if first == "crate" {
            return Some(Reference::Internal(path[1..].join("::")));
        }
        if first == "super" {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            let own: Vec<&str> = self.module.split("::").collect();
            let kept = own.len().checked_sub(ups)?;
            let mut whole: Vec<&str> = own[..kept].to_vec();
            whole.extend(path[ups..].iter().map(String::as_str));
            return Some(Reference::Internal(whole.join("::")));
        }
        let is_known = dependencies.contains(first) && (is_use || path.len() > 1);
        is_known.then(|| Reference::External(path.join("::")))
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn module_path(file: &Path) -> String {
    let mut parts: Vec<String> = file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts.join("::")
}

fn text(words: &[Word], at: usize) -> &str {
    words.get(at).map_or("", |word| word.text.as_str())
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Whether the word is not a path's first: after `a::` or `.`. A path may start with `::` itself.
fn continues_path(words: &[Word], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or("", |at| words[at].text.as_str());
    match before(1) {
        "." => true,
        "::" => is_name(before(2)) || before(2) == ">",
        _ => false,
    }
}

/// Reads a use tree that starts at `at` below `base` into whole paths; gives where it ends.
fn use_tree(words: &[Word], mut at: usize, base: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    loop {
        match text(words, at) {
            "::" => at += 1,
            "{" => {
                at += 1;
                while !matches!(text(words, at), "}" | "") {
                    at = use_tree(words, at, &path, paths);
                    if text(words, at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            // The name it goes by here doesn't matter.
            "as" => at += 2,
            // A group's own name stands for the group.
            "self" if !base.is_empty() => at += 1,
            "*" => {
                path.push("*".to_owned());
                at += 1;
            }
            name if is_name(name) => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => {
                paths.push(path);
                return at;
            }
        }
    }
}

/// The ranges of items under `#[cfg(test)]`, each from its attribute to its end.
fn test_items(words: &[Word]) -> Vec<std::ops::Range<usize>> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if (0..attribute.len()).all(|offset| text(words, at + offset) == attribute[offset]) {
            let end = item_end(words, at + attribute.len());
            found.push(at..end);
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

/// Where an item ends: after its `;`, or after its braces; a `use` always with `;`.
fn item_end(words: &[Word], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut is_use = false;
    for at in from..words.len() {
        match text(words, at) {
            "use" if depth == 0 => is_use = true,
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && text(words, at) == "}" && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    words.len()
}

/// The words of a text without its comments and literals.
fn words(text: &str) -> Vec<Word> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < characters.len() {
        let end = match characters[at] {
            '/' if characters.get(at + 1) == Some(&'/') => find_line_end(&characters, at),
            '/' if characters.get(at + 1) == Some(&'*') => find_comment_end(&characters, at),
            '"' => find_quote_end(&characters, at),
            '\'' => find_tick_end(&characters, at),
            ':' if characters.get(at + 1) == Some(&':') => {
                found.push(Word { text: "::".to_owned(), line });
                at + 2
            }
            first if first.is_alphanumeric() || first == '_' => {
                let mut end = at;
                while characters.get(end).is_some_and(|next| next.is_alphanumeric() || *next == '_') {
                    end += 1;
                }
                let word: String = characters[at..end].iter().collect();
                match literal_end(&characters, end, &word) {
                    Some(end) => end,
                    None => {
                        found.push(Word { text: word, line });
                        end
                    }
                }
            }
            other => {
                if !other.is_whitespace() {
                    found.push(Word { text: other.to_string(), line });
                }
                at + 1
            }
        };
        line += characters[at..end].iter().filter(|character| **character == '\n').count();
        at = end;
    }
    found
}

/// Where a literal ends whose prefix ended at `at`, if it is one.
fn literal_end(characters: &[char], at: usize, prefix: &str) -> Option<usize> {
    let is_raw = matches!(prefix, "r" | "br" | "cr");
    match characters.get(at)? {
        '"' if is_raw => Some(find_raw_end(characters, at, 0)),
        '"' if matches!(prefix, "b" | "c") => Some(find_quote_end(characters, at)),
        '\'' if prefix == "b" => Some(find_tick_end(characters, at)),
        '#' if is_raw => {
            let hashes = characters[at..].iter().take_while(|character| **character == '#').count();
            (characters.get(at + hashes) == Some(&'"')).then(|| find_raw_end(characters, at + hashes, hashes))
        }
        _ => None,
    }
}

fn find_line_end(characters: &[char], at: usize) -> usize {
    (at..characters.len()).find(|at| characters[*at] == '\n').unwrap_or(characters.len())
}

fn find_comment_end(characters: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < characters.len() {
        match (characters[at], characters.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn find_quote_end(characters: &[char], mut at: usize) -> usize {
    at += 1;
    while at < characters.len() && characters[at] != '"' {
        at += if characters[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(characters.len())
}

fn find_raw_end(characters: &[char], mut at: usize, hashes: usize) -> usize {
    at += 1;
    while at < characters.len() {
        let closes = characters[at] == '"' && (1..=hashes).all(|offset| characters.get(at + offset) == Some(&'#'));
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

/// A character literal, or the tick of a lifetime.
fn find_tick_end(characters: &[char], at: usize) -> usize {
    match (characters.get(at + 1), characters.get(at + 2)) {
        (Some('\\'), _) => {
            let closing = (at + 3..characters.len()).find(|at| characters[*at] == '\'');
            closing.map_or(characters.len(), |closing| closing + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}
