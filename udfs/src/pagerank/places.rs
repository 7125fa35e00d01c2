//! Where what nodes pass along is in memory.

use super::Weight;
use crate::csr::Csr;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::ops::Range;

/// Weights that differ by more powers of two than there are other classes are not told apart.
const CLASSES: usize = 33;

/// The class of nodes without outgoing weight, which pass nothing along.
const NOTHING: usize = CLASSES - 1;

/// A place for what each node passes along: nodes with much outgoing weight come first.
///
/// Most edges begin at few nodes. What these pass along fits into a cache if it is in one piece; in the order of the
/// nodes, each line of the cache would have mostly numbers that hardly any edge asks for. Nodes are told apart by the
/// power of two of their outgoing weight and keep their order within such a class, as in "A Closer Look at Lightweight
/// Graph Reordering" (Faldu, Diamond and Grot, 2019), so that what a block's nodes pass along is written in as many pieces.
///
/// Edges are added up in the same order as without places, so sums are the same to the last bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Places {
    of_nodes: Vec<u32>,
    /// How many nodes of each block are in each class: all blocks of the first class, then those of the next.
    counts: Vec<usize>,
    /// How many nodes a block has; the last may have fewer.
    pub(super) block_nodes: usize,
    classes: Classes,
}

/// Which class a node is in.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Classes {
    /// The exponent of the largest outgoing weight.
    largest: u64,
}

impl Classes {
    fn of_weights(out_weights: &[f64]) -> Self {
        let exponents = out_weights.iter().copied().map(Self::exponent);
        Self { largest: exponents.max().unwrap_or_default() }
    }

    /// As the binary form of a number has it. There are no negative weights.
    fn exponent(weight: f64) -> u64 {
        const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
        weight.abs().to_bits() >> MANTISSA_BITS
    }

    #[inline]
    fn class(self, weight: f64) -> usize {
        let below = self.largest.saturating_sub(Self::exponent(weight));
        if weight == 0.0 { NOTHING } else { (below as usize).min(NOTHING - 1) }
    }
}

impl Places {
    /// The places of nodes with these outgoing weights, `block_nodes` of which are a block.
    pub fn new(out_weights: &[f64], block_nodes: usize) -> Self {
        let classes = Classes::of_weights(out_weights);
        let (block_nodes, blocks) =
            (block_nodes.max(1), out_weights.len().div_ceil(block_nodes.max(1)));
        let mut counts = vec![0; CLASSES * blocks];
        for (block, weights) in out_weights.chunks(block_nodes).enumerate() {
            weights.iter().for_each(|weight| counts[classes.class(*weight) * blocks + block] += 1);
        }
        let mut next = [0; CLASSES];
        for class in 1..CLASSES {
            let before = &counts[(class - 1) * blocks..class * blocks];
            next[class] = next[class - 1] + before.iter().sum::<usize>() as u32;
        }
        let place = |weight: &f64| {
            let next = &mut next[classes.class(*weight)];
            let place = *next;
            *next += 1;
            place
        };
        let of_nodes = out_weights.iter().map(place).collect();
        Self { of_nodes, counts, block_nodes, classes }
    }

    /// Bytes that they take in memory.
    pub fn size(&self) -> usize {
        size_of_val(self.of_nodes.as_slice()) + size_of_val(self.counts.as_slice())
    }

    /// Has the edges of a block name the places of their sources instead of the sources.
    pub fn apply<W: Weight>(&self, incoming: &mut Csr<W>) {
        incoming.columns.iter_mut().for_each(|source| *source = self.of_nodes[*source as usize]);
    }

    /// Which of the numbers that all nodes pass along, `vectors` each, are those of each block, without nodes that pass
    /// nothing along.
    pub(super) fn pieces(&self, vectors: usize) -> Vec<Vec<Range<usize>>> {
        let blocks = self.of_nodes.len().div_ceil(self.block_nodes);
        let (mut of_blocks, mut next) = (vec![Vec::with_capacity(NOTHING); blocks], 0);
        for (at, count) in self.counts.iter().enumerate().take(NOTHING * blocks) {
            of_blocks[at % blocks].push(next..next + count * vectors);
            next += count * vectors;
        }
        of_blocks
    }

