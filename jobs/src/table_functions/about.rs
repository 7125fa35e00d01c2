//! What a table function says of the table that is its argument.

use super::documentation::Page;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::ViewTable;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{Expr, LogicalPlan};
use std::collections::HashMap;
use std::sync::Arc;

/// Table functions whose argument is the name of a table.
pub const TABLE_FUNCTIONS: &[&str] = &[COLUMNS.name, HISTORY.name];

pub(super) const COLUMNS: Page = Page {
    name: "table_columns",
    section: super::documentation::TABLES,
    syntax: "table_columns('schema.table')",
    description: "The columns of a table, a view, or a model's table: name, position, type, whether it can be NULL, \
        comment. It is what `DESCRIBE` shows.",
    arguments: &[("schema.table", "The name, as a text.")],
    example: "SELECT column_name, data_type FROM table_columns('features.ratings')",
};

pub(super) const HISTORY: Page = Page {
    name: "table_history",
    section: super::documentation::TABLES,
    syntax: "table_history('schema.table')",
    description: "The versions of a table that were published, the latest first: number, time, operation, run and \
        engine. It is what `DESCRIBE HISTORY` shows.",
    arguments: &[("schema.table", "The name, as a text.")],
    example: "SELECT version, published_at FROM table_history('features.ratings')",
};

/// A table function that says something of the table that is its argument.
#[derive(Debug)]
pub struct About {
    /// The function's name.
    pub function: String,
    /// What it says, by table.
    pub answers: HashMap<String, LogicalPlan>,
}

impl TableFunctionImpl for About {
    fn call_with_args(
        &self,
        args: TableFunctionArgs<'_, '_>,
    ) -> PlanResult<Arc<dyn TableProvider>> {
        let [Expr::Literal(name, _)] = args.exprs() else {
            return plan_err!("usage: {}('schema.table')", self.function);
        };
        let name = name.try_as_str().flatten().unwrap_or_default().to_ascii_lowercase();
        let answer = self.answers.get(&name);
        let answer =
            answer.ok_or_else(|| DataFusionError::Plan(format!("there is no table {name}")))?;
        Ok(Arc::new(ViewTable::new(answer.clone(), None)))
    }
}
