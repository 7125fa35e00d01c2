//! A quarantine: the table that gets the records of files which can't be read, so that one of them doesn't fail a run.

use super::options::options_of;
use super::sort::{BadRecord, Context, SortedFile, sort_file};
use super::{Copies, ExternalTable};
use crate::session::Session;
use crate::{JobError, Result};
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::ast::Value;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Name;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use tokio::sync::mpsc::{self, Sender};

/// The option that names the table.
const TABLE: &str = "quarantine";

/// The option that says how many records may be bad.
const SHARE: &str = "quarantine_share";

/// The share of records that may be bad if it isn't said.
const USUAL_SHARE: f64 = 0.01;

/// Files that are read at the same time, each of which has some 30 MB in memory.
const AT_ONCE: usize = 4;

/// The columns of the table, as a table of the warehouse has them.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let column = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        column("file", DataType::Utf8),
        column("line", DataType::Int64),
        column("column", DataType::Utf8),
        column("reason", DataType::Utf8),
        column("record", DataType::Utf8),
    ]))
});

/// Where records go that can't be read, and how many may.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quarantine {
    /// The table.
    pub(crate) table: Name,
    /// The most bad records, as a share of all.
    pub(crate) share: f64,
}

impl Quarantine {
    /// The columns of the table.
    pub(crate) fn schema() -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    /// The table that options name, if they do and it is the name of one.
    pub(crate) fn named(options: &[(String, Value)]) -> Option<String> {
        let options = options_of(options).ok()?;
        table_of(options.get(TABLE)?).ok().map(|name| name.to_string())
    }

    /// Takes what is about a quarantine out of options.
    pub(super) fn take(options: &mut BTreeMap<String, String>) -> Result<Option<Self>> {
        let (table, share) = (options.remove(TABLE), options.remove(SHARE));
        let Some(table) = table else {
            return match share {
                None => Ok(None),
                Some(_) => Err(JobError::Statement(format!(
                    "option {SHARE}: there is no {TABLE}, the table that gets the bad records"
                ))),
            };
        };
        let share = match share {
            None => USUAL_SHARE,
            Some(text) => share_of(&text).ok_or_else(|| {
                JobError::Statement(format!(
                    "option {SHARE}: '{text}' is not a share, which is more than 0 and at most 1"
                ))
            })?,
        };
        Ok(Some(Self { table: table_of(&table)?, share }))
    }
}

fn share_of(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|share| *share > 0.0 && *share <= 1.0)
}

fn table_of(text: &str) -> Result<Name> {
    match TableReference::parse_str(text) {
        TableReference::Partial { schema, table } => Ok(Name::new(&schema, &table)?),
        _ => Err(JobError::Statement(format!(
            "option {TABLE}: '{text}' is not the name of a table, which has two parts, schema.name"
        ))),
    }
}

/// A way for rows of the table, and the rows that come on it.
pub(crate) fn rows() -> (Sender<RecordBatch>, SendableRecordBatchStream) {
    let (sender, receiver) = mpsc::channel(2);
    let rows = futures::stream::unfold(receiver, |mut receiver| async move {
        let batch = receiver.recv().await?;
        Some((Ok::<_, DataFusionError>(batch), receiver))
    });
    (sender, Box::pin(RecordBatchStreamAdapter::new(Quarantine::schema(), rows)))
}

/// The rows of bad records of one file.
pub(super) fn batch(file: &str, bad: &[BadRecord]) -> Result<RecordBatch> {
    let text = |value: fn(&BadRecord) -> &str| StringArray::from_iter_values(bad.iter().map(value));
    let lines = bad.iter().map(|bad| i64::try_from(bad.line).unwrap_or(i64::MAX));
    Ok(RecordBatch::try_new(
        Quarantine::schema(),
        vec![
            Arc::new(StringArray::from_iter_values(bad.iter().map(|_| file))),
            Arc::new(Int64Array::from_iter_values(lines)),
            Arc::new(bad.iter().map(|bad| bad.column.as_deref()).collect::<StringArray>()),
            Arc::new(text(|bad| bad.reason.as_str())),
            Arc::new(text(|bad| bad.record.as_str())),
        ],
    )?)
}

/// What has been found in the files of a table.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// All records.
    pub(crate) records: u64,
    /// Those that can't be read.
    pub(crate) bad: u64,
    /// The first of them: its file, and what is wrong.
    first: Option<(String, BadRecord)>,
    /// What is read instead of files with bad records.
    pub(crate) copies: Copies,
}

