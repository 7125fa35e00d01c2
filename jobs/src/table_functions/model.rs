//! The models that a statement names, as far as functions need them.

use crate::suggestion::did_you_mean;
use crate::training::{MatrixFactorization, ModelSpec, recorded_spec};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use nightshift_catalog::registry::ModelDetails;
use nightshift_catalog::scan::WarehouseTable;
use nightshift_udfs::als::{Feedback, Regularization};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The models that a statement names.
#[derive(Debug, Default)]
pub struct Models {
    /// Those that there are, by name.
    pub found: HashMap<String, Model>,
    /// The names of all models, for suggestions.
    pub names: Vec<String>,
}

impl Models {
    /// The model of a name.
    pub(super) fn get(&self, name: &str) -> PlanResult<&Model> {
        self.found.get(&name.to_ascii_lowercase()).ok_or_else(|| {
            let suggestion = did_you_mean(name, self.names.iter().map(String::as_str));
            DataFusionError::Plan(format!("there is no model {name}{suggestion}"))
        })
    }
}

/// The version of a model that a statement sees.
#[derive(Debug, Clone)]
pub struct Model {
    /// `schema.name`.
    pub name: String,
    /// Options and figures of its training.
    pub details: ModelDetails,
    /// Its tables.
    pub tables: BTreeMap<String, WarehouseTable>,
}

impl Model {
    /// One of its tables.
    pub(super) fn table(&self, name: &str) -> PlanResult<&WarehouseTable> {
        match self.tables.get(name) {
            Some(table) => Ok(table),
            None => plan_err!("model {} has no table {name}", self.name),
        }
    }

    /// The model as a matrix factorization, for a function that needs one.
    pub(super) fn factorization(&self, function: &str) -> PlanResult<Factorization<'_>> {
        match recorded_spec(&self.name, &self.details)? {
            ModelSpec::MatrixFactorization(spec) => Ok(Factorization {
                model: self,
                users: self.table("user_factors")?,
                items: self.table("item_factors")?,
                spec,
            }),
            ModelSpec::PageRank(_) => plan_err!(
                "{function}: {0} is a pagerank model, and not a matrix_factorization: read {0}.ranks",
                self.name
            ),
        }
    }
}

/// A matrix factorization.
pub(super) struct Factorization<'a> {
    pub(super) model: &'a Model,
    pub(super) spec: MatrixFactorization,
    /// The table of user factors.
    pub(super) users: &'a WarehouseTable,
    /// The table of item factors.
    pub(super) items: &'a WarehouseTable,
}

/// A scan of a table under a name.
pub(super) fn scan(name: &str, table: &WarehouseTable) -> PlanResult<LogicalPlanBuilder> {
    LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(table.clone())), None)
}

/// A column of a table in a plan, by exactly its name.
pub(super) fn column(table: &str, name: &str) -> Expr {
    Expr::Column(Column::new(Some(table), name))
}

impl Factorization<'_> {
    /// The column of the users' ids.
    pub(super) fn user(&self) -> Field {
        id(&self.users.schema())
    }

    /// The column of the items' ids.
    pub(super) fn item(&self) -> Field {
        id(&self.items.schema())
    }

    fn figure(&self, name: &str) -> PlanResult<f64> {
        match self.model.details.metrics.get(name) {
            Some(figure) => Ok(*figure),
            None => plan_err!(
                "model {} was trained before the figure '{name}' was recorded: train it again",
                self.model.name
            ),
        }
    }

    /// What the weights meant in training.
    pub(super) fn feedback(&self) -> PlanResult<Feedback> {
        Ok(match (self.spec.implicit, self.spec.bias) {
            (true, _) => Feedback::Implicit { alpha: self.spec.alpha },
            (false, false) => Feedback::Explicit { bias: false, mean: 0.0 },
            (false, true) => Feedback::Explicit { bias: true, mean: self.figure("mean")? },
        })
    }

    /// The penalty of users in training.
    pub(super) fn regularization(&self) -> PlanResult<Regularization> {
        Ok(self.spec.regularization(self.figure("items")? as u64))
    }
}

/// The first column of a table of factors.
fn id(schema: &SchemaRef) -> Field {
    schema.field(0).clone()
}
