//! Which notices are due, and that each is delivered: a receiver that is down delays its notices, and nothing else.

use super::notify::{Notice, deliver, delivery_id, lacking, pause};
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_catalog::warehouse::Warehouse;
use nightshift_jobs::Result;
use nightshift_jobs::journal::{Cause, RunState, Status};
use nightshift_jobs::notices::{Ended, Outbox, Pending};
use nightshift_jobs::pipeline::{Channel, Due, Event, Pipeline, Settings, Trigger};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long ago something can have happened that somebody is still told of for the first time.
pub(super) const LATEST: TimeDelta = TimeDelta::days(2);

/// Notices that are delivered at the same time at most.
const AT_ONCE: usize = 16;

/// The notices that this process delivers.
pub struct Notices {
    outbox: Outbox,
    /// Whether pipelines can have programs run by this process.
    commands: bool,
    /// The pipelines whose last run was not published although it should have been, once that is read.
    failing: Option<BTreeMap<String, Ended>>,
    /// The ids of all that were begun to be delivered, or were delivered before.
    begun: BTreeSet<String>,
    telling: JoinSet<()>,
    turns: Arc<Semaphore>,
}

/// What there is to tell of a run. `failing` says that the one before was not published although it should have been,
/// `usual` how many seconds the last published run has taken.
pub fn due(
    run: &RunState,
    pipeline: &Pipeline,
    failing: bool,
    usual: Option<f64>,
    now: DateTime<Utc>,
) -> Vec<Notice> {
    let notice = |about, reason, at| of_run(&run.id, pipeline, about, reason, at);
    let mut due = Vec::new();
    if let Some(at) = run.ended_at.filter(|at| now - *at <= LATEST) {
        match run.status {
            // Whoever has begun a run by a command sees what becomes of it.
            Status::Failed if run.begun.driver.scheduler => {
                due.push(notice(Event::Failure, run.error.clone().unwrap_or_default(), at));
            }
            Status::Held if run.begun.driver.scheduler => {
                let gates = run.gates.iter().flatten().filter_map(|gate| gate.held.clone());
                due.push(notice(Event::Held, gates.collect::<Vec<_>>().join("; "), at));
            }
            Status::Published if failing => due.push(notice(Event::Recovery, String::new(), at)),
            _ => {}
        }
    }
    due.extend(deadline(&run.begun.cause, pipeline).and_then(|deadline| {
        let reason = too_late(run, deadline, usual, now)?;
        Some(notice(Event::Deadline, reason, deadline))
    }));
    due
}

/// What there is to tell of a run that is due and has to wait for its turn.
pub fn due_of_waiting(due: &Due, pipeline: &Pipeline, now: DateTime<Utc>) -> Option<Notice> {
    let deadline = deadline(&due.cause, pipeline)?;
    let reason = format!("it has to be published by {}, and waits for its turn", shown(deadline));
    let late = now >= deadline && now - deadline < LATEST;
    late.then(|| of_run(&due.id, pipeline, Event::Deadline, reason, deadline))
}

fn of_run(
    run: &str,
    pipeline: &Pipeline,
    about: Event,
    reason: String,
    at: DateTime<Utc>,
) -> Notice {
    let owner = pipeline.settings().owner.clone();
    Notice { pipeline: pipeline.name(), run: run.to_string(), about, owner, reason, at }
}

/// When a run has to be published that a schedule has begun for this reason.
fn deadline(cause: &Cause, pipeline: &Pipeline) -> Option<DateTime<Utc>> {
    let Cause::Schedule { due } = cause else { return None };
    let schedule = pipeline.settings().schedule.as_ref()?;
    match &schedule.trigger {
        Trigger::Cron(cron) => cron.deadline(*due, schedule.deadline?),
        _ => None,
    }
}

