//! The options of `CREATE MODEL`: what a model is to be, read from what was given or recorded.

mod declarations;
mod reference;

pub use reference::reference;

use crate::statement::{CreateModel, OptionValue};
use crate::suggestion::did_you_mean;
use crate::{JobError, Result};
use declarations::*;
use nightshift_catalog::registry::ModelDetails;
use nightshift_udfs::als::{Enough, Regularization, Solver};
use std::collections::BTreeMap;

/// What a model is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSpec {
    /// `model_type = 'matrix_factorization'`.
    MatrixFactorization(MatrixFactorization),
    /// `model_type = 'pagerank'`.
    PageRank(PageRank),
}

impl ModelSpec {
    /// Whether training starts from the published version of the model.
    pub fn warm_start(&self) -> bool {
        match self {
            ModelSpec::MatrixFactorization(spec) => spec.warm_start,
            ModelSpec::PageRank(spec) => spec.warm_start,
        }
    }
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
    /// `nonnegative`, `solver` and what belongs to it: how rows are solved. `None` if that is decided by the data.
    pub solver: Option<Solver>,
    /// `max_iterations`.
    pub max_iterations: usize,
    /// `early_stop`.
    pub early_stop: bool,
    /// `min_rel_progress`: the relative decrease of the loss under which training stops.
    pub min_rel_progress: f64,
    /// `seed`.
    pub seed: u64,
    /// `warm_start`: whether training starts from the published version's factors.
    pub warm_start: bool,
}

impl MatrixFactorization {
    /// The penalty of rows of one side, whose other side has `others` rows.
    pub fn regularization(&self, others: u64) -> Regularization {
        let unobserved = if self.implicit { others as f64 / self.alpha } else { 0.0 };
        Regularization { strength: self.l2, exponent: self.l2_exponent, unobserved }
    }

    /// Whether no iteration is to follow those that have come to these losses.
    pub fn is_enough(&self, losses: &[f64]) -> bool {
        let slow = match losses {
            [.., before, loss] => Enough::is_enough(self.min_rel_progress, *before, *loss),
            _ => false,
        };
        losses.len() == self.max_iterations || self.early_stop && slow
    }

    /// The same, as who does several iterations needs it to know; `before` is the loss before the first of them.
    pub fn enough(&self, before: Option<f64>) -> Option<Enough> {
        let least = self.min_rel_progress.to_bits();
        self.early_stop.then(|| Enough { before: before.map(f64::to_bits), least })
    }

    /// How rows are solved, of which there are `count` with `entries` in all.
    pub fn solver(&self, entries: f64, count: f64) -> Solver {
        let in_steps = Solver::ConjugateGradient { steps: CG_STEPS.values.default as usize };
        let flops = |solver| solver_flops(solver, self.factors as f64, entries, count);
        match self.solver {
            Some(solver) => solver,
            None if flops(in_steps) * SLOWER_IN_STEPS < flops(Solver::Exact) => in_steps,
            None => Solver::Exact,
        }
    }
}

/// Times that the arithmetic of conjugate gradients must fit into that of an exact solution for them to get to a given
/// loss first: they come less far in an iteration, and the same arithmetic takes longer, because more of the time goes into
/// reading. As measured with the interactions of `bench/run als`: with 32 factors it fits 3 times, and they take longer; with 64,
/// 6 times, and they take less. Of explicit feedback, which has no axes, two steps with 64 factors took two thirds of the time.
const SLOWER_IN_STEPS: f64 = 4.5;

