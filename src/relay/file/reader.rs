//! Reads TOML key by key, and collects what is wrong with its lines.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// How much of a wrong value a mistake shows, in characters.
const SHOWN: usize = 80;
/// How alike an unknown key and a known one are, from 0 to 1, so that one may be meant for the other; as clap has it.
const ALIKE: f64 = 0.7;
/// Mistakes that are told.
const MAX_MISTAKES: usize = 50;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what is right.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// A text, and the mistakes that were found in it.
pub(super) struct Reader {
    /// Where lines end.
    ends: Vec<usize>,
    /// Which keys there are, table by table.
    schema: &'static [(&'static str, &'static [&'static str])],
    mistakes: Vec<Mistake>,
}

/// A table of which keys are taken one by one.
pub(super) struct Table<'t> {
    /// How it is named in messages; empty for the keys before the first header.
    name: &'static str,
    entries: DeTable<'t>,
    pub(super) line: usize,
}

/// A value and its line.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

impl Reader {
    /// The reader, and the keys of the text that are in no table. What is no TOML is a mistake.
    pub(super) fn new<'t>(
        text: &'t str,
        schema: &'static [(&'static str, &'static [&'static str])],
    ) -> (Self, Table<'t>) {
        let ends = text.match_indices('\n').map(|(end, _)| end).collect();
        let mut reader = Self { ends, schema, mistakes: Vec::new() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = reader.line(error.span().map_or(0, |span| span.start));
            // Its text may hold what the file has there.
            reader.mistake(line, format!("this is no TOML: {}", shown(error.message())));
        }
        (reader, Table { name: "", entries: table.into_inner(), line: 1 })
    }

    pub(super) fn mistake(&mut self, line: usize, text: impl Into<String>) {
        self.mistakes.push(Mistake { line, text: text.into() });
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|&end| end < offset)
    }

    /// Takes a key's value out of the table. One that `read` cannot take is a mistake, and as good as not there.
    pub(super) fn take<'t, T>(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<At<T>> {
        let (value, line) = self.take_value(table, key)?;
        match read(&value) {
            Ok(value) => Some(At { line, value }),
            Err(text) => {
                self.mistake(line, format!("{}: {text}", table.path(key)));
                None
            }
        }
    }

    /// Takes an array out of the table, each element by itself. Their lines are those where they stand.
    pub(super) fn take_each<'t, T>(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        what: &str,
        mut read: impl FnMut(&DeValue<'t>) -> Result<T, String>,
    ) -> Vec<At<T>> {
        let mut all = Vec::new();
        for (value, line) in self.take_elements(table, key, what) {
            match read(&value) {
                Ok(value) => all.push(At { line, value }),
                Err(text) => self.mistake(line, format!("{}: {text}", table.path(key))),
            }
        }
        all
    }

    /// Takes a table out of the table.
    pub(super) fn take_table<'t>(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        example: &str,
    ) -> Option<Table<'t>> {
        let (value, line) = self.take_value(table, key)?;
        let is = describe(&value);
        if let DeValue::Table(entries) = value {
            return Some(Table { name: key, entries, line });
        }
        self.mistake(line, format!("{}: this is {is}; write {example}", table.path(key)));
        None
    }

    /// Takes an array of tables out of the table.
    pub(super) fn take_tables<'t>(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        example: &str,
    ) -> Vec<Table<'t>> {
        let mut all = Vec::new();
        for (value, line) in self.take_elements(table, key, example) {
            let is = describe(&value);
            if let DeValue::Table(entries) = value {
                all.push(Table { name: key, entries, line });
            } else {
                self.mistake(line, format!("{key}: this is {is}; write {example}"));
            }
        }
        all
    }

    fn take_elements<'t>(&mut self, table: &mut Table<'t>, key: &'static str, what: &str) -> Vec<(DeValue<'t>, usize)> {
        let Some((value, line)) = self.take_value(table, key) else { return Vec::new() };
        let is = describe(&value);
        let DeValue::Array(elements) = value else {
            self.mistake(line, format!("{}: this is {is}; write {what}", table.path(key)));
            return Vec::new();
        };
        elements
            .into_iter()
            .map(|element| (self.line(element.span().start), element))
            .map(|(line, element)| (element.into_inner(), line))
            .collect()
    }

    fn take_value<'t>(&self, table: &mut Table<'t>, key: &'static str) -> Option<(DeValue<'t>, usize)> {
        debug_assert!(self.keys_of(table.name).contains(&key), "{key} is in the schema");
        let value: Spanned<DeValue<'t>> = table.entries.remove(key)?;
        let line = self.line(value.span().start);
        Some((value.into_inner(), line))
    }

    fn keys_of(&self, table: &str) -> &'static [&'static str] {
        self.schema.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| keys)
    }

    /// What is left in a table is a mistake each.
    pub(super) fn finish(&mut self, table: Table<'_>) {
        for (key, _) in table.entries {
            let line = self.line(key.span().start);
            let text = self.unknown(table.name, key.get_ref());
            self.mistake(line, text);
        }
    }

    fn unknown(&self, table: &'static str, key: &str) -> String {
        let place = if table.is_empty() { String::new() } else { format!(" in {table}") };
        let start = format!("unknown key '{}'{place}", shown(key));
        let known = self.keys_of(table);
        // Of short keys two letters in the wrong order leave little alike.
        let likeness = |known: &&&str| match strsim::osa_distance(key, known) {
            0 | 1 => 1.0,
            _ => strsim::jaro(key, known),
        };
        let nearest = known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
        if let Some(nearest) = nearest.filter(|nearest| likeness(nearest) > ALIKE) {
            return format!("{start}; did you mean '{nearest}'?");
        }
        match self.schema.iter().find(|(_, keys)| keys.contains(&key)) {
            Some(("", _)) => format!("{start}; it stands before the first [table]"),
            Some((home, _)) => format!("{start}; it is one of {home}"),
            None => format!("{start}; known there: {}", known.join(", ")),
        }
    }

    /// A key that a table must have, with an example of it.
    pub(super) fn require(&mut self, table: &Table<'_>, key: &str, example: &str) {
        if !table.has(key) {
            self.mistake(table.line, format!("{} is missing; write {example}", table.path(key)));
        }
    }

    /// Whether nothing wrong was found so far.
    pub(super) fn is_right(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// The mistakes, in the order of their lines; none, if the text is right.
    pub(super) fn mistakes(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        let more = self.mistakes.len().saturating_sub(MAX_MISTAKES);
        self.mistakes.truncate(MAX_MISTAKES);
        if more > 0
            && let Some(last) = self.mistakes.last_mut()
        {
            last.text.push_str(&format!(" (and {more} mistakes more)"));
        }
        self.mistakes
    }
}

impl Table<'_> {
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// How a key of it is named in messages.
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.into() } else { format!("{}.{key}", self.name) }
    }
}

/// A text of the file, for a person: escaped, and cut to what a line can hold.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// A value, for a person.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text '{}'", shown(text)),
        DeValue::Integer(number) => format!("the number {}", shown(number.as_str())),
        DeValue::Float(number) => format!("the number {}", shown(number.as_str())),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
