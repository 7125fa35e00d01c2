//! How far trainings are, written down.

use super::{Event, RunJournal};
use crate::progress::Progress;
use crate::{JobError, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The time between two events that say how far a training is: to write one takes as long as some iterations.
const BETWEEN_EVENTS: Duration = Duration::from_secs(1);

/// An iteration of a training.
struct Iteration {
    number: usize,
    of: usize,
    measure: String,
    value: f64,
}

/// Progress that somebody is told of, and that is written down.
pub(crate) struct Recorded {
    told: Arc<dyn Progress>,
    iterations: UnboundedSender<Iteration>,
}

/// What writes it down.
pub(crate) struct Recorder {
    iterations: UnboundedReceiver<Iteration>,
    unwritten: Vec<Iteration>,
}

impl Recorded {
    pub(crate) fn new(told: Arc<dyn Progress>) -> (Self, Recorder) {
        let (send, iterations) = unbounded_channel();
        (Self { told, iterations: send }, Recorder { iterations, unwritten: Vec::new() })
    }
}

impl Progress for Recorded {
    fn step(&self, number: usize, total: usize, name: &str) {
        self.told.step(number, total, name);
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        self.told.iteration(model, iteration, total, measure, value);
        let measure = measure.to_string();
        // Nobody receives it when the run is at its end, and then it is of no use.
        let _ = self.iterations.send(Iteration { number: iteration, of: total, measure, value });
    }

    fn note(&self, text: &str) {
        self.told.note(text);
    }
}

impl Recorder {
    /// Writes down how far the training of a step is, as long as it goes on.
    pub(crate) async fn record(&mut self, journal: &RunJournal, step: usize) -> JobError {
        loop {
            tokio::time::sleep(BETWEEN_EVENTS).await;
            if let Err(error) = self.flush(journal, step).await {
                return error;
            }
        }
    }

    /// Writes down what was not written down yet.
    pub(crate) async fn flush(&mut self, journal: &RunJournal, step: usize) -> Result<()> {
        while let Ok(iteration) = self.iterations.try_recv() {
            self.unwritten.push(iteration);
        }
        let Some(last) = self.unwritten.last() else { return Ok(()) };
        let (of, measure) = (last.of, last.measure.clone());
        let values = self.unwritten.iter().map(|at| (at.number, at.value)).collect();
        match journal.append(Event::Iterated { step, of, measure, values }).await {
            Ok(()) => self.unwritten.clear(),
            Err(error @ JobError::Fenced { .. }) => return Err(error),
            // The training goes on, and the next attempt writes it.
            Err(error) => tracing::warn!(%error, "how far a training is could not be written down"),
        }
        Ok(())
    }
}
