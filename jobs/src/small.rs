//! Queries so small that this process runs them itself.
//!
//! A lookup of some rows by their id reads a few row groups. To plan it, cut it into stages and send it
//! to an executor would take many times longer than to run it. What runs here is a query whose cost
//! can be told beforehand: filters, sums and sorts over a bounded number of bytes. Everything that can
//! grow, such as a join or a function that makes long texts, is the executors' work.

use crate::Result;
use crate::operator::OperatorPlanner;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result as PlanResult;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_plan::execute_stream;
use nightshift_catalog::scan::WarehouseTable;
use std::sync::Arc;

/// The most bytes, compressed, that a query reads here.
const MOST_BYTES: u64 = 16 << 20;

/// Aggregates whose state has a fixed size.
const AGGREGATES: &[&str] = &["avg", "count", "max", "min", "sum"];

/// Runs small queries.
#[derive(Debug, Clone)]
pub(crate) struct SmallQueries {
    state: Arc<SessionState>,
}

impl SmallQueries {
    /// For the queries of a session whose plans go to a cluster otherwise.
    pub(crate) fn new(session: &SessionState) -> Self {
        let mut config = session.config().clone().with_target_partitions(1);
        config.options_mut().execution.parquet.pushdown_filters = true;
        let state = SessionStateBuilder::new_from_existing(session.clone())
            .with_config(config)
            .with_query_planner(Arc::new(OperatorPlanner::default()))
            .build();
        Self { state: Arc::new(state) }
    }

    /// The rows of a query, or `None` if it is not a small one.
    pub(crate) async fn run(
        &self,
        plan: &LogicalPlan,
    ) -> Result<Option<SendableRecordBatchStream>> {
        if !is_bounded(plan)? {
            return Ok(None);
        }
        let plan = self.state.optimize(plan)?;
        if !is_bounded(&plan)? || !self.reads_little(&plan).await? {
            return Ok(None);
        }
        let planner = self.state.query_planner();
        let physical = planner.create_physical_plan(&plan, &*self.state).await?;
        Ok(Some(execute_stream(physical, self.state.task_ctx())?))
    }

    /// Whether all scans of an optimized plan together read no more than is read here.
    async fn reads_little(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut scans: Vec<TableScan> = Vec::new();
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                scans.push(scan.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let mut left = MOST_BYTES;
        for scan in scans {
            let table = source_as_provider(&scan.source)?;
            let Some(table) = table.downcast_ref::<WarehouseTable>() else { return Ok(false) };
            let (columns, filters) = (scan.projection.as_ref(), unnormalize_cols(scan.filters));
            let bytes = table.bytes_to_read(&*self.state, columns, &filters, scan.fetch, left);
            match bytes.await? {
                Some(bytes) if bytes <= left => left -= bytes,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Whether a plan takes no more time and memory than what it reads accounts for.
fn is_bounded(plan: &LogicalPlan) -> PlanResult<bool> {
    let mut bounded = true;
    plan.apply(|node| {
        bounded &= matches!(
            node,
            LogicalPlan::Aggregate(_)
                | LogicalPlan::Distinct(_)
                | LogicalPlan::EmptyRelation(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::Limit(_)
                | LogicalPlan::Projection(_)
                | LogicalPlan::Sort(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::Union(_)
                | LogicalPlan::Values(_)
        ) || is_literal(node);
        if bounded {
            node.apply_expressions(|expression| {
                expression.apply(|part| {
                    bounded &= is_bounded_expression(part);
                    Ok(if bounded { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
                })
            })?;
        }
        Ok(if bounded { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(bounded)
}

/// Whether a node unnests literal lists, which is how the rows of system tables travel. Who asks what runs
/// on the executors must not wait for them.
fn is_literal(node: &LogicalPlan) -> bool {
    let LogicalPlan::Unnest(unnest) = node else { return false };
    let LogicalPlan::Projection(lists) = unnest.input.as_ref() else { return false };
    let literal = |expression: &Expr| match expression {
        Expr::Alias(named) => matches!(*named.expr, Expr::Literal(_, _)),
        other => matches!(other, Expr::Literal(_, _)),
    };
    matches!(*lists.input, LogicalPlan::EmptyRelation(_)) && lists.expr.iter().all(literal)
}

fn is_bounded_expression(expression: &Expr) -> bool {
    match expression {
        Expr::AggregateFunction(call) => {
            AGGREGATES.contains(&call.func.name()) && !call.params.distinct
        }
        Expr::Alias(_)
        | Expr::Between(_)
        | Expr::BinaryExpr(_)
        | Expr::Case(_)
        | Expr::Cast(_)
        | Expr::Column(_)
        | Expr::InList(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotNull(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::Like(_)
        | Expr::Literal(_, _)
        | Expr::Negative(_)
        | Expr::Not(_)
        | Expr::TryCast(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn only_what_can_not_grow_runs_here() {
        let context = SessionContext::new();
        context.sql("CREATE TABLE t AS VALUES (1, 'a'), (2, 'b')").await.unwrap();
        let bounded =
            async |sql: &str| is_bounded(context.sql(sql).await.unwrap().logical_plan()).unwrap();
        for small in [
            "SELECT column1 + 1 FROM t WHERE column2 LIKE 'a%' OR column1 IN (1, 2) ORDER BY 1",
            "SELECT column2, count(*), sum(column1) FROM t GROUP BY column2 LIMIT 3",
            "SELECT DISTINCT column2 FROM (SELECT * FROM t UNION ALL SELECT * FROM t)",
            "VALUES (1), (2)",
        ] {
            assert!(bounded(small).await, "{small}");
        }
        for large in [
            "SELECT * FROM t a, t b",
            "SELECT repeat(column2, 1000000000) FROM t",
            "SELECT array_agg(column1) FROM t",
            "SELECT count(DISTINCT column1) FROM t",
            "SELECT * FROM t WHERE column1 IN (SELECT column1 FROM t)",
            "SELECT unnest([1, 2])",
            "SELECT * FROM t ORDER BY repeat(column2, 1000000000)",
            "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT * FROM r",
        ] {
            assert!(!bounded(large).await, "{large}");
        }
        let columns = context.sql("SELECT * FROM t").await.unwrap().collect().await.unwrap();
        let system = crate::introspection::rows(&columns[0]).unwrap();
        assert!(is_bounded(&system).unwrap(), "{system}");
    }
}