    /// Cuts what all nodes pass along, `vectors` numbers each, into what each block has to write of it.
    pub(super) fn split<'a>(&self, passed: &'a mut [f64], vectors: usize) -> Vec<Passed<'a>> {
        let blocks = self.of_nodes.len().div_ceil(self.block_nodes);
        let passed_by = |_| Passed { classes: self.classes, pieces: Vec::with_capacity(CLASSES) };
        let mut of_blocks: Vec<_> = (0..blocks).map(passed_by).collect();
        let mut rest = passed;
        for (at, count) in self.counts.iter().enumerate() {
            let (piece, others) = rest.split_at_mut(count * vectors);
            of_blocks[at % blocks].pieces.push(piece);
            rest = others;
        }
        of_blocks
    }

    /// What all nodes pass along an edge of weight one, in their places: their ranks, one for each vector, divided by
    /// their outgoing weights. By the threads of the pool that it is called in.
    pub fn contributions(&self, ranks: &[f64], out_weights: &[f64]) -> Vec<f64> {
        let (vectors, nodes) = (ranks.len() / out_weights.len().max(1), self.block_nodes);
        let mut passed = vec![0.0; ranks.len()];
        let own = ranks.chunks(nodes * vectors.max(1)).zip(out_weights.chunks(nodes));
        let blocks: Vec<_> = self.split(&mut passed, vectors).into_iter().zip(own).collect();
        blocks.into_par_iter().with_max_len(1).for_each(|(mut passed, (ranks, out_weights))| {
            let nodes = ranks.chunks_exact(vectors.max(1)).zip(out_weights);
            nodes.for_each(|(ranks, weight)| passed.contribute(ranks, *weight));
        });
        passed
    }
}

/// Where what the nodes of a block pass along is to be written: what is left of a piece for each class.
#[derive(Debug)]
pub(super) struct Passed<'a> {
    classes: Classes,
    pieces: Vec<&'a mut [f64]>,
}

impl<'a> Passed<'a> {
    /// Those of [`Places::pieces`].
    pub(super) fn of_nodes_with_weight(mut self) -> Vec<&'a mut [f64]> {
        self.pieces.truncate(NOTHING);
        self.pieces
    }

    /// Writes what the next of the block's nodes passes along an edge of weight one: its ranks, one for each vector, divided
    /// by its outgoing weight.
    #[inline(always)]
    pub(super) fn contribute(&mut self, ranks: &[f64], weight: f64) {
        let rest = &mut self.pieces[self.classes.class(weight)];
        if let Some(passed) = rest.split_off_mut(..ranks.len()) {
            super::contribute(ranks, weight, passed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_node_has_a_place_and_those_before_it_have_as_much_weight(
            weights in prop::collection::vec(prop_oneof![Just(0.0), 0.0f64..1e6, Just(1e-320), Just(1e300)], 0..200),
            block_nodes in 1usize..50,
        ) {
            let places = Places::new(&weights, block_nodes);
            let mut nodes = vec![usize::MAX; weights.len()];
            for (node, place) in places.of_nodes.iter().enumerate() {
                prop_assert_eq!(nodes[*place as usize], usize::MAX);
                nodes[*place as usize] = node;
            }
            for pair in nodes.windows(2) {
                let (before, after) = (weights[pair[0]], weights[pair[1]]);
                let largest = weights.iter().copied().fold(0.0, f64::max);
                let larger = before.max(after);
                // Numbers that are not normal all have the exponent of zero.
                let told_apart = larger.is_normal() && larger > largest / 2f64.powi(NOTHING as i32 - 2);
                prop_assert!(!told_apart || after < 2.0 * before, "{before} before {after}");
            }
        }

        #[test]
        fn what_a_node_passes_along_is_in_its_place(
            weights in prop::collection::vec(prop_oneof![Just(0.0), 0.1f64..1e6], 0..200),
            block_nodes in 1usize..50,
            vectors in 1usize..4,
        ) {
            let places = Places::new(&weights, block_nodes);
            let ranks: Vec<f64> = (0..weights.len() * vectors).map(|rank| rank as f64).collect();
            let passed = places.contributions(&ranks, &weights);
            let blocks = places.split(&mut passed.clone(), vectors).len();
            prop_assert_eq!(blocks, weights.len().div_ceil(block_nodes));
            let expected = super::super::contributions(&ranks, &weights);
            for (node, expected) in expected.chunks(vectors).enumerate() {
                let place = places.of_nodes[node] as usize * vectors;
                prop_assert_eq!(&passed[place..place + vectors], expected);
            }
            let mut of_blocks = vec![Vec::new(); blocks];
            for (node, _) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                let first = places.of_nodes[node] as usize * vectors;
                of_blocks[node / block_nodes].extend(first..first + vectors);
            }
            for (mut expected, pieces) in of_blocks.into_iter().zip(places.pieces(vectors)) {
                expected.sort();
                prop_assert_eq!(pieces.into_iter().flatten().collect::<Vec<_>>(), expected);
            }
        }
    }
}
