//! How far trainings are, written down.

use super::{Event, RunJournal};
use crate::progress::Progress;
use crate::{JobError, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The time between two events that say how far a training is: to write one takes as long as some iterations.
const BETWEEN_EVENTS: Duration = Duration::from_secs(1);

/// The numbers of steps by the names of the models that they train.
type Steps = Arc<Mutex<BTreeMap<String, usize>>>;

/// An iteration of a training.
struct Iteration {
    step: usize,
    number: usize,
    of: usize,
    measure: String,
    value: f64,
}

/// Progress that somebody is told of, and that is written down.
pub(crate) struct Recorded {
    told: Arc<dyn Progress>,
    steps: Steps,
    iterations: UnboundedSender<Iteration>,
}

/// What writes it down.
pub(crate) struct Recorder {
    steps: Steps,
    unwritten: AsyncMutex<Unwritten>,
}

/// What is not written down yet.
struct Unwritten {
    iterations: UnboundedReceiver<Iteration>,
    of_steps: BTreeMap<usize, Vec<Iteration>>,
}

impl Recorded {
    pub(crate) fn new(told: Arc<dyn Progress>) -> (Self, Recorder) {
        let (send, iterations) = unbounded_channel();
        let steps = Steps::default();
        let unwritten = AsyncMutex::new(Unwritten { iterations, of_steps: BTreeMap::new() });
        let recorder = Recorder { steps: Arc::clone(&steps), unwritten };
        (Self { told, steps, iterations: send }, recorder)
    }
}

impl Progress for Recorded {
    fn step(&self, number: usize, total: usize, name: &str) {
        self.told.step(number, total, name);
    }

    fn done(&self, name: &str) {
        self.told.done(name);
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        self.told.iteration(model, iteration, total, measure, value);
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(step) = steps.get(model).copied() else { return };
        let (number, of, measure) = (iteration, total, measure.to_string());
        // Nobody receives it when the run is at its end, and then it is of no use.
        let _ = self.iterations.send(Iteration { step, number, of, measure, value });
    }

    fn note(&self, text: &str) {
        self.told.note(text);
    }
}

impl Recorder {
    /// From now on what is told of a model belongs to a step.
    pub(crate) fn begin(&self, name: &str, step: usize) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.insert(name.to_string(), step);
    }

    /// Writes down how far trainings are, as long as they go on.
    pub(crate) async fn record(&self, journal: &RunJournal) -> JobError {
        loop {
            tokio::time::sleep(BETWEEN_EVENTS).await;
            if let Err(error) = self.flush(journal).await {
                return error;
            }
        }
    }

    /// Writes down what was not written down yet.
    pub(crate) async fn flush(&self, journal: &RunJournal) -> Result<()> {
        let mut unwritten = self.unwritten.lock().await;
        while let Ok(iteration) = unwritten.iterations.try_recv() {
            unwritten.of_steps.entry(iteration.step).or_default().push(iteration);
        }
        while let Some((step, iterations)) = unwritten.of_steps.first_key_value() {
            let step = *step;
            let (of, measure) = match iterations.last() {
                Some(last) => (last.of, last.measure.clone()),
                None => Default::default(),
            };
            let values = iterations.iter().map(|at| (at.number, at.value)).collect();
            match journal.append(Event::Iterated { step, of, measure, values }).await {
                Ok(()) => drop(unwritten.of_steps.remove(&step)),
                Err(error @ JobError::Fenced { .. }) => return Err(error),
                // The training goes on, and the next attempt writes it.
                Err(error) => {
                    tracing::warn!(%error, "how far a training is could not be written down");
                    break;
                }
            }
        }
        Ok(())
    }
}