/// Floating-point operations of solving `count` rows of `width` numbers and `entries` in all. Rows with few entries may take
/// fewer, as the dual problem.
pub(super) fn solver_flops(solver: Solver, width: f64, entries: f64, count: f64) -> f64 {
    // The products of an entry with itself, which are half a matrix, and with a vector; a row's decomposition, a
    // third of a cube, and its solution.
    let equations = |width: f64| {
        entries * (width * (width + 1.0) + 4.0 * width)
            + count * (width.powi(3) / 3.0 + 2.0 * width * width)
    };
    // Products with a vector, and the way to the axes of the other side and back, which there is for implicit feedback only.
    let vectors = |times: f64| times * 4.0 * entries * width + 4.0 * count * width * width;
    match solver {
        Solver::Exact | Solver::NonNegative => equations(width),
        Solver::ConjugateGradient { steps } => vectors(steps as f64 + 1.0),
        Solver::Subspace { factors } => {
            let factors = width.min(factors as f64);
            (width / factors) * equations(factors) + vectors(2.0)
        }
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
    /// `teleport_by`: the column of that table that tells several distributions apart.
    pub teleport_by: Option<String>,
    /// `warm_start`: whether the steps start from the published version's ranks.
    pub warm_start: bool,
}

impl PageRank {
    /// Whether no step is to follow those that were measured as changes and bounds of the error.
    pub fn is_enough(&self, history: &[Vec<f64>]) -> bool {
        let bound = history.last().and_then(|row| row.get(1));
        bound.is_some_and(|bound| *bound <= self.tolerance) || history.len() == self.max_iterations
    }
}

/// Columns of the tables of a matrix factorization, and of what functions say of it.
const RESULTS: &[&str] =
    &["user_index", "item_index", "factors", "bias", "seen_items", "rank", "score", "similar_item"];

/// Reads and checks the options of a model that is to be trained.
pub fn model_spec(statement: &CreateModel) -> Result<ModelSpec> {
    let given = statement.options.iter().map(|option| (option.name.as_str(), &option.value));
    spec(statement.name.to_string(), given)
}

/// Reads the options that a model was trained with.
pub fn recorded_spec(model: &str, details: &ModelDetails) -> Result<ModelSpec> {
    let value = |value: &serde_json::Value| match value {
        serde_json::Value::Bool(value) => OptionValue::Boolean(*value),
        serde_json::Value::String(text) => OptionValue::Text(text.clone()),
        other => OptionValue::Number(other.to_string()),
    };
    let options = details.options.iter().map(|(name, given)| (name.as_str(), value(given)));
    let options: Vec<_> = options.collect();
    spec(model.to_string(), options.iter().map(|(name, value)| (*name, value)))
}

fn spec<'a>(
    model: String,
    options: impl Iterator<Item = (&'a str, &'a OptionValue)>,
) -> Result<ModelSpec> {
    let mut given = Given { model, values: BTreeMap::new() };
    for (name, value) in options {
        if given.values.insert(name, value).is_some() {
            return Err(given.error(name, "it is given twice"));
        }
    }
    match given.value(&MODEL_TYPE)?.as_deref() {
        Some("matrix_factorization") => {
            given.only(MATRIX_FACTORIZATION)?;
            matrix_factorization(&given).map(ModelSpec::MatrixFactorization)
        }
        Some(_) => {
            given.only(PAGERANK)?;
            pagerank(&given).map(ModelSpec::PageRank)
        }
        None => {
            let reason = format!("it is missing: use {}", MODEL_TYPE.values.kind());
            Err(given.error(MODEL_TYPE.name, &reason))
        }
    }
}

fn matrix_factorization(given: &Given<'_>) -> Result<MatrixFactorization> {
    let implicit = given.text(&FEEDBACK_TYPE)? == "implicit";
    for (option, wanted) in [(WALS_ALPHA.name, true), (BIAS.name, false)] {
        if given.values.contains_key(option) && implicit != wanted {
            let kind = if wanted { "implicit" } else { "explicit" };
            return Err(given.error(option, &format!("it only has a meaning for {kind} feedback")));
        }
    }
    let solver = solver(given)?;
    let (user, item) = (given.text(&USER_COL)?, given.text(&ITEM_COL)?);
    if user == item {
        return Err(given.error(ITEM_COL.name, &format!("{item} is the user's column too")));
    }
    for (option, name) in [(USER_COL.name, &user), (ITEM_COL.name, &item)] {
        if RESULTS.contains(&name.as_str()) {
            let reason = format!("the model has a column {name} of its own: use another with AS");
            return Err(given.error(option, &reason));
        }
    }
    Ok(MatrixFactorization {
        implicit,
        factors: given.integer(&NUM_FACTORS)? as usize,
        user,
        item,
        rating: given.text(&RATING_COL)?,
        l2: given.number(&L2_REG)?,
        l2_exponent: given.number(&L2_REG_EXPONENT)?,
        alpha: given.number(&WALS_ALPHA)?,
        bias: given.boolean(&BIAS)?,
        solver,
        max_iterations: given.integer(&MAX_ITERATIONS)? as usize,
        early_stop: given.boolean(&EARLY_STOP)?,
        min_rel_progress: given.number(&MIN_REL_PROGRESS)?,
        seed: given.integer(&SEED)? as u64,
        warm_start: given.boolean(&WARM_START)?,
    })
}

