//! Unions of constant rows.

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::union::UnionExec;
use nightshift_jobs::operator::Rewrite;
use std::sync::Arc;

/// Makes the row that a constant `SELECT` begins with one in memory, below unions.
///
/// Ballista gives a task some of the union's inputs and puts empty tables in memory in the places of the
/// others. A row of a constant has no metrics and a table in memory has, so what two tasks of a stage
/// report differs in length: the reports are refused, and the job waits for them for ever.
pub(crate) const CONSTANTS_IN_MEMORY: Rewrite = Rewrite::new("constants_in_memory", |plan, _| {
    if plan.is::<UnionExec>() {
        return plan.transform_up(in_memory);
    }
    Ok(Transformed::no(plan))
});

fn in_memory(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if !plan.is::<PlaceholderRowExec>() {
        return Ok(Transformed::no(plan));
    }
    // It has the columns of what it stands for, and none of their values.
    let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    let fields: Vec<Field> = plan.schema().fields().iter().map(nullable).collect();
    let schema = Arc::new(Schema::new(fields));
    let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let one = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::clone(&schema), nulls, &one)?;
    let source = MemorySourceConfig::try_new(&[vec![row]], schema, None)?;
    Ok(Transformed::yes(DataSourceExec::from_data_source(source)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::config::ConfigOptions;
    use datafusion::physical_optimizer::PhysicalOptimizerRule;
    use datafusion::physical_plan::{collect, displayable};
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn a_union_of_constants_reads_memory_and_returns_the_same() {
        let context = SessionContext::new();
        let sql = "SELECT x, count(*) FROM (SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 1) \
                   GROUP BY x";
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let rewritten = CONSTANTS_IN_MEMORY.optimize(plan, &ConfigOptions::default()).unwrap();
        let shown = displayable(rewritten.as_ref()).indent(false).to_string();
        assert!(!shown.contains("PlaceholderRowExec"), "{shown}");
        let rows = collect(rewritten, context.task_ctx()).await.unwrap();
        let counted = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        assert!(counted.contains("| 1 | 2 "), "{counted}");
        // Elsewhere a constant stays what it is.
        let plan = context.sql("SELECT 1").await.unwrap().create_physical_plan().await.unwrap();
        let plan = CONSTANTS_IN_MEMORY.optimize(plan, &ConfigOptions::default()).unwrap();
        assert!(displayable(plan.as_ref()).indent(false).to_string().contains("PlaceholderRow"));
    }
}
