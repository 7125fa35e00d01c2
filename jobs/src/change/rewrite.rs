//! `DELETE` and `UPDATE`: files that can have rows which meet the condition are written again.

use super::{Change, Changed, TARGET, TARGET_KEY, assigned, quoted};
use crate::Result;
use crate::statement::{Delete, Update};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan};
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::scan::WarehouseTable;

/// Takes out the rows that meet the condition.
pub async fn delete(change: &Change<'_>, statement: &Delete) -> Result<Changed> {
    let old = &change.table.contents;
    let Some(condition) = &statement.condition else {
        let none = Contents { files: Vec::new(), ..old.clone() };
        return Ok(Changed::computed(none, old.rows()));
    };
    let alias = change.alias(&statement.alias);
    let rest = format!("SELECT * FROM {TARGET} AS {alias} WHERE ({condition}) IS NOT TRUE");
    rewrite(change, &alias, &condition.to_string(), &rest).await
}

/// Gives the rows that meet the condition new values.
pub async fn update(change: &Change<'_>, statement: &Update) -> Result<Changed> {
    for (column, _) in &statement.assignments {
        change.check_column(column)?;
    }
    let alias = change.alias(&statement.alias);
    let condition = match &statement.condition {
        Some(condition) => condition.to_string(),
        None => "TRUE".to_string(),
    };
    let value = |name: &String| {
        let old = format!("{alias}.{}", quoted(name));
        match statement.assignments.iter().find(|(column, _)| column == name) {
            Some((_, new)) => format!("CASE WHEN ({condition}) THEN ({new}) ELSE {old} END"),
            None => old,
        }
    };
    let schema = &change.table.contents.schema;
    let values: Vec<_> = schema.fields().iter().map(|field| value(field.name())).collect();
    let all = format!("SELECT {} FROM {TARGET} AS {alias}", values.join(", "));
    rewrite(change, &alias, &condition, &all).await
}

/// Replaces the files that can have rows which meet `condition` by the rows of `query` on them. If no
/// row meets it, nothing is written.
async fn rewrite(
    change: &Change<'_>,
    alias: &str,
    condition: &str,
    query: &str,
) -> Result<Changed> {
    let count = format!("SELECT count(*) FROM {TARGET} AS {alias} WHERE ({condition})");
    if change.rehearsed {
        let written = std::iter::once(query.to_string());
        return change.rehearse(std::iter::once(count), written).await;
    }
    let old = &change.table.contents;
    let matching = matching(change, alias, condition).await?;
    let view = change.reading(&Contents { files: matching.clone(), ..old.clone() }).await?;
    let rows = change.count(&view, &count).await?;
    if rows == 0 {
        return Ok(Changed::computed(old.clone(), 0));
    }
    let plan = view.plan_text(change.session, query).await?;
    let plan = assigned(plan, &[], &old.schema)?;
    let (folder, partitions) = (&change.table.folder, &old.partition_columns);
    let written =
        change.session.write_files(change.run, plan, folder, &old.schema, partitions).await?;
    let kept = old.files.iter().filter(|file| !matching.contains(file)).cloned();
    let contents = Contents { files: kept.chain(written).collect(), ..old.clone() };
    Ok(Changed::computed(contents, rows))
}

/// The files that can have rows which meet a condition: those that a query with the condition scans.
async fn matching(change: &Change<'_>, alias: &str, condition: &str) -> Result<Vec<DataFile>> {
    let view = change.reading(&change.table.contents).await?;
    let query = format!("SELECT 1 FROM {TARGET} AS {alias} WHERE ({condition})");
    let plan = view.plan_text(change.session, &query).await?;
    let state = change.session.state();
    let plan = state.optimize(&plan)?;
    let mut found: Option<(WarehouseTable, Vec<Expr>)> = None;
    let mut several = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.to_string().replace('"', "").ends_with(TARGET_KEY)
        {
            let provider = source_as_provider(&scan.source)?;
            let table = provider.downcast_ref::<WarehouseTable>().cloned();
            several |= found.is_some();
            found = table.map(|table| (table, scan.filters.clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match found {
        Some((table, filters)) if !several => {
            let filters: Vec<Expr> = filters.into_iter().map(unqualified).collect::<Result<_>>()?;
            Ok(table.matching_files(state, &filters).await?)
        }
        // The condition is never true, or it is true whatever the row.
        None if matches!(plan, LogicalPlan::EmptyRelation(_)) => Ok(Vec::new()),
        _ => Ok(change.table.contents.files.clone()),
    }
}

/// A condition on a scan's columns, without the name of the table.
fn unqualified(expression: Expr) -> Result<Expr> {
    let plain = expression.transform(|node| match node {
        Expr::Column(column) if column.relation.is_some() => {
            let column = datafusion::common::Column::new_unqualified(column.name);
            Ok(datafusion::common::tree_node::Transformed::yes(Expr::Column(column)))
        }
        other => Ok(datafusion::common::tree_node::Transformed::no(other)),
    })?;
    Ok(plain.data)
}
