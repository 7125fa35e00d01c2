//! PageRank on blocks of nodes: starting ranks, and a step along the incoming edges.
//!
//! A state has a rank of each node for each teleport distribution: a vector.

mod several;

use super::exec::{Kernel, Measured, Task, measures_batch, measures_of_all};
use super::groups::Groups;
use super::layout::{Folder, Partitioned};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use nightshift_udfs::csr::Csr;
use nightshift_udfs::pagerank::{self, Measures, Nodes, Places, Step, Weight, contributions};
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::spawn_blocking;

/// Parts that are read or written at the same time.
const AT_ONCE: usize = 16;

/// What all steps of one PageRank share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankGraph {
    /// How the nodes are cut.
    pub cut: Partitioned,
    /// How many edges there are.
    pub edges: u64,
    /// The incoming edges of each block.
    pub incoming: Folder,
    /// Whether they have weights. If not, all are 1.
    pub weighted: bool,
    /// The outgoing weight of each node.
    pub out_weights: Folder,
    /// The teleport distributions; a uniform one if there is none.
    pub teleport: Option<Distributions>,
}

/// Numbers of each node, one for each vector, which become distributions when they are divided by the vector's sum.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Distributions {
    /// The numbers, in parts as those of a state.
    pub weights: Folder,
    /// The sum for each vector.
    pub sums: Vec<f64>,
}

impl Distributions {
    async fn read(&self, task: Task<'_>, cut: Partitioned) -> Result<Vec<f64>> {
        let (count, name) = (cut.rows(task.block) * self.sums.len(), Folder::part(task.block));
        let weights: Vec<f64> = self.weights.numbers(task.runtime, &name, count).await?;
        Ok(weights.iter().zip(self.sums.iter().cycle()).map(|(weight, sum)| weight / sum).collect())
    }
}

impl PageRankGraph {
    /// How many ranks a node has.
    pub fn vectors(&self) -> usize {
        self.teleport.as_ref().map_or(1, |teleport| teleport.sums.len())
    }

    /// Bytes of each node that a step needs of: its outgoing weight, and so many numbers for each vector.
    fn node_bytes(&self, numbers: usize) -> usize {
        (1 + numbers * self.vectors()) * size_of::<f64>()
    }

    /// Whether that much of all nodes, and their places, are kept in memory.
    fn is_held(&self, task: Task<'_>, numbers: usize) -> bool {
        let bytes = self.node_bytes(numbers) + size_of::<u32>();
        task.resident.holds(self.cut.count as usize * bytes)
    }

    /// Bytes of so many blocks in memory, if all are of the same size.
    fn block_bytes(&self, blocks: usize) -> usize {
        let entry = size_of::<u32>() + if self.weighted { size_of::<f64>() } else { 0 };
        let all = self.edges as usize * entry + self.cut.count as usize * size_of::<u64>();
        (all / self.cut.blocks().max(1) as usize).saturating_mul(blocks)
    }

    async fn out_weights(&self, task: Task<'_>) -> Result<Arc<Vec<f64>>> {
        let rows = self.cut.rows(task.block);
        let name = Folder::part(task.block);
        task.resident.numbers(task.runtime, &self.out_weights, &name, rows).await
    }

    async fn teleport(&self, task: Task<'_>) -> Result<Arc<Vec<f64>>> {
        let read = async {
            let shares = match &self.teleport {
                None => vec![1.0 / self.cut.count as f64; self.cut.rows(task.block)],
                Some(teleport) => teleport.read(task, self.cut).await?,
            };
            let bytes = shares.len() * size_of::<f64>();
            Ok((shares, bytes))
        };
        let folder = self.teleport.as_ref().map_or(&self.incoming, |teleport| &teleport.weights);
        let name = format!("shares of {}{}", folder.0, Folder::part(task.block));
        task.resident.get(name, read).await
    }

