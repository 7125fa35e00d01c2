//! From a training query to blocks: encode and check, number the ids, cut and write.

use super::checkpoint::{exact, inexact};
use super::select::{Columns, data_error, no_rows, select};
use super::{Training, total};
use crate::operator::{Operator, OperatorNode};
use crate::session::Session;
use crate::superstep::{
    Axis, BlockWrite, Content, Destination, Encode, Encoded, Folder, Gather, IdType, IdsExport,
    LongRow, Number, NumberedIds, Partitioned, SEGMENT, Scatter, Segment, Sink, Superstep,
    WrittenBlock, Wrong, written_blocks,
};
use crate::{JobError, Result, counted};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::LogicalPlan;
use nightshift_catalog::schema::stored;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OnceCell;

/// The folder of encoded rows.
const ENTRIES: &str = "entries";

/// The folder of ids in the order of their numbers.
const IDS: &str = "ids";

/// The folder of entries on their way to blocks.
const SCATTERED: &str = "scattered";

/// A training query's rows, encoded.
pub struct TrainingData {
    began: Instant,
    folder: Folder,
    segments: Vec<Segment>,
    /// How many rows there are.
    pub rows: u64,
    /// The types of their ids.
    pub types: [DataType; 2],
}

/// Ids with the dense numbers they have got.
pub struct Ids {
    /// The ids in the order of their numbers.
    pub numbered: NumberedIds,
    /// How many.
    pub count: u64,
    name: String,
    table: OnceCell<Arc<dyn TableProvider>>,
}

/// Blocks that were written.
pub struct Blocks {
    /// Where.
    pub folder: Folder,
    /// What is in each of them.
    pub written: Vec<WrittenBlock>,
    /// The rows that are too long for one task.
    pub long_rows: Vec<LongRow>,
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

    /// How much work each block is, in entries, when a row is as much as `row` of them.
    pub fn work(&self, cut: Partitioned, row: usize) -> Vec<u64> {
        let written = (0..).zip(&self.written);
        written.map(|(block, of)| of.entries + (cut.rows(block) * row) as u64).collect()
    }
}

