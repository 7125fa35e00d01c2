//! Functions in `FROM`: what they read is found before a statement is planned, and handed to them.

use crate::operator::{Operator, OperatorNode, Recommend};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder};
use nightshift_catalog::scan::WarehouseTable;
use std::collections::HashMap;
use std::sync::Arc;

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
            return Err(DataFusionError::Plan(format!("usage: {}('schema.table')", self.function)));
        };
        let name = name.try_as_str().flatten().unwrap_or_default().to_ascii_lowercase();
        let answer = self.answers.get(&name);
        let answer =
            answer.ok_or_else(|| DataFusionError::Plan(format!("there is no table {name}")))?;
        Ok(Arc::new(ViewTable::new(answer.clone(), None)))
    }
}

/// The tables of a matrix factorization.
#[derive(Debug, Clone)]
pub struct ModelTables {
    /// The users' factors.
    pub users: WarehouseTable,
    /// The items' factors.
    pub items: WarehouseTable,
}

/// `ml_recommend('schema.model', k)`: for every user of the model the `k` best items that the
/// training data doesn't have for the user. Its columns are the user, `rank` from 1, the item and
/// `score`; users and items have the names they had in training.
#[derive(Debug)]
pub struct RecommendFunction {
    /// The models by name.
    pub models: HashMap<String, ModelTables>,
}

impl TableFunctionImpl for RecommendFunction {
    fn call_with_args(
        &self,
        args: TableFunctionArgs<'_, '_>,
    ) -> PlanResult<Arc<dyn TableProvider>> {
        let usage = || {
            DataFusionError::Plan(
                "usage: ml_recommend('schema.model', number of items)".to_string(),
            )
        };
        let [Expr::Literal(model, _), Expr::Literal(k, _)] = args.exprs() else {
            return Err(usage());
        };
        let Some(Some(model)) = model.try_as_str() else { return Err(usage()) };
        if model.split('.').count() != 2 {
            return Err(usage());
        }
        let k = match k {
            ScalarValue::Int64(Some(k)) if *k > 0 => *k as usize,
            ScalarValue::UInt64(Some(k)) if *k > 0 => *k as usize,
            _ => return Err(usage()),
        };
        let tables = self.models.get(&model.to_ascii_lowercase()).ok_or_else(|| {
            DataFusionError::Plan(format!("there is no matrix factorization model {model}"))
        })?;
        Ok(Arc::new(ViewTable::new(tables.recommend(k)?, None)))
    }
}

impl ModelTables {
    fn recommend(&self, k: usize) -> PlanResult<LogicalPlan> {
        let scan = |name: &str, table: &WarehouseTable| {
            LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(table.clone())), None)
        };
        let user = self.users.schema().field(0).name().clone();
        let item = self.items.schema().field(0).name().clone();
        let column = |table: &str, name: &str| Expr::Column(Column::new(Some(table), name));
        let users = scan("users", &self.users)?
            .project(
                [user.as_str(), "factors", "bias", "seen_items"].map(|name| column("users", name)),
            )?
            .build()?;
        let recommend = Recommend { items: self.items.spec.clone(), k };
        let best = OperatorNode::plan(&Operator::Recommend(recommend), Some(users))?;
        let items = scan("items", &self.items)?
            .project([column("items", &item), column("items", "item_index")])?
            .alias("items")?
            .build()?;
        let on = (
            vec![Column::new(Some("best"), "item_index")],
            vec![Column::new(Some("items"), "item_index")],
        );
        LogicalPlanBuilder::from(best)
            .alias("best")?
            .join(items, JoinType::Inner, on, None)?
            .project([
                column("best", &user).alias(&user),
                column("best", "rank").alias("rank"),
                column("items", &item).alias(&item),
                column("best", "score").alias("score"),
            ])?
            .build()
    }
}
