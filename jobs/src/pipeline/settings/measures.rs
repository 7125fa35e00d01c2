//! What can be measured of models and tables, and what is needed for that.

use super::keys::Keys;
use crate::suggestion::did_you_mean;

/// Figures of a training, as drivers record them with a model. Not all models have all of them.
const OF_TRAINING: [&str; 14] = [
    "rows",
    "users",
    "items",
    "nodes",
    "edges",
    "topics",
    "iterations",
    "loss",
    "mean",
    "error_bound",
    "converged",
    "seconds",
    "blocks_read",
    "blocks_kept",
];

/// What `ml_evaluate` measures of a ranking, by the names of its columns without their end.
const OF_RANKINGS: [&str; 3] = ["recall_at_", "ndcg_at_", "map_at_"];

/// Columns of `ml_evaluate` for rankings besides these.
const BESIDE_RANKINGS: [&str; 2] = ["users", "coverage"];

/// Columns of `ml_evaluate` for values that are predicted.
const OF_PREDICTIONS: [&str; 3] = ["pairs", "rmse", "mae"];

/// What is measured of a table as a whole.
const OF_TABLES: [&str; 2] = ["rows", "bytes"];

/// What is measured of a column.
const OF_COLUMNS: [(&str, ColumnMeasure); 7] = [
    ("mean", ColumnMeasure::Mean),
    ("stddev", ColumnMeasure::Deviation),
    ("minimum", ColumnMeasure::Minimum),
    ("maximum", ColumnMeasure::Maximum),
    ("nulls", ColumnMeasure::Nulls),
    ("distinct", ColumnMeasure::Distinct),
    (DRIFT, ColumnMeasure::Drift),
];

/// The measure that is of what is published and of what the run has made at once.
pub(super) const DRIFT: &str = "drift";

/// How many recommendations count, if nothing is said.
const TOP: u64 = 20;

/// What is measured, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gated {
    /// A figure of a model's training, by its name in the registry.
    Training {
        /// The model.
        model: String,
        /// The figure.
        figure: String,
    },
    /// A column of `ml_evaluate(model, holdout, top)`.
    Evaluation {
        /// The model.
        model: String,
        /// The column: `recall_at_k`, `ndcg_at_k`, `map_at_k`, `users`, `coverage`, `pairs`, `rmse`
        /// or `mae`.
        column: String,
        /// The table of what was held out.
        holdout: String,
        /// How many recommendations count; `None` for the columns about values that are predicted.
        top: Option<u64>,
    },
    /// How many rows a table has.
    Rows(String),
    /// How many bytes the files of a table have.
    Bytes(String),
    /// Something about the values of a column.
    Column {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What of its values.
        measure: ColumnMeasure,
    },
}

/// What is measured of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnMeasure {
    /// The mean of its numbers.
    Mean,
    /// The standard deviation of its numbers.
    Deviation,
    /// The least of its numbers.
    Minimum,
    /// The greatest of its numbers.
    Maximum,
    /// The share of rows in which it is NULL.
    Nulls,
    /// How many different values it has.
    Distinct,
    /// How far its distribution is from the published one.
    Drift,
}

impl Gated {
    /// The model, the table, or the column with its table.
    pub fn name(&self) -> String {
        match self {
            Self::Training { model, .. } | Self::Evaluation { model, .. } => model.clone(),
            Self::Rows(table) | Self::Bytes(table) => table.clone(),
            Self::Column { table, column, .. } => format!("{table}.{column}"),
        }
    }

    /// The model or table, without a column.
    pub fn subject(&self) -> &str {
        match self {
            Self::Training { model, .. } | Self::Evaluation { model, .. } => model,
            Self::Rows(table) | Self::Bytes(table) | Self::Column { table, .. } => table,
        }
    }

    /// The tables and models that a query reads to measure it.
    pub fn reads(&self) -> Vec<String> {
        match self {
            Self::Training { .. } | Self::Rows(_) | Self::Bytes(_) => Vec::new(),
            Self::Evaluation { model, holdout, .. } => vec![model.clone(), holdout.clone()],
            Self::Column { table, .. } => vec![table.clone()],
        }
    }
}

