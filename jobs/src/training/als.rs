//! The driver of matrix factorization.

use super::checkpoint::{Exact, exact, inexact};
use super::options::MatrixFactorization;
use super::prepare::{Blocks, Ids};
use super::{Trained, Training, quoted, total};
use crate::Result;
use crate::superstep::{
    AlsInitialize, AlsSlices, AlsStep, Axis, Content, FactorsExport, Folder, Partitioned,
    PublishedItems, Slice, Superstep,
};
use datafusion::logical_expr::LogicalPlan;
use nightshift_udfs::als::{Feedback, HalfStep, Regularization, Solver, unobserved_loss};
use nightshift_udfs::csr::Duplicates;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// What is measured in each iteration.
pub(super) const MEASURES: [&str; 1] = ["loss"];

/// The name of the checkpoints of iterations.
const ITERATION: &str = "iteration";

/// One side of the matrix, as far as training needs it.
struct Side {
    name: &'static str,
    cut: Partitioned,
    blocks: Folder,
    /// How much work each block is, in entries.
    work: Vec<u64>,
    /// Slices of the rows that are too long for one task.
    slices: Vec<Slice>,
    regularization: Regularization,
    solver: Solver,
}

impl Side {
    fn new(
        name: &'static str,
        cut: Partitioned,
        blocks: &Blocks,
        regularization: Regularization,
        solver: Solver,
        factors: usize,
    ) -> Self {
        let slices = match solver.adds_up() {
            true => Slice::of_rows(cut, &blocks.long_rows),
            false => Vec::new(),
        };
        // The decomposition of a row with k factors takes as many operations as k / 3 more entries would.
        let mut work = blocks.work(cut, factors / 3);
        // What slices have is done by others.
        for Slice { block, entries, .. } in &slices {
            work[*block as usize] -= entries.end - entries.start;
        }
        Self { name, cut, blocks: blocks.folder.clone(), work, slices, regularization, solver }
    }
}

/// A side's factors after a half step.
struct State {
    folder: Folder,
    gram: Vec<f64>,
    penalty: f64,
    observed_loss: f64,
}

/// What is written down of an iteration.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// Loss and duration of it and those before it.
    losses: Vec<Exact>,
    seconds: Vec<f64>,
    users: StateRecord,
    items: StateRecord,
}

/// A state as it is written down.
#[derive(Serialize, Deserialize)]
struct StateRecord {
    folder: Folder,
    gram: Vec<Exact>,
    penalty: Exact,
    observed_loss: Exact,
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> Self {
        Self {
            folder: state.folder.clone(),
            gram: exact(&state.gram),
            penalty: Exact(state.penalty),
            observed_loss: Exact(state.observed_loss),
        }
    }
}

impl From<StateRecord> for State {
    fn from(record: StateRecord) -> Self {
        Self {
            folder: record.folder,
            gram: inexact(&record.gram),
            penalty: record.penalty.0,
            observed_loss: record.observed_loss.0,
        }
    }
}

/// Both sides at the end, and the loss and duration of each iteration.
struct Solved {
    users: State,
    items: State,
    losses: Vec<f64>,
    seconds: Vec<f64>,
}

