//! PageRank: one superstep over a block of nodes, pulling rank along their incoming edges.
//!
//! The update is that of Page, Brin, Motwani and Winograd, "The PageRank Citation Ranking" (1999),
//! with weighted edges and with the conventions of NetworkX: the rank of dangling nodes (those
//! without outgoing weight) is spread by the teleport distribution, and ranks sum to one.
//!
//! Several teleport distributions are a *block of vectors* (Haveliwala, "Topic-Sensitive PageRank", WWW 2002, has one
//! for each topic): a node has as many ranks, next to each other, and an edge is read once for all of them.

mod consecutive;
mod places;

pub use consecutive::{Blocks, Consecutive};
pub use places::Places;

use crate::csr::{Csr, Value};
use crate::prefetch;

/// What one superstep needs to know besides the block.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Probability of following an edge, in `[0, 1)`.
    pub damping: f64,
    /// Rank held by dangling nodes in the state before this step, over all blocks: a number for each vector.
    pub dangling_mass: &'a [f64],
    /// For every node of the graph, its ranks divided by its outgoing weight; zero if dangling. They are where the
    /// edges' columns say: in the order of the nodes, or in their [`Places`].
    pub contributions: &'a [f64],
}

impl Step<'_> {
    /// What each unit of teleport brings, for each vector.
    fn everywhere(&self) -> Vec<f64> {
        let everywhere = |mass: &f64| self.damping * mass + (1.0 - self.damping);
        self.dangling_mass.iter().map(everywhere).collect()
    }

    /// Asks for what will be passed along some edges later than those of a row. Most rows are so short that the processor,
    /// which doesn't know where they end, waits for each by itself otherwise.
    #[inline(always)]
    fn fetch_ahead<W: Weight>(&self, incoming: &Csr<W>, row: usize, vectors: usize) {
        /// How many edges later.
        const DISTANCE: usize = 64;
        for source in incoming.columns_ahead(row, DISTANCE) {
            let first = self.contributions.as_ptr().wrapping_add(*source as usize * vectors);
            prefetch::numbers(first, vectors);
        }
    }
}

/// A block's own nodes: slices as long as the block has rows, or as many times that as there are vectors.
#[derive(Debug, Clone, Copy)]
pub struct Nodes<'a> {
    /// Sum of the weights of each node's outgoing edges; zero for a dangling node.
    pub out_weights: &'a [f64],
    /// Each node's share of each teleport distribution, which sums to one over the graph.
    pub teleport: &'a [f64],
    /// Each node's ranks before this step.
    pub ranks: &'a [f64],
}

/// What a block contributes to the decision whether to go on, for each vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// Sum of the absolute rank changes.
    pub change: Vec<f64>,
    /// Rank now held by the block's dangling nodes.
    pub dangling_mass: Vec<f64>,
}

impl Measures {
    /// Nothing yet.
    pub fn new(vectors: usize) -> Self {
        Self { change: vec![0.0; vectors], dangling_mass: vec![0.0; vectors] }
    }

    /// All numbers: the changes, then the masses.
    pub fn to_vec(&self) -> Vec<f64> {
        [self.change.as_slice(), &self.dangling_mass].concat()
    }
}

/// The weight of an edge: a number, or none where all are 1.
pub trait Weight: Value {
    /// What an edge passes along of a node's contribution.
    fn pass(self, contribution: f64) -> f64;
}

impl Weight for f64 {
    #[inline]
    fn pass(self, contribution: f64) -> f64 {
        contribution * self
    }
}

impl Weight for () {
    #[inline]
    fn pass(self, contribution: f64) -> f64 {
        contribution
    }
}