    async fn all_out_weights(&self, task: Task<'_>) -> Result<Arc<Vec<f64>>> {
        task.resident.state(task, &self.out_weights, self.cut, 1).await
    }

    /// Where what all nodes pass along is.
    async fn places(&self, task: Task<'_>) -> Result<Arc<Places>> {
        let compute = async {
            let (out_weights, nodes) = (self.all_out_weights(task).await?, self.cut.block_rows);
            let places = move |_: &ThreadPool| Places::new(&out_weights, nodes as usize);
            let places = task.threads.run(places).await?;
            let bytes = places.size();
            Ok((places, bytes))
        };
        task.resident.get(format!("places of {}", self.out_weights.0), compute).await
    }

    /// The incoming edges of the block, by the numbers of their sources.
    async fn incoming<W: Weight>(&self, task: Task<'_>) -> Result<Arc<Csr<W>>> {
        self.whole(task, task.csr(&self.incoming).await?)
    }

    /// The incoming edges of the block, by the places of their sources.
    async fn incoming_from<W: Weight>(
        &self,
        task: Task<'_>,
        places: &Arc<Places>,
    ) -> Result<Arc<Csr<W>>> {
        let places = Arc::clone(places);
        let apply = move |incoming: &mut Csr<W>| places.apply(incoming);
        let incoming = task.resident.block(task, &self.incoming, (" in places", apply)).await?;
        self.whole(task, incoming)
    }

    fn whole<W: Weight>(&self, task: Task<'_>, incoming: Arc<Csr<W>>) -> Result<Arc<Csr<W>>> {
        if incoming.rows() != self.cut.rows(task.block) {
            return Err(JobError::Damaged {
                what: format!("{}{}", self.incoming.0, Folder::part(task.block)),
                reason: format!("it has {} nodes", incoming.rows()),
            });
        }
        Ok(incoming)
    }
}

/// Adds up numbers of nodes. Measures: a sum for each vector.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VectorSums {
    /// How the nodes are cut.
    pub cut: Partitioned,
    /// The numbers of each node, one for each vector.
    pub weights: Folder,
    /// How many vectors there are.
    pub vectors: usize,
}

#[async_trait]
impl Kernel for VectorSums {
    fn name(&self) -> &'static str {
        "vector-sums"
    }

    fn blocks(&self) -> u32 {
        self.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let (count, name) = (self.cut.rows(task.block) * self.vectors, Folder::part(task.block));
        let weights: Vec<f64> = self.weights.numbers(task.runtime, &name, count).await?;
        let mut sums = vec![0.0; self.vectors];
        for of_node in weights.chunks_exact(self.vectors) {
            sums.iter_mut().zip(of_node).for_each(|(sum, weight)| *sum += weight);
        }
        measures_batch(task, &sums, started)
    }
}

/// Starts with ranks that were published before, or with the teleport distribution. Measures: as those of a step; the
/// changes are zero.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankInitialize {
    /// The graph.
    pub graph: PageRankGraph,
    /// Where the ranks go.
    pub state: Folder,
    /// Ranks that were published before, 0 for nodes that had none.
    pub published: Option<Distributions>,
}

#[async_trait]
impl Kernel for PageRankInitialize {
    fn name(&self) -> &'static str {
        "pagerank-initialize"
    }

    fn blocks(&self) -> u32 {
        self.graph.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let out_weights = self.graph.out_weights(task).await?;
        let mut ranks = self.graph.teleport(task).await?.to_vec();
        if let Some(published) = &self.published {
            let shares = published.read(task, self.graph.cut).await?;
            // A vector that was not published starts as if none had been.
            let shares = shares.iter().zip(published.sums.iter().cycle());
            for (rank, (share, _)) in
                ranks.iter_mut().zip(shares).filter(|(_, (_, sum))| **sum > 0.0)
            {
                *rank = *share;
            }
        }
        let mut measures = Measures::new(self.graph.vectors());
        let nodes = ranks.chunks_exact(self.graph.vectors()).zip(out_weights.iter());
        for (ranks, _) in nodes.filter(|(_, weight)| **weight == 0.0) {
            let masses = measures.dangling_mass.iter_mut().zip(ranks);
            masses.for_each(|(mass, rank)| *mass += rank);
        }
        task.resident.write_part(task, &self.state, self.graph.cut, ranks).await?;
        measures_batch(task, &measures.to_vec(), started)
    }
}

