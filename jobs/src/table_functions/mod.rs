//! Functions in `FROM`: what they read is found before a statement is planned, and handed to them.
//!
//! Those named `ml_…` ask something of a model, whose name is their first argument; `table_columns` and
//! `table_history` say something of a table. `generate_series` and `range` read nothing.

mod about;
mod arguments;
mod documentation;
mod evaluate;
mod fold_in;
mod inspect;
mod model;
mod predict;
mod ranked;
mod series;

pub use about::{About, TABLE_FUNCTIONS};
pub use documentation::{documentation, reference};
pub use model::{Model, Models};
pub use series::{SERIES_FUNCTIONS, Series};

use arguments::Arguments;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::datasource::ViewTable;
use datafusion::error::Result as PlanResult;
use std::sync::Arc;

/// What can be asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `ml_evaluate(model, holdout[, k])`.
    Evaluate,
    /// `ml_fold_in(model, interactions)`.
    FoldIn,
    /// `ml_predict(model, pairs)`.
    Predict,
    /// `ml_recommend(model, k[, users])`.
    Recommend,
    /// `ml_similar_items(model, k[, items])`.
    SimilarItems,
    /// `ml_training_info(model)`.
    TrainingInfo,
    /// `ml_weights(model)`.
    Weights,
}

impl Question {
    /// All of them, in the order of their functions' names.
    pub const ALL: [Question; 7] = [
        Question::Evaluate,
        Question::FoldIn,
        Question::Predict,
        Question::Recommend,
        Question::SimilarItems,
        Question::TrainingInfo,
        Question::Weights,
    ];

    /// The name of the function.
    pub fn function(self) -> &'static str {
        self.page().name
    }
}

/// A function that asks something of a model.
#[derive(Debug)]
pub struct ModelFunction {
    /// What it asks.
    pub question: Question,
    /// The models that the statement names.
    pub models: Arc<Models>,
}

impl TableFunctionImpl for ModelFunction {
    fn call_with_args(
        &self,
        args: TableFunctionArgs<'_, '_>,
    ) -> PlanResult<Arc<dyn TableProvider>> {
        let arguments = Arguments::new(self.question, &args);
        let model = arguments.model(&self.models)?;
        let plan = match self.question {
            Question::Evaluate => evaluate::plan(model, &arguments),
            Question::FoldIn => fold_in::plan(model, &arguments),
            Question::Predict => predict::plan(model, &arguments),
            Question::Recommend => ranked::recommend(model, &arguments),
            Question::SimilarItems => ranked::similar_items(model, &arguments),
            Question::TrainingInfo => inspect::training_info(model, &arguments),
            Question::Weights => inspect::weights(model, &arguments),
        };
        Ok(Arc::new(ViewTable::new(plan?, None)))
    }
}
