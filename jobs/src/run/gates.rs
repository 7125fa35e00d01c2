//! Gates: what must hold of the models and tables of a run before it is published.

use super::Run;
use crate::Result;
use crate::pipeline::{Gate, Gated};
use nightshift_catalog::delta::Contents;
use nightshift_catalog::registry::Kind;
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};

/// What a gate has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The model, table or column.
    pub of: String,
    /// The measure.
    pub measure: String,
    /// What it is now; `None` if the run has not made the model or table, or if it is a drift and nothing is
    /// published.
    pub measured: Option<f64>,
    /// What it is of what is published.
    pub published: Option<f64>,
    /// Why that keeps the run from being published, if it does.
    pub held: Option<String>,
}

impl Measured {
    /// The model or table, and the column of it that was measured: names have one dot, and only a column can have more.
    pub fn subject(&self) -> (&str, Option<&str>) {
        match self.of.match_indices('.').nth(1) {
            Some((at, _)) => (&self.of[..at], Some(&self.of[at + 1..])),
            None => (self.of.as_str(), None),
        }
    }

    /// The word for what it means for the run.
    pub fn outcome(&self) -> &'static str {
        match (&self.held, self.measured) {
            (Some(_), _) => "held",
            (None, Some(_)) => "passed",
            (None, None) => "not measured",
        }
    }
}

impl Run {
    /// Measures what a gate is about, of what the run has made and of what is published.
    pub async fn measure(&self, gate: &Gate) -> Result<Measured> {
        let (measured, published) = match &gate.of {
            Gated::Training { model, figure } => self.of_training(model, figure),
            Gated::Evaluation { model, column, holdout, top } => {
                self.of_evaluation(model, column, holdout, *top).await?
            }
            Gated::Rows(table) => self.of_table(table, Contents::rows).await?,
            Gated::Bytes(table) => self.of_table(table, Contents::bytes).await?,
            Gated::Column { table, column, measure } => {
                self.of_column(table, column, *measure).await?
            }
        };
        let held = measured.and_then(|measured| gate.check(measured, published).err());
        let (of, measure) = (gate.of.name(), gate.measure.clone());
        Ok(Measured { of, measure, measured, published, held })
    }

    fn of_training(&self, model: &str, figure: &str) -> (Option<f64>, Option<f64>) {
        let made = self.staged.models.iter().find(|(name, _)| name.to_string() == model);
        let made = made.map(|(_, made)| made.details.metrics.get(figure).copied());
        let entry = self.view.registry().current(Kind::Model, model);
        let published = entry.and_then(|entry| entry.model()?.metrics.get(figure).copied());
        // A figure that this kind of model doesn't have can't be compared with anything.
        (made.map(|figure| figure.unwrap_or(f64::NAN)), published)
    }

    async fn of_evaluation(
        &self,
        model: &str,
        column: &str,
        holdout: &str,
        top: Option<u64>,
    ) -> Result<(Option<f64>, Option<f64>)> {
        if !self.staged.models.keys().any(|name| name.to_string() == model) {
            return Ok((None, None));
        }
        let query = evaluation(model, column, holdout, top);
        let measured = self.number(&self.view, &query).await?;
        let published = match self.view.registry().current(Kind::Model, model) {
            None => None,
            // The same rows, whatever this run has made of the table that they are in.
            Some(_) => Some(self.number(&self.view.without_model(model), &query).await?),
        };
        Ok((Some(measured), published))
    }

    /// Plans what a gate measures with a query, of tables and models that there are.
    pub(super) async fn plan_gate(&self, gate: &Gate) -> Result<()> {
        match &gate.of {
            Gated::Training { .. } | Gated::Rows(_) | Gated::Bytes(_) => Ok(()),
            Gated::Column { table, column, measure } => {
                self.plan_column(table, column, *measure).await
            }
            Gated::Evaluation { model, column, holdout, top } => {
                if self.view.model(&self.session, model).await?.is_none() {
                    return Ok(());
                }
                let query = evaluation(model, column, holdout, *top);
                self.session.analyze(self.view.plan_text(&self.session, &query).await?)?;
                Ok(())
            }
        }
    }

    async fn of_table(
        &self,
        table: &str,
        of: fn(&Contents) -> u64,
    ) -> Result<(Option<f64>, Option<f64>)> {
        let made = self.staged.tables.iter().find(|(name, _)| name.to_string() == table);
        let Some((name, made)) = made else { return Ok((None, None)) };
        let entry = self.view.registry().current(Kind::Table, table);
        let published = match entry {
            None => None,
            Some(entry) => {
                let folder = Warehouse::table_folder(name);
                let snapshot = self.session.warehouse().snapshot(&folder, entry.version).await?;
                Some(of(&snapshot.contents) as f64)
            }
        };
        Ok((Some(of(&made.contents) as f64), published))
    }

    /// Keeps the run's models for people to look at, and lets everything else be as it was.
    pub fn hold(&mut self, measured: &[Measured]) {
        self.staged.held = true;
        self.staged.tables.clear();
        self.staged.names.clear();
        let held_by: Vec<_> = measured.iter().filter_map(|gate| gate.held.clone()).collect();
        for model in self.staged.models.values_mut() {
            model.details.held_by = held_by.clone();
        }
    }
}

/// The query of a measure of `ml_evaluate`.
fn evaluation(model: &str, column: &str, holdout: &str, top: Option<u64>) -> String {
    let top = top.map_or(String::new(), |top| format!(", {top}"));
    // Names that are checked: nothing in them needs quotes.
    format!("SELECT \"{column}\" FROM ml_evaluate('{model}', '{holdout}'{top})")
}
