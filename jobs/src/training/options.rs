//! The options of `CREATE MODEL`: names, types, defaults and ranges.
//!
//! Names follow BigQuery ML where it has them.

use crate::statement::{CreateModel, OptionValue};
use crate::{JobError, Result};
use nightshift_udfs::als::Regularization;
use std::collections::BTreeMap;

/// What a model is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSpec {
    /// `model_type = 'matrix_factorization'`.
    MatrixFactorization(MatrixFactorization),
    /// `model_type = 'pagerank'`.
    PageRank(PageRank),
}

/// Options of `matrix_factorization`.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixFactorization {
    /// `feedback_type`: whether weights are evidence (`implicit`) or values to predict (`explicit`).
    pub implicit: bool,
    /// `num_factors`.
    pub factors: usize,
    /// `user_col`.
    pub user: String,
    /// `item_col`.
    pub item: String,
    /// `rating_col`.
    pub rating: String,
    /// `l2_reg`.
    pub l2: f64,
    /// `l2_reg_exponent`: the ν of frequency-scaled regularisation.
    pub l2_exponent: f64,
    /// `wals_alpha`: how much confidence grows with a unit of weight.
    pub alpha: f64,
    /// `bias`: whether an explicit model has bias terms.
    pub bias: bool,
    /// `max_iterations`.
    pub max_iterations: usize,
    /// `early_stop`.
    pub early_stop: bool,
    /// `min_rel_progress`: the relative decrease of the loss under which training stops.
    pub min_rel_progress: f64,
    /// `seed`.
    pub seed: u64,
}

impl MatrixFactorization {
    /// The penalty of rows of one side, whose other side has `others` rows.
    pub fn regularization(&self, others: u64) -> Regularization {
        let unobserved = if self.implicit { others as f64 / self.alpha } else { 0.0 };
        Regularization { strength: self.l2, exponent: self.l2_exponent, unobserved }
    }
}

/// Options of `pagerank`.
#[derive(Debug, Clone, PartialEq)]
pub struct PageRank {
    /// `source_col`.
    pub source: String,
    /// `target_col`.
    pub target: String,
    /// `weight_col`; every edge has the weight 1 without it.
    pub weight: Option<String>,
    /// `damping`.
    pub damping: f64,
    /// `tolerance`: the largest L1 distance to the exact ranks.
    pub tolerance: f64,
    /// `max_iterations`.
    pub max_iterations: usize,
    /// `teleport_table`: a table of nodes and their teleport weights.
    pub teleport_table: Option<String>,
}

const MATRIX_FACTORIZATION: &[&str] = &[
    "model_type",
    "feedback_type",
    "num_factors",
    "user_col",
    "item_col",
    "rating_col",
    "l2_reg",
    "l2_reg_exponent",
    "wals_alpha",
    "bias",
    "max_iterations",
    "early_stop",
    "min_rel_progress",
    "seed",
];

/// Columns of the tables of a matrix factorization, and of `ml_recommend`.
const RESULTS: &[&str] =
    &["user_index", "item_index", "factors", "bias", "seen_items", "rank", "score"];

const PAGERANK: &[&str] = &[
    "model_type",
    "source_col",
    "target_col",
    "weight_col",
    "damping",
    "tolerance",
    "max_iterations",
    "teleport_table",
];

/// Reads and checks the options of a model.
pub fn model_spec(statement: &CreateModel) -> Result<ModelSpec> {
    let mut given = Given { model: statement.name.to_string(), values: BTreeMap::new() };
    for option in &statement.options {
        if given.values.insert(&option.name, &option.value).is_some() {
            return Err(given.error(&option.name, "it is given twice"));
        }
    }
    let kinds = "use 'matrix_factorization' or 'pagerank'";
    let kind = given
        .text("model_type")?
        .ok_or_else(|| given.error("model_type", &format!("it is missing: {kinds}")))?;
    match kind.as_str() {
        "matrix_factorization" => {
            given.only(MATRIX_FACTORIZATION)?;
            matrix_factorization(&given).map(ModelSpec::MatrixFactorization)
        }
        "pagerank" => {
            given.only(PAGERANK)?;
            pagerank(&given).map(ModelSpec::PageRank)
        }
        other => Err(given.error("model_type", &format!("'{other}' is not a model type: {kinds}"))),
    }
}

fn matrix_factorization(given: &Given<'_>) -> Result<MatrixFactorization> {
    let implicit = match given.text("feedback_type")?.as_deref() {
        None | Some("explicit") => false,
        Some("implicit") => true,
        Some(other) => {
            let reason = format!("'{other}' is neither 'implicit' nor 'explicit'");
            return Err(given.error("feedback_type", &reason));
        }
    };
    for (option, wanted) in [("wals_alpha", true), ("bias", false)] {
        if given.values.contains_key(option) && implicit != wanted {
            let kind = if wanted { "implicit" } else { "explicit" };
            return Err(given.error(option, &format!("it only has a meaning for {kind} feedback")));
        }
    }
    let (user, item) = (given.column("user_col", "user_id")?, given.column("item_col", "item_id")?);
    if user == item {
        return Err(given.error("item_col", &format!("{item} is the user's column too")));
    }
    for (option, name) in [("user_col", &user), ("item_col", &item)] {
        if RESULTS.contains(&name.as_str()) {
            let reason = format!("the model has a column {name} of its own: use another with AS");
            return Err(given.error(option, &reason));
        }
    }
    Ok(MatrixFactorization {
        implicit,
        factors: given.integer("num_factors", 16, 1..=1024)? as usize,
        user,
        item,
        rating: given.column("rating_col", "rating")?,
        l2: given.number("l2_reg", 1.0, 0.0, 1e12)?,
        l2_exponent: given.number("l2_reg_exponent", 0.0, 0.0, 1.0)?,
        alpha: given.number("wals_alpha", 40.0, f64::MIN_POSITIVE, 1e12)?,
        bias: given.boolean("bias", false)?,
        max_iterations: given.integer("max_iterations", 20, 1..=10_000)? as usize,
        early_stop: given.boolean("early_stop", true)?,
        min_rel_progress: given.number("min_rel_progress", 0.01, 0.0, 1.0)?,
        seed: given.integer("seed", 0, 0..=i64::MAX)? as u64,
    })
}

