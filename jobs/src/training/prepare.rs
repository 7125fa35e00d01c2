//! From a training query to blocks: check, number the ids, cut and write.

use super::select::{Columns, data_error, no_rows, select};
use super::{Training, quoted};
use crate::Result;
use crate::operator::{Operator, OperatorNode};
use crate::superstep::{BlockWrite, Content, Folder, Partitioned, WrittenBlock, written_blocks};
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use nightshift_catalog::scan::WarehouseTable;
use std::sync::Arc;

/// A training query's rows, written once, with the columns `row`, `column` and `weight`.
pub struct TrainingData {
    /// The rows.
    pub table: Arc<dyn TableProvider>,
    /// How many.
    pub rows: u64,
}

/// Ids with the dense numbers they have got, as a table of `id` and `index`.
pub struct Ids {
    /// The table.
    pub table: Arc<dyn TableProvider>,
    /// How many.
    pub count: u64,
}

/// Blocks that were written.
pub struct Blocks {
    /// Where.
    pub folder: Folder,
    /// What is in each of them.
    pub written: Vec<WrittenBlock>,
}

impl Blocks {
    /// The sum of all values, added up in the order of the blocks.
    pub fn sum(&self) -> f64 {
        self.written.iter().map(|block| block.sum).sum()
    }

    /// The number of all entries.
    pub fn entries(&self) -> u64 {
        self.written.iter().map(|block| block.entries).sum()
    }
}

impl Training<'_> {
    /// Writes the rows of the training query and checks them.
    pub(super) async fn training_data(
        &self,
        plan: LogicalPlan,
        columns: &Columns<'_>,
    ) -> Result<TrainingData> {
        let plan = select(self.name, plan, columns)?;
        let table = self.stage(plan, "training").await?;
        self.check(&table, columns).await?;
        Ok(TrainingData { rows: table.1, table: table.0 })
    }

    /// Writes a plan's rows as intermediate data.
    async fn stage(&self, plan: LogicalPlan, name: &str) -> Result<(Arc<dyn TableProvider>, u64)> {
        let folder = format!("{}/{name}", self.folder);
        let staged = self.session.write_table(self.run, plan, &folder).await?;
        let list = format!("{folder}/files.json");
        let table: WarehouseTable =
            self.session.warehouse().stage(&staged.folder, &staged.contents, &list).await?;
        Ok((Arc::new(table), staged.rows()))
    }

    /// Refuses what has no defined meaning, naming the column and an example.
    async fn check(
        &self,
        table: &(Arc<dyn TableProvider>, u64),
        columns: &Columns<'_>,
    ) -> Result<()> {
        let (table, rows) = table;
        if *rows == 0 {
            return Err(no_rows(self.name));
        }
        let weight = columns.weight.map_or("weight", |weight| weight.1);
        let mut checks = vec![
            (columns.row.1, "NULL", r#""row" IS NULL"#),
            (columns.column.1, "NULL", r#""column" IS NULL"#),
            (weight, "NULL", "weight IS NULL"),
            (weight, "NaN", "isnan(weight)"),
            (weight, "infinite", "abs(weight) > 3.4e38"),
        ];
        if !columns.negative {
            checks.push((weight, "negative", "weight < 0"));
        }
        let tables = [("training", Arc::clone(table))];
        let counts: Vec<_> =
            checks.iter().map(|check| format!("count(*) FILTER (WHERE {})", check.2)).collect();
        let sql = format!("SELECT {} FROM training", counts.join(", "));
        let plan = self.session.plan_over(&sql, &tables).await?;
        let counts = self.session.collect(plan).await?;
        for (index, (column, what, condition)) in checks.iter().enumerate() {
            let count = first_value(&counts, index)?;
            if matches!(count, ScalarValue::Int64(Some(0))) {
                continue;
            }
            let sql = format!(
                r#"SELECT "row", "column", weight FROM training WHERE {condition} LIMIT 1"#
            );
            let plan = self.session.plan_over(&sql, &tables).await?;
            let example = self.session.collect(plan).await?;
            return Err(data_error(
                self.name,
                format!(
                    "column {column} is {what} in {count} of {rows} rows, such as the one with {} = {}, {} = {}, {weight} = {}",
                    columns.row.1,
                    first_value(&example, 0)?,
                    columns.column.1,
                    first_value(&example, 1)?,
                    first_value(&example, 2)?,
                ),
            ));
        }
        Ok(())
    }

    /// Numbers the ids that `ids`, a query over `training` with the column `id`, returns.
    pub(super) async fn number(&self, data: &TrainingData, ids: &str, name: &str) -> Result<Ids> {
        let sql = format!(
            "SELECT id, CAST(row_number() OVER (ORDER BY id) - 1 AS BIGINT) AS index \
             FROM (SELECT DISTINCT id FROM ({ids}) AS given) AS ids"
        );
        let plan = self.session.plan_over(&sql, &[("training", Arc::clone(&data.table))]).await?;
        let (table, count) = self.stage(plan, name).await?;
        if count > i32::MAX as u64 {
            let reason = format!("{count} different ids are more than {}", i32::MAX);
            return Err(data_error(self.name, reason));
        }
        Ok(Ids { table, count })
    }

    /// Writes the entries as blocks of rows. `sql` is a query over `tables` with the columns `row`,
    /// `column` and `weight`, rows and columns being dense numbers.
    pub(super) async fn write_blocks(
        &self,
        name: &str,
        sql: &str,
        tables: &[(&str, Arc<dyn TableProvider>)],
        cut: Partitioned,
        content: Content,
    ) -> Result<Blocks> {
        let sql = format!(
            r#"SELECT "row" / {} AS block, "row", "column", weight FROM ({sql}) AS entries"#,
            cut.block_rows
        );
        let plan = self.session.plan_over(&sql, tables).await?;
        let folder = self.folder(name);
        let write = BlockWrite { folder: folder.clone(), cut, content };
        let plan = OperatorNode::plan(&Operator::WriteBlocks(write), Some(plan))?;
        let mut found = written_blocks(&self.session.collect(plan).await?)?;
        let storage = folder.open(self.session.runtime())?;
        let mut written = Vec::new();
        for block in 0..cut.blocks() {
            let block = match found.remove(&block) {
                Some(block) => block,
                None => {
                    let first = cut.range(block).start as u32;
                    let (bytes, _, sum) = content.encode(first, cut.rows(block), Vec::new());
                    storage.put(&Folder::part(block), bytes).await?;
                    WrittenBlock { entries: 0, sum }
                }
            };
            written.push(block);
        }
        Ok(Blocks { folder, written })
    }
}

fn first_value(batches: &[RecordBatch], column: usize) -> Result<ScalarValue> {
    match batches.iter().find(|batch| batch.num_rows() > 0) {
        Some(batch) => Ok(ScalarValue::try_from_array(batch.column(column), 0)?),
        None => Ok(ScalarValue::Null),
    }
}

/// The query that lists the entries of `training` under dense numbers.
pub fn entries(row: &str, column: &str) -> String {
    format!(
        r#"SELECT r.index AS "row", c.index AS "column", t.weight FROM training AS t
           JOIN row_ids AS r ON t.{} = r.id JOIN column_ids AS c ON t.{} = c.id"#,
        quoted(row),
        quoted(column),
    )
}
