//! Dictionary encoding: the different values of a column in order, and the place of each value among them.

mod encoder;
mod numbers;
mod strings;

pub use encoder::StringEncoder;
pub use numbers::Numbers;
pub use strings::Strings;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use numbers::Bits;
use pulp::{Arch, Simd, WithSimd};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::hash::BuildHasher;

/// How many numbers a range may cover for each value in it, for a bit each to be the dictionary.
const SPARSEST: u64 = 16;

/// The different values in order. The place of each value among them is appended to `codes`.
pub fn encode_numbers(values: &[i64], codes: &mut Vec<u32>) -> Numbers {
    let (least, most) =
        values.iter().fold((i64::MAX, i64::MIN), |(a, b), value| (a.min(*value), b.max(*value)));
    if !is_dense(least, most, values.len()) {
        return encode_sparse(values, codes).into();
    }
    let dense = Dense::new(Bits::new(least, most, values.iter()));
    dense.append_places(values, codes);
    dense.bits.into()
}

/// Whether so many values in a range, some of them more than once, are enough for a bit for each number in it.
fn is_dense(least: i64, most: i64, values: usize) -> bool {
    values > 0 && most.wrapping_sub(least) as u64 / SPARSEST < values as u64
}

/// Different numbers of a range, in which there is a bit for each.
struct Dense {
    bits: Bits,
    /// For each word, how many are there before it.
    before: Vec<u32>,
}

impl Dense {
    fn new(bits: Bits) -> Self {
        let mut count = 0;
        let before = |bits: &u64| {
            let before = count;
            count += bits.count_ones();
            before
        };
        let before = bits.present.iter().map(before).collect();
        Self { bits, before }
    }

    /// Appends how many there are before each of some of them.
    fn append_places(&self, numbers: &[i64], places: &mut Vec<u32>) {
        struct Append<'a>(&'a Dense, &'a [i64], &'a mut [u32]);

        impl WithSimd for Append<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) {
                for (place, number) in self.2.iter_mut().zip(self.1) {
                    *place = self.0.place(*number);
                }
            }
        }

        let first = places.len();
        places.resize(first + numbers.len(), 0);
        // Where there are wide vectors, there is an instruction that counts bits as well.
        Arch::new().dispatch(Append(self, numbers, &mut places[first..]));
    }

    /// How many there are before one of them.
    #[inline(always)]
    fn place(&self, number: i64) -> u32 {
        let at = number.wrapping_sub(self.bits.least) as usize;
        let (word, bit) = (at / 64, at % 64);
        self.before[word] + (self.bits.present[word] & ((1 << bit) - 1)).count_ones()
    }
}

fn encode_sparse(values: &[i64], codes: &mut Vec<u32>) -> Vec<i64> {
    let hasher = RandomState::default();
    let (mut seen, mut found) = (HashTable::<u32>::new(), Vec::new());
    let first = codes.len();
    for value in values {
        let same = |code: &u32| found[*code as usize] == *value;
        let hash = hasher.hash_one(value);
        let code = match seen.find(hash, same) {
            Some(code) => *code,
            None => {
                let code = found.len() as u32;
                found.push(*value);
                seen.insert_unique(hash, code, |code| hasher.hash_one(found[*code as usize]));
                code
            }
        };
        codes.push(code);
    }
    let order = in_order(&mut codes[first..], found.len(), |code| found[code as usize]);
    order.into_iter().map(|code| found[code as usize]).collect()
}

/// Gives values numbers in their order instead of in that of their arrival. Returns the old numbers in the
/// new order.
fn in_order<K: Ord>(codes: &mut [u32], values: usize, value: impl Fn(u32) -> K) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values as u32).collect();
    order.sort_unstable_by_key(|code| value(*code));
    let mut places = vec![0; values];
    for (place, code) in order.iter().enumerate() {
        places[*code as usize] = place as u32;
    }
    codes.iter_mut().for_each(|code| *code = places[*code as usize]);
    order
}

/// All numbers that are in one of the `lists`, and for each list the places of its numbers among them. By the threads of
/// the pool that it is called in.
pub fn unite_numbers(lists: &[Numbers]) -> Option<(Numbers, Vec<Numbers>)> {
    let ranges = lists.iter().filter_map(Numbers::range);
    let (least, most) = ranges
        .fold((i64::MAX, i64::MIN), |(least, most), range| (least.min(range.0), most.max(range.1)));
    if is_dense(least, most, lists.iter().map(Numbers::len).sum()) {
        let mut bits = Bits::new(least, most, std::iter::empty());
        lists.iter().for_each(|list| bits.add(list));
        let dense = Dense::new(bits);
        let places = |list: &Numbers| {
            let mut places = Vec::with_capacity(list.len());
            dense.append_places(&list.to_vec(), &mut places);
            Numbers::of_places(places)
        };
        let found = lists.par_iter().map(places).collect();
        return Some((dense.bits.into(), found));
    }
    let all = union(lists.iter().map(Numbers::to_vec).collect());
    let places = |list: &Numbers| places(list.to_vec(), &all).map(Numbers::of_places);
    let found = lists.par_iter().map(places).collect::<Option<_>>()?;
    Some((all.into(), found))
}

