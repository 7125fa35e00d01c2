//! From a training query to blocks: check, number the ids, cut and write.

use super::{Training, quoted};
use crate::operator::{Operator, OperatorNode};
use crate::superstep::{BlockWrite, Content, Folder, Partitioned, WrittenBlock, written_blocks};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::common::{ExprSchema, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use nightshift_catalog::scan::WarehouseTable;
use nightshift_catalog::schema::stored;
use std::sync::Arc;

/// The columns of a training query: the option that names each, and its name.
pub struct Columns<'a> {
    /// The row's id: a user, or the source of an edge.
    pub row: (&'a str, &'a str),
    /// The column's id: an item, or the target of an edge.
    pub column: (&'a str, &'a str),
    /// The weight; 1 without it.
    pub weight: Option<(&'a str, &'a str)>,
    /// Whether weights can be negative.
    pub negative: bool,
}

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
        let id = |option: (&str, &str)| {
            let (expr, data_type) = self.find(&plan, option)?;
            match data_type {
                DataType::Float16 | DataType::Float32 | DataType::Float64 => Err(self.data_error(format!(
                    "column {} is a {data_type} and can't be an id: cast it to BIGINT or VARCHAR",
                    option.1
                ))),
                nested if nested.is_nested() => {
                    Err(self.data_error(format!("column {} is a {nested} and can't be an id", option.1)))
                }
                // Whatever a table can't hold is refused under the name that the user knows.
                other => {
                    stored(&Schema::new(vec![Field::new(option.1, other, true)]))?;
                    Ok(expr)
                }
            }
        };
        let weight = match columns.weight {
            None => lit(1.0f64),
            Some(option) => {
                let (expr, data_type) = self.find(&plan, option)?;
                if !data_type.is_numeric() {
                    return Err(self.data_error(format!(
                        "column {} is a {data_type} and can't be a weight: cast it to DOUBLE",
                        option.1
                    )));
                }
                cast(expr, DataType::Float64)
            }
        };
        let selected = [
            id(columns.row)?.alias("row"),
            id(columns.column)?.alias("column"),
            weight.alias("weight"),
        ];
        let plan = LogicalPlanBuilder::from(plan).project(selected)?.build()?;
        let table = self.stage(plan, "training").await?;
        self.check(&table, columns).await?;
        Ok(TrainingData { rows: table.1, table: table.0 })
    }

    fn find(&self, plan: &LogicalPlan, (option, name): (&str, &str)) -> Result<(Expr, DataType)> {
        let schema = plan.schema();
        let found = schema.columns().into_iter().find(|column| column.name == name);
        let column = found.ok_or_else(|| {
            let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            JobError::Option {
                model: self.name.to_string(),
                option: option.to_string(),
                reason: format!(
                    "the training query has no column {name}, only {}",
                    names.join(", ")
                ),
            }
        })?;
        let data_type = schema.field_from_column(&column)?.data_type().clone();
        Ok((Expr::Column(column), data_type))
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
            return Err(self.data_error("the training query returns no rows".to_string()));
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
            return Err(self.data_error(format!(
                "column {column} is {what} in {count} of {rows} rows, such as the one with {} = {}, {} = {}, {weight} = {}",
                columns.row.1,
                first_value(&example, 0)?,
                columns.column.1,
                first_value(&example, 1)?,
                first_value(&example, 2)?,
            )));
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
            return Err(
                self.data_error(format!("{count} different ids are more than {}", i32::MAX))
            );
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
