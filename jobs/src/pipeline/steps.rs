//! The steps of a run. Those that don't wait for each other are executed at the same time.

use super::Pipeline;
use crate::journal::{Event, Recorder, RunJournal, RunState, StepStatus};
use crate::progress::Progress;
use crate::run::{Executed, Run, Wrong};
use crate::statement::{Located, Statement};
use crate::{JobError, Result, counted};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// What executes the steps of a run.
pub(super) struct Steps<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) journal: &'a RunJournal,
    pub(super) recorder: &'a Recorder,
    pub(super) progress: &'a dyn Progress,
}

impl Steps<'_> {
    /// Executes all steps that are not done.
    pub(super) async fn execute(&self, run: &mut Run) -> Result<()> {
        run.open().await?;
        let left = self.journal.state().await;
        let statements: Vec<_> = self.pipeline.statements().collect();
        let waits = waits(&statements, |name| run.is_published_view(name))?;
        let total = statements.len();
        let (mut shown, mut begun, mut done) = (0, BTreeSet::new(), BTreeSet::new());
        let mut waiting: BTreeSet<usize> = (0..total).collect();
        let mut running = FuturesUnordered::new();
        loop {
            // A training needs the memory of all executors, and its blocks where they were: one at a time.
            let training = |at: &usize| {
                let over = [StepStatus::Done, StepStatus::Unchanged, StepStatus::LeftOut];
                matches!(statements[*at].0.statement, Statement::CreateModel(_))
                    && !over.contains(&left.steps[*at].status)
            };
            let trains = begun.difference(&done).any(training);
            let ready = |at: &usize| waits[*at].is_subset(&done) && !(trains && training(at));
            // What another process has done is taken over in its place: what comes before it may have to be done once
            // more.
            let next = match running.len() < self.pipeline.settings.parallel {
                true => waiting.iter().copied().find(ready),
                false => None,
            };
            if let Some(number) = next {
                waiting.remove(&number);
                begun.insert(number);
                let (statement, check) = statements[number];
                let state = &left.steps[number];
                let name = &state.planned.name;
                shown += usize::from(!state.planned.left_out);
                match state.planned.unchanged {
                    _ if state.planned.left_out => {}
                    None if state.status == StepStatus::Done => {
                        self.progress.step(shown, total, &format!("{name} is done"));
                    }
                    Some(_) => self.progress.step(shown, total, &format!("{name} is unchanged")),
                    None => self.progress.step(shown, total, name),
                }
                if self.restore(run, &left, number, statement).await? {
                    done.insert(number);
                    continue;
                }
                run.touch(statement)?;
                self.recorder.begin(name, number);
                let of_step = run.for_step(left.training_of(number));
                let step = self.step(number, of_step, statement, check, state.attempts);
                running.push(async move { (number, step.await) });
                continue;
            }
            let Some((number, ended)) = running.next().await else { return Ok(()) };
            done.insert(number);
            let executed = match ended {
                Ok(executed) => executed,
                Err(error @ JobError::Fenced { .. }) => return Err(error),
                Err(error) => {
                    // What tasks still write for other programs could not be taken back.
                    let copies =
                        |at: &&usize| matches!(statements[**at].0.statement, Statement::Copy(_));
                    let mut left: BTreeSet<usize> =
                        begun.difference(&done).filter(copies).copied().collect();
                    while !left.is_empty()
                        && let Some((number, _)) = running.next().await
                    {
                        left.remove(&number);
                    }
                    return Err(error);
                }
            };
            if let Some(executed) = executed {
                run.accept(executed);
            }
            self.progress.done(&left.steps[number].planned.name);
        }
    }

    /// Executes a step, again if it fails for a reason that can pass, and writes down what becomes of it.
    async fn step(
        &self,
        number: usize,
        run: Run,
        statement: &Located,
        check: Option<&str>,
        attempts: u32,
    ) -> Result<Option<Executed>> {
        let (mut attempt, mut failures) = (attempts + 1, 0);
        loop {
            self.journal.append(Event::StepBegun { step: number, attempt }).await?;
            let started = Instant::now();
            let performed = self.perform(&run, statement, check).await;
            self.recorder.flush(self.journal).await?;
            let error = match performed {
                Ok((executed, wrong)) => {
                    let seconds = started.elapsed().as_secs_f64();
                    let made = executed.as_ref().and_then(|executed| executed.step.clone());
                    let effect = executed.as_ref().map(|executed| executed.record.clone());
                    let effect = effect.unwrap_or_default();
                    let lineage = match &executed {
                        Some(executed) => executed.lineage.clone(),
                        None => run.lineage_of_check(statement).await,
                    };
                    let done =
                        Event::StepDone { step: number, seconds, made, effect, wrong, lineage };
                    self.journal.append(done).await?;
                    return Ok(executed);
                }
                Err(error @ JobError::Fenced { .. }) => return Err(error),
                Err(error) => error,
            };
            failures += 1;
            let retries = &self.pipeline.settings.retries;
            let again = error.can_pass() && failures < retries.attempts;
            let pause = retries.delay(failures, random());
            let wrong = match &error {
                JobError::Check { rows, sample, .. } => {
                    Some(Wrong { rows: *rows, sample: sample.clone() })
                }
                _ => None,
            };
            let again_in = again.then_some(pause.as_secs_f64());
            let failed =
                Event::StepFailed { step: number, error: error.to_string(), again_in, wrong };
            self.journal.append(failed).await?;
            if !again {
                return Err(error);
            }
            self.progress
                .note(&format!("{error}; it is tried again in {:.1} s", pause.as_secs_f64()));
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn perform(
        &self,
        run: &Run,
        statement: &Located,
        check: Option<&str>,
    ) -> Result<(Option<Executed>, Option<Wrong>)> {
        let Some(check) = check else {
            let folder = self.pipeline.folder().to_path_buf();
            return Ok((Some(run.attempt(statement, Some(folder)).await?), None));
        };
        let Some(Wrong { rows, sample }) = run.check(statement).await? else {
            return Ok((None, None));
        };
        if !self.pipeline.only_warns(statement) {
            return Err(JobError::Check { check: check.to_string(), rows, sample });
        }
        let found = counted(rows, "wrong row");
        self.progress.note(&format!("the check {check} found {found}:\n{sample}"));
        Ok((None, Some(Wrong { rows, sample })))
    }

    /// Takes over what another process has done in a step; `false` if it is to be done.
    async fn restore(
        &self,
        run: &mut Run,
        left: &RunState,
        number: usize,
        statement: &Located,
    ) -> Result<bool> {
        let state = &left.steps[number];
        if state.planned.unchanged.is_some() || state.planned.left_out {
            return Ok(true);
        }
        match (&state.effect, &statement.statement) {
            (None, _) => Ok(false),
            // Files for other programs are complete when the run is published, and have been the other process's.
            (Some(_), Statement::Copy(_)) => Ok(false),
            // Nothing is written down of files but what was bad in them.
            (Some(effect), Statement::CreateExternalTable(_)) => {
                let (folder, made) = (self.pipeline.folder(), state.made.clone());
                run.open_again(statement, Some(folder), effect, made).await?;
                Ok(true)
            }
            (Some(effect), _) => {
                run.restore(effect, state.made.clone()).await?;
                Ok(true)
            }
        }
    }
}

/// A number from 0 to 1, another one each time.
fn random() -> f64 {
    f64::from(RandomState::new().hash_one(Instant::now()) as u32) / f64::from(u32::MAX)
}

/// For each statement those before it that it has to wait for: the ones that make or change what it reads, makes or
/// changes, and those that read what it changes. `is_view` tells names of views that nobody here makes.
fn waits(
    statements: &[(&Located, Option<&str>)],
    is_view: impl Fn(&str) -> bool,
) -> Result<Vec<BTreeSet<usize>>> {
    struct Known {
        reads: BTreeSet<String>,
        makes: BTreeSet<String>,
        /// Whether others read through it what it reads.
        view: bool,
        /// Whether it is about more than a few names.
        alone: bool,
        /// Whether nobody knows which names it reads.
        looks: bool,
        copies: bool,
    }
    let mut before: Vec<Known> = Vec::new();
    let mut all = Vec::new();
    for (statement, check) in statements {
        let mut reads = statement.reads()?.created_names();
        let of_view = |other: &&Known| other.view && !other.makes.is_disjoint(&reads);
        let within = before.iter().filter(of_view).flat_map(|other| other.reads.iter().cloned());
        let within: Vec<String> = within.collect();
        reads.extend(within);
        let object = check.map_or_else(|| statement.object(), |_| None);
        let makes: BTreeSet<_> = object.into_iter().chain(statement.quarantine()).collect();
        let alone = matches!(
            statement.statement,
            Statement::CreateSchema { .. }
                | Statement::Drop(_)
                | Statement::Restore { .. }
                | Statement::SetModelVersion { .. }
                | Statement::Vacuum { .. }
        );
        let about_others = |name: &String| {
            name.starts_with("system.") || name.starts_with("information_schema.") || is_view(name)
        };
        let looks = reads.iter().any(about_others);
        let view = matches!(statement.statement, Statement::CreateView(_));
        let copies = matches!(statement.statement, Statement::Copy(_));
        let needed = |other: &Known| {
            let about_it = |names: &BTreeSet<String>| !names.is_disjoint(&other.makes);
            let changes_it = !makes.is_disjoint(&other.reads) || other.looks && !makes.is_empty();
            // Two of them may be about the same files.
            let both = copies && other.copies;
            alone
                || looks
                || other.alone
                || about_it(&reads)
                || about_it(&makes)
                || changes_it
                || both
        };
        let numbered = before.iter().enumerate();
        all.push(numbered.filter(|(_, other)| needed(other)).map(|(at, _)| at).collect());
        before.push(Known { reads, makes, view, alone, looks, copies });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse;

    fn waits_of(text: &str) -> Vec<Vec<usize>> {
        let statements = parse("f.sql", text).unwrap();
        let queries = |one: &Located| matches!(one.statement, Statement::Query(_));
        let all: Vec<_> =
            statements.iter().map(|one| (one, queries(one).then_some("check"))).collect();
        let waits = waits(&all, |name| name == "x.published_view").unwrap();
        waits.into_iter().map(|waits| waits.into_iter().collect()).collect()
    }

    #[test]
    fn statements_wait_for_what_they_are_about() {
        let text = "CREATE TABLE x.a AS SELECT 1 AS y; CREATE TABLE x.b AS SELECT 2 AS y; \
                    CREATE TABLE x.c AS SELECT * FROM x.a; INSERT INTO x.a SELECT 3; \
                    SELECT * FROM x.b WHERE y > 2; SELECT * FROM x.a JOIN x.c ON true";
        assert_eq!(waits_of(text), [vec![], vec![], vec![0], vec![0, 2], vec![1], vec![0, 2, 3]]);
        let of_views = "CREATE TABLE x.a AS SELECT 1 AS y; CREATE VIEW x.v AS SELECT * FROM x.a; \
                        CREATE TABLE x.b AS SELECT * FROM x.v; DELETE FROM x.a; \
                        CREATE TABLE x.c AS SELECT * FROM x.published_view";
        let expected = [vec![], vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3]];
        assert_eq!(waits_of(of_views), expected);
        let through_a_view = "CREATE TABLE x.a AS SELECT 1 AS y; CREATE VIEW x.v AS SELECT * FROM x.a; \
                              INSERT INTO x.a SELECT 2; CREATE TABLE x.b AS SELECT * FROM x.v";
        assert_eq!(waits_of(through_a_view)[3], [0, 1, 2]);
        let after_a_published_view = "CREATE TABLE x.b AS SELECT * FROM x.published_view; \
                                      CREATE TABLE x.a AS SELECT 1 AS y; SELECT * FROM x.c";
        assert_eq!(waits_of(after_a_published_view), [vec![], vec![0], vec![]]);
        let copies = "COPY (SELECT 1) TO 'a.csv'; COPY (SELECT 2) TO 'b.csv'; \
                      CREATE TABLE x.b AS SELECT * FROM nightshift.x.a; CREATE TABLE x.a AS SELECT 1";
        assert_eq!(waits_of(copies), [vec![], vec![0], vec![], vec![2]]);
        let alone = "CREATE TABLE x.a AS SELECT 1 AS y; DROP TABLE x.z; \
                     CREATE TABLE x.b AS SELECT 2 AS y; \
                     CREATE TABLE x.c AS SELECT * FROM information_schema.tables";
        assert_eq!(waits_of(alone), [vec![], vec![0], vec![1], vec![0, 1, 2]]);
    }
}