/// The different values of lists that are in order and have none twice, in order.
pub fn union<T: Ord + Copy>(mut lists: Vec<Vec<T>>) -> Vec<T> {
    while lists.len() > 1 {
        let mut pairs = lists.into_iter();
        let mut merged = Vec::new();
        while let Some(first) = pairs.next() {
            merged.push(match pairs.next() {
                Some(second) => merge(&first, &second),
                None => first,
            });
        }
        lists = merged;
    }
    lists.pop().unwrap_or_default()
}

fn merge<T: Ord + Copy>(mut first: &[T], mut second: &[T]) -> Vec<T> {
    let mut merged = Vec::with_capacity(first.len().max(second.len()));
    while let ([one, others @ ..], [another, rest @ ..]) = (first, second) {
        merged.push(*one.min(another));
        if one <= another {
            first = others;
        }
        if another <= one {
            second = rest;
        }
    }
    merged.extend_from_slice(first);
    merged.extend_from_slice(second);
    merged
}

/// The places of the values of a list among `all`, both in order; `None` if one of them isn't there.
pub fn places<T: Ord>(list: impl IntoIterator<Item = T>, all: &[T]) -> Option<Vec<u32>> {
    let mut place = 0;
    let find = |value: T| {
        while *all.get(place)? < value {
            place += 1;
        }
        (*all.get(place)? == value).then_some(place as u32)
    };
    list.into_iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn numbers() -> impl Strategy<Value = Vec<i64>> {
        prop_oneof![
            prop::collection::vec(-40i64..40, 0..200),
            prop::collection::vec(any::<i64>(), 0..50),
            prop::collection::vec(prop_oneof![Just(i64::MIN), Just(i64::MAX), -3i64..3], 0..50),
        ]
    }

    proptest! {
        #[test]
        fn numbers_are_encoded(values in numbers()) {
            let expected: Vec<i64> = BTreeSet::from_iter(values.iter().copied()).into_iter().collect();
            let mut codes = vec![7];
            let dictionary = encode_numbers(&values, &mut codes).to_vec();
            prop_assert_eq!(&dictionary, &expected);
            prop_assert_eq!(codes[0], 7);
            let decoded: Vec<i64> = codes[1..].iter().map(|code| dictionary[*code as usize]).collect();
            prop_assert_eq!(&decoded, &values);
            let mut sparse = vec![7];
            prop_assert_eq!(encode_sparse(&values, &mut sparse), dictionary);
            prop_assert_eq!(sparse, codes);
        }

        #[test]
        fn lists_are_united(lists in prop::collection::vec(prop::collection::btree_set(0i32..60, 0..30), 0..7)) {
            let expected: BTreeSet<i32> = lists.iter().flatten().copied().collect();
            let lists: Vec<Vec<i32>> = lists.into_iter().map(|list| list.into_iter().collect()).collect();
            let all = union(lists.clone());
            prop_assert!(all.iter().eq(&expected));
            for list in lists {
                let found = places(list.clone(), &all).unwrap();
                let values: Vec<i32> = found.into_iter().map(|place| all[place as usize]).collect();
                prop_assert_eq!(values, list);
            }
            prop_assert_eq!(places([60], &all), None);
        }

        #[test]
        fn numbers_of_lists_are_united(lists in prop::collection::vec(numbers(), 0..7)) {
            let lists: Vec<BTreeSet<i64>> = lists.into_iter().map(BTreeSet::from_iter).collect();
            let expected: BTreeSet<i64> = lists.iter().flatten().copied().collect();
            let list = |list: BTreeSet<i64>| Numbers::from(Vec::from_iter(list));
            let lists: Vec<Numbers> = lists.into_iter().map(list).collect();
            let (all, found) = unite_numbers(&lists).unwrap();
            let all = all.to_vec();
            prop_assert!(all.iter().eq(&expected));
            for (list, found) in lists.iter().zip(found) {
                let values = found.to_vec().into_iter().map(|place| all[place as usize]);
                prop_assert_eq!(values.collect::<Vec<_>>(), list.to_vec());
            }
        }
    }
}
