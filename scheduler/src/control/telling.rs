//! What a leader tells people of the runs that it looks at.

use super::notices::{self, LATEST, Notices};
use super::notify::Notice;
use chrono::Utc;
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::Result;
use nightshift_jobs::journal::{self, RunState};
use nightshift_jobs::pipeline::{Given, Pipeline, Settings, Source};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tells people of runs, as their pipelines say.
pub struct Telling {
    warehouse: Warehouse,
    notices: Notices,
    /// Runs that are over and of which everything was told, with the numbers of their next events: somebody may go on
    /// with them.
    told: BTreeMap<String, u64>,
    /// The pipelines of the runs that are looked at, with their values; those that can't be read as nothing.
    pipelines: BTreeMap<String, Option<Arc<Pipeline>>>,
    /// How many seconds the last published run of a pipeline had taken when another began.
    usual: BTreeMap<String, Option<f64>>,
}

impl Telling {
    /// Nobody was told of anything. `commands` says whether pipelines can have programs run by this process.
    pub fn new(warehouse: &Warehouse, commands: bool) -> Self {
        Self {
            warehouse: warehouse.clone(),
            notices: Notices::new(warehouse, commands),
            told: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            usual: BTreeMap::new(),
        }
    }

    /// Delivers the notices that another leader has not delivered.
    pub async fn go_on(&mut self) -> Result<()> {
        for (id, pending) in self.notices.left().await? {
            let source = Source::kept(&self.warehouse, &pending.source).await;
            match source.map(|source| Settings::of_source(&source)) {
                Ok(settings) => self.notices.go_on(id, pending, &settings),
                Err(error) if error.can_pass() => return Err(error),
                Err(error) => {
                    tracing::error!(id, %error, "a notice has a pipeline that can't be read");
                }
            }
        }
        Ok(())
    }

    /// Tells of what has happened to runs since the last look.
    pub async fn look(&mut self, runs: &BTreeMap<String, RunState>) -> Result<()> {
        self.told.retain(|run, _| runs.contains_key(run));
        self.pipelines.retain(|run, _| runs.contains_key(run));
        self.usual.retain(|run, _| runs.contains_key(run));
        let now = Utc::now();
        for run in runs.values() {
            if self.told.get(&run.id) == Some(&run.next) {
                continue;
            }
            let of_interest = run.ended_at.is_none_or(|at| now - at <= LATEST);
            if of_interest && let Some(pipeline) = self.pipeline_of(run).await? {
                let usual =
                    if run.is_over() { None } else { self.usual(&run.id, &pipeline).await? };
                let before = run.ended_at.unwrap_or(now);
                let failing = self.notices.is_failing(&run.begun.pipeline, before).await?;
                for notice in notices::due(run, &pipeline, failing, usual, now) {
                    self.tell(&notice, &pipeline, &run.begun.source).await?;
                }
            }
            if run.is_over() {
                self.notices.ended(run).await?;
                self.pipelines.remove(&run.id);
                self.told.insert(run.id.clone(), run.next);
            }
        }
        Ok(())
    }

    /// Delivers a notice to whom the pipeline says, whose text is kept as `source`.
    pub async fn tell(&mut self, notice: &Notice, pipeline: &Pipeline, source: &str) -> Result<()> {
        self.notices.tell(notice, pipeline, source).await
    }

    /// Says what this process lacks to tell of runs of a pipeline.
    pub fn say_lacking(&self, pipeline: &Pipeline) {
        self.notices.say_lacking(pipeline);
    }

    /// What the texts are kept under that are still needed to deliver notices.
    pub async fn texts(&self) -> Result<Vec<String>> {
        let left = self.notices.left().await?;
        Ok(left.into_values().map(|pending| pending.source).collect())
    }

    /// Forgets what was delivered long ago.
    pub async fn tidy(&self) -> Result<()> {
        self.notices.tidy().await
    }

    /// The pipeline of a run, with its values; `None` if its text can't be read.
    async fn pipeline_of(&mut self, run: &RunState) -> Result<Option<Arc<Pipeline>>> {
        if !self.pipelines.contains_key(&run.id) {
            let read = async {
                let text = Source::kept(&self.warehouse, &run.begun.source).await?;
                Pipeline::of(text, &Given::Recorded(run.begun.parameters.clone()))
            };
            let read = match read.await {
                Ok(pipeline) => Some(Arc::new(pipeline)),
                Err(error) if error.can_pass() => return Err(error),
                Err(error) => {
                    tracing::warn!(run = run.id, %error, "nobody is told of a run: its text can't be read");
                    None
                }
            };
            self.pipelines.insert(run.id.clone(), read);
        }
        Ok(self.pipelines.get(&run.id).cloned().flatten())
    }

    /// How many seconds a run will take, as far as the last published one tells. It is only of interest together with a
    /// deadline.
    async fn usual(&mut self, run: &str, pipeline: &Pipeline) -> Result<Option<f64>> {
        let schedule = pipeline.settings().schedule.as_ref();
        if schedule.is_none_or(|schedule| schedule.deadline.is_none()) {
            return Ok(None);
        }
        if let Some(usual) = self.usual.get(run) {
            return Ok(*usual);
        }
        let last = journal::last_published(&self.warehouse, &pipeline.name()).await?;
        let usual = last.map(|last| last.seconds());
        self.usual.insert(run.to_string(), usual);
        Ok(usual)
    }
}
