//! Memory of states that are over, for those that come next.
//!
//! Each step makes a state as large as the one before. Memory that is new to a process is cleared by the system page by
//! page, and on a virtual machine that hasn't had it for a while also found by its host: up to 20 times as long as it
//! takes to write the numbers.

use nightshift_udfs::csr::Value;
use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a vector that is worth keeping.
const LEAST: usize = 64 << 10;

/// Vectors that nobody needs any longer, the one that has been there longest first.
pub(super) struct Spare {
    vectors: Mutex<VecDeque<Unused>>,
    /// Bytes that are kept at most.
    most: usize,
}

struct Unused {
    vector: Box<dyn Any + Send>,
    kind: TypeId,
    length: usize,
    bytes: usize,
}

impl fmt::Debug for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spare").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Spare {
    /// Keeps at most so many bytes.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { vectors: Mutex::default(), most })
    }

    /// A vector of so many numbers, whatever they are.
    pub(super) fn take<V: Value>(&self, length: usize) -> Vec<V> {
        let fits = |unused: &Unused| unused.kind == TypeId::of::<V>() && unused.length == length;
        let found = {
            let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
            vectors.iter().rposition(fits).and_then(|at| vectors.remove(at))
        };
        let found = found.and_then(|unused| unused.vector.downcast::<Vec<V>>().ok());
        found.map_or_else(|| vec![V::default(); length], |vector| *vector)
    }

    fn give<V: Value>(&self, vector: Vec<V>) {
        let (length, bytes) = (vector.len(), vector.capacity() * size_of::<V>());
        if bytes < LEAST || bytes > self.most {
            return;
        }
        let mut dropped = Vec::new();
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = TypeId::of::<V>();
        vectors.push_back(Unused { vector: Box::new(vector), kind, length, bytes });
        let mut all: usize = vectors.iter().map(|unused| unused.bytes).sum();
        while all > self.most {
            let Some(oldest) = vectors.pop_front() else { break };
            all -= oldest.bytes;
            dropped.push(oldest);
        }
        // To give memory back takes long enough for others not to wait for it.
        drop(vectors);
    }
}

/// Numbers whose memory is spare as soon as nobody needs them.
#[derive(Debug)]
pub struct Recycled<V: Value> {
    numbers: Vec<V>,
    spare: Arc<Spare>,
}

impl<V: Value> Recycled<V> {
    pub(super) fn new(numbers: Vec<V>, spare: &Arc<Spare>) -> Self {
        Self { numbers, spare: Arc::clone(spare) }
    }
}

impl<V: Value> Deref for Recycled<V> {
    type Target = [V];

    fn deref(&self) -> &[V] {
        &self.numbers
    }
}

impl<V: Value> Drop for Recycled<V> {
    fn drop(&mut self) {
        self.spare.give(std::mem::take(&mut self.numbers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a vector whose bytes are just worth keeping.
    const LENGTH: usize = LEAST / size_of::<f32>();

    #[test]
    fn memory_of_what_is_over_is_used_again() {
        let spare = Spare::new(2 * LEAST);
        let first = Recycled::new(vec![1f32; LENGTH], &spare);
        let at = first.as_ptr();
        // It is still needed, and its numbers stay.
        let other = spare.take::<f32>(LENGTH);
        assert!(other.as_ptr() != at && other == [0.0; LENGTH] && *first == [1.0; LENGTH]);
        drop(first);
        // What is of another type, or longer, is not given.
        assert_eq!(spare.take::<f64>(LENGTH / 2), [0.0; LENGTH / 2]);
        assert_eq!(spare.take::<f32>(LENGTH + 1), [0.0; LENGTH + 1]);
        let again = spare.take::<f32>(LENGTH);
        assert!(again.as_ptr() == at && again == [1.0; LENGTH]);
    }

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let spare = Spare::new(10 * LEAST);
        let kept = |given: &[usize]| {
            for times in given {
                drop(Recycled::new(vec![0f32; times * LENGTH], &spare));
            }
            drop(Recycled::new(vec![0f32; LENGTH - 1], &spare));
            let vectors = spare.vectors.lock().unwrap();
            vectors.iter().map(|unused| unused.length / LENGTH).collect::<Vec<_>>()
        };
        // The last is more than is kept at all.
        assert_eq!(kept(&[4, 5, 1, 11]), [4, 5, 1]);
        assert_eq!(kept(&[2]), [5, 1, 2]);
    }
}
