//! Several supersteps, one after another, by threads that share the memory with all blocks.

use super::{Measures, Nodes, Places, Step, Weight, error_bound, superstep};
use crate::csr::Csr;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::sync::Arc;

/// A graph whose blocks are all in memory.
#[derive(Debug, Clone, Copy)]
pub struct AllBlocks<'a, W> {
    /// The incoming edges of each block, which name the places of their sources.
    pub incoming: &'a [Arc<Csr<W>>],
    /// Where what nodes pass along is.
    pub places: &'a Places,
    /// The outgoing weight of each node.
    pub out_weights: &'a [f64],
    /// The share of each node in each teleport distribution, by block.
    pub teleport: &'a [&'a [f64]],
    /// Probability of following an edge.
    pub damping: f64,
}

/// What steps in a row have come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The ranks after the last step.
    pub ranks: Vec<f64>,
    /// What was measured in each step, for each block.
    pub measures: Vec<Vec<Measures>>,
}

impl<W: Weight> AllBlocks<'_, W> {
    /// One step: the next ranks and contributions, and what was measured in each block.
    fn step(
        &self,
        step: Step<'_>,
        before: &[f64],
        (ranks, passed): (&mut [f64], &mut [f64]),
    ) -> Vec<Measures> {
        let (vectors, nodes) = (step.vectors(), self.places.block_nodes);
        let mut measures = vec![Measures::new(vectors); self.incoming.len()];
        let own = self.out_weights.chunks(nodes).zip(self.teleport);
        let own = own.zip(before.chunks(nodes * vectors));
        let next = ranks.chunks_mut(nodes * vectors).zip(self.places.split(passed, vectors));
        let blocks: Vec<_> = self.incoming.iter().zip(own).zip(next.zip(&mut measures)).collect();
        blocks.into_par_iter().with_max_len(1).for_each(
            |((incoming, own), ((next, mut passed), measures))| {
                let ((out_weights, teleport), ranks) = own;
                let nodes = Nodes { out_weights, teleport, ranks };
                superstep(step, incoming, nodes, next, measures);
                passed.contribute(next, out_weights);
            },
        );
        measures
    }
}

/// As many steps as asked, or fewer if the bound of the error of every vector is at most `tolerance` before, by the threads
/// of the pool that it is called in. They come to the same, to the last bit, as steps block by block whose measures are
/// added up in the order of the blocks.
///
/// `dangling_mass` and `ranks` are those before the first step.
pub fn supersteps<W: Weight>(
    graph: AllBlocks<'_, W>,
    dangling_mass: &[f64],
    ranks: &[f64],
    (steps, tolerance): (usize, f64),
) -> Done {
    let mut before = ranks.to_vec();
    let mut passed = graph.places.contributions(&before, graph.out_weights);
    let (mut next, mut next_passed) = (vec![0.0; before.len()], vec![0.0; before.len()]);
    let mut total = Measures::new(dangling_mass.len());
    total.dangling_mass.copy_from_slice(dangling_mass);
    let mut measures = Vec::new();
    while measures.len() < steps {
        let (damping, dangling_mass) = (graph.damping, &total.dangling_mass);
        let step = Step { damping, dangling_mass, contributions: &passed };
        let measured = graph.step(step, &before, (&mut next, &mut next_passed));
        total = Measures::new(total.change.len());
        measured.iter().for_each(|block| total.add(block));
        measures.push(measured);
        std::mem::swap(&mut before, &mut next);
        std::mem::swap(&mut passed, &mut next_passed);
        if total.change.iter().all(|change| error_bound(*change, graph.damping) <= tolerance) {
            break;
        }
    }
    Done { ranks: before, measures }
}