/// What the edges of a node pass along to it, of one vector.
///
/// Several sums, added up in the end: with one, each addition would wait for the one before.
fn pull<W: Weight>(contributions: &[f64], sources: &[u32], weights: &[W]) -> f64 {
    const SUMS: usize = 4;
    let mut sums = [0.0; SUMS];
    let (many, few) = sources.as_chunks::<SUMS>();
    let (of_many, of_few) = weights.as_chunks::<SUMS>();
    for (sources, weights) in many.iter().zip(of_many) {
        for at in 0..SUMS {
            sums[at] += weights[at].pass(contributions[sources[at] as usize]);
        }
    }
    for ((sum, source), weight) in sums.iter_mut().zip(few).zip(of_few) {
        *sum += weight.pass(contributions[*source as usize]);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// What the edges of a node pass along to it, of several vectors.
fn pull_vectors<W: Weight>(
    contributions: &[f64],
    sources: &[u32],
    weights: &[W],
    pulled: &mut [f64],
) {
    pulled.fill(0.0);
    for (source, weight) in sources.iter().zip(weights) {
        let passed = &contributions[*source as usize * pulled.len()..][..pulled.len()];
        for (sum, contribution) in pulled.iter_mut().zip(passed) {
            *sum += weight.pass(*contribution);
        }
    }
}

/// Computes the next ranks of a block's nodes, and adds what they change to `measures`.
///
/// `incoming` has a row for each of the nodes, with the sources of its edges as columns and their
/// weights as values.
pub fn superstep<W: Weight>(
    step: Step<'_>,
    incoming: &Csr<W>,
    nodes: Nodes<'_>,
    ranks: &mut [f64],
    measures: &mut Measures,
) {
    superstep_then(step, incoming, nodes, ranks, measures, |_, _| ());
}

/// The same. `then` is told the ranks and the outgoing weight of each node, one after another: what is done with them costs
/// little while the edges of the next nodes are waited for.
fn superstep_then<W: Weight>(
    step: Step<'_>,
    incoming: &Csr<W>,
    nodes: Nodes<'_>,
    ranks: &mut [f64],
    measures: &mut Measures,
    then: impl FnMut(&[f64], f64),
) {
    let everywhere = step.everywhere();
    match (&everywhere[..], &mut measures.change[..], &mut measures.dangling_mass[..]) {
        ([everywhere], [change], [mass]) => {
            // The sums are in registers: most graphs have one vector.
            let sums = (*change, *mass);
            (*change, *mass) = one_vector(step, *everywhere, incoming, nodes, ranks, sums, then);
        }
        _ => several_vectors(step, &everywhere, incoming, nodes, ranks, measures, then),
    }
}

fn one_vector<W: Weight>(
    step: Step<'_>,
    everywhere: f64,
    incoming: &Csr<W>,
    nodes: Nodes<'_>,
    ranks: &mut [f64],
    (mut change, mut mass): (f64, f64),
    mut then: impl FnMut(&[f64], f64),
) -> (f64, f64) {
    let own = nodes.ranks.iter().zip(nodes.teleport).zip(nodes.out_weights);
    for (row, (next, ((before, teleport), out_weight))) in ranks.iter_mut().zip(own).enumerate() {
        step.fetch_ahead(incoming, row, 1);
        let (sources, weights) = incoming.row(row);
        let pulled = pull(step.contributions, sources, weights);
        *next = step.damping * pulled + everywhere * teleport;
        change += (*next - before).abs();
        // Which nodes are dangling can't be foreseen: nothing is added for those that are not.
        mass += if *out_weight == 0.0 { *next } else { 0.0 };
        then(std::slice::from_ref(next), *out_weight);
    }
    (change, mass)
}

fn several_vectors<W: Weight>(
    step: Step<'_>,
    everywhere: &[f64],
    incoming: &Csr<W>,
    nodes: Nodes<'_>,
    ranks: &mut [f64],
    measures: &mut Measures,
    mut then: impl FnMut(&[f64], f64),
) {
    let vectors = everywhere.len();
    let mut pulled = vec![0.0; vectors];
    for (row, next) in ranks.chunks_exact_mut(vectors).enumerate() {
        step.fetch_ahead(incoming, row, vectors);
        let (sources, weights) = incoming.row(row);
        pull_vectors(step.contributions, sources, weights, &mut pulled);
        let out_weight = nodes.out_weights[row];
        let own = row * vectors..(row + 1) * vectors;
        let before = nodes.ranks[own.clone()].iter().zip(&nodes.teleport[own]);
        for (at, (next, (before, teleport))) in next.iter_mut().zip(before).enumerate() {
            *next = step.damping * pulled[at] + everywhere[at] * teleport;
            measures.change[at] += (*next - before).abs();
            if out_weight == 0.0 {
                measures.dangling_mass[at] += *next;
            }
        }
        then(next, out_weight);
    }
}

/// What each node passes along an edge of weight one, in the order of the nodes: its ranks, one for each vector, divided by
/// its outgoing weight.
pub fn contributions(ranks: &[f64], out_weights: &[f64]) -> Vec<f64> {
    let vectors = (ranks.len() / out_weights.len().max(1)).max(1);
    let mut passed = vec![0.0; ranks.len()];
    let nodes = passed.chunks_exact_mut(vectors).zip(ranks.chunks_exact(vectors));
    for ((passed, ranks), weight) in nodes.zip(out_weights) {
        contribute(ranks, *weight, passed);
    }
    passed
}

/// What a node passes along.
#[inline]
fn contribute(ranks: &[f64], weight: f64, passed: &mut [f64]) {
    // Nothing, if it is divided by infinity: which nodes are dangling can't be foreseen.
    let divisor = if weight == 0.0 { f64::INFINITY } else { weight };
    passed.iter_mut().zip(ranks).for_each(|(passed, rank)| *passed = rank / divisor);
}

/// An upper bound of the L1 distance to the fixed point, after a step that changed ranks by
/// `change` in L1: the update contracts by `damping`, so the distance is at most
/// `change · damping / (1 − damping)`.
pub fn error_bound(change: f64, damping: f64) -> f64 {
    change * damping / (1.0 - damping)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::Duplicates;
    use proptest::prelude::*;
    use std::sync::Arc;

    impl Measures {
        /// Adds what another block contributes.
        fn add(&mut self, other: &Self) {
            let changes = self.change.iter_mut().zip(&other.change);
            let masses = self.dangling_mass.iter_mut().zip(&other.dangling_mass);
            changes.chain(masses).for_each(|(sum, value)| *sum += value);
        }
    }

    fn without_weights(block: &Csr<f64>) -> Csr<()> {
        let Csr { first_row, offsets, columns, values } = block.clone();
        Csr { first_row, offsets, columns, values: vec![(); values.len()] }
    }

    /// A graph in blocks. Without weights if all are 1.
    struct Graph {
        out_weights: Vec<f64>,
        incoming: Vec<Arc<Csr<f64>>>,
        ones: bool,
    }

    impl Graph {
        fn new(nodes: usize, edges: &[(u32, u32, f64)], blocks: usize) -> Self {
            let mut out_weights = vec![0.0; nodes];
            for edge in edges {
                out_weights[edge.0 as usize] += edge.2;
            }
            let ones = edges.iter().all(|edge| edge.2 == 1.0);
            let size = nodes.div_ceil(blocks);
            let incoming = (0..nodes.div_ceil(size)).map(|block| {
                let range = block * size..((block + 1) * size).min(nodes);
                let entries = edges
                    .iter()
                    .filter(|edge| range.contains(&(edge.1 as usize)))
                    .map(|edge| (edge.1, edge.0, edge.2));
                let duplicates = if ones { Duplicates::Keep } else { Duplicates::Add };
                Arc::new(Csr::from_entries(range.start as u32, range.len(), entries, duplicates))
            });
            Self { out_weights, incoming: incoming.collect(), ones }
        }

        /// One step, block by block.
        fn step(&self, step: Step<'_>, teleport: &[f64], before: &[f64]) -> (Vec<f64>, Measures) {
            let vectors = step.dangling_mass.len();
            let (mut ranks, mut total) = (vec![0.0; before.len()], Measures::new(vectors));
            for block in &self.incoming {
                let range = block.first_row as usize..block.first_row as usize + block.rows();
                let own = range.start * vectors..range.end * vectors;
                let out_weights = &self.out_weights[range];
                let (teleport, before) = (&teleport[own.clone()], &before[own.clone()]);
                let nodes = Nodes { out_weights, teleport, ranks: before };
                let (next, mut measures) = (&mut ranks[own], Measures::new(vectors));
                match self.ones {
                    true => superstep(step, &without_weights(block), nodes, next, &mut measures),
                    false => superstep(step, block, nodes, next, &mut measures),
                }
                total.add(&measures);
            }
            (ranks, total)
        }

        /// Ranks from `teleport` on until the bound is under 1e-13, and the number of steps; node by node, the ranks of
        /// all vectors.
        fn iterate(&self, damping: f64, teleport: &[f64]) -> (Vec<f64>, usize) {
            let vectors = teleport.len() / self.out_weights.len();
            let mut ranks = teleport.to_vec();
            let mut dangling_mass = self.dangling_mass(teleport);
            for steps in 1.. {
                let contributions = contributions(&ranks, &self.out_weights);
                let (damping, dangling) = (damping, dangling_mass.as_slice());
                let step = Step { damping, dangling_mass: dangling, contributions: &contributions };
                let (next, measures) = self.step(step, teleport, &ranks);
                ranks = next;
                dangling_mass = measures.dangling_mass;
                let largest = measures.change.iter().copied().fold(0.0, f64::max);
                assert_eq!(measures.change.len(), vectors);
                if error_bound(largest, damping) < 1e-13 {
                    return (ranks, steps);
                }
            }
            unreachable!("each step is closer")
        }

        fn dangling_mass(&self, ranks: &[f64]) -> Vec<f64> {
            let vectors = ranks.len() / self.out_weights.len();
            let mut mass = vec![0.0; vectors];
            for (ranks, weight) in ranks.chunks(vectors).zip(&self.out_weights) {
                if *weight == 0.0 {
                    mass.iter_mut().zip(ranks).for_each(|(mass, rank)| *mass += rank);
                }
            }
            mass
        }
    }

    /// The numbers of each vector divided by their sum.
    fn shares(numbers: &[f64], vectors: usize) -> Vec<f64> {
        let sum = |vector: usize| numbers.iter().skip(vector).step_by(vectors).sum::<f64>();
        let sums: Vec<f64> = (0..vectors).map(sum).collect();
        numbers.iter().zip(sums.iter().cycle()).map(|(number, sum)| number / sum).collect()
    }

    fn ranks(nodes: usize, edges: &[(u32, u32, f64)], damping: f64, blocks: usize) -> Vec<f64> {
        let teleport = vec![1.0 / nodes as f64; nodes];
        Graph::new(nodes, edges, blocks).iterate(damping, &teleport).0
    }

    /// The definition, solved densely: `(I − d·M) r = (1 − d)/n` by Gaussian elimination.
    fn dense(nodes: usize, edges: &[(u32, u32, f64)], damping: f64) -> Vec<f64> {
        let n = nodes;
        let mut matrix = vec![vec![0.0; n + 1]; n];
        let mut weight = vec![vec![0.0; n]; n];
        for edge in edges {
            weight[edge.0 as usize][edge.1 as usize] += edge.2;
        }
        for source in 0..n {
            let total: f64 = weight[source].iter().sum();
            for target in 0..n {
                let share =
                    if total == 0.0 { 1.0 / n as f64 } else { weight[source][target] / total };
                matrix[target][source] = -damping * share;
            }
        }
        for (node, row) in matrix.iter_mut().enumerate() {
            row[node] += 1.0;
            row[n] = (1.0 - damping) / n as f64;
        }
        for column in 0..n {
            let pivot = matrix[column].clone();
            for (row, values) in matrix.iter_mut().enumerate() {
                if row != column {
                    let factor = values[column] / pivot[column];
                    values.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
                }
            }
        }
        (0..n).map(|node| matrix[node][n] / matrix[node][node]).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_dense_solution(
            edges in prop::collection::vec((0u32..9, 0u32..9, 1u32..5), 0..40),
            ones in any::<bool>(),
            damping in 0.05f64..0.95,
            blocks in 1usize..5,
        ) {
            let weight = |weight| if ones { 1.0 } else { f64::from(weight) };
            let edges: Vec<_> = edges.into_iter().map(|(s, t, w)| (s, t, weight(w))).collect();
            let actual = ranks(9, &edges, damping, blocks);
            let expected = dense(9, &edges, damping);
            let distance: f64 = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).sum();
            prop_assert!(distance < 1e-11, "{distance}");
            prop_assert!((actual.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let in_one = ranks(9, &edges, damping, 1);
            let distance: f64 = actual.iter().zip(&in_one).map(|(a, e)| (a - e).abs()).sum();
            prop_assert!(distance < 1e-13, "{distance}: the number of blocks shows");
        }

        #[test]
        fn steps_in_a_row_are_the_steps_one_by_one(
            edges in prop::collection::vec((0u32..9, 0u32..9, 1u32..3), 0..40),
            teleport in prop::collection::vec(0.1f64..1.0, 18),
            vectors in 1usize..3,
            blocks in 1usize..5,
            threads in 1usize..4,
            tasks in 1usize..4,
        ) {
            let edges: Vec<_> = edges.into_iter().map(|(s, t, w)| (s, t, f64::from(w))).collect();
            let graph = Graph::new(9, &edges, blocks);
            let teleport = &shares(&teleport[..9 * vectors], vectors);
            let damping = 0.3;
            let size = 9usize.div_ceil(blocks);
            let of_block: Vec<_> = teleport.chunks(size * vectors).collect();
            let places = Places::new(&graph.out_weights, size);
            let mut incoming = graph.incoming.clone();
            incoming.iter_mut().for_each(|block| places.apply(Arc::make_mut(block)));
            // As many tasks, each with some of the blocks.
            let shares: Vec<Vec<u32>> = (0..tasks)
                .map(|task| (0..incoming.len() as u32).skip(task).step_by(tasks).collect())
                .collect();
            let of_share = |numbers: &[u32]| -> (Vec<_>, Vec<_>) {
                numbers.iter().map(|at| *at as usize).map(|at| (incoming[at].clone(), of_block[at])).unzip()
            };
            let parts: Vec<_> = shares.iter().map(|numbers| of_share(numbers)).collect();
            let blocks: Vec<_> = shares.iter().zip(&parts).map(|(numbers, (incoming, teleport))| {
                let (places, out_weights) = (&places, graph.out_weights.as_slice());
                Blocks { numbers, incoming, teleport, places, out_weights, damping }
            }).collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let begin = |blocks: &Blocks<'_, f64>| pool.install(|| Consecutive::new(*blocks, teleport));
            let mut states: Vec<Consecutive> = blocks.iter().map(begin).collect();
            let mut mass = graph.dangling_mass(teleport);
            let (expected, steps) = graph.iterate(damping, teleport);
            let (mut written, mut packed) = (Vec::new(), vec![f64::NAN; 5]);
            for _ in 0..steps {
                let mut measures = vec![Measures::new(vectors); incoming.len()];
                let mut passed = vec![Vec::new(); incoming.len()];
                for (state, blocks) in states.iter_mut().zip(&blocks) {
                    let measured = pool.install(|| state.step(*blocks, &mass));
                    // What was there before, of another length, doesn't matter.
                    let lengths = pool.install(|| state.pack(*blocks, &mut packed));
                    let mut rest = packed.as_slice();
                    let measured = measured.into_iter().zip(lengths);
                    for (block, (measured, length)) in blocks.numbers.iter().zip(measured) {
                        measures[*block as usize] = measured;
                        passed[*block as usize] = rest.split_off(..length).unwrap().to_vec();
                    }
                    prop_assert!(rest.is_empty());
                    // What somebody still writes stays as it is.
                    if threads > 1 {
                        written.push((Arc::clone(state.ranks()), state.ranks().to_vec()));
                    }
                }
                for (state, blocks) in states.iter_mut().zip(&blocks) {
                    let others = (0..incoming.len() as u32).filter(|block| !blocks.numbers.contains(block));
                    let others = others.map(|block| (block, passed[block as usize].as_slice())).collect();
                    let read = |mut passed: &[f64], pieces: Vec<&mut [f64]>| {
                        for piece in pieces {
                            piece.copy_from_slice(passed.split_off(..piece.len()).unwrap());
                        }
                        Ok::<_, ()>(())
                    };
                    pool.install(|| state.receive(*blocks, others, read)).unwrap();
                }
                let mut total = Measures::new(vectors);
                measures.iter().for_each(|block| total.add(block));
                mass = total.dangling_mass;
            }
            let mut ranks = vec![Vec::new(); incoming.len()];
            for (state, blocks) in states.iter().zip(&blocks) {
                let mut rest = state.ranks().as_slice();
                for block in blocks.numbers {
                    let numbers = of_block[*block as usize].len();
                    ranks[*block as usize] = rest.split_off(..numbers).unwrap().to_vec();
                }
            }
            prop_assert_eq!(ranks.concat(), expected);
            prop_assert!(written.iter().all(|(shared, then)| **shared == *then));
        }

        #[test]
        fn vectors_are_those_that_each_comes_to_alone(
            edges in prop::collection::vec((0u32..9, 0u32..9, 1u32..5), 0..40),
            teleport in prop::collection::vec(0.1f64..1.0, 27),
        ) {
            let edges: Vec<_> = edges.into_iter().map(|(s, t, w)| (s, t, f64::from(w))).collect();
            let graph = Graph::new(9, &edges, 2);
            let teleport = shares(&teleport, 3);
            let (together, _) = graph.iterate(0.85, &teleport);
            for vector in 0..3 {
                let of_vector = |all: &[f64]| -> Vec<f64> {
                    all.iter().skip(vector).step_by(3).copied().collect()
                };
                let (alone, _) = graph.iterate(0.85, &of_vector(&teleport));
                for (one, other) in of_vector(&together).iter().zip(&alone) {
                    prop_assert!((one - other).abs() < 1e-11, "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn one_node_with_a_self_loop_has_all_the_rank() {
        assert_eq!(ranks(1, &[(0, 0, 3.0)], 0.85, 1), [1.0]);
    }
}
