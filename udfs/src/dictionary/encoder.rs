//! Dictionary encoding of strings as they come.

use super::{Strings, in_order};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::ops::Range;

/// A string of few bytes as a number: its bytes, zeros, and how many bytes there are. Most ids are as short, and one number
/// is faster to hash and to compare than bytes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Short(u128);

impl Short {
    /// The most bytes that such a string has.
    const MOST: usize = 15;

    /// The string; `None` if it is longer.
    fn new(string: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes[..Self::MOST].get_mut(..string.len())?.copy_from_slice(string);
        Some(Self(u128::from_be_bytes(bytes) | string.len() as u128))
    }

    /// The string that is there in `all`. It is faster not to copy as few bytes as it has.
    fn at(all: &[u8], place: Range<usize>) -> Option<Self> {
        let length = place.len();
        match all.get(place.start..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) if length <= Self::MOST => {
                let others = u128::MAX >> (8 * length);
                Some(Self((u128::from_be_bytes(*bytes) & !others) | length as u128))
            }
            _ => Self::new(&all[place]),
        }
    }

    fn length(self) -> usize {
        usize::from(self.0 as u8)
    }
}

/// A short string and its code, in twenty bytes; with a number of sixteen bytes it would be thirty-two.
#[derive(Debug, Clone, Copy)]
struct Seen([u8; 16], u32);

impl Seen {
    fn short(&self) -> Short {
        Short(u128::from_ne_bytes(self.0))
    }
}

/// Encodes strings of bytes as they come.
#[derive(Debug, Default)]
pub struct StringEncoder {
    hasher: RandomState,
    short: HashTable<Seen>,
    long: HashTable<u32>,
    found: Strings,
    codes: Vec<u32>,
    /// The last short one, which is often the next as well: rows are often in an order.
    last: Option<(Short, u32)>,
}

impl StringEncoder {
    /// Appends a value.
    pub fn push(&mut self, value: &[u8]) {
        match Short::new(value) {
            Some(short) => self.push_short(short),
            None => self.push_long(value),
        }
    }

    /// Appends the values that end there in `bytes`, one after another, the first of which begins at `start`.
    pub fn extend(&mut self, bytes: &[u8], start: usize, ends: impl IntoIterator<Item = usize>) {
        let mut start = start;
        for end in ends {
            match Short::at(bytes, start..end) {
                Some(short) => self.push_short(short),
                None => self.push_long(&bytes[start..end]),
            }
            start = end;
        }
    }

    fn push_short(&mut self, value: Short) {
        let code = match self.last {
            Some((last, code)) if last == value => code,
            _ => self.code(value),
        };
        self.last = Some((value, code));
        self.codes.push(code);
    }

    fn code(&mut self, value: Short) -> u32 {
        let Self { hasher, short, found, .. } = self;
        let hash = hasher.hash_one(value);
        if let Some(Seen(_, code)) = short.find(hash, |seen| seen.short() == value) {
            return *code;
        }
        let code = found.len() as u32;
        found.push(&value.0.to_be_bytes()[..value.length()]);
        let seen = Seen(value.0.to_ne_bytes(), code);
        short.insert_unique(hash, seen, |seen| hasher.hash_one(seen.short()));
        code
    }

    fn push_long(&mut self, value: &[u8]) {
        let Self { hasher, long, found, codes, .. } = self;
        let hash = hasher.hash_one(value);
        let code = match long.find(hash, |code| found.get(*code as usize) == value) {
            Some(code) => *code,
            None => {
                let code = found.len() as u32;
                found.push(value);
                long.insert_unique(hash, code, |code| hasher.hash_one(found.get(*code as usize)));
                code
            }
        };
        codes.push(code);
    }

    /// Bytes that it takes in memory.
    pub fn size(&self) -> usize {
        let tables = self.short.capacity() * (size_of::<Seen>() + 1) + self.long.capacity() * 5;
        self.found.size() + tables + self.codes.len() * 4
    }

    /// The different values in order, and for each value its place among them.
    pub fn finish(mut self) -> (Strings, Vec<u32>) {
        let found = &self.found;
        let order = in_order(&mut self.codes, found.len(), |code| found.get(code as usize));
        (order.into_iter().map(|code| found.get(code as usize)).collect(), self.codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Strings of about as many bytes as short ones have at most, and some with zeros at their end.
    fn strings() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let string = prop_oneof![
            "[a-c]{0,3}".prop_map(String::into_bytes),
            prop::collection::vec(0u8..2, 11..19),
            prop::collection::vec(Just(0), 0..40),
        ];
        prop::collection::vec(string, 0..100)
    }

    proptest! {
        #[test]
        fn strings_are_encoded(values in strings()) {
            let (mut each, mut together) = (StringEncoder::default(), StringEncoder::default());
            values.iter().for_each(|value| each.push(value));
            let bytes = [&b"before"[..], &values.concat()].concat();
            let ends = values.iter().scan(6, |end, value| {
                *end += value.len();
                Some(*end)
            });
            together.extend(&bytes, 6, ends);
            let (dictionary, codes) = each.finish();
            let expected = BTreeSet::from_iter(values.iter().map(Vec::as_slice));
            prop_assert!(dictionary.iter().eq(expected));
            let decoded: Vec<_> = codes.iter().map(|code| dictionary.get(*code as usize)).collect();
            prop_assert_eq!(decoded, values.iter().collect::<Vec<_>>());
            prop_assert_eq!(together.finish(), (dictionary, codes));
        }

        #[test]
        fn short_strings_are_the_same_wherever_they_come_from(values in strings()) {
            for value in &values {
                let short = Short::new(value);
                prop_assert_eq!(short.is_some(), value.len() <= Short::MOST);
                let within = [&b"some"[..], value, b"more than sixteen bytes"].concat();
                prop_assert_eq!(Short::at(&within, 4..4 + value.len()), short);
                prop_assert_eq!(Short::at(&within[..4 + value.len()], 4..4 + value.len()), short);
                for other in &values {
                    prop_assert_eq!(short.is_some() && short == Short::new(other), short.is_some() && value == other);
                }
            }
        }
    }
}
