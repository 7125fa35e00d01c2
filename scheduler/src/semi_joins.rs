//! Rows that are left out before they are exchanged between executors.
//!
//! Within one process a join tells the scans below it which keys it looks for. Between executors it can't,
//! so semi joins with few keys are put where many rows would be exchanged.

use datafusion::common::JoinType;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, HashJoinExecBuilder, PartitionMode};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use nightshift_jobs::operator::Rewrite;
use std::sync::Arc;

/// Rows that are exchanged in less time than a further stage takes.
const EXCHANGED_ROWS: usize = 200_000;

/// Puts semi joins that send their keys to every task below the inner joins that exchange the rows.
///
/// `a JOIN b … WHERE a.id IN (SELECT …)` is planned as written: first both tables are exchanged and
/// joined, then most of the result is left out. The rows of `a` can be left out before.
pub(crate) const PUSH_DOWN_SEMI_JOINS: Rewrite = Rewrite::new("push_down_semi_joins", |plan, _| {
    let Some(semi) = plan.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(plan)) };
    let sends_keys = *semi.join_type() == JoinType::RightSemi
        && *semi.partition_mode() == PartitionMode::CollectLeft
        && semi.filter().is_none();
    let keys: Option<Vec<usize>> = semi.on().iter().map(|(_, key)| column(key)).collect();
    let (true, Some(keys)) = (sends_keys, keys) else { return Ok(Transformed::no(plan)) };
    let Some(pushed) = push_below(semi, &keys, semi.right(), false)? else {
        return Ok(Transformed::no(plan));
    };
    let Some(projection) = &semi.projection else { return Ok(Transformed::yes(pushed)) };
    let schema = pushed.schema();
    let kept = |at: &usize| {
        let alias = schema.field(*at).name().clone();
        ProjectionExpr { expr: Arc::new(Column::new(&alias, *at)), alias }
    };
    let kept: Vec<_> = projection.iter().map(kept).collect();
    Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(kept, pushed)?)))
});

/// `plan` with a semi join below the joins that exchange its rows; nothing if there are none. `keys` are
/// the columns of `plan` that it compares, and `exchanged` says whether such a join is above.
fn push_below(
    semi: &HashJoinExec,
    keys: &[usize],
    plan: &Arc<dyn ExecutionPlan>,
    exchanged: bool,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let below = keys.iter().map(|key| column(&projection.expr()[*key].expr));
        let Some(below) = below.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let pushed = push_below(semi, &below, projection.input(), exchanged)?;
        let replace = |input| replace_children_if_necessary(Arc::clone(plan), vec![input]);
        return pushed.map(replace).transpose();
    }
    let Some(join) = plan.downcast_ref::<HashJoinExec>() else { return Ok(None) };
    if *join.join_type() != JoinType::Inner {
        return Ok(None);
    }
    let all = |key: &usize| join.projection.as_ref().map_or(*key, |projection| projection[*key]);
    let mut keys: Vec<usize> = keys.iter().map(all).collect();
    let columns = join.left().schema().fields().len();
    let on_the_left = keys.iter().all(|key| *key < columns);
    if !on_the_left {
        if keys.iter().any(|key| *key < columns) {
            return Ok(None);
        }
        keys.iter_mut().for_each(|key| *key -= columns);
    }
    let exchanged = exchanged || *join.partition_mode() == PartitionMode::Partitioned;
    let side = if on_the_left { join.left() } else { join.right() };
    let reduced = match push_below(semi, &keys, side, exchanged)? {
        None if exchanged => semi_join_with(semi, &keys, side)?,
        None => return Ok(None),
        Some(pushed) => pushed,
    };
    let inputs = match on_the_left {
        true => vec![reduced, Arc::clone(join.right())],
        false => vec![Arc::clone(join.left()), reduced],
    };
    Ok(Some(Arc::new(join.builder().with_new_children(inputs)?.build()?)))
}

fn semi_join_with(
    semi: &HashJoinExec,
    keys: &[usize],
    rows: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = rows.schema();
    let compared = semi.on().iter().zip(keys).map(|((listed, _), key)| {
        let column = Column::new(schema.field(*key).name(), *key);
        (Arc::clone(listed), Arc::new(column) as Arc<dyn PhysicalExpr>)
    });
    let join = HashJoinExecBuilder::new(
        Arc::clone(semi.left()),
        Arc::clone(rows),
        compared.collect(),
        JoinType::RightSemi,
    );
    let join = join
        .with_partition_mode(PartitionMode::CollectLeft)
        .with_null_equality(semi.null_equality())
        .build()?;
    Ok(Arc::new(join))
}

/// The column that an expression is.
fn column(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expression.downcast_ref::<Column>().map(Column::index)
}

/// The rows of a join's other side that have a partner on the gathered side, if that is a part of a table
/// which is much smaller: it takes less to send its keys to every task than to exchange all rows. The
/// gathered side is read twice then.
pub(crate) fn partners(join: &HashJoinExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let volatile = join.on().iter().any(|(key, _)| is_volatile(key));
    if *join.join_type() == JoinType::Full || volatile || !is_part_of_a_table(join.left()) {
        return Ok(None);
    }
    let rows = |plan: &Arc<dyn ExecutionPlan>| {
        let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?;
        Ok::<_, DataFusionError>(statistics.num_rows.get_value().copied())
    };
    let (Some(left), Some(right)) = (rows(join.left())?, rows(join.right())?) else {
        return Ok(None);
    };
    if right < EXCHANGED_ROWS || left > right / 2 {
        return Ok(None);
    }
    let (mut keys, mut on) = (Vec::new(), Vec::new());
    for (number, (key, other)) in join.on().iter().enumerate() {
        let alias = format!("key{number}");
        let column = Arc::new(Column::new(&alias, number)) as Arc<dyn PhysicalExpr>;
        on.push((column, Arc::clone(other)));
        keys.push(ProjectionExpr { expr: Arc::clone(key), alias });
    }
    let keys = Arc::new(ProjectionExec::try_new(keys, Arc::clone(join.left()))?);
    let rows = Arc::clone(join.right());
    let partners = HashJoinExecBuilder::new(keys, rows, on, JoinType::RightSemi)
        .with_partition_mode(PartitionMode::CollectLeft)
        .with_null_equality(join.null_equality())
        .build()?;
    Ok(Some(Arc::new(partners)))
}

