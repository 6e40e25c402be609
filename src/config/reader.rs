//! Reads typed values from a spanned TOML table and keeps every mistake instead of stopping at the first.

use std::fmt::Write as _;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Location};

/// A TOML value with its place.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands; where its table stands if it is a default.
    pub location: Location,
}

/// A type that can be read from TOML and say what it looks like.
pub(super) trait FromToml: Sized {
    /// Reads the value; on nothing at least one mistake has been reported.
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self>;

    /// The JSON Schema of what [`Self::from_toml`] takes.
    fn schema() -> Value;
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The mistakes, in the order of finding.
    pub list: Vec<Diagnostic>,
}

impl Report {
    /// Adds a mistake.
    pub fn error(&mut self, location: Location, message: impl Into<String>) {
        self.list.push(Diagnostic { location, message: message.into(), hint: None });
    }

    /// Adds a mistake and what to do about it.
    pub fn error_with_hint(&mut self, location: Location, message: impl Into<String>, hint: impl Into<String>) {
        self.list.push(Diagnostic { location, message: message.into(), hint: Some(hint.into()) });
    }
}

/// The text, for turning offsets into places, and the mistakes found in it.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    path: Vec<String>,
    /// The mistakes.
    pub report: Report,
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, line_starts, path: Vec::new(), report: Report::default() }
    }

    /// The place of a byte offset.
    pub fn place(&self, offset: usize) -> Location {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.line_starts.get(index)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Location { line: narrow(line.max(1)), column: narrow(before.chars().count() + 1) }
    }

    /// Where a value starts.
    pub fn place_of(&self, node: &Node<'_>) -> Location {
        self.place(node.span().start)
    }

    /// Runs `read` one key deeper, so that its mistakes name the whole path.
    pub fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(toml_key(key));
        let value = read(self);
        self.path.pop();
        value
    }

    /// Reports a mistake at a value, with the path of its key before the message.
    pub fn wrong(&mut self, node: &Node<'_>, message: &str, hint: Option<String>) {
        let location = self.place_of(node);
        let message = if self.path.is_empty() { message.to_owned() } else { format!("{}: {message}", self.dotted()) };
        self.report.list.push(Diagnostic { location, message, hint });
    }

    /// Reports a value of another type than expected; never shows the value of a string, which may be a secret.
    pub fn wrong_type(&mut self, node: &Node<'_>, expected: &str) {
        let got = type_name(node.get_ref());
        let hint = match node.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) if expected.contains("string") => {
                Some("put it in double quotes".to_owned())
            }
            _ => None,
        };
        self.wrong(node, &format!("expected {expected}, got {got}"), hint);
    }

    /// The value as text, or a mistake.
    pub fn text<'n>(&mut self, node: &'n Node<'_>, expected: &str) -> Option<&'n str> {
        let text = node.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(node, expected);
        }
        text
    }

    /// The value as a table, or a mistake.
    pub fn table<'n, 'i>(&mut self, node: &'n Node<'i>, expected: &str) -> Option<&'n DeTable<'i>> {
        let table = node.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(node, expected);
        }
        table
    }

    /// Refuses keys that a section doesn't have.
    pub fn refuse_unknown(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let location = self.place(key.span().start);
            let place =
                if self.path.is_empty() { "at the top level".to_owned() } else { format!("in {}", self.dotted()) };
            let shown = shown(name);
            let hint = did_you_mean(name, known.iter().copied())
                .unwrap_or_else(|| format!("the keys here are {}", listed(known.iter().copied())));
            self.report.error_with_hint(location, format!("unknown key {shown} {place}"), hint);
        }
    }

    /// Reads one key of a table; a value that can't be read is reported and gives way to the default, so that the rest is
    /// still checked.
    pub fn field<T: FromToml>(&mut self, parent: (&DeTable<'_>, Location), field: &FieldSpec) -> Option<At<T>> {
        let (table, parent_location) = parent;
        let mut location = parent_location;
        if let Some((key, node)) = table.get_key_value(field.key) {
            location = match node.get_ref() {
                DeValue::Table(_) => self.place(key.span().start),
                _ => self.place_of(node),
            };
            let read = self.within(field.key, |reader| T::from_toml(node, reader));
            if let Some(value) = read {
                return Some(At { value, location });
            }
        } else if field.is_required {
            let owner = if self.path.is_empty() { "the file".to_owned() } else { self.dotted() };
            self.report.error_with_hint(
                location,
                format!("{owner} lacks the key {:?}", field.key),
                first_line(field.doc),
            );
        }
        let default = DeValue::parse(field.default?).ok()?;
        let value = self.within(field.key, |reader| T::from_toml(&default, reader))?;
        Some(At { value, location })
    }

    /// The path of the present key.
    pub fn dotted(&self) -> String {
        self.path.join(".")
    }
}

/// What a section says of one of its keys.
#[derive(Debug)]
pub(super) struct FieldSpec {
    /// The key.
    pub key: &'static str,
    /// Its explanation.
    pub doc: &'static str,
    /// Its default, in a notation that is both TOML and JSON.
    pub default: Option<&'static str>,
    /// Whether it must be there.
    pub is_required: bool,
}

fn first_line(doc: &str) -> String {
    format!("it is needed: {}", doc.trim().lines().next().unwrap_or_default().trim())
}

/// A key as it would be written in the file.
pub(super) fn toml_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { key.to_owned() } else { shown(key) }
}

/// Reports a name of the operator's choice that would not stand well in logs and metrics.
pub(super) fn check_name(name: &str, location: Location, report: &mut Report) {
    let is_legal = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_legal {
        let expected = "expected a name of 1 to 64 letters, digits, `-`, `_` and `.`";
        report.error(location, format!("{expected}, got {}", shown(name)));
    }
}

/// What a value is, for people.
pub(super) fn type_name(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(integer) => format!("the integer {integer}"),
        DeValue::Float(float) => format!("the float {float}"),
        DeValue::Boolean(boolean) => format!("the boolean {boolean}"),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text from the file in quotes, cut to a length that a terminal bears; a private key pasted in the wrong place is not
/// shown.
pub(super) fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    if looks_like_key(text) {
        return "(64 hexadecimal digits, not shown)".to_owned();
    }
    let mut cut: String = text.chars().take(CHARACTERS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// Whether a text has the shape of a private key.
pub(super) fn looks_like_key(text: &str) -> bool {
    let mut run: usize = 0;
    text.bytes().any(|byte| {
        run = if byte.is_ascii_hexdigit() { run + 1 } else { 0 };
        run >= 64
    })
}

/// `"a", "b" and "c"`.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let separator = match index {
            0 => "",
            _ if index + 1 == words.len() => " and ",
            _ => ", ",
        };
        // Writing to a String can't fail.
        let _infallible = write!(text, "{separator}{word:?}");
    }
    text
}

/// A hint that names the nearest of `candidates`, if one is near.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Distance grows with the square of the length: a long text is no typing error of a name.
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_lowercase().replace(['-', '.', ' '], "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let other = candidate.to_lowercase().replace(['-', '.', ' '], "_");
            (strsim::damerau_levenshtein(&folded, &other), candidate)
        })
        .filter(|(distance, candidate)| {
            let length = candidate.chars().count();
            *distance < length && *distance <= (length / 3).clamp(1, 3)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean {candidate:?}?"))
}
