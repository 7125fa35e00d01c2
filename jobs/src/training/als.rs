//! The driver of matrix factorization.

use super::checkpoint::{Exact, exact, inexact};
use super::options::{MatrixFactorization, solver_flops};
use super::prepare::{Blocks, Ids};
use super::{
    Backoff, JOB_SECONDS, MOST_STEPS, Trained, Training, no_answer, quoted, steps_of_job, total,
};
use crate::Result;
use crate::superstep::{
    AlsInitialize, AlsSide, AlsSlices, AlsStep, Axis, Content, FactorsExport, Folder, Partitioned,
    PublishedItems, Slice, Superstep,
};
use datafusion::logical_expr::LogicalPlan;
use nightshift_udfs::als::{Enough, Feedback, HalfStep, Measures, Solver};
use nightshift_udfs::csr::Duplicates;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// What is measured in each iteration.
pub(super) const MEASURES: [&str; 1] = ["loss"];

/// The name of the checkpoints of iterations.
const ITERATION: &str = "iteration";

/// Numbers that a task of several half steps returns at most, for each of which there is a Gram matrix: half of what an
/// executor sends in a message.
const MOST_NUMBERS: usize = 1 << 20;

/// Bytes of the states of one job, all of which tasks that do half steps together have to write: more than those only if one
/// iteration has more.
const MOST_STATE_BYTES: f64 = (1u64 << 30) as f64;

/// Iterations of a job at most, where the states of one have so many bytes.
pub(super) fn iterations_of_states(bytes: f64) -> usize {
    (MOST_STATE_BYTES / bytes).clamp(1.0, MOST_STEPS as f64) as usize
}

/// Operations a second of a small machine, for how long an iteration takes before one was measured.
const FLOPS: f64 = 1e11;

/// One side of the matrix, as far as training needs it.
struct Side {
    name: &'static str,
    matrix: AlsSide,
    /// How much work each block is, in entries.
    work: Vec<u64>,
}

impl Side {
    fn new(name: &'static str, step: HalfStep, cut: Partitioned, blocks: &Blocks) -> Self {
        let slices = match step.solver.adds_up() {
            true => Slice::of_rows(cut, &blocks.long_rows),
            false => Vec::new(),
        };
        // The decomposition of a row with k factors takes as many operations as k / 3 more entries would.
        let mut work = blocks.work(cut, step.factors / 3);
        // What slices have is done by others.
        for Slice { block, entries, .. } in &slices {
            work[*block as usize] -= entries.end - entries.start;
        }
        let (blocks, entries) = (blocks.folder.clone(), blocks.entries());
        Self { name, matrix: AlsSide { step, cut, blocks, entries, slices }, work }
    }

    fn state_name(&self, iteration: usize) -> String {
        format!("state/{}-{iteration:05}", self.name)
    }
}

/// How many half steps a job may do, when the last iteration took so many `seconds`. A task that does several can't be
/// interrupted: where an iteration takes long, and a job besides next to nothing, each half step is a job. So is it where
/// a Gram matrix is much of what a message can be.
fn half_steps_of_job((users, items): (&Side, &Side), seconds: Option<f64>) -> usize {
    let flops = |AlsSide { step, cut, entries, .. }: &AlsSide| {
        let width = step.feedback.width(step.factors) as f64;
        solver_flops(step.solver, width, *entries as f64, cut.count as f64)
    };
    let expected = || (flops(&users.matrix) + flops(&items.matrix)) / FLOPS;
    let seconds = seconds.unwrap_or_else(expected);
    if seconds > JOB_SECONDS {
        return 1;
    }
    let factors = users.matrix.step.factors;
    let most = MOST_NUMBERS / (2 * (factors * factors + 2));
    let bytes = users.matrix.state_bytes() + items.matrix.state_bytes();
    (2 * steps_of_job(seconds).min(most).min(iterations_of_states(bytes as f64))).max(1)
}

/// A side's factors after a half step.
struct State {
    folder: Folder,
    measures: Measures,
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
            gram: exact(&state.measures.gram),
            penalty: Exact(state.measures.penalty),
            observed_loss: Exact(state.measures.observed_loss),
        }
    }
}

