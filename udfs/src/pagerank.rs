//! PageRank: one superstep over a block of nodes, pulling rank along their incoming edges.
//!
//! The update is that of Page, Brin, Motwani and Winograd, "The PageRank Citation Ranking" (1999),
//! with weighted edges and with the conventions of NetworkX: the rank of dangling nodes (those
//! without outgoing weight) is spread by the teleport distribution, and ranks sum to one.

use crate::csr::{Csr, Value};

/// What one superstep needs to know besides the block.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Probability of following an edge, in `[0, 1)`.
    pub damping: f64,
    /// Rank held by dangling nodes in the state before this step, over all blocks.
    pub dangling_mass: f64,
    /// For every node of the graph, its rank divided by its outgoing weight; zero if dangling.
    pub contributions: &'a [f64],
}

/// A block's own nodes: slices as long as the block has rows.
#[derive(Debug, Clone, Copy)]
pub struct Nodes<'a> {
    /// Sum of the weights of each node's outgoing edges; zero for a dangling node.
    pub out_weights: &'a [f64],
    /// Each node's share of the teleport distribution, which sums to one over the graph.
    pub teleport: &'a [f64],
    /// Each node's rank before this step.
    pub ranks: &'a [f64],
}

/// What a block contributes to the decision whether to go on.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Measures {
    /// Sum of the absolute rank changes.
    pub change: f64,
    /// Rank now held by the block's dangling nodes.
    pub dangling_mass: f64,
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

/// What the edges of a node pass along to it.
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
    let everywhere = step.damping * step.dangling_mass + (1.0 - step.damping);
    for (row, next) in ranks.iter_mut().enumerate() {
        let (sources, weights) = incoming.row(row);
        let pulled = pull(step.contributions, sources, weights);
        let rank = step.damping * pulled + everywhere * nodes.teleport[row];
        *next = rank;
        measures.change += (rank - nodes.ranks[row]).abs();
        if nodes.out_weights[row] == 0.0 {
            measures.dangling_mass += rank;
        }
    }
}

/// What each node passes along an edge of weight one.
pub fn contributions(ranks: &[f64], out_weights: &[f64]) -> Vec<f64> {
    let passed = |(rank, weight): (&f64, &f64)| if *weight == 0.0 { 0.0 } else { rank / weight };
    ranks.iter().zip(out_weights).map(passed).collect()
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

    fn without_weights(block: &Csr<f64>) -> Csr<()> {
        let Csr { first_row, offsets, columns, values } = block.clone();
        Csr { first_row, offsets, columns, values: vec![(); values.len()] }
    }

    /// Runs the kernel over `blocks` blocks until the bound is under 1e-13. Without weights if all are 1.
    fn ranks(nodes: usize, edges: &[(u32, u32, f64)], damping: f64, blocks: usize) -> Vec<f64> {
        let mut out_weights = vec![0.0; nodes];
        for edge in edges {
            out_weights[edge.0 as usize] += edge.2;
        }
        let ones = edges.iter().all(|edge| edge.2 == 1.0);
        let teleport = vec![1.0 / nodes as f64; nodes];
        let size = nodes.div_ceil(blocks);
        let incoming: Vec<_> = (0..nodes.div_ceil(size))
            .map(|block| {
                let range = block * size..((block + 1) * size).min(nodes);
                let entries = edges
                    .iter()
                    .filter(|edge| range.contains(&(edge.1 as usize)))
                    .map(|edge| (edge.1, edge.0, edge.2))
                    .collect();
                let duplicates = if ones { Duplicates::Keep } else { Duplicates::Add };
                Csr::from_entries(range.start as u32, range.len(), entries, duplicates)
            })
            .collect();
        let mut current = teleport.clone();
        loop {
            let contributions = contributions(&current, &out_weights);
            let dangling_mass =
                (0..nodes).filter(|n| out_weights[*n] == 0.0).map(|n| current[n]).sum();
            let step = Step { damping, dangling_mass, contributions: &contributions };
            let mut next = vec![0.0; nodes];
            let mut measures = Measures::default();
            for block in &incoming {
                let range = block.first_row as usize..block.first_row as usize + block.rows();
                let own = Nodes {
                    out_weights: &out_weights[range.clone()],
                    teleport: &teleport[range.clone()],
                    ranks: &current[range.clone()],
                };
                let next = &mut next[range];
                match ones {
                    true => superstep(step, &without_weights(block), own, next, &mut measures),
                    false => superstep(step, block, own, next, &mut measures),
                }
            }
            current = next;
            if error_bound(measures.change, damping) < 1e-13 {
                return current;
            }
        }
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
            prop_assert_eq!(&actual, &ranks(9, &edges, damping, 1), "the number of blocks shows");
        }
    }

    #[test]
    fn one_node_with_a_self_loop_has_all_the_rank() {
        assert_eq!(ranks(1, &[(0, 0, 3.0)], 0.85, 1), [1.0]);
    }
}
