//! From the rows of a training query to blocks, in four steps:
//!
//! 1. [`Encode`] gives the ids of a task's rows the numbers of dictionaries of its own, some millions of rows (a
//!    segment) at a time.
//! 2. [`Number`] unites the dictionaries, which numbers the ids in their order, and says which numbers those of
//!    each segment have got.
//! 3. [`Scatter`] sorts the entries of each segment by block.
//! 4. [`Gather`] makes each block of what the segments have for it.
//!
//! What tasks leave for each other are objects of the training's folder. How rows are spread over tasks and
//! segments shows in none of the results.

mod encode;
mod exchange;
mod ids;
mod number;
#[cfg(test)]
mod tests;

pub use encode::{ENCODED_SCHEMA, Encode, Encoded, SEGMENT, Segment, Wrong};
pub use exchange::{Destination, Gather, Scatter};
pub use ids::IdType;
pub use number::{IdsExport, Number, NumberedIds};

use crate::{JobError, Result};
use serde::{Deserialize, Serialize};

/// One of the two ids of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Axis {
    /// That of its row: a user, or the source of an edge.
    Row,
    /// That of its column: an item, or the target of an edge.
    Column,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Axis::Row => "rows",
            Axis::Column => "columns",
        }
    }
}

fn damaged(what: String) -> JobError {
    JobError::Damaged { what, reason: "it is not of the length that it should have".to_string() }
}

/// Little-endian numbers of 32 bits.
fn words(bytes: &[u8]) -> impl ExactSizeIterator<Item = u32> + Clone {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word))
}

/// A number of 64 bits as two words, the lower first.
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// The entries of a segment, or its part of a block: all rows, then all columns, then all weights.
struct Entries<'a> {
    rows: &'a [u8],
    columns: &'a [u8],
    weights: Weights<'a>,
}

/// Weights in as few bytes as hold all of them exactly.
#[derive(Clone, Copy)]
enum Weights<'a> {
    /// All are 1.
    Ones,
    /// In single precision.
    Singles(&'a [[u8; 4]]),
    /// In double precision.
    Doubles(&'a [[u8; 8]]),
}

impl<'a> Weights<'a> {
    /// Takes `bytes` for the weights of so many entries.
    fn read(bytes: &'a [u8], count: usize) -> Option<Self> {
        match bytes.len().checked_div(count)? {
            0 if bytes.is_empty() => Some(Weights::Ones),
            4 if bytes.len() == count * 4 => Some(Weights::Singles(bytes.as_chunks().0)),
            8 if bytes.len() == count * 8 => Some(Weights::Doubles(bytes.as_chunks().0)),
            _ => None,
        }
    }

    /// Bytes that one takes.
    fn width(self) -> usize {
        match self {
            Weights::Ones => 0,
            Weights::Singles(_) => 4,
            Weights::Doubles(_) => 8,
        }
    }

    /// All numbers, of so many entries.
    fn iter(self, count: usize) -> impl Iterator<Item = f64> + Clone {
        (0..count).map(move |index| self.get(index))
    }

    fn get(self, index: usize) -> f64 {
        match self {
            Weights::Ones => 1.0,
            Weights::Singles(singles) => f64::from(f32::from_le_bytes(singles[index])),
            Weights::Doubles(doubles) => f64::from_le_bytes(doubles[index]),
        }
    }
}

impl<'a> Entries<'a> {
    /// Takes an object, or a part of one, of so many entries apart.
    fn read(bytes: &'a [u8], count: usize, what: &str) -> Result<Self> {
        let read = || {
            let (rows, rest) = bytes.split_at_checked(count.checked_mul(4)?)?;
            let (columns, weights) = rest.split_at_checked(rows.len())?;
            Some(Self { rows, columns, weights: Weights::read(weights, count)? })
        };
        read().ok_or_else(|| damaged(what.to_string()))
    }

    /// Row, column and weight of each.
    fn iter(&self) -> impl Iterator<Item = (u32, u32, f64)> + Clone {
        let (rows, columns) = (words(self.rows), words(self.columns));
        let weights = self.weights.iter(rows.len());
        rows.zip(columns).zip(weights).map(|((row, column), weight)| (row, column, weight))
    }
}