/// Why a run is not published by its deadline, or will hardly be.
fn too_late(
    run: &RunState,
    deadline: DateTime<Utc>,
    usual: Option<f64>,
    now: DateTime<Utc>,
) -> Option<String> {
    if now - deadline > LATEST {
        return None;
    }
    let by = shown(deadline);
    match (run.status, run.ended_at) {
        (Status::Published, Some(at)) => (at > deadline)
            .then(|| format!("it had to be published by {by}, and was at {}", shown(at))),
        (status, Some(_)) => {
            Some(format!("it has to be published by {by}, and is {}", status.as_str()))
        }
        (status, None) if now >= deadline => {
            Some(format!("it had to be published by {by}, and is {}", status.as_str()))
        }
        (_, None) => {
            let usual = usual?;
            let ready = run.since + TimeDelta::try_milliseconds((usual * 1e3) as i64)?;
            (ready > deadline).then(|| {
                format!(
                    "it has to be published by {by}, and will hardly be: it began at {}, and the last one has taken \
                     {usual:.0} seconds",
                    shown(run.since)
                )
            })
        }
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

impl Notices {
    /// Nothing is delivered yet. `commands` says whether pipelines can have programs run by this process.
    pub fn new(warehouse: &Warehouse, commands: bool) -> Self {
        let outbox = Outbox::of(warehouse);
        Self {
            outbox,
            commands,
            failing: None,
            begun: BTreeSet::new(),
            telling: JoinSet::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What others have left to deliver, with what the texts of their pipelines are kept under.
    pub async fn left(&self) -> Result<BTreeMap<String, Pending>> {
        self.outbox.waiting().await
    }

    /// Delivers what others have left.
    pub fn go_on(&mut self, id: String, pending: Pending, settings: &Settings) {
        let notice = Notice::from(&pending);
        let mut receivers = settings.notify.iter();
        match receivers.find(|receiver| delivery_id(&receiver.channel, &notice) == id) {
            Some(receiver) => self.begin(id, receiver.channel.clone(), pending),
            None => {
                let error = "nobody is known who has to be told".to_string();
                tracing::error!(id, run = pending.run, error, "a notice can't be delivered");
                let pending = Pending { error: Some(error), ..pending };
                let outbox = self.outbox.clone();
                self.telling.spawn(async move {
                    noted(&id, outbox.give_up(&id, &pending).await);
                });
            }
        }
    }

    /// Whether the last run of a pipeline that had ended before a moment was not published although it should have been.
    pub async fn is_failing(&mut self, pipeline: &str, before: DateTime<Utc>) -> Result<bool> {
        if self.failing.is_none() {
            self.failing = Some(self.outbox.failing().await?);
        }
        let failing = self.failing.as_ref().and_then(|failing| failing.get(pipeline));
        // A new leader looks at runs once more that had ended before it failed.
        Ok(failing.is_some_and(|ended| ended.failing && ended.at < before))
    }

    /// Remembers how a run has ended, when everything was told of it.
    pub async fn ended(&mut self, run: &RunState) -> Result<()> {
        let pipeline = &run.begun.pipeline;
        let Some(at) = run.ended_at else { return Ok(()) };
        let was_failing = self.is_failing(pipeline, at).await?;
        // A new leader looks at runs of long ago once more.
        let known = self.failing.as_ref().and_then(|failing| failing.get(pipeline));
        if known.is_some_and(|known| known.at >= at) {
            return Ok(());
        }
        let is_failing = match run.status {
            Status::Failed | Status::Held => was_failing || run.begun.driver.scheduler,
            Status::Published => false,
            _ => was_failing,
        };
        if was_failing != is_failing {
            let mut failing = self.failing.clone().unwrap_or_default();
            failing.insert(pipeline.clone(), Ended { at, failing: is_failing });
            self.outbox.note_failing(&failing).await?;
            self.failing = Some(failing);
        }
        Ok(())
    }

    /// Delivers a notice to whom the pipeline says, again and again until they have taken it.
    pub async fn tell(&mut self, notice: &Notice, pipeline: &Pipeline, source: &str) -> Result<()> {
        while self.telling.try_join_next().is_some() {}
        let receivers = pipeline.settings().notify.iter();
        for receiver in receivers.filter(|receiver| receiver.on.contains(&notice.about)) {
            let id = delivery_id(&receiver.channel, notice);
            if self.begun.contains(&id) {
                continue;
            }
            let pending = notice.pending(source, &receiver.channel);
            match self.outbox.put(&id, &pending).await? {
                true => self.begin(id, receiver.channel.clone(), pending),
                false => drop(self.begun.insert(id)),
            }
        }
        Ok(())
    }

    /// Says what this process lacks to tell of runs of a pipeline, before there is anything to tell.
    pub fn say_lacking(&self, pipeline: &Pipeline) {
        let receivers = pipeline.settings().notify.iter();
        let lacking = receivers.flat_map(|receiver| lacking(&receiver.channel, self.commands));
        let name = pipeline.name();
        for lacking in lacking.collect::<BTreeSet<_>>() {
            tracing::error!(pipeline = name, "notices of its runs will have to wait: {lacking}");
        }
    }

    /// Forgets what was delivered long ago.
    pub async fn tidy(&self) -> Result<()> {
        self.outbox.tidy(Utc::now()).await
    }

    fn begin(&mut self, id: String, channel: Channel, pending: Pending) {
        if !self.begun.insert(id.clone()) {
            return;
        }
        let (outbox, turns) = (self.outbox.clone(), Arc::clone(&self.turns));
        self.telling.spawn(until_told(outbox, turns, self.commands, id, channel, pending));
    }
}

async fn until_told(
    outbox: Outbox,
    turns: Arc<Semaphore>,
    commands: bool,
    id: String,
    channel: Channel,
    mut pending: Pending,
) {
    let notice = Notice::from(&pending);
    let (run, mut is_first) = (&notice.run, true);
    loop {
        let turn = turns.acquire().await;
        let delivered = deliver(&channel, &notice, commands).await;
        drop(turn);
        let Err(error) = delivered else {
            tracing::info!(run, about = ?notice.about, "a notice is delivered");
            noted(&id, outbox.done(&id).await);
            return;
        };
        pending.attempts += 1;
        pending.error = Some(error.reason());
        if !error.can_pass() {
            tracing::error!(run, %error, "a notice can't be delivered");
            noted(&id, outbox.give_up(&id, &pending).await);
            return;
        }
        let attempts = pending.attempts;
        let pause = pause(attempts);
        match (error.is_of_scheduler(), is_first) {
            (true, true) => {
                tracing::error!(run, %error, "a notice has to wait for something to be mended");
            }
            (true, false) => tracing::debug!(run, %error, attempts, "a notice still has to wait"),
            (false, _) => {
                tracing::warn!(run, %error, attempts, ?pause, "a notice is not delivered yet");
            }
        }
        is_first = false;
        noted(&id, outbox.note(&id, &pending).await);
        tokio::time::sleep(pause).await;
    }
}

/// Tells of what has become of a notice and could not be noted.
fn noted(id: &str, noted: Result<()>) {
    // The next leader tells it again, which is better than not at all.
    if let Err(error) = noted {
        tracing::warn!(id, %error, "what has become of a notice could not be noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_jobs::pipeline::{Given, Source};
    use serde_json::{Value, json};
    use std::path::Path;

    /// A pipeline that is due at three in the night and has to be published by six.
    fn pipeline() -> Pipeline {
        let folder = tempfile::tempdir().unwrap();
        let toml =
            "name = 'p'\nowner = 'ann'\n[schedule]\ncron = '0 3 * * *'\ndeadline = '06:00'\n";
        std::fs::write(folder.path().join("pipeline.toml"), toml).unwrap();
        let sql = "CREATE OR REPLACE TABLE x.a AS SELECT 1 AS y";
        std::fs::write(folder.path().join("a.sql"), sql).unwrap();
        Pipeline::of(Source::read(folder.path()).unwrap(), &Given::default()).unwrap()
    }

    fn time(text: &str) -> DateTime<Utc> {
        format!("2026-03-02T{text}:00Z").parse().unwrap()
    }

    /// A run that has begun when it was due, by a scheduler, and what has happened to it since.
    fn run(events: &[(&str, Value)]) -> RunState {
        let begun = json!({
            "type": "begun", "pipeline": "p", "source": "", "publication": 1, "steps": [],
            "cause": {"by": "schedule", "due": time("03:00")},
            "driver": {"host": "h", "process": 1, "version": "1", "scheduler": true},
        });
        let events = std::iter::once(("03:00", begun)).chain(events.iter().cloned());
        let record = |(number, (at, event)): (usize, (&str, Value))| {
            let record = json!({
                "format": 1, "number": number + 1, "at": time(at), "writer": "w", "event": event,
            });
            serde_json::from_value(record).unwrap()
        };
        let records: Vec<_> = events.enumerate().map(record).collect();
        RunState::fold("r", &records).unwrap()
    }

    fn said(run: &RunState, failing: bool, usual: Option<f64>, now: &str) -> Vec<(Event, String)> {
        let notices = due(run, &pipeline(), failing, usual, time(now));
        notices.into_iter().map(|notice| (notice.about, notice.reason)).collect()
    }

    fn failed() -> Value {
        json!({"type": "failed", "error": "no"})
    }

    fn published() -> Value {
        json!({"type": "published", "publication": 2, "versions": []})
    }

    #[test]
    fn a_deadline_is_told_of_as_soon_as_it_can_hardly_be_kept() {
        let open = run(&[]);
        assert_eq!(said(&open, false, None, "05:59"), []);
        assert_eq!(said(&open, false, Some(3.0 * 3600.0), "03:01"), []);
        let at_risk = said(&open, false, Some(3.5 * 3600.0), "03:01");
        let reason = "it has to be published by 2026-03-02 06:00:00 UTC, and will hardly be: it began at \
                      2026-03-02 03:00:00 UTC, and the last one has taken 12600 seconds";
        assert_eq!(at_risk, [(Event::Deadline, reason.to_string())]);
        let late = said(&open, false, None, "06:00");
        let reason = "it had to be published by 2026-03-02 06:00:00 UTC, and is running";
        assert_eq!(late, [(Event::Deadline, reason.to_string())]);
        assert_eq!(said(&run(&[("05:00", published())]), false, None, "07:00"), []);
        let late = said(&run(&[("06:30", published())]), false, None, "07:00");
        assert!(late[0].1.ends_with("and was at 2026-03-02 06:30:00 UTC"), "{late:?}");
        let failed = said(&run(&[("04:00", failed())]), false, None, "04:01");
        assert_eq!(failed[0], (Event::Failure, "no".to_string()));
        assert_eq!(failed[1].0, Event::Deadline);
        assert!(failed[1].1.ends_with("and is failed"), "{failed:?}");
    }

    #[test]
    fn a_recovery_follows_a_failure() {
        let published = run(&[("05:00", published())]);
        assert_eq!(said(&published, true, None, "05:01"), [(Event::Recovery, String::new())]);
        assert_eq!(said(&published, false, None, "05:01"), []);
        let held = json!({"type": "published", "publication": 2, "versions": [], "held": true});
        let gates = json!({"type": "publishing", "gates": [
            {"of": "x.a", "measure": "rows", "measured": 1.0, "published": 2.0, "held": "too few"},
            {"of": "x.b", "measure": "rows", "measured": 1.0, "published": 1.0, "held": null},
        ]});
        let held = said(&run(&[("04:00", gates), ("04:01", held)]), false, None, "04:02");
        assert_eq!(held[0], (Event::Held, "too few".to_string()));
    }

    #[test]
    fn a_run_that_waits_for_its_turn_can_be_late_too() {
        let waiting = Due {
            id: "r".to_string(),
            cause: Cause::Schedule { due: time("03:00") },
            at: time("03:00"),
        };
        assert_eq!(due_of_waiting(&waiting, &pipeline(), time("05:59")), None);
        let late = due_of_waiting(&waiting, &pipeline(), time("06:00")).unwrap();
        assert_eq!((late.about, late.owner.as_deref()), (Event::Deadline, Some("ann")));
        assert!(late.reason.ends_with("and waits for its turn"), "{}", late.reason);
    }

    fn warehouse(folder: &Path) -> Warehouse {
        let url = url::Url::from_file_path(folder).unwrap();
        let stores = nightshift_catalog::storage::Stores::default();
        Warehouse::open(&url, &stores).unwrap()
    }

    #[tokio::test]
    async fn what_was_not_published_is_remembered_until_something_is() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(folder.path());
        let mut notices = Notices::new(&warehouse, false);
        notices.ended(&run(&[("05:00", published())])).await.unwrap();
        let later = time("09:00");
        assert!(!notices.is_failing("p", later).await.unwrap());
        notices.ended(&run(&[("06:00", failed())])).await.unwrap();
        // Another leader knows it too.
        let mut notices = Notices::new(&warehouse, false);
        assert!(notices.is_failing("p", later).await.unwrap());
        // One that was published before is no recovery.
        assert!(!notices.is_failing("p", time("05:00")).await.unwrap());
        // That one was before.
        notices.ended(&run(&[("05:00", published())])).await.unwrap();
        assert!(notices.is_failing("p", later).await.unwrap());
        notices.ended(&run(&[("07:00", published())])).await.unwrap();
        assert!(!Notices::new(&warehouse, false).is_failing("p", later).await.unwrap());
    }

    /// A notice that is written down for a channel.
    async fn put(outbox: &Outbox, channel: &Channel) -> Pending {
        let notice = Notice {
            pipeline: "p".to_string(),
            run: "r".to_string(),
            about: Event::Failure,
            owner: None,
            reason: "no".to_string(),
            at: time("04:00"),
        };
        let pending = notice.pending("", channel);
        assert!(outbox.put("id", &pending).await.unwrap());
        pending
    }

    #[tokio::test]
    async fn what_nobody_takes_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::of(&warehouse(folder.path()));
        let channel = Channel::Webhook { url: "https://".to_string(), secret_env: None };
        let pending = put(&outbox, &channel).await;
        let turns = Arc::new(Semaphore::new(1));
        let id = "id".to_string();
        until_told(outbox.clone(), turns, true, id, channel, pending.clone()).await;
        let found = outbox.all().await.unwrap();
        assert_eq!((found.len(), found[0].0, found[0].1.attempts), (1, "undeliverable", 1));
        assert!(found[0].1.error.is_some());
        assert!(!outbox.put("id", &pending).await.unwrap());
    }

    #[tokio::test]
    async fn a_notice_waits_for_a_scheduler_that_can_deliver_it() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::of(&warehouse(folder.path()));
        let channel = Channel::Command(vec!["true".to_string(), "s3cret".to_string()]);
        let pending = put(&outbox, &channel).await;
        let turns = Arc::new(Semaphore::new(1));
        let (id, first) = ("id".to_string(), pending.clone());
        let telling = until_told(
            outbox.clone(),
            Arc::clone(&turns),
            false,
            id.clone(),
            channel.clone(),
            first,
        );
        let telling = tokio::spawn(telling);
        let tried = loop {
            let found = outbox.all().await.unwrap();
            if let [(status, tried)] = found.as_slice()
                && tried.attempts > 0
            {
                assert_eq!((*status, tried.receiver.as_str()), ("waiting", "command true"));
                break tried.clone();
            }
        };
        telling.abort();
        assert!(tried.error.as_ref().unwrap().contains("--notify-commands"), "{tried:?}");
        until_told(outbox.clone(), turns, true, id, channel, tried).await;
        assert!(outbox.all().await.unwrap().is_empty());
        assert!(!outbox.put("id", &pending).await.unwrap());
    }
}
