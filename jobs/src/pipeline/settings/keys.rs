//! Tables of a file whose keys are read one by one, so that each mistake is found and has its
//! place.

use crate::suggestion::did_you_mean;
use nightshift_catalog::warehouse::Name;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

/// What is wrong, and the bytes at which it is.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<(usize, String)>);

impl Mistakes {
    pub(super) fn add(&mut self, at: usize, reason: impl Into<String>) {
        self.0.push((at, reason.into()));
    }

    fn add_error(&mut self, at: usize, error: &Error) {
        self.add(error.span().map_or(at, |span| span.start), error.message());
    }
}

impl IntoIterator for Mistakes {
    type Item = (usize, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    /// In the order of the file.
    fn into_iter(mut self) -> Self::IntoIter {
        self.0.sort();
        self.0.into_iter()
    }
}

/// A key with its value, and where the key is.
pub(super) struct Entry<'i> {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) value: Spanned<DeValue<'i>>,
}

/// The keys of a table that have not been read yet.
pub(super) struct Keys<'i, 'm> {
    /// Where the table is.
    at: usize,
    entries: Vec<Entry<'i>>,
    known: Vec<&'static str>,
    pub(super) mistakes: &'m mut Mistakes,
}

impl<'i, 'm> Keys<'i, 'm> {
    pub(super) fn new(at: usize, table: DeTable<'i>, mistakes: &'m mut Mistakes) -> Self {
        let entry = |(key, value): (Spanned<_>, _)| {
            let at = key.span().start;
            let key: std::borrow::Cow<'_, str> = key.into_inner();
            Entry { key: key.into_owned(), at, value }
        };
        let entries = table.into_iter().map(entry).collect();
        Self { at, entries, known: Vec::new(), mistakes }
    }

    /// Where the table is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Where a key is that has not been read yet, if it is there.
    pub(super) fn place(&self, key: &str) -> Option<usize> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.at)
    }

    /// Notes a mistake.
    pub(super) fn wrong(&mut self, at: usize, reason: impl Into<String>) {
        self.mistakes.add(at, reason);
    }

    fn entry(&mut self, key: &'static str) -> Option<Entry<'i>> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.swap_remove(at))
    }

    /// A value, and where it is.
    pub(super) fn located<T: Deserialize<'i>>(&mut self, key: &'static str) -> Option<(usize, T)> {
        let (at, value) = self.any(key)?;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some((at, value)),
            Err(error) => {
                self.mistakes.add_error(at, &error);
                None
            }
        }
    }

    /// A value of whatever type, and where it is.
    pub(super) fn any(&mut self, key: &'static str) -> Option<(usize, Spanned<DeValue<'i>>)> {
        let value = self.entry(key)?.value;
        Some((value.span().start, value))
    }

    /// A value.
    pub(super) fn take<T: Deserialize<'i>>(&mut self, key: &'static str) -> Option<T> {
        self.located(key).map(|(_, value)| value)
    }

    /// The name of a table or a model: `schema.name`.
    pub(super) fn name(&mut self, key: &'static str) -> Option<String> {
        self.take(key).map(|name: Name| name.to_string())
    }

    /// A text that stands for something else, as `read` says. A time doesn't need quotation marks.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (at, value) = self.any(key)?;
        let text = match value.get_ref() {
            DeValue::Datetime(time) => Ok(time.to_string()),
            _ => String::deserialize(ValueDeserializer::from(value)),
        };
        match text.map(|text| read(&text)) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(reason)) => self.wrong(at, reason),
            Err(error) => self.mistakes.add_error(at, &error),
        }
        None
    }

    /// A table within this one.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Keys<'i, '_>) -> T,
    ) -> Option<T> {
        let Entry { at, value, .. } = self.entry(key)?;
        let place = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Some(self.within(at, table, read)),
            _ => {
                self.wrong(place, format!("this is a table: begin it with [{key}]"));
                None
            }
        }
    }

    /// Tables that have the same name.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Keys<'i, '_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(Entry { at, value, .. }) = self.entry(key) else { return Vec::new() };
        let form = format!("this is a list of tables: begin each with [[{key}]]");
        let DeValue::Array(values) = value.into_inner() else {
            self.wrong(at, form);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in values {
            let at = value.span().start;
            match value.into_inner() {
                DeValue::Table(table) => tables.extend(self.within(at, table, &mut read)),
                _ => self.wrong(at, form.clone()),
            }
        }
        tables
    }

    /// Reads a table that is a value of this one.
    pub(super) fn within<T>(
        &mut self,
        at: usize,
        table: DeTable<'i>,
        read: impl FnOnce(&mut Keys<'i, '_>) -> T,
    ) -> T {
        let mut keys = Keys::new(at, table, self.mistakes);
        let value = read(&mut keys);
        keys.end();
        value
    }

    /// All keys that have not been read yet, in the order of the file.
    pub(super) fn rest(&mut self) -> Vec<Entry<'i>> {
        self.entries.sort_by_key(|entry| entry.at);
        std::mem::take(&mut self.entries)
    }

    /// The only one of these keys that is there; it is a mistake if there is none, or a second.
    pub(super) fn one_of(&mut self, keys: &[&'static str]) -> Option<&'static str> {
        let of = |key: &&'static str| self.place(key).map(|at| (at, *key));
        let mut there: Vec<_> = keys.iter().filter_map(of).collect();
        there.sort_unstable();
        let all = keys.join(", ");
        match there.as_slice() {
            [] => {
                let at = self.at;
                self.wrong(at, format!("one of {all} is needed"));
                None
            }
            [(_, key)] => Some(key),
            [(_, first), others @ ..] => {
                for (at, other) in others {
                    let reason =
                        format!("{other} and {first} exclude each other: give one of {all}");
                    self.wrong(*at, reason);
                }
                None
            }
        }
    }

    /// Keys that are left are not known.
    pub(super) fn end(mut self) {
        for Entry { key, at, .. } in self.rest() {
            let known: Vec<_> = self.known.iter().map(|known| format!("`{known}`")).collect();
            let meant = did_you_mean(&key, self.known.iter().copied());
            let reason =
                format!("unknown field `{key}`, expected one of {}{meant}", known.join(", "));
            self.wrong(at, reason);
        }
    }
}
