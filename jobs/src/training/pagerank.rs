//! The driver of PageRank.

use super::checkpoint::{Exact, exact, inexact};
use super::options::PageRank;
use super::prepare::{Ids, TrainingData};
use super::select::data_error;
use super::teleport::Teleport;
use super::{Backoff, Trained, Training, steps_of_job, total};
use crate::superstep::{
    Axis, Content, Distributions, Folder, PageRankGraph, PageRankInitialize, PageRankStep,
    Partitioned, RankVectors, RanksExport, Superstep,
};
use crate::{Result, counted};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::LogicalPlan;
use nightshift_udfs::csr::Duplicates;
use nightshift_udfs::pagerank::error_bound;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What is measured in each iteration.
pub(super) const MEASURES: [&str; 2] = ["change", "error_bound"];

/// The last state, and for each step the change with the bound of the error, the largest of all vectors, and how long
/// it took.
struct Iterated {
    state: Folder,
    history: Vec<Vec<f64>>,
    seconds: Vec<f64>,
}

/// What is written down of a batch of vectors on its way.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    state: Folder,
    /// The change and the bound of each step.
    history: Vec<[Exact; 2]>,
    seconds: Vec<f64>,
    dangling_mass: Vec<Exact>,
}

impl Training<'_> {
    pub(super) async fn pagerank(&self, spec: &PageRank, plan: LogicalPlan) -> Result<Trained> {
        let data = self.training_data(plan, &spec.columns()).await?;
        self.check_node_types(spec, &data.types)?;
        let ids = self.number(&data, &[Axis::Row, Axis::Column], "nodes").await?;
        let (mut graph, work) = self.graph(spec, &data, &ids).await?;
        let prepare_seconds = self.prepared(&data).await?;
        let teleport = self.teleport(spec, &ids).await?;
        let topics = teleport.as_ref().and_then(|teleport| teleport.topics.as_ref());
        let only = || std::iter::once(0..1).collect();
        let batches: Vec<_> = topics.map_or_else(only, |topics| topics.batches(ids.count));
        let (mut history, mut seconds): (Vec<Vec<f64>>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut vectors = Vec::new();
        for (at, batch) in batches.iter().enumerate() {
            let published = self.start(spec, &mut graph, teleport.as_ref(), &ids, batch).await?;
            let measure = match batches.len() {
                1 => "error bound".to_string(),
                // Each of them begins with iteration 1.
                count => format!("batch {} of {count}, error bound", at + 1),
            };
            let done = self.iterate(spec, (&graph, &work), batch, published, &measure).await?;
            vectors.push(RankVectors { ranks: done.state, numbers: batch.clone() });
            // An iteration is as far from the end as its worst vector.
            for (at, row) in done.history.into_iter().enumerate() {
                match history.get_mut(at) {
                    None => history.push(row),
                    Some(all) => {
                        all.iter_mut().zip(row).for_each(|(all, one)| *all = all.max(one));
                    }
                }
            }
            for (at, taken) in done.seconds.into_iter().enumerate() {
                match seconds.get_mut(at) {
                    None => seconds.push(taken),
                    Some(all) => *all += taken,
                }
            }
        }

        let export = RanksExport { cut: graph.cut, ids: ids.numbered.clone(), vectors };
        let topics_table = topics.map(|topics| (topics.by.as_str(), Arc::clone(&topics.table)));
        let plan = self.plan_ranks(export, topics_table).await?;
        let mut made = BTreeMap::new();
        made.insert("ranks".to_string(), self.write("ranks", plan).await?);
        let info = self.write_training_info(&MEASURES, &history).await?;
        made.insert("training_info".to_string(), info);
        let bound = history.last().and_then(|row| row.get(1)).copied().unwrap_or(f64::NAN);
        let mut metrics = BTreeMap::from([
            ("nodes".to_string(), ids.count as f64),
            ("edges".to_string(), data.rows as f64),
            ("iterations".to_string(), history.len() as f64),
            ("error_bound".to_string(), bound),
            ("prepare_seconds".to_string(), prepare_seconds),
            ("converged".to_string(), if bound <= spec.tolerance { 1.0 } else { 0.0 }),
        ]);
        metrics.extend(topics.map(|topics| ("topics".to_string(), topics.count as f64)));
        Ok(Trained { tables: made, metrics, iteration_seconds: seconds })
    }

    /// Sources and targets are nodes of the same kind.
    pub(super) fn check_node_types(&self, spec: &PageRank, types: &[DataType; 2]) -> Result<()> {
        let [source, target] = types;
        if source == target {
            return Ok(());
        }
        let reason = format!(
            "columns {} and {} are a {source} and a {target}: cast one to the type of the other",
            spec.source, spec.target
        );
        Err(data_error(self.name, reason))
    }

    /// Plans the rows of `ranks`. `topics` are the column that says which topic a rank is for, in quotes, and the table
    /// of their numbers.
    pub(super) async fn plan_ranks(
        &self,
        export: RanksExport,
        topics: Option<(&str, Arc<dyn TableProvider>)>,
    ) -> Result<LogicalPlan> {
        let (mut sql, mut tables) = ("SELECT id AS node, rank FROM export".to_string(), Vec::new());
        if let Some((by, table)) = topics {
            sql = format!(
                "SELECT e.id AS node, topics.topic AS {by}, e.rank \
                 FROM export AS e JOIN topics ON e.vector = topics.number"
            );
            tables.push(("topics", table));
        }
        self.plan_export(Superstep::RanksExport(export), &sql, &tables).await
    }

    /// The graph, and how much work each block is, in edges.
    async fn graph(
        &self,
        spec: &PageRank,
        data: &TrainingData,
        ids: &Ids,
    ) -> Result<(PageRankGraph, Vec<u64>)> {
        let cut = Partitioned::new(ids.count, data.rows);
        let weighted = spec.weight.is_some();
        let content = if weighted { Content::Double(Duplicates::Add) } else { Content::Ones };
        let ways = [
            ("incoming", Axis::Column, cut, content),
            ("out-weights", Axis::Row, cut, Content::RowSums),
        ];
        let [incoming, out_weights] = self.blocks(data, ways).await?;
        // Without nodes, all blocks that no edge leads to would go to one executor.
        let work = incoming.work(cut, 1);
        let graph = PageRankGraph {
            cut,
            edges: incoming.entries(),
            incoming: incoming.folder,
            weighted,
            out_weights: out_weights.folder,
            teleport: None,
        };
        Ok((graph, work))
    }

    /// Gives the graph the teleport distributions of a batch of topics. Returns the ranks to start from, if these are
    /// others.
    async fn start(
        &self,
        spec: &PageRank,
        graph: &mut PageRankGraph,
        teleport: Option<&Teleport>,
        ids: &Ids,
        batch: &Range<u64>,
    ) -> Result<Option<Distributions>> {
        graph.teleport = match teleport {
            None => None,
            Some(teleport) => Some(self.distributions(teleport, ids, graph.cut, batch).await?),
        };
        let topics = teleport.and_then(|teleport| teleport.topics.as_ref());
        match spec.warm_start {
            true => self.published_ranks(spec, ids, topics, graph.cut, batch).await,
            false => Ok(None),
        }
    }

    /// Steps until the ranks are as close to exact as asked, from `published` ranks or from the teleport
    /// distributions.
    async fn iterate(
        &self,
        spec: &PageRank,
        (graph, work): (&PageRankGraph, &[u64]),
        batch: &Range<u64>,
        published: Option<Distributions>,
        measure: &str,
    ) -> Result<Iterated> {
        let vectors = graph.vectors();
        let (mut history, mut seconds): (Vec<Vec<f64>>, Vec<f64>) = (Vec::new(), Vec::new());
        let checkpoint_name = format!("ranks-{:010}", batch.start);
        let (mut state, mut dangling_mass);
        match self.checkpoints.last::<Checkpoint>(&checkpoint_name).await? {
            Some(last) => {
                history = last.history.iter().map(|row| inexact(row)).collect();
                (state, seconds) = (last.state, last.seconds);
                dangling_mass = inexact(&last.dangling_mass);
                if spec.is_enough(&history) {
                    return Ok(Iterated { state, history, seconds });
                }
            }
            None => {
                state = self.rank_state(batch, 0);
                let (graph, state) = (graph.clone(), state.clone());
                let first = PageRankInitialize { graph, state, published };
                let measures = self.superstep(Superstep::PageRankInitialize(first)).await?;
                dangling_mass = total(&measures)[vectors..].to_vec();
            }
        }
        // The iteration whose state is written down, and stays until another's is.
        let mut kept = history.len();
        let (mut there, mut old) = (vec![kept], Vec::new());
        let (mut steps, mut backoff) = (1, Backoff::new());
        loop {
            let started = Instant::now();
            let iteration = history.len();
            let asked = steps.min(spec.max_iterations - iteration);
            let to = (1..=asked).map(|step| self.rank_state(batch, iteration + step)).collect();
            let step = PageRankStep {
                graph: graph.clone(),
                damping: spec.damping,
                dangling_mass: dangling_mass.iter().map(|mass| mass.to_bits()).collect(),
                from: state.clone(),
                to,
                tolerance: spec.tolerance,
            };
            let step = self.superstep_of(Superstep::PageRankStep(step), work.to_vec());
            let mut answers = self.removing(&old, step).await?;
            let numbers = answers.measures.iter().map(Vec::len);
            let (fewest, most) = (numbers.clone().min().unwrap_or(0), numbers.max().unwrap_or(0));
            if fewest < most {
                // Some tasks may have done a step more than the others, and have written what was before as well. One that
                // was run again when the others were done finds nothing of what these had exchanged: then there may be
                // no ranks that all have come to.
                let common = self.rank_state(batch, iteration + fewest / (2 * vectors));
                if !common.has_all_parts(self.session.runtime(), graph.cut).await? {
                    steps = 1;
                    continue;
                }
                answers.measures.iter_mut().for_each(|of_block| of_block.truncate(fewest));
            }
            let totals = total(&answers.measures);
            let name = self.name.to_string();
            let mut bound = f64::INFINITY;
            for measures in totals.chunks_exact(2 * vectors) {
                let change = measures[..vectors].iter().copied().fold(0.0, f64::max);
                bound = error_bound(change, spec.damping);
                history.push(vec![change, bound]);
                let iteration = history.len();
                self.progress.iteration(&name, iteration, spec.max_iterations, measure, bound);
            }
            let done = history.len() - iteration;
            let taken = started.elapsed().as_secs_f64() / done.max(1) as f64;
            seconds.extend(std::iter::repeat_n(taken, done));
            backoff.after(asked, done);
            steps = backoff.steps(steps_of_job(taken));
            dangling_mass = totals[totals.len() - vectors..].to_vec();
            state = self.rank_state(batch, history.len());
            let enough = spec.is_enough(&history);
            let checkpoint = || Checkpoint {
                state: state.clone(),
                history: history.iter().map(|row| [Exact(row[0]), Exact(row[1])]).collect(),
                seconds: seconds.clone(),
                dangling_mass: exact(&dangling_mass),
            };
            if self.checkpoints.keep(&checkpoint_name, history.len(), checkpoint).await? {
                self.checkpoints.forget(&checkpoint_name, kept).await?;
                kept = history.len();
            }
            if enough && bound > spec.tolerance {
                self.progress.note(&format!(
                    "{name} did not converge: after {} the error is at most {bound:.1e}, asked was \
                     {:.1e}; raise max_iterations or tolerance",
                    counted(history.len(), "iteration"),
                    spec.tolerance
                ));
            }
            if enough {
                return Ok(Iterated { state, history, seconds });
            }
            if answers.together > 1 {
                // Each state is there that tasks have shared.
                there.extend(iteration + 1..history.len());
            }
            there.push(history.len());
            let (needed, others): (Vec<_>, Vec<_>) = there.into_iter().partition(|number| {
                // The state that the last job began with may still be read by a task that is run twice.
                *number == kept || *number == history.len() || *number == iteration
            });
            there = needed;
            old = others.into_iter().map(|number| rank_state_name(batch, number)).collect();
        }
    }

    /// The folder of ranks after an iteration.
    fn rank_state(&self, batch: &Range<u64>, iteration: usize) -> Folder {
        self.folder(&rank_state_name(batch, iteration))
    }
}

fn rank_state_name(batch: &Range<u64>, iteration: usize) -> String {
    format!("state/{}/{iteration:05}", batch.start)
}
