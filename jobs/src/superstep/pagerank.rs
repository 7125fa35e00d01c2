//! PageRank on blocks of nodes: starting ranks, and a step along the incoming edges.

use super::exec::{Kernel, Task, measures_batch};
use super::groups::Groups;
use super::layout::{Folder, Partitioned, numbers_to_bytes};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use nightshift_udfs::csr::Csr;
use nightshift_udfs::pagerank::{self, Measures, Nodes, Step, Weight, contributions};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::spawn_blocking;

/// What a step has in memory of each node: its rank, its outgoing weight and what it passes along.
const NODE_BYTES: usize = 3 * size_of::<f64>();

/// What all steps of one PageRank share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankGraph {
    /// How the nodes are cut.
    pub cut: Partitioned,
    /// The incoming edges of each block.
    pub incoming: Folder,
    /// Whether they have weights. If not, all are 1.
    pub weighted: bool,
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

async fn write(state: &Folder, task: Task<'_>, ranks: &[f64]) -> Result<()> {
    let name = Folder::part(task.block);
    Ok(state.open(task.runtime)?.put(&name, numbers_to_bytes(ranks)).await?)
}

/// Starts with ranks that were published before, or with the teleport distribution. Measures: zero,
/// dangling mass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageRankInitialize {
    /// The graph.
    pub graph: PageRankGraph,
    /// Where the ranks go.
    pub state: Folder,
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
        let nodes = ranks.iter().zip(out_weights.iter());
        let dangling: f64 = nodes.filter(|(_, weight)| **weight == 0.0).map(|(rank, _)| rank).sum();
        write(&self.state, task, &ranks).await?;
        measures_batch(task, &[0.0, dangling], started)
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
    pub from: Folder,
    /// Where the new ranks go.
    pub to: Folder,
}

impl PageRankStep {
    /// Of all nodes: the outgoing weights, the ranks before the step, and what they pass along.
    async fn before(&self, task: Task<'_>) -> Result<[Arc<Vec<f64>>; 3]> {
        let (graph, resident) = (&self.graph, task.resident);
        let ranks = resident.state::<f64>(task.runtime, &self.from, graph.cut, 1).await?;
        let out_weights =
            resident.state::<f64>(task.runtime, &graph.out_weights, graph.cut, 1).await?;
        let known = (Arc::clone(&ranks), Arc::clone(&out_weights));
        let compute = async {
            let passed = spawn_blocking(move || contributions(&known.0, &known.1)).await?;
            let bytes = passed.len() * 8;
            Ok((passed, bytes))
        };
        let passed = resident.get(format!("contributions of {}", self.from.0), compute).await?;
        Ok([out_weights, ranks, passed])
    }

    async fn pull<W: Weight>(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let incoming = task.csr::<W>(&self.graph.incoming).await?;
        let teleport = self.graph.teleport(task).await?;
        if incoming.rows() != self.graph.cut.rows(task.block) {
            return Err(JobError::Damaged {
                what: format!("{}{}", self.graph.incoming.0, Folder::part(task.block)),
                reason: format!("it has {} nodes", incoming.rows()),
            });
        }
        let (ranks, measures) =
            match task.resident.holds(self.graph.cut.count as usize * NODE_BYTES) {
                true => self.pull_from_all(task, incoming, teleport).await?,
                false => self.pull_in_groups(task, incoming, teleport).await?,
            };
        write(&self.to, task, &ranks).await?;
        measures_batch(task, &[measures.change, measures.dangling_mass], started)
    }

    async fn pull_from_all<W: Weight>(
        &self,
        task: Task<'_>,
        incoming: Arc<Csr<W>>,
        teleport: Vec<f64>,
    ) -> Result<(Vec<f64>, Measures)> {
        let [out_weights, before, passed] = self.before(task).await?;
        let range = self.graph.cut.range(task.block);
        let range = range.start as usize..range.end as usize;
        let (damping, dangling_mass) = (self.damping, self.dangling_mass);
        let compute = move || {
            let (mut ranks, mut measures) = (vec![0.0; range.len()], Measures::default());
            let step = Step { damping, dangling_mass, contributions: &passed };
            let (out_weights, ranks_before) = (&out_weights[range.clone()], &before[range]);
            let nodes = Nodes { out_weights, teleport: &teleport, ranks: ranks_before };
            pagerank::superstep(step, &incoming, nodes, &mut ranks, &mut measures);
            (ranks, measures)
        };
        Ok(spawn_blocking(compute).await?)
    }

    /// In groups of nodes, each from those nodes that it has edges from: the way when the state is too large for the
    /// executor. It comes to the same.
    async fn pull_in_groups<W: Weight>(
        &self,
        task: Task<'_>,
        incoming: Arc<Csr<W>>,
        teleport: Vec<f64>,
    ) -> Result<(Vec<f64>, Measures)> {
        let (cut, runtime) = (self.graph.cut, task.runtime);
        let count = cut.rows(task.block);
        let before: Vec<f64> = self.from.numbers(runtime, &Folder::part(task.block), count).await?;
        let own = Arc::new((self.graph.out_weights(task).await?, before, teleport));
        let (damping, dangling_mass) = (self.damping, self.dangling_mass);
        let (mut ranks, mut measures) = (vec![0.0; count], Measures::default());
        let mut groups = Groups::new(task, incoming, NODE_BYTES);
        while let Some(reserved) = groups.next(task).await? {
            let sources = &reserved.group.columns;
            let source_ranks = self.from.rows(runtime, cut, 1, sources).await?;
            let out_weights = self.graph.out_weights.rows(runtime, cut, 1, sources).await?;
            let own = Arc::clone(&own);
            let compute = move || {
                let passed = contributions(&source_ranks, &out_weights);
                let step = Step { damping, dangling_mass, contributions: &passed };
                let incoming = &reserved.group.rows;
                let nodes = reserved.first..reserved.first + incoming.rows();
                let (out_weights, before, teleport) = &*own;
                let next = &mut ranks[nodes.clone()];
                let nodes = Nodes {
                    out_weights: &out_weights[nodes.clone()],
                    teleport: &teleport[nodes.clone()],
                    ranks: &before[nodes],
                };
                pagerank::superstep(step, incoming, nodes, next, &mut measures);
                (ranks, measures)
            };
            (ranks, measures) = spawn_blocking(compute).await?;
        }
        Ok((ranks, measures))
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
            true => self.pull::<f64>(task).await,
            false => self.pull::<()>(task).await,
        }
    }
}