/// A step, or several of them. Measures, for each step: the change in L1 of each vector, the dangling mass of each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankStep {
    /// The graph.
    pub graph: PageRankGraph,
    /// Probability of following an edge.
    pub damping: f64,
    /// Ranks that dangling nodes hold before the first step, for each vector, as the bits of `f64`: a number that travels
    /// as text may lose the last of them, which one that stays in memory between steps does not.
    pub dangling_mass: Vec<u64>,
    /// The ranks before the first step.
    pub from: Folder,
    /// Where the ranks go after one step, after two, and so on. A task that has all blocks, and memory for them, does as
    /// many steps; tasks that have memory for theirs do some of them together, and may differ by one in how many they
    /// do. The ranks after the last step that all have done are written. Without the memory, it is one step.
    pub to: Vec<Folder>,
    /// No step is done after one whose ranks are all as close to exact as this.
    pub tolerance: f64,
}

impl PageRankStep {
    fn dangling_mass(&self) -> Vec<f64> {
        self.dangling_mass.iter().copied().map(f64::from_bits).collect()
    }

    fn next(&self) -> Result<&Folder> {
        self.to.first().ok_or_else(|| JobError::Damaged {
            what: "a step of PageRank".to_string(),
            reason: "it doesn't say where ranks go".to_string(),
        })
    }

    /// One step, on blocks that may not be all. While one is computed, the next is read and the one before is written.
    async fn pull_together<W: Weight>(
        &self,
        task: Task<'_>,
        blocks: &[u32],
    ) -> Result<RecordBatch> {
        let started = Instant::now();
        let (graph, to) = (&self.graph, self.next()?);
        let places = &graph.places(task).await?;
        let out_weights = &graph.all_out_weights(task).await?;
        let cut = graph.cut;
        let before = &task.resident.state(task, &self.from, cut, graph.vectors()).await?;
        let contributions = {
            let places = Arc::clone(places);
            let (out_weights, before) = (Arc::clone(out_weights), Arc::clone(before));
            move |pool: &ThreadPool| pool.install(|| places.contributions(&before, &out_weights))
        };
        let passed = &Arc::new(task.threads.run(contributions).await?);
        let step = &Arc::new(self.clone());
        let pull = |block: u32| async move {
            let task = Task { block, ..task };
            let (incoming, teleport) =
                tokio::try_join!(graph.incoming_from::<W>(task, places), graph.teleport(task))?;
            let (out_weights, before) = (Arc::clone(out_weights), Arc::clone(before));
            let (passed, step) = (Arc::clone(passed), Arc::clone(step));
            let compute = move |pool: &ThreadPool| {
                let (cut, vectors) = (step.graph.cut, step.graph.vectors());
                let range = cut.range(block).start as usize..cut.range(block).end as usize;
                let own = &before[range.start * vectors..range.end * vectors];
                let nodes =
                    Nodes { out_weights: &out_weights[range], teleport: &teleport, ranks: own };
                let (damping, dangling_mass) = (step.damping, &step.dangling_mass());
                let step = Step { damping, dangling_mass, contributions: &passed };
                let (mut ranks, mut measures) = (vec![0.0; own.len()], Measures::new(vectors));
                let pull =
                    || pagerank::superstep(step, &incoming, nodes, &mut ranks, &mut measures);
                pool.install(pull);
                (ranks, measures.to_vec())
            };
            let (ranks, measures) = task.threads.run(compute).await?;
            task.resident.write_part(task, to, cut, ranks).await?;
            Ok::<_, JobError>(Measured { block, measures })
        };
        let measured = futures::stream::iter(blocks.iter().copied())
            .map(pull)
            .buffered(task.threads.count() + 1);
        measures_of_all(task, &measured.try_collect::<Vec<_>>().await?, started)
    }