impl From<StateRecord> for State {
    fn from(record: StateRecord) -> Self {
        let measures = Measures {
            observed_loss: record.observed_loss.0,
            penalty: record.penalty.0,
            gram: inexact(&record.gram),
        };
        Self { folder: record.folder, measures }
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
            let (regularization, factors) = (spec.regularization(others), spec.factors);
            Side::new(name, HalfStep { feedback, regularization, solver, factors }, cut, blocks)
        };
        let user_side = side("users", user_cut, &user_blocks, items.count);
        let item_side = side("items", item_cut, &item_blocks, users.count);
        for side in [&user_side, &item_side] {
            let (side, solver) = (side.name, side.matrix.step.solver);
            tracing::info!(run = self.run, model = %self.name, side, ?solver, "how rows are solved");
        }
        let published = match spec.warm_start {
            true => self.published_items(spec, &items, item_cut).await?,
            false => None,
        };
        let solved = self.alternate(spec, &user_side, &item_side, published).await?;
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
        users: &Side,
        items: &Side,
        published: Option<PublishedItems>,
    ) -> Result<Solved> {
        let (mut losses, mut seconds): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut earlier_users = None;
        let mut item_state = match self.checkpoints.last::<Checkpoint>(ITERATION).await? {
            None => self.initialize(spec, items, published).await?,
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
        // A job may have been done again, by one task alone, after several had left all states.
        let (mut backoff, mut all_there) = (Backoff::new(), false);
        loop {
            let started = Instant::now();
            let begin = losses.len();
            let steps = half_steps_of_job((users, items), seconds.last().copied());
            let steps = backoff.steps(steps);
            let numbers = begin + 1..=spec.max_iterations;
            let to = numbers.flat_map(|number| [(users, number), (items, number)]).take(steps);
            let to: Vec<_> =
                to.map(|(side, number)| self.folder(&side.state_name(number))).collect();
            let asked = to.len();
            let enough = spec.enough(losses.last().copied());
            let steps = self.half_steps((users, items), earlier_users, &item_state, to, enough);
            let (mut states, together) = self.removing(&old, steps).await?;
            all_there |= together;
            let several = states.len() > 1;
            backoff.after(asked, states.len());
            if let (false, Some(user_state)) = (states.len().is_multiple_of(2), states.last()) {
                let to = vec![self.folder(&items.state_name(begin + states.len().div_ceil(2)))];
                let earlier = states.iter().nth_back(1).unwrap_or(&item_state);
                let earlier = Some(earlier.folder.clone());
                let steps = self.half_steps((items, users), earlier, user_state, to, None);
                states.extend(steps.await?.0);
            }
            let name = self.name.to_string();
            for of_iteration in states.chunks_exact(2) {
                let [user_measures, item_measures] = [0, 1].map(|at| &of_iteration[at].measures);
                let loss = item_measures.loss(user_measures, users.matrix.step.feedback);
                losses.push(loss);
                let iteration = losses.len();
                self.progress.iteration(&name, iteration, spec.max_iterations, "loss", loss);
            }
            let done = losses.len() - begin;
            let taken = started.elapsed().as_secs_f64() / done.max(1) as f64;
            seconds.extend(std::iter::repeat_n(taken, done));
            let (Some(items_now), Some(user_state)) = (states.pop(), states.pop()) else {
                return Err(no_answer(&name));
            };
            item_state = items_now;
            let checkpoint = || Checkpoint {
                losses: exact(&losses),
                seconds: seconds.clone(),
                users: StateRecord::from(&user_state),
                items: StateRecord::from(&item_state),
            };
            let now = losses.len();
            if self.checkpoints.keep(ITERATION, now, checkpoint).await? {
                self.checkpoints.forget(ITERATION, kept).await?;
                kept = now;
            }
            if spec.is_enough(&losses) {
                return Ok(Solved { users: user_state, items: item_state, losses, seconds });
            }
            let first = if all_there { begin + 1 } else { now };
            there.extend((first..=now).flat_map(|number| [(users, number), (items, number)]));
            let (needed, others): (Vec<_>, Vec<_>) =
                there.into_iter().partition(|(side, number)| {
                    // Those that the last job began with may still be read by a task that is run twice.
                    let read = *number == begin && (several || side.name == items.name);
                    *number == kept || *number == now || read
                });
            there = needed;
            old = others.into_iter().map(|(side, number)| side.state_name(number)).collect();
            earlier_users = Some(user_state.folder);
        }
    }

    async fn initialize(
        &self,
        spec: &MatrixFactorization,
        side: &Side,
        published: Option<PublishedItems>,
    ) -> Result<State> {
        let folder = self.folder(&side.state_name(0));
        let HalfStep { feedback, solver, factors, .. } = side.matrix.step;
        let measures = self
            .superstep(Superstep::AlsInitialize(AlsInitialize {
                cut: side.matrix.cut,
                state: folder.clone(),
                seed: spec.seed,
                factors,
                width: feedback.width(factors),
                nonnegative: solver == Solver::NonNegative,
                published,
            }))
            .await?;
        let measures = Measures { gram: total(&measures), ..Measures::new(factors) };
        AlsStep::complete_state(&folder, self.session.runtime(), &measures.gram).await?;
        Ok(State { folder, measures })
    }

    /// Solves the first of two sides from the factors of the other, and if one task can do that alone or several together,
    /// both of them in turn: as often as there are folders to go `to`, or until it is `enough`. Returns the states that
    /// this leads to, of which the last one of each side is there, and whether several tasks have written all of them.
    async fn half_steps(
        &self,
        (side, other): (&Side, &Side),
        earlier: Option<Folder>,
        fixed: &State,
        to: Vec<Folder>,
        enough: Option<Enough>,
    ) -> Result<(Vec<State>, bool)> {
        let Some(first) = to.first() else { return Ok((Vec::new(), true)) };
        let AlsSide { step, blocks, slices, .. } = side.matrix.clone();
        if !slices.is_empty() {
            let slices = AlsSlices {
                step,
                slices,
                blocks,
                fixed: fixed.folder.clone(),
                fixed_cut: other.matrix.cut,
                sums: first.clone(),
            };
            self.superstep(Superstep::AlsSlices(slices)).await?;
        }
        let steps = AlsStep {
            side: side.matrix.clone(),
            other: other.matrix.clone(),
            earlier: earlier.filter(|_| step.solver.goes_on()),
            fixed: fixed.folder.clone(),
            to: to.clone(),
            enough,
            seconds: JOB_SECONDS,
        };
        let work = side.work.iter().chain(&other.work).copied().collect();
        let answers = self.superstep_of(Superstep::AlsStep(steps.clone()), work).await?;
        let states = to.into_iter().zip(steps.totals(&answers.measures));
        let states: Vec<State> =
            states.map(|(folder, measures)| State { folder, measures }).collect();
        for State { folder, measures } in states.iter().rev().take(2) {
            AlsStep::complete_state(folder, self.session.runtime(), &measures.gram).await?;
        }
        Ok((states, answers.together > 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_udfs::als::Regularization;
    use url::Url;

    /// Both sides of the interactions of so many users with 1,000 items, a hundred each.
    fn sides(users: u64, factors: usize) -> [Side; 2] {
        let feedback = Feedback::Implicit { alpha: 1.0 };
        let regularization = Regularization { strength: 1.0, exponent: 0.0, unobserved: 0.0 };
        let step = HalfStep { feedback, regularization, solver: Solver::Exact, factors };
        let entries = 100 * users;
        let blocks = Folder(Url::parse("memory:///blocks/").unwrap());
        let slices = Vec::new();
        [("users", users), ("items", 1000)].map(|(name, count)| {
            let cut = Partitioned::new(count, entries);
            let (blocks, slices) = (blocks.clone(), slices.clone());
            Side { name, matrix: AlsSide { step, cut, blocks, entries, slices }, work: Vec::new() }
        })
    }

    #[test]
    fn jobs_are_as_long_as_one_may_have_to_wait_for_them() {
        let steps = |users: u64, factors: usize, seconds: Option<f64>| {
            let [users, items] = sides(users, factors);
            half_steps_of_job((&users, &items), seconds)
        };
        // Ten billion operations at first, and far more.
        assert_eq!([steps(10_000, 64, None), steps(100_000_000, 64, None)], [62, 1]);
        assert_eq!([steps(10_000, 64, Some(1.0)), steps(10_000, 64, Some(1e-3))], [6, 128]);
        assert_eq!([steps(10_000, 64, Some(2.9)), steps(10_000, 64, Some(3.1))], [4, 1]);
        // Their Gram matrices fit into a message: with many factors, one.
        assert_eq!([steps(10, 256, Some(1e-3)), steps(10, 1024, Some(1e-3))], [14, 1]);
        assert_eq!([steps(10, 724, None), steps(10, 725, None)], [2, 1]);
    }
}