/// What is needed to evaluate a model, and where it is.
pub(super) struct Evaluation {
    holdout_at: Option<usize>,
    holdout: Option<String>,
    top_at: Option<usize>,
    top: Option<u64>,
}

impl Evaluation {
    pub(super) fn of(keys: &mut Keys<'_, '_>) -> Self {
        let (holdout_at, top_at) = (keys.place("holdout"), keys.place("top"));
        let holdout = keys.name("holdout");
        let top = keys.located("top").and_then(|(at, top): (usize, i64)| {
            let counted = u64::try_from(top).ok().filter(|top| *top > 0);
            if counted.is_none() {
                keys.wrong(at, format!("top can't be {top}: it is counted from 1"));
            }
            counted
        });
        Self { holdout_at, holdout, top_at, top }
    }

    /// Notes that what is needed to evaluate a model has no meaning.
    pub(super) fn refuse(&self, keys: &mut Keys<'_, '_>, reason: &str) {
        for at in [self.holdout_at, self.top_at].into_iter().flatten() {
            keys.wrong(at, reason);
        }
    }

    pub(super) fn model(
        self,
        keys: &mut Keys<'_, '_>,
        model: Option<String>,
        (at, measure): &(usize, String),
    ) -> Option<Gated> {
        let (column, length) = match ranking(measure) {
            Some((column, length)) => (column, length),
            None => (measure.clone(), None),
        };
        let ranked = column != *measure
            || OF_RANKINGS.iter().any(|name| measure == &format!("{name}k"))
            || BESIDE_RANKINGS.contains(&measure.as_str());
        let predicted = OF_PREDICTIONS.contains(&measure.as_str());
        let trained = OF_TRAINING.contains(&measure.as_str());
        if !ranked && !predicted && !trained {
            keys.wrong(*at, unknown(measure, "a model", &known_of_models()));
            return None;
        }
        if trained && (!ranked || self.holdout_at.is_none()) {
            self.refuse(keys, &format!("{measure} is known from the training, without a holdout"));
            return Some(Gated::Training { model: model?, figure: measure.clone() });
        }
        if self.holdout_at.is_none() {
            keys.wrong(*at, format!("{measure} needs a holdout: holdout = \"schema.table\""));
            return None;
        }
        if let (true, Some(top_at)) = (predicted, self.top_at) {
            keys.wrong(top_at, format!("top has no meaning for {measure}"));
        }
        if let (Some(length), Some(top), Some(top_at)) = (length, self.top, self.top_at)
            && length != top
        {
            keys.wrong(top_at, format!("top is {top}, and the measure {measure}"));
        }
        let top = ranked.then(|| length.or(self.top).unwrap_or(TOP));
        Some(Gated::Evaluation { model: model?, column, holdout: self.holdout?, top })
    }
}

/// The column of `ml_evaluate` that a measure such as `ndcg_at_20` is of, and the number.
fn ranking(measure: &str) -> Option<(String, Option<u64>)> {
    let name = OF_RANKINGS.iter().find(|name| measure.starts_with(**name))?;
    let length = measure.strip_prefix(name)?;
    let digits = length.bytes().all(|byte| byte.is_ascii_digit()) && !length.starts_with('0');
    let length = length.parse().ok().filter(|_| digits)?;
    Some((format!("{name}k"), Some(length)))
}

/// The column that something is measured of, and where that is said.
pub(super) struct Column {
    /// Where its key is.
    at: Option<usize>,
    /// Where its name is, and the name.
    name: Option<(usize, String)>,
}

impl Column {
    pub(super) fn of(keys: &mut Keys<'_, '_>) -> Self {
        Self { at: keys.place("column"), name: keys.located("column") }
    }

    /// Where its name is.
    pub(super) fn place(&self) -> Option<usize> {
        self.name.as_ref().map(|(at, _)| *at)
    }

    /// Notes that a column has no meaning.
    pub(super) fn refuse(&self, keys: &mut Keys<'_, '_>, reason: impl Into<String>) {
        if let Some(at) = self.at {
            keys.wrong(at, reason);
        }
    }

