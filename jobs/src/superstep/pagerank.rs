//! PageRank on blocks of nodes: starting ranks, and a step along the incoming edges.

use super::exec::{Kernel, Task, measures_batch};
use super::layout::{Folder, Partitioned, numbers_to_bytes};
use crate::Result;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use nightshift_udfs::pagerank::{self, Nodes, Step, contribution};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// What all steps of one PageRank share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankGraph {
    /// How the nodes are cut.
    pub cut: Partitioned,
    /// The incoming edges of each block.
    pub incoming: Folder,
    /// The outgoing weight of each node.
    pub out_weights: Folder,
    /// The teleport weight of each node, and the sum of all; uniform if there is none.
    pub teleport: Option<(Folder, f64)>,
}

impl PageRankGraph {
    async fn out_weights(&self, task: Task<'_>) -> Result<Arc<Vec<f64>>> {
        let rows = self.cut.rows(task.block);
        let name = Folder::part(task.block);
        task.resident.numbers(task.runtime, &self.out_weights, &name, rows).await
    }

    async fn teleport(&self, task: Task<'_>) -> Result<Vec<f64>> {
        let rows = self.cut.rows(task.block);
        match &self.teleport {
            None => Ok(vec![1.0 / self.cut.count as f64; rows]),
            Some((folder, total)) => {
                let name = Folder::part(task.block);
                let weights: Arc<Vec<f64>> =
                    task.resident.numbers(task.runtime, folder, &name, rows).await?;
                Ok(weights.iter().map(|weight| weight / total).collect())
            }
        }
    }
}

/// A state: ranks, and what each node passes along an edge of weight one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankState {
    /// The ranks.
    pub ranks: Folder,
    /// Ranks divided by outgoing weights.
    pub contributions: Folder,
}

impl PageRankState {
    async fn write(&self, task: Task<'_>, ranks: &[f64], contributions: &[f64]) -> Result<()> {
        let name = Folder::part(task.block);
        self.ranks.open(task.runtime)?.put(&name, numbers_to_bytes(ranks)).await?;
        let contributions = numbers_to_bytes(contributions);
        Ok(self.contributions.open(task.runtime)?.put(&name, contributions).await?)
    }
}

/// Starts with ranks that were published before, or with the teleport distribution. Measures: zero,
/// dangling mass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankInitialize {
    /// The graph.
    pub graph: PageRankGraph,
    /// Where the ranks go.
    pub state: PageRankState,
    /// Ranks that were published before, 0 for nodes that had none, and their sum.
    pub published: Option<(Folder, f64)>,
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
        let ranks = match &self.published {
            None => self.graph.teleport(task).await?,
            Some((folder, sum)) => {
                let (rows, name) = (self.graph.cut.rows(task.block), Folder::part(task.block));
                let ranks: Arc<Vec<f64>> =
                    task.resident.numbers(task.runtime, folder, &name, rows).await?;
                ranks.iter().map(|rank| rank / sum).collect()
            }
        };
        let nodes = || ranks.iter().zip(out_weights.iter());
        let contributions: Vec<f64> =
            nodes().map(|(rank, weight)| contribution(*rank, *weight)).collect();
        let dangling: f64 =
            nodes().filter(|(_, weight)| **weight == 0.0).map(|(rank, _)| rank).sum();
        self.state.write(task, &ranks, &contributions).await?;
        measures_batch(task.block, &[0.0, dangling], started)
    }
}

/// One step. Measures: change in L1, dangling mass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankStep {
    /// The graph.
    pub graph: PageRankGraph,
    /// Probability of following an edge.
    pub damping: f64,
    /// Rank that dangling nodes hold before the step.
    pub dangling_mass: f64,
    /// The ranks before the step.
    pub from: PageRankState,
    /// Where the new ranks go.
    pub to: PageRankState,
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
        let started = Instant::now();
        let (runtime, resident) = (task.runtime, task.resident);
        let cut = self.graph.cut;
        let incoming = resident.block::<f64>(runtime, &self.graph.incoming, task.block).await?;
        let out_weights = self.graph.out_weights(task).await?;
        let teleport = self.graph.teleport(task).await?;
        let contributions =
            resident.state::<f64>(runtime, &self.from.contributions, cut, 1).await?;
        let rows = cut.rows(task.block);
        let name = Folder::part(task.block);
        let previous = resident.numbers::<f64>(runtime, &self.from.ranks, &name, rows).await?;
        let (damping, dangling_mass) = (self.damping, self.dangling_mass);
        let compute = move || {
            let (mut ranks, mut next) = (vec![0.0; rows], vec![0.0; rows]);
            let step = Step { damping, dangling_mass, contributions: &contributions };
            let nodes = Nodes { out_weights: &out_weights, teleport: &teleport, ranks: &previous };
            let measures = pagerank::superstep(step, &incoming, nodes, &mut ranks, &mut next);
            (ranks, next, measures)
        };
        let (ranks, contributions, measures) = tokio::task::spawn_blocking(compute).await?;
        self.to.write(task, &ranks, &contributions).await?;
        measures_batch(task.block, &[measures.change, measures.dangling_mass], started)
    }
}
