//! Several supersteps, one after another, on blocks that stay in memory between them.

use super::{Measures, Nodes, Places, Step, Weight, superstep_then};
use crate::csr::Csr;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::ops::Range;
use std::sync::Arc;

/// Some blocks of a graph, or all.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a, W> {
    /// Their numbers, ascending.
    pub numbers: &'a [u32],
    /// The incoming edges of each of them, which name the places of their sources.
    pub incoming: &'a [Arc<Csr<W>>],
    /// The share of each of their nodes in each teleport distribution, by block.
    pub teleport: &'a [&'a [f64]],
    /// Where what nodes pass along is.
    pub places: &'a Places,
    /// The outgoing weight of each node of the graph.
    pub out_weights: &'a [f64],
    /// Probability of following an edge.
    pub damping: f64,
}

impl<W> Blocks<'_, W> {
    /// The nodes of a block.
    fn nodes(&self, block: u32) -> Range<usize> {
        let first = block as usize * self.places.block_nodes;
        first..(first + self.places.block_nodes).min(self.out_weights.len())
    }
}

/// The ranks of some blocks' nodes, and what all nodes pass along.
///
/// After a step, what the nodes of other blocks pass along is what they passed before, until it was [received](Self::receive).
#[derive(Debug)]
pub struct Consecutive {
    vectors: usize,
    /// Those of the blocks, one after another, and what they were before the last step: shared with whoever writes them.
    ranks: Arc<Vec<f64>>,
    before: Arc<Vec<f64>>,
    /// What all nodes pass along, in their places.
    passed: Vec<f64>,
    /// Room for what is passed along after a step.
    next_passed: Vec<f64>,
}

impl Consecutive {
    /// Begins with the `ranks` of all nodes, by the threads of the pool that it is called in.
    pub fn new<W: Weight>(blocks: Blocks<'_, W>, ranks: &[f64]) -> Self {
        let vectors = ranks.len() / blocks.out_weights.len().max(1);
        let passed = blocks.places.contributions(ranks, blocks.out_weights);
        let own = blocks.numbers.iter().flat_map(|block| {
            let nodes = blocks.nodes(*block);
            &ranks[nodes.start * vectors..nodes.end * vectors]
        });
        let own: Arc<Vec<f64>> = Arc::new(own.copied().collect());
        let (before, next_passed) = (Arc::clone(&own), vec![0.0; passed.len()]);
        Self { vectors, ranks: own, before, passed, next_passed }
    }

    /// The ranks of the blocks' nodes, block after block.
    pub fn ranks(&self) -> &Arc<Vec<f64>> {
        &self.ranks
    }

    /// These ranks before the last step.
    pub fn before(&self) -> &Arc<Vec<f64>> {
        &self.before
    }

    /// Puts what the blocks' nodes pass along after the last step into one piece, block after block, by the threads of the
    /// pool that it is called in, and returns how many numbers each block has there. Nodes without outgoing weight, which
    /// pass nothing along, have none.
    pub fn pack<W>(&self, blocks: Blocks<'_, W>, packed: &mut Vec<f64>) -> Vec<usize> {
        let mut of_all = blocks.places.pieces(self.vectors);
        let of_block = |block: &u32| of_all.get_mut(*block as usize).map(std::mem::take);
        let of_blocks: Vec<_> = blocks.numbers.iter().filter_map(of_block).collect();
        let length = |pieces: &Vec<Range<usize>>| pieces.iter().map(Range::len).sum();
        let lengths: Vec<usize> = of_blocks.iter().map(length).collect();
        packed.resize(lengths.iter().sum(), 0.0);
        let mut rest = packed.as_mut_slice();
        let parts = lengths.iter().map(|length| rest.split_off_mut(..*length).unwrap_or_default());
        let parts: Vec<_> = parts.zip(of_blocks).collect();
        parts.into_par_iter().with_max_len(1).for_each(|(mut part, pieces)| {
            for piece in pieces {
                let from = &self.passed[piece];
                if let Some(to) = part.split_off_mut(..from.len()) {
                    to.copy_from_slice(from);
                }
            }
        });
        lengths
    }

    /// Bytes that they take in memory.
    pub fn size(&self) -> usize {
        let parts = [self.ranks.as_slice(), &self.before, &self.passed, &self.next_passed];
        parts.into_iter().map(size_of_val).sum()
    }

    /// One step, by the threads of the pool that it is called in: what was measured in each of the blocks. It is the same, to
    /// the last bit, as a [`superstep`](super::superstep) on each of them.
    pub fn step<W: Weight>(
        &mut self,
        blocks: Blocks<'_, W>,
        dangling_mass: &[f64],
    ) -> Vec<Measures> {
        let vectors = self.vectors;
        std::mem::swap(&mut self.ranks, &mut self.before);
        if Arc::get_mut(&mut self.ranks).is_none() {
            // Somebody still has what was there.
            self.ranks = Arc::new(vec![0.0; self.before.len()]);
        }
        let mut next = Arc::get_mut(&mut self.ranks).map(Vec::as_mut_slice).unwrap_or_default();
        let mut before = self.before.as_slice();
        let contributions = self.passed.as_slice();
        let step = Step { damping: blocks.damping, dangling_mass, contributions };
        let mut measures = vec![Measures::new(vectors); blocks.numbers.len()];
        let passed = blocks.places.split(&mut self.next_passed, vectors).into_iter();
        let mut passed: Vec<_> = passed.map(Some).collect();
        let own = blocks.numbers.iter().zip(&mut measures).map(|(block, measures)| {
            let nodes = blocks.nodes(*block);
            let numbers = nodes.len() * vectors;
            let next = next.split_off_mut(..numbers).unwrap_or_default();
            let before = before.split_off(..numbers).unwrap_or_default();
            let passed = passed.get_mut(*block as usize).and_then(Option::take);
            (&blocks.out_weights[nodes], before, next, passed, measures)
        });
        let own: Vec<_> = own.zip(blocks.incoming.iter().zip(blocks.teleport)).collect();
        own.into_par_iter().with_max_len(1).for_each(|(own, (incoming, teleport))| {
            let (out_weights, ranks, next, mut passed, measures) = own;
            let nodes = Nodes { out_weights, teleport, ranks };
            let then = |ranks: &[f64], weight| {
                passed.iter_mut().for_each(|passed| passed.contribute(ranks, weight));
            };
            superstep_then(step, incoming, nodes, next, measures, then);
        });
        std::mem::swap(&mut self.passed, &mut self.next_passed);
        measures
    }

    /// Receives what the nodes of other blocks pass along after the last step, by the threads of the pool that it is
    /// called in. That of each block is read by `read`, into the pieces that make up what [`Self::pack`] has of it.
    pub fn receive<W: Weight, R: Send, E: Send>(
        &mut self,
        blocks: Blocks<'_, W>,
        others: Vec<(u32, R)>,
        read: impl Fn(R, Vec<&mut [f64]>) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let passed = blocks.places.split(&mut self.passed, self.vectors).into_iter();
        let mut passed: Vec<_> = passed.map(Some).collect();
        let others = others.into_iter().filter_map(|(block, from)| {
            let passed = passed.get_mut(block as usize).and_then(Option::take)?;
            Some((from, passed.of_nodes_with_weight()))
        });
        let others: Vec<_> = others.collect();
        others.into_par_iter().with_max_len(1).try_for_each(|(from, pieces)| read(from, pieces))
    }
}