    /// The measure of a table, or of this column of it.
    pub(super) fn table(
        self,
        keys: &mut Keys<'_, '_>,
        table: Option<String>,
        (at, measure): &(usize, String),
    ) -> Option<Gated> {
        if OF_TABLES.contains(&measure.as_str()) {
            self.refuse(keys, format!("{measure} is of the whole table, without a column"));
            return match measure.as_str() {
                "rows" => table.map(Gated::Rows),
                _ => table.map(Gated::Bytes),
            };
        }
        let Some((_, of)) = OF_COLUMNS.iter().find(|(name, _)| name == measure) else {
            let of_columns = OF_COLUMNS.iter().map(|(name, _)| name);
            let known: Vec<_> = OF_TABLES.iter().chain(of_columns).map(|n| n.to_string()).collect();
            keys.wrong(*at, unknown(measure, "a table", &known));
            return None;
        };
        if self.at.is_none() {
            keys.wrong(*at, format!("{measure} needs a column: column = \"name\""));
        }
        Some(Gated::Column { table: table?, column: self.name?.1, measure: *of })
    }
}

/// All measures of models, once.
fn known_of_models() -> Vec<String> {
    let mut known: Vec<_> = OF_RANKINGS.iter().map(|name| format!("{name}k")).collect();
    for name in BESIDE_RANKINGS.iter().chain(&OF_PREDICTIONS).chain(&OF_TRAINING) {
        if !known.iter().any(|other| other == name) {
            known.push((*name).to_string());
        }
    }
    known
}

fn unknown(measure: &str, of: &str, known: &[String]) -> String {
    let meant = did_you_mean(measure, known.iter().map(String::as_str));
    format!("there is no measure '{measure}' of {of}, but {}{meant}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::{Bounds, Gate, Settings};
    use super::*;

    fn gate(text: &str) -> Gate {
        let (mut settings, mistakes) = Settings::parse("p.toml", &format!("[[gate]]\n{text}"));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        settings.gates.remove(0)
    }

    #[test]
    fn measures_come_from_the_training_an_evaluation_or_the_table() {
        let of = |measure: &str, more: &str| {
            gate(&format!("model = 'a.m'\nmeasure = '{measure}'\nmin = 0.1\n{more}")).of
        };
        let evaluation = |column: &str, top| {
            let (model, holdout) = ("a.m".to_string(), "a.h".to_string());
            Gated::Evaluation { model, column: column.to_string(), holdout, top }
        };
        let holdout = "holdout = 'a.h'";
        let top = "holdout = 'a.h'\ntop = 5";
        assert_eq!(of("ndcg_at_20", holdout), evaluation("ndcg_at_k", Some(20)));
        assert_eq!(of("recall_at_5", top), evaluation("recall_at_k", Some(5)));
        assert_eq!(of("map_at_k", top), evaluation("map_at_k", Some(5)));
        assert_eq!(of("map_at_k", holdout), evaluation("map_at_k", Some(20)));
        assert_eq!(of("coverage", top), evaluation("coverage", Some(5)));
        assert_eq!(of("rmse", holdout), evaluation("rmse", None));
        assert_eq!(of("users", holdout), evaluation("users", Some(20)));
        let training =
            |figure: &str| Gated::Training { model: "a.m".to_string(), figure: figure.to_string() };
        for figure in OF_TRAINING {
            assert_eq!(of(figure, ""), training(figure));
        }
        let rows = gate("table = 'a.t'\nmeasure = 'rows'\nmin_ratio = 0.9\nmax_ratio = 1.1");
        let table = "a.t".to_string();
        assert_eq!((rows.of.clone(), rows.of.name()), (Gated::Rows(table.clone()), table.clone()));
        let bounds = Bounds { min_ratio: Some(0.9), max_ratio: Some(1.1), ..Bounds::default() };
        assert_eq!(rows.bounds, bounds);
        for (name, measure) in OF_COLUMNS {
            let text = format!("table = 'a.t'\ncolumn = 'a \"b\"'\nmeasure = '{name}'\nmax = 1");
            let (found, column) = (gate(&text), "a \"b\"".to_string());
            assert_eq!(found.of.name(), "a.t.a \"b\"");
            assert_eq!(found.of, Gated::Column { table: table.clone(), column, measure });
            assert_eq!(found.of.reads(), ["a.t"]);
        }
    }
}