fn solver(given: &Given<'_>) -> Result<Option<Solver>> {
    let name = given.text(&SOLVER)?;
    for (option, of) in [(SUBSPACE_FACTORS.name, "subspace"), (CG_STEPS.name, "conjugate_gradient")]
    {
        if given.values.contains_key(option) && name != of {
            let reason = format!("it only has a meaning with {} = '{of}'", SOLVER.name);
            return Err(given.error(option, &reason));
        }
    }
    let nonnegative = given.boolean(&NONNEGATIVE)?;
    let solver = match name.as_str() {
        "subspace" => Solver::Subspace { factors: given.integer(&SUBSPACE_FACTORS)? as usize },
        "conjugate_gradient" => {
            Solver::ConjugateGradient { steps: given.integer(&CG_STEPS)? as usize }
        }
        _ if nonnegative => Solver::NonNegative,
        "exact" => Solver::Exact,
        _ => return Ok(None),
    };
    if nonnegative && solver != Solver::NonNegative {
        let reason =
            format!("'{name}' can't keep factors from being negative: use 'auto' or 'exact'");
        return Err(given.error(SOLVER.name, &reason));
    }
    Ok(Some(solver))
}

fn pagerank(given: &Given<'_>) -> Result<PageRank> {
    let teleport_table = given.value(&TELEPORT_TABLE)?;
    let teleport_by: Option<String> = given.value(&TELEPORT_BY)?;
    if let Some(by) = &teleport_by {
        if teleport_table.is_none() {
            let reason = format!("it only has a meaning with {}", TELEPORT_TABLE.name);
            return Err(given.error(TELEPORT_BY.name, &reason));
        }
        if ["node", "rank"].contains(&by.to_lowercase().as_str()) {
            let reason = format!("the ranks have a column {by} of their own: name it otherwise");
            return Err(given.error(TELEPORT_BY.name, &reason));
        }
    }
    Ok(PageRank {
        source: given.text(&SOURCE_COL)?,
        target: given.text(&TARGET_COL)?,
        weight: given.value(&WEIGHT_COL)?,
        damping: given.number(&DAMPING)?,
        tolerance: given.number(&TOLERANCE)?,
        max_iterations: given.integer(&MOST_STEPS)? as usize,
        teleport_table,
        teleport_by,
        warm_start: given.boolean(&WARM_RANKS)?,
    })
}