impl Training<'_> {
    /// Encodes the rows of the training query and checks them.
    pub(super) async fn training_data(
        &self,
        plan: LogicalPlan,
        columns: &Columns<'_>,
    ) -> Result<TrainingData> {
        let began = Instant::now();
        let plan = select(self.name, plan, columns)?;
        let schema = Arc::new(stored(plan.schema().as_arrow())?);
        let plan = Session::as_stored(plan, &schema)?;
        let folder = self.folder(ENTRIES);
        let encode =
            Encode { folder: folder.clone(), negative: columns.negative, segment: SEGMENT };
        let plan = OperatorNode::plan(Operator::Sink(Sink::Segments(encode)), Some(plan))?;
        let encoded = self.once("encoded", async {
            let encoded = Encoded::collect(&self.session.collect(plan).await?)?;
            self.check(&encoded, columns)?;
            Ok(encoded)
        });
        let encoded = encoded.await?;
        let Encoded { rows, segments, .. } = encoded;
        let types = [0, 1].map(|column| schema.field(column).data_type().clone());
        Ok(TrainingData { began, folder, segments, rows, types })
    }

    /// Refuses what has no defined meaning, naming the column and an example.
    fn check(&self, encoded: &Encoded, columns: &Columns<'_>) -> Result<()> {
        if encoded.rows == 0 {
            return Err(no_rows(self.name));
        }
        let weight = columns.weight.map_or("weight", |weight| weight.1);
        let names = [columns.row.1, columns.column.1, weight];
        for (wrong, (column, what)) in encoded.wrong.iter().zip(Encoded::CHECKS) {
            let Wrong { count, example: Some(values) } = wrong else { continue };
            let values = names.iter().zip(values).map(|(name, value)| format!("{name} = {value}"));
            let reason = format!(
                "column {} is {what} in {count} of {}, such as the one with {}",
                names[column],
                counted(encoded.rows, "row"),
                values.collect::<Vec<_>>().join(", ")
            );
            return Err(data_error(self.name, reason));
        }
        Ok(())
    }

    /// Numbers the ids of some axes, which have the same type.
    pub(super) async fn number(
        &self,
        data: &TrainingData,
        axes: &[Axis],
        name: &str,
    ) -> Result<Ids> {
        let [row, column] = &data.types;
        let id_type = IdType::new(if axes.contains(&Axis::Row) { row } else { column });
        let ids = NumberedIds { folder: self.folder(IDS), name: name.to_string(), id_type };
        let number = Number {
            folder: data.folder.clone(),
            segments: data.segments.clone(),
            axes: axes.to_vec(),
            ids: ids.clone(),
        };
        let checkpoint = format!("ids-of-{name}");
        let count = self.once(&checkpoint, async {
            Ok(total(&self.superstep(Superstep::Number(number)).await?)[0] as u64)
        });
        let count = count.await?;
        if count > i32::MAX as u64 {
            let reason = format!("{count} different ids are more than {}", i32::MAX);
            return Err(data_error(self.name, reason));
        }
        Ok(Ids { numbered: ids, count, name: name.to_string(), table: OnceCell::new() })
    }

    /// The ids as a table of `id` and `index`, for SQL.
    pub(super) async fn ids_table(&self, ids: &Ids) -> Result<Arc<dyn TableProvider>> {
        let write = async {
            let cut = Partitioned::new(ids.count, ids.count);
            let export = IdsExport { ids: ids.numbered.clone(), cut };
            let plan = Operator::superstep(Superstep::IdsExport(export));
            let plan = OperatorNode::plan(plan, None)?;
            Ok::<_, JobError>(self.intermediate(plan, &ids.name).await?.0)
        };
        Ok(Arc::clone(ids.table.get_or_try_init(|| write).await?))
    }

    /// A table that is forgotten with the training, and how many rows it has.
    pub(super) async fn intermediate(
        &self,
        plan: LogicalPlan,
        name: &str,
    ) -> Result<(Arc<dyn TableProvider>, u64)> {
        let folder = format!("{}/{name}", self.folder);
        let staged = self.session.write_table(self.run, plan, &folder).await?;
        let list = format!("{folder}/files.json");
        let table = self.session.warehouse().stage(&staged.folder, &staged.contents, &list).await?;
        Ok((Arc::new(table), staged.rows()))
    }

    /// Writes the entries as blocks, in each of the ways that are given by name, axis, cut and content. The
    /// entries are forgotten then.
    pub(super) async fn blocks<const WAYS: usize>(
        &self,
        data: &TrainingData,
        ways: [(&str, Axis, Partitioned, Content); WAYS],
    ) -> Result<[Blocks; WAYS]> {
        let destination = |(name, by, cut, content): (&str, Axis, Partitioned, Content)| {
            Destination { folder: self.folder(&format!("{SCATTERED}/{name}")), by, cut, content }
        };
        let (folder, segments) = (data.folder.clone(), data.segments.clone());
        let to = ways.iter().map(|way| destination(*way)).collect();
        self.once("scattered", async {
            self.superstep(Superstep::Scatter(Scatter { folder, segments, to })).await.map(drop)
        })
        .await?;
        self.remove(ENTRIES).await?;
        let mut made = Vec::new();
        for (name, by, cut, content) in ways {
            let folder = self.folder(name);
            let gather = Gather {
                folder: destination((name, by, cut, content)).folder,
                segments: data.segments.clone(),
                write: BlockWrite { folder: folder.clone(), cut, content },
            };
            let measures = self.once(name, async {
                let measures = self.superstep(Superstep::Gather(gather)).await?;
                Ok(measures.iter().map(|measures| exact(measures)).collect::<Vec<_>>())
            });
            let (mut written, mut long_rows) = (Vec::new(), Vec::new());
            for measures in measures.await? {
                let [entries, sum, rows @ ..] = &inexact(&measures)[..] else {
                    return Err(JobError::Damaged {
                        what: format!("what a block of {} was measured to be", folder.0),
                        reason: format!("{} numbers instead of at least 2", measures.len()),
                    });
                };
                written.push(WrittenBlock { entries: *entries as u64, sum: *sum });
                long_rows.extend(
                    rows.as_chunks().0.iter().map(|[row, entries]| LongRow {
                        row: *row as u32,
                        entries: *entries as u64,
                    }),
                );
            }
            made.push(Blocks { folder, written, long_rows });
        }
        self.remove(SCATTERED).await?;
        made.try_into().map_err(|_| JobError::Damaged {
            what: "the blocks of the training data".to_string(),
            reason: "some are missing".to_string(),
        })
    }

    /// The seconds from the query to its blocks, which were written just now or by another process.
    pub(super) async fn prepared(&self, data: &TrainingData) -> Result<f64> {
        let taken = async { Ok(data.began.elapsed().as_secs_f64()) };
        let (seconds, rows) = (self.once("prepared", taken).await?, data.rows);
        tracing::info!(run = self.run, model = %self.name, rows, seconds, "training data is prepared");
        Ok(seconds)
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
        let plan = OperatorNode::plan(Operator::Sink(Sink::Blocks(write)), Some(plan))?;
        let mut found = written_blocks(&self.session.collect(plan).await?)?;
        let storage = folder.open(self.session.runtime())?;
        let mut written = Vec::new();
        for block in 0..cut.blocks() {
            let block = match found.remove(&block) {
                Some(block) => block,
                None => {
                    let first = cut.range(block).start as u32;
                    let none = content.encode(first, cut.rows(block), std::iter::empty());
                    storage.put(&Folder::part(block), none.bytes).await?;
                    WrittenBlock { entries: 0, sum: none.sum }
                }
            };
            written.push(block);
        }
        Ok(Blocks { folder, written, long_rows: Vec::new() })
    }
}