fn pagerank(given: &Given<'_>) -> Result<PageRank> {
    Ok(PageRank {
        source: given.column("source_col", "source")?,
        target: given.column("target_col", "target")?,
        weight: given.text("weight_col")?,
        damping: given.number("damping", 0.85, 0.0, 1.0 - 1e-9)?,
        tolerance: given.number("tolerance", 1e-8, 1e-15, 1.0)?,
        max_iterations: given.integer("max_iterations", 200, 1..=100_000)? as usize,
        teleport_table: given.text("teleport_table")?,
    })
}

struct Given<'a> {
    model: String,
    values: BTreeMap<&'a str, &'a OptionValue>,
}

impl Given<'_> {
    fn error(&self, option: &str, reason: &str) -> JobError {
        JobError::Option {
            model: self.model.clone(),
            option: option.to_string(),
            reason: reason.to_string(),
        }
    }

    fn only(&self, known: &[&str]) -> Result<()> {
        match self.values.keys().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(unknown) => Err(self
                .error(unknown, &format!("there is none of that name, only {}", known.join(", ")))),
        }
    }

    fn text(&self, option: &str) -> Result<Option<String>> {
        match self.values.get(option) {
            None => Ok(None),
            Some(OptionValue::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.error(option, &format!("{} is not a text", other.to_json()))),
        }
    }

    fn column(&self, option: &str, default: &str) -> Result<String> {
        Ok(self.text(option)?.unwrap_or_else(|| default.to_string()))
    }

    fn boolean(&self, option: &str, default: bool) -> Result<bool> {
        match self.values.get(option) {
            None => Ok(default),
            Some(OptionValue::Boolean(value)) => Ok(*value),
            Some(other) => {
                Err(self.error(option, &format!("{} is neither true nor false", other.to_json())))
            }
        }
    }

    fn integer(
        &self,
        option: &str,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64> {
        let Some(value) = self.values.get(option) else { return Ok(default) };
        let number = match value {
            OptionValue::Number(text) => text.parse::<i64>().ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            self.error(
                option,
                &format!("{} is not a whole number from {low} to {high}", value.to_json()),
            )
        })
    }

    fn number(&self, option: &str, default: f64, low: f64, high: f64) -> Result<f64> {
        let Some(value) = self.values.get(option) else { return Ok(default) };
        let number = match value {
            OptionValue::Number(text) => text.parse::<f64>().ok(),
            _ => None,
        };
        number.filter(|number| (low..=high).contains(number)).ok_or_else(|| {
            let low =
                if low == f64::MIN_POSITIVE { "more than 0".to_string() } else { format!("{low}") };
            self.error(option, &format!("{} is not a number from {low} to {high}", value.to_json()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Statement, parse};

    fn spec(options: &str) -> Result<ModelSpec> {
        let text = format!("CREATE MODEL a.m OPTIONS ({options}) AS SELECT 1");
        match parse("f.sql", &text).unwrap().remove(0).statement {
            Statement::CreateModel(model) => model_spec(&model),
            _ => panic!(),
        }
    }

    #[test]
    fn options_have_defaults() {
        let ModelSpec::MatrixFactorization(spec) =
            spec("model_type = 'matrix_factorization', feedback_type = 'implicit', wals_alpha = 2")
                .unwrap()
        else {
            panic!()
        };
        assert_eq!((spec.factors, spec.alpha, spec.user.as_str()), (16, 2.0, "user_id"));
        assert_eq!(spec.regularization(10).unobserved, 5.0);
    }

    #[test]
    fn wrong_options_are_named() {
        for (options, named) in [
            ("damping = 0.5", "option model_type: it is missing"),
            ("model_type = 'kmeans'", "'kmeans' is not a model type"),
            ("model_type = 'pagerank', num_factors = 3", "option num_factors: there is none"),
            ("model_type = 'pagerank', damping = 1", "option damping: 1 is not a number from 0"),
            (
                "model_type = 'matrix_factorization', num_factors = 0",
                "option num_factors: 0 is not",
            ),
            (
                "model_type = 'matrix_factorization', num_factors = 2.5",
                "option num_factors: 2.5 is not",
            ),
            (
                "model_type = 'matrix_factorization', wals_alpha = 3",
                "only has a meaning for implicit",
            ),
            ("model_type = 'matrix_factorization', seed = 'x'", "option seed: \"x\" is not"),
            (
                "model_type = 'matrix_factorization', user_col = 'rank'",
                "has a column rank of its own",
            ),
            (
                "model_type = 'matrix_factorization', user_col = 'item_id'",
                "is the user's column too",
            ),
            ("model_type = 'pagerank', damping = 0.5, damping = 0.6", "given twice"),
        ] {
            let message = spec(options).unwrap_err().to_string();
            assert!(message.contains("model a.m") && message.contains(named), "{message}");
        }
    }
}
