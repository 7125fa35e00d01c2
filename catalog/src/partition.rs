//! Rows by the values of partition columns.

use crate::{CatalogError, Result};
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The values of the partition columns in Delta's text form.
pub type Partition = Vec<Option<String>>;

/// Splits batches by the values of partition columns, which it takes out of them.
pub struct Splitter {
    /// The columns that are left.
    pub schema: SchemaRef,
    names: Vec<String>,
    partitions: Vec<usize>,
    others: Vec<usize>,
}

impl Splitter {
    /// A splitter for batches of a schema.
    pub fn new(schema: &SchemaRef, partition_columns: &[String]) -> Self {
        let position = |name: &String| schema.index_of(name).ok();
        let partitions: Vec<usize> = partition_columns.iter().filter_map(position).collect();
        let columns = 0..schema.fields().len();
        let others: Vec<usize> = columns.filter(|at| !partitions.contains(at)).collect();
        let fields: Vec<_> = others.iter().map(|at| Arc::clone(&schema.fields()[*at])).collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            names: partition_columns.to_vec(),
            partitions,
            others,
        }
    }

    /// The values of a partition by the names of their columns.
    pub fn named(&self, partition: &Partition) -> BTreeMap<String, Option<String>> {
        self.names.iter().cloned().zip(partition.iter().cloned()).collect()
    }

    /// The rows of each partition.
    pub fn split(&self, batch: &RecordBatch) -> Result<Vec<(Partition, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.partitions.is_empty() {
            return Ok(vec![(Partition::new(), batch.clone())]);
        }
        let values: Vec<Vec<Option<String>>> =
            self.partitions.iter().map(|at| texts(batch.column(*at))).collect::<Result<_>>()?;
        let mut rows: BTreeMap<Partition, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.num_rows() {
            let partition = values.iter().map(|column| column[row].clone()).collect();
            rows.entry(partition).or_default().push(row as u32);
        }
        let rest = batch.project(&self.others)?;
        let part = |(partition, rows): (Partition, Vec<u32>)| {
            Ok((partition, take_record_batch(&rest, &UInt32Array::from(rows))?))
        };
        rows.into_iter().map(part).collect()
    }
}

/// A column in Delta's text form ("Partition Value Serialization" in its protocol).
fn texts(column: &ArrayRef) -> Result<Vec<Option<String>>> {
    let times = FormatOptions::new().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.6f"));
    let column = match column.data_type() {
        DataType::Timestamp(unit, Some(_)) => cast(column, &DataType::Timestamp(*unit, None))?,
        _ => Arc::clone(column),
    };
    let formatter = ArrayFormatter::try_new(column.as_ref(), &times)?;
    let text = |row: usize| {
        if column.is_null(row) {
            return Ok(None);
        }
        let text = formatter.value(row).try_to_string()?;
        if text.is_empty() {
            // Delta reads the empty text as NULL.
            return Ok(None);
        }
        Ok(Some(text))
    };
    (0..column.len()).map(text).collect()
}

/// The value that stands for NULL in the names of folders, as Hive has it.
pub const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The folders that files with these values are in, as Hive names them: `day=2026-11-22/kind=a%2Fb/`.
pub fn hive_folders<'a>(values: impl Iterator<Item = (&'a String, Option<String>)>) -> String {
    let folder = |(column, value): (&String, Option<String>)| {
        let value = value.map_or_else(|| HIVE_NULL.to_string(), |value| escaped(&value));
        format!("{}={value}/", escaped(column))
    };
    values.map(folder).collect()
}

/// A text as a part of a path, with everything in percent signs that could mean something else there.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b' ' | b'+' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Refuses partition columns that are not there, or of a type that has no text form.
pub fn check(schema: &Schema, partition_columns: &[String]) -> Result<()> {
    for (at, name) in partition_columns.iter().enumerate() {
        let wrong = |reason: &str| {
            Err(CatalogError::Column { column: name.clone(), reason: reason.to_string() })
        };
        let Ok(field) = schema.field_with_name(name) else {
            return wrong("a table can't be partitioned by a column that it doesn't have");
        };
        let data_type = field.data_type();
        if data_type.is_nested() || data_type.is_floating() || data_type == &DataType::Binary {
            return wrong(
                "a table can't be partitioned by lists, structs, floats or binary values",
            );
        }
        if partition_columns[..at].contains(name) {
            return wrong("it is named twice as a partition column");
        }
    }
    if !schema.fields().is_empty() && partition_columns.len() == schema.fields().len() {
        return Err(CatalogError::Column {
            column: partition_columns.join(", "),
            reason: "a table needs a column besides those it is partitioned by".to_string(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::DataFile;
    use crate::scan::partition_value;
    use arrow::array::TimestampMicrosecondArray;
    use arrow::array::{BooleanArray, Date32Array, Decimal128Array, Int64Array, StringArray};
    use datafusion::common::ScalarValue;

    #[test]
    fn values_of_every_type_come_back() {
        let times = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None]);
        let decimals = Decimal128Array::from(vec![Some(-1234), None]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(-7), None])),
            Arc::new(StringArray::from(vec![Some("a/b=c d%"), None])),
            Arc::new(Date32Array::from(vec![Some(20_000), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(times.with_timezone("UTC")),
            Arc::new(decimals.with_precision_and_scale(10, 2).unwrap()),
        ];
        for column in columns {
            let rest: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
            let batch = RecordBatch::try_from_iter_with_nullable([
                ("p", Arc::clone(&column), true),
                ("n", rest, true),
            ])
            .unwrap();
            let splitter = Splitter::new(&batch.schema(), &["p".to_string()]);
            let parts = splitter.split(&batch).unwrap();
            assert_eq!(parts.len(), 2);
            for (partition, rows) in parts {
                assert_eq!(rows.num_columns(), 1);
                let file = DataFile {
                    path: "f".to_string(),
                    bytes: 0,
                    rows: None,
                    stats: None,
                    written_at: 0,
                    partition: splitter.named(&partition),
                };
                let value = partition_value(&file, batch.schema().field(0)).unwrap();
                let row = rows.column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0);
                let expected = ScalarValue::try_from_array(&column, row as usize - 1).unwrap();
                assert_eq!(value, expected);
            }
        }
    }

    #[test]
    fn columns_that_cannot_partition_are_refused() {
        let field = |name: &str, data_type| arrow::datatypes::Field::new(name, data_type, true);
        let schema = Schema::new(vec![field("a", DataType::Int64), field("f", DataType::Float64)]);
        for columns in [&["x"][..], &["f"], &["a", "a"], &["a", "f"]] {
            let columns: Vec<_> = columns.iter().map(|name| name.to_string()).collect();
            assert!(check(&schema, &columns).is_err(), "{columns:?}");
        }
        check(&schema, &["a".to_string()]).unwrap();
    }
}