/// Options as they were given, by name.
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

    fn only(&self, known: &[&dyn Declared]) -> Result<()> {
        let known: Vec<&str> = known.iter().map(|option| option.name()).collect();
        match self.values.keys().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(unknown) => {
                let suggestion = did_you_mean(unknown, known.iter().copied());
                let reason =
                    format!("there is none of that name, only {}{suggestion}", known.join(", "));
                Err(self.error(unknown, &reason))
            }
        }
    }

    /// The value that was given for an option.
    fn value<T: Values>(&self, option: &Declaration<T>) -> Result<Option<T::Value>> {
        let read = |value: &&OptionValue| {
            option.values.read(value).map_err(|reason| self.error(option.name, &reason))
        };
        self.values.get(option.name).map(read).transpose()
    }

    /// The text that was given, or the default.
    fn text(&self, option: &Declaration<Text>) -> Result<String> {
        let default = || option.values.default.unwrap_or_default().to_string();
        Ok(self.value(option)?.unwrap_or_else(default))
    }

    fn integer(&self, option: &Declaration<Integer>) -> Result<i64> {
        Ok(self.value(option)?.unwrap_or(option.values.default))
    }

    fn number(&self, option: &Declaration<Number>) -> Result<f64> {
        Ok(self.value(option)?.unwrap_or(option.values.default))
    }

    fn boolean(&self, option: &Declaration<Boolean>) -> Result<bool> {
        Ok(self.value(option)?.unwrap_or(option.values.default))
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
    fn many_factors_are_solved_in_steps() {
        let solver = |options: &str| {
            let ModelSpec::MatrixFactorization(spec) =
                spec(&format!("model_type = 'matrix_factorization', {options}")).unwrap()
            else {
                panic!()
            };
            spec.solver(1e6, 1e4)
        };
        assert_eq!(solver("num_factors = 32"), Solver::Exact);
        let steps = Solver::ConjugateGradient { steps: 2 };
        assert_eq!(solver("num_factors = 64"), steps);
        assert_eq!(solver("num_factors = 512"), steps);
        assert_eq!(
            solver("num_factors = 512, solver = 'subspace'"),
            Solver::Subspace { factors: 32 }
        );
        assert_eq!(solver("num_factors = 512, solver = 'exact'"), Solver::Exact);
        assert_eq!(solver("num_factors = 512, nonnegative = true"), Solver::NonNegative);
        assert_eq!(solver("solver = 'conjugate_gradient'"), steps);
    }

    #[test]
    fn options_are_the_same_when_they_are_read_back() {
        for options in [
            "model_type = 'matrix_factorization', feedback_type = 'implicit', wals_alpha = 0.5, seed = 7",
            "model_type = 'matrix_factorization', bias = true, l2_reg = 1e-3, warm_start = true",
            "model_type = 'matrix_factorization', solver = 'subspace', subspace_factors = 48",
            "model_type = 'matrix_factorization', solver = 'conjugate_gradient', cg_steps = 5",
            "model_type = 'matrix_factorization', nonnegative = true",
            "model_type = 'pagerank', weight_col = 'w', tolerance = 1e-12",
            "model_type = 'pagerank', teleport_table = 'a.seeds', teleport_by = 'category'",
        ] {
            let text = format!("CREATE MODEL a.m OPTIONS ({options}) AS SELECT 1");
            let Statement::CreateModel(model) = parse("f.sql", &text).unwrap().remove(0).statement
            else {
                panic!()
            };
            let recorded = model.options.iter();
            let recorded = recorded.map(|option| (option.name.clone(), option.value.to_json()));
            let details = ModelDetails { options: recorded.collect(), ..Default::default() };
            assert_eq!(recorded_spec("a.m", &details).unwrap(), model_spec(&model).unwrap());
        }
    }

    #[test]
    fn wrong_options_are_named() {
        for (options, named) in [
            ("damping = 0.5", "option model_type: it is missing"),
            ("model_type = 'kmeans'", "'kmeans' is not 'matrix_factorization' or 'pagerank'"),
            (
                "model_type = 'matrix_factorization', nun_factors = 3",
                "warm_start; did you mean num_factors?",
            ),
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
            (
                "model_type = 'pagerank', teleport_by = 'category'",
                "option teleport_by: it only has a meaning with teleport_table",
            ),
            (
                "model_type = 'pagerank', teleport_table = 'a.seeds', teleport_by = 'rank'",
                "option teleport_by: the ranks have a column rank of their own",
            ),
            (
                "model_type = 'matrix_factorization', cg_steps = 5",
                "option cg_steps: it only has a meaning with solver = 'conjugate_gradient'",
            ),
            (
                "model_type = 'matrix_factorization', nonnegative = true, solver = 'subspace'",
                "option solver: 'subspace' can't keep factors from being negative",
            ),
        ] {
            let message = spec(options).unwrap_err().to_string();
            assert!(message.contains("model a.m") && message.contains(named), "{message}");
        }
    }
}