    /// One step, on one block, in groups of nodes, each from those nodes that it has edges from: the way when the state is
    /// too large for the executor. It comes to the same.
    async fn pull_in_groups<W: Weight>(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let teleport = self.graph.teleport(task).await?;
        let incoming = self.graph.incoming::<W>(task).await?;
        let (cut, runtime, vectors) = (self.graph.cut, task.runtime, self.graph.vectors());
        let (name, count) = (Folder::part(task.block), cut.rows(task.block) * vectors);
        let before: Vec<f64> = self.from.numbers(runtime, &name, count).await?;
        let (mut ranks, mut measures) = (vec![0.0; before.len()], Measures::new(vectors));
        let own = Arc::new((self.graph.out_weights(task).await?, before, teleport));
        // Of each source, its rank and what it passes along.
        let mut groups = Groups::new(task, incoming, self.graph.node_bytes(2), HashSet::new());
        while let Some(reserved) = groups.next(task).await? {
            let sources = &reserved.group.columns;
            let source_ranks = self.from.rows(runtime, cut, vectors, sources).await?;
            let out_weights = self.graph.out_weights.rows(runtime, cut, 1, sources).await?;
            let own = Arc::clone(&own);
            let (damping, dangling_mass) = (self.damping, self.dangling_mass());
            let compute = move || {
                let passed = contributions(&source_ranks, &out_weights);
                let dangling_mass = dangling_mass.as_slice();
                let step = Step { damping, dangling_mass, contributions: &passed };
                let incoming = &reserved.group.rows;
                let nodes = reserved.first..reserved.first + incoming.rows();
                let (out_weights, before, teleport) = &*own;
                let out_weights = &out_weights[nodes.clone()];
                let own = nodes.start * vectors..nodes.end * vectors;
                let next = &mut ranks[own.clone()];
                let (teleport, before) = (&teleport[own.clone()], &before[own]);
                let nodes = Nodes { out_weights, teleport, ranks: before };
                pagerank::superstep(step, incoming, nodes, next, &mut measures);
                (ranks, measures)
            };
            (ranks, measures) = spawn_blocking(compute).await?;
        }
        task.resident.write_part(task, self.next()?, cut, ranks).await?;
        measures_batch(task, &measures.to_vec(), started)
    }
}

#[async_trait]
impl Kernel for PageRankStep {
    fn name(&self) -> &'static str {
        "pagerank-step"
    }

    fn blocks(&self) -> u32 {
        self.graph.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        match self.graph.weighted {
            true => self.pull_in_groups::<f64>(task).await,
            false => self.pull_in_groups::<()>(task).await,
        }
    }

    async fn run_together(&self, task: Task<'_>, blocks: &[u32]) -> Result<Option<RecordBatch>> {
        // Of each node, its rank, what it passes along and its share of the teleport distribution.
        if !self.graph.is_held(task, 3) {
            return Ok(None);
        }
        // Of each node, its rank and what it passes along are there twice then, before a step and after it, besides the ranks
        // that were read; and what it passes along once more, for other tasks or from them.
        let alone = blocks.len() == self.graph.cut.blocks() as usize;
        let several = self.to.len() > 1
            && !blocks.is_empty()
            && self.graph.is_held(task, if alone { 6 } else { 7 })
            && task.resident.holds(self.graph.block_bytes(blocks.len()));
        let batch = match (several, self.graph.weighted) {
            (false, true) => self.pull_together::<f64>(task, blocks).await?,
            (false, false) => self.pull_together::<()>(task, blocks).await?,
            (true, true) => self.pull_several::<f64>(task, blocks).await?,
            (true, false) => self.pull_several::<()>(task, blocks).await?,
        };
        Ok(Some(batch))
    }
}