impl Training<'_> {
    pub(super) async fn matrix_factorization(
        &self,
        spec: &MatrixFactorization,
        plan: LogicalPlan,
    ) -> Result<Trained> {
        let data = self.training_data(plan, &spec.columns()).await?;
        let users = self.number(&data, &[Axis::Row], "users").await?;
        let items = self.number(&data, &[Axis::Column], "items").await?;

        // Several weights of one pair add up where they are evidence; as values to predict, each
        // counts for itself.
        let duplicates = if spec.implicit { Duplicates::Add } else { Duplicates::Keep };
        let content = Content::Single(duplicates);
        let user_cut = Partitioned::new(users.count, data.rows);
        let item_cut = Partitioned::new(items.count, data.rows);
        let ways = [
            ("user-blocks", Axis::Row, user_cut, content),
            ("item-blocks", Axis::Column, item_cut, content),
        ];
        let [user_blocks, item_blocks] = self.blocks(&data, ways).await?;
        let prepare_seconds = self.prepared(&data).await?;

        let feedback = if spec.implicit {
            Feedback::Implicit { alpha: spec.alpha }
        } else {
            let mean = user_blocks.sum() / user_blocks.entries() as f64;
            Feedback::Explicit { bias: spec.bias, mean: if spec.bias { mean } else { 0.0 } }
        };
        let side = |name, cut: Partitioned, blocks: &Blocks, others: u64| {
            let solver = spec.solver(data.rows as f64, cut.count as f64);
            let regularization = spec.regularization(others);
            Side::new(name, cut, blocks, regularization, solver, spec.factors)
        };
        let user_side = side("users", user_cut, &user_blocks, items.count);
        let item_side = side("items", item_cut, &item_blocks, users.count);
        for side in [&user_side, &item_side] {
            let (side, solver) = (side.name, side.solver);
            tracing::info!(run = self.run, model = %self.name, side, ?solver, "how rows are solved");
        }
        let published = match spec.warm_start {
            true => self.published_items(spec, &items, item_cut).await?,
            false => None,
        };
        let solved = self.alternate(spec, feedback, &user_side, &item_side, published).await?;
        let Solved { users: user_state, items: item_state, losses, seconds } = solved;

        let width = feedback.width(spec.factors);
        let offset = match feedback {
            Feedback::Explicit { bias: true, mean } => Some(mean),
            _ => None,
        };
        let export = |ids: &Ids, cut, state: &State, offset, seen| FactorsExport {
            ids: ids.numbered.clone(),
            cut,
            state: state.folder.clone(),
            factors: spec.factors,
            width,
            offset,
            seen,
        };
        let user_export = export(&users, user_cut, &user_state, offset, Some(user_blocks.folder));
        let plan = self.plan_factors(&spec.user, user_export).await?;
        let mut made = BTreeMap::new();
        made.insert("user_factors".to_string(), self.write("user_factors", plan).await?);
        let item_export = export(&items, item_cut, &item_state, None, None);
        let plan = self.plan_factors(&spec.item, item_export).await?;
        made.insert("item_factors".to_string(), self.write("item_factors", plan).await?);
        let rows: Vec<_> = losses.iter().map(|loss| vec![*loss]).collect();
        made.insert("training_info".to_string(), self.write_training_info(&MEASURES, &rows).await?);
        let mut metrics = BTreeMap::from([
            ("rows".to_string(), data.rows as f64),
            ("users".to_string(), users.count as f64),
            ("items".to_string(), items.count as f64),
            ("iterations".to_string(), losses.len() as f64),
            ("loss".to_string(), losses.last().copied().unwrap_or(f64::NAN)),
            ("prepare_seconds".to_string(), prepare_seconds),
        ]);
        // Predictions for users who are folded in start from it.
        metrics.extend(offset.map(|mean| ("mean".to_string(), mean)));
        Ok(Trained { tables: made, metrics, iteration_seconds: seconds })
    }

    /// Plans the rows of a side's table, whose ids are called `id`. Users come with what they have seen.
    pub(super) async fn plan_factors(
        &self,
        id: &str,
        export: FactorsExport,
    ) -> Result<LogicalPlan> {
        let (index, more) = match export.seen {
            Some(_) => ("user_index", ", seen_items"),
            None => ("item_index", ""),
        };
        let id = quoted(id);
        let sql = format!("SELECT id AS {id}, index AS {index}, factors, bias{more} FROM export");
        self.plan_export(Superstep::FactorsExport(export), &sql, &[]).await
    }

    /// Solves users and items in turn until the loss hardly falls any more. The items start from
    /// `published` as far as it has them.
    async fn alternate(
        &self,
        spec: &MatrixFactorization,
        feedback: Feedback,
        users: &Side,
        items: &Side,
        published: Option<PublishedItems>,
    ) -> Result<Solved> {
        let (mut losses, mut seconds): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut earlier_users = None;
        let mut item_state = match self.checkpoints.last::<Checkpoint>(ITERATION).await? {
            None => self.initialize(spec, feedback, items, published).await?,
            Some(last) => {
                (losses, seconds) = (inexact(&last.losses), last.seconds);
                let user_state = State::from(last.users);
                if spec.is_enough(&losses) {
                    let items = State::from(last.items);
                    return Ok(Solved { users: user_state, items, losses, seconds });
                }
                earlier_users = Some(user_state.folder);
                State::from(last.items)
            }
        };
        // The iteration whose states are written down, and stay until others are.
        let mut kept = losses.len();
        let (mut there, mut old) = (vec![(users, kept), (items, kept)], Vec::new());
        loop {
            let started = Instant::now();
            let iteration = losses.len() + 1;
            let earlier = earlier_users.take();
            let fixed = (items.cut, &item_state.folder);
            let half_step = self.half_step(spec, feedback, users, iteration, earlier, fixed);
            let user_state = self.removing(&old, half_step).await?;
            let earlier = Some(item_state.folder);
            let fixed = (users.cut, &user_state.folder);
            item_state = self.half_step(spec, feedback, items, iteration, earlier, fixed).await?;
            let mut loss = item_state.observed_loss + item_state.penalty + user_state.penalty;
            if spec.implicit {
                loss += unobserved_loss(&user_state.gram, &item_state.gram);
            }
            let name = self.name.to_string();
            self.progress.iteration(&name, iteration, spec.max_iterations, "loss", loss);
            losses.push(loss);
            seconds.push(started.elapsed().as_secs_f64());
            let checkpoint = || Checkpoint {
                losses: exact(&losses),
                seconds: seconds.clone(),
                users: StateRecord::from(&user_state),
                items: StateRecord::from(&item_state),
            };
            if self.checkpoints.keep(ITERATION, iteration, checkpoint).await? {
                self.checkpoints.forget(ITERATION, kept).await?;
                kept = iteration;
            }
            if spec.is_enough(&losses) {
                return Ok(Solved { users: user_state, items: item_state, losses, seconds });
            }
            there.extend([(users, iteration), (items, iteration)]);
            let (needed, others): (Vec<_>, Vec<_>) =
                there.into_iter().partition(|(side, number)| {
                    // Those that the last half step has read may still be read by a task that is run twice.
                    let read = side.name == items.name && number + 1 == iteration;
                    *number == kept || *number == iteration || read
                });
            there = needed;
            old = others.into_iter().map(|(side, number)| state_name(side, number)).collect();
            earlier_users = Some(user_state.folder);
        }
    }

    async fn initialize(
        &self,
        spec: &MatrixFactorization,
        feedback: Feedback,
        side: &Side,
        published: Option<PublishedItems>,
    ) -> Result<State> {
        let folder = self.folder(&state_name(side, 0));
        let measures = self
            .superstep(Superstep::AlsInitialize(AlsInitialize {
                cut: side.cut,
                state: folder.clone(),
                seed: spec.seed,
                factors: spec.factors,
                width: feedback.width(spec.factors),
                nonnegative: side.solver == Solver::NonNegative,
                published,
            }))
            .await?;
        let gram = total(&measures);
        AlsStep::complete_state(&folder, self.session.runtime(), &gram).await?;
        Ok(State { folder, gram, penalty: 0.0, observed_loss: 0.0 })
    }

    async fn half_step(
        &self,
        spec: &MatrixFactorization,
        feedback: Feedback,
        side: &Side,
        iteration: usize,
        earlier: Option<Folder>,
        (fixed_cut, fixed): (Partitioned, &Folder),
    ) -> Result<State> {
        let folder = self.folder(&state_name(side, iteration));
        let step = HalfStep {
            feedback,
            regularization: side.regularization,
            solver: side.solver,
            factors: spec.factors,
        };
        if !side.slices.is_empty() {
            let slices = AlsSlices {
                step,
                slices: side.slices.clone(),
                blocks: side.blocks.clone(),
                fixed: fixed.clone(),
                fixed_cut,
                sums: folder.clone(),
            };
            self.superstep(Superstep::AlsSlices(slices)).await?;
        }
        let step = Superstep::AlsStep(AlsStep {
            step,
            blocks: side.blocks.clone(),
            cut: side.cut,
            slices: side.slices.clone(),
            earlier: earlier.filter(|_| side.solver.goes_on()),
            fixed: fixed.clone(),
            fixed_cut,
            state: folder.clone(),
        });
        let measures = self.superstep_of(step, side.work.clone()).await?;
        let totals = total(&measures);
        let gram = totals[2..].to_vec();
        AlsStep::complete_state(&folder, self.session.runtime(), &gram).await?;
        Ok(State { folder, gram, penalty: totals[1], observed_loss: totals[0] })
    }
}

fn state_name(side: &Side, iteration: usize) -> String {
    format!("state/{}-{iteration:05}", side.name)
}