impl Sorted {
    /// Fails if more records are bad than may be.
    pub(crate) fn check(&self, table: &Name, quarantine: &Quarantine) -> Result<()> {
        let (records, bad, share) = (self.records, self.bad, quarantine.share);
        match &self.first {
            Some((file, first)) if bad as f64 > share * records as f64 => {
                Err(JobError::Quarantine {
                    table: table.to_string(),
                    bad,
                    records,
                    share,
                    first: format!("{file}: {first}"),
                })
            }
            _ => Ok(()),
        }
    }

    fn of(files: Vec<SortedFile>) -> Self {
        let mut all = Self::default();
        for SortedFile { file, copy, records, bad, first } in files {
            all.records += records;
            all.bad += bad;
            if let Some(copy) = copy {
                all.copies.insert(file.location.to_string(), copy);
            }
            all.first = all.first.or(first.map(|first| (format!("/{}", file.location), first)));
        }
        all
    }
}

impl ExternalTable {
    /// Where its bad records go.
    pub(crate) fn quarantine(&self) -> Option<&Quarantine> {
        self.files.as_ref().and_then(|files| files.options.quarantine.as_ref())
    }

    /// Reads all files, hands on what is bad in them, and writes copies without that into a folder of the warehouse.
    pub(crate) async fn sort(
        &self,
        session: &Session,
        folder: String,
        rows: Sender<RecordBatch>,
    ) -> Result<Sorted> {
        let Some(files) = &self.files else { return Ok(Sorted::default()) };
        let store = Storage::of_session(session.runtime(), &files.location.url)?.store().clone();
        let context = Arc::new(Context {
            store,
            warehouse: session.warehouse().storage().clone(),
            folder,
            csv: files.options.csv()?,
            compression: files.options.compression()?.into(),
            extension: files.options.extension(),
            schema: Arc::clone(&files.schema),
        });
        let work = |(number, file)| {
            let (context, rows) = (Arc::clone(&context), rows.clone());
            sort_file(context, number, file, rows)
        };
        let chosen: Vec<_> = files.chosen.iter().filter(|file| file.size > 0).cloned().collect();
        let work: Vec<_> = chosen.into_iter().enumerate().map(work).collect();
        // The rows end with the last file.
        drop(rows);
        let sorted = futures::stream::iter(work).buffered(AT_ONCE).try_collect().await?;
        Ok(Sorted::of(sorted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(options: &[(&str, &str)]) -> Result<Option<Quarantine>> {
        let pairs = options.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let mut options: BTreeMap<_, _> = pairs.collect();
        let taken = Quarantine::take(&mut options);
        assert!(options.keys().all(|name| name == "other"));
        taken
    }

    #[test]
    fn options_are_checked() {
        assert_eq!(taken(&[("other", "x")]).unwrap(), None);
        let table = Name::new("x", "bad").unwrap();
        let all = [("quarantine", "X.bad"), ("other", "y")];
        let usual = Quarantine { table, share: 0.01 };
        assert_eq!(taken(&all).unwrap(), Some(usual.clone()));
        let given = [("quarantine", "x.bad"), ("quarantine_share", "1")];
        assert_eq!(taken(&given).unwrap(), Some(Quarantine { share: 1.0, ..usual }));
        for share in ["0", "1.1", "-1", "NaN", "1 %", ""] {
            let given = [("quarantine", "x.bad"), ("quarantine_share", share)];
            let said = taken(&given).unwrap_err().to_string();
            assert!(said.contains("is not a share"), "{said}");
        }
        for name in ["bad", "a.b.c", "system.bad", ""] {
            assert!(taken(&[("quarantine", name)]).is_err(), "{name}");
        }
        let said = taken(&[("quarantine_share", "0.1")]).unwrap_err().to_string();
        assert!(said.contains("there is no quarantine"), "{said}");
    }

    #[test]
    fn the_share_is_one_of_all_records() {
        let record = BadRecord {
            line: 3,
            column: Some("n".to_string()),
            reason: "no number".to_string(),
            record: "x".to_string(),
        };
        let table = Name::new("x", "t").unwrap();
        let sorted = |bad| Sorted {
            records: 200,
            bad,
            first: Some(("/f.csv".to_string(), record.clone())),
            copies: Copies::new(),
        };
        let quarantine = Quarantine { table: table.clone(), share: 0.01 };
        sorted(2).check(&table, &quarantine).unwrap();
        let said = sorted(3).check(&table, &quarantine).unwrap_err().to_string();
        assert_eq!(
            said,
            "x.t: 3 of 200 records can't be read, more than the share of 0.01 that may go to \
             quarantine; the first is in /f.csv: no number in line 3"
        );
    }
}