/// Whether a plan reads a table and leaves rows out, does nothing else, and does the same each time.
fn is_part_of_a_table(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let (mut plan, mut filtered) = (plan, false);
    while plan.fetch().is_none() {
        if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            if is_volatile(filter.predicate()) {
                return false;
            }
            filtered = true;
        } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            if projection.expr().iter().any(|column| is_volatile(&column.expr)) {
                return false;
            }
        } else {
            return filtered && plan.is::<DataSourceExec>();
        }
        plan = plan.children()[0];
    }
    false
}

#[cfg(test)]
mod tests {
    use crate::broadcast::with_rules_about_joins;
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    /// Tables of which the smallest two may be sent to every task.
    async fn context(with_rules: bool) -> SessionContext {
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .set_u64("datafusion.optimizer.hash_join_single_partition_threshold", 1 << 20)
            .set_u64("datafusion.optimizer.hash_join_single_partition_threshold_rows", 100_000);
        let builder = SessionStateBuilder::new().with_default_features().with_config(config);
        let state = builder.build();
        let rules = match with_rules {
            true => with_rules_about_joins(state.physical_optimizers()),
            false => state.physical_optimizers().to_vec(),
        };
        let builder = SessionStateBuilder::new_from_existing(state);
        let state = builder.with_physical_optimizer_rules(rules).build();
        let context = SessionContext::new_with_state(state);
        for (table, rows) in [("few", 1_000), ("many", 300_000), ("more", 400_000)] {
            let rows = format!("generate_series(1, {rows})");
            let table =
                format!("CREATE TABLE {table} AS SELECT value AS id, value % 7 AS r FROM {rows}");
            context.sql(&table).await.unwrap().collect().await.unwrap();
        }
        context
    }

    /// The rows, and the plan.
    async fn answer(context: &SessionContext, query: &str) -> (String, String) {
        let frame = context.sql(query).await.unwrap();
        let plan = frame.clone().create_physical_plan().await.unwrap();
        let rows = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
        (rows, displayable(plan.as_ref()).indent(false).to_string())
    }

    /// The plan with the rules; the rows are the same as without them.
    async fn plan(query: &str) -> String {
        let (rows, plan) = answer(&context(true).await, query).await;
        let (expected, _) = answer(&context(false).await, query).await;
        assert_eq!(rows, expected, "{query}\n{plan}");
        plan
    }

    #[tokio::test]
    async fn semi_joins_come_before_the_joins_that_exchange_rows() {
        for listed in ["many.id", "more.id + 0", "more.id"] {
            let plan = plan(&format!(
                "SELECT count(*), sum(many.r * more.r) FROM many JOIN more ON many.id = more.id \
                 WHERE {listed} IN (SELECT id * 5 FROM few WHERE r <> 3)"
            ))
            .await;
            let [exchanging, semi] = ["join_type=Inner", "join_type=RightSemi"]
                .map(|join| plan.find(join).unwrap_or_else(|| panic!("{join}: {plan}")));
            assert_eq!(exchanging < semi, !listed.contains('+'), "{plan}");
        }
    }

    #[tokio::test]
    async fn only_rows_with_a_partner_are_exchanged() {
        let some = "(SELECT * FROM few WHERE r > 3) AS f";
        let exists = "EXISTS (SELECT 1 FROM many WHERE many.id = f.id * 2 AND many.r > f.r)";
        for (query, reduced) in [
            (format!("SELECT count(*), sum(id) FROM {some} WHERE {exists}"), true),
            (format!("SELECT count(*), sum(id) FROM {some} WHERE NOT {exists}"), true),
            (format!("SELECT count(*), sum(id) FROM {some} WHERE {exists} OR id < 9"), true),
            (
                format!(
                    "SELECT count(*), count(many.id) FROM {some} LEFT JOIN many ON many.r = f.r"
                ),
                true,
            ),
            (
                format!(
                    "SELECT count(*), count(f.id) FROM {some} FULL JOIN many ON many.id = f.id"
                ),
                false,
            ),
            (
                "SELECT count(*) FROM (SELECT id FROM few WHERE r > 3 AND random() < 2) AS f \
                 LEFT JOIN many ON many.id = f.id"
                    .to_string(),
                false,
            ),
            (
                "SELECT count(*) FROM (SELECT id + 0 * random() AS k FROM few WHERE r > 3) AS f \
                 LEFT JOIN many ON many.id = f.k"
                    .to_string(),
                false,
            ),
            (
                "SELECT count(*), count(many.id) FROM few LEFT JOIN many ON many.id = few.id"
                    .to_string(),
                false,
            ),
        ] {
            let plan = plan(&query).await;
            assert_eq!(plan.contains("join_type=RightSemi"), reduced, "{query}\n{plan}");
        }
    }
}
