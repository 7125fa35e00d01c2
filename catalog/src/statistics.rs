//! Per-file column statistics in Delta's JSON form: written from a Parquet footer, read back for
//! pruning and for the planner.
//!
//! Bounds are kept for numbers, dates, timestamps and short strings at the top level of the schema.
//! See "Per-file Statistics" in the Delta transaction log protocol.

use crate::Result;
use crate::delta::DataFile;
use crate::scan::partition_value;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use chrono::{DateTime, SecondsFormat};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Map, Value, json};

/// Longer strings would make the log larger than what pruning by them saves.
const LONGEST_STRING: usize = 64;

/// The statistics of a file, from its footer.
pub fn from_footer(schema: &Schema, footer: &ParquetMetaData) -> Result<String> {
    let (mut smallest, mut largest, mut nulls) = (Map::new(), Map::new(), Map::new());
    for field in schema.fields() {
        let name = field.name();
        if field.data_type().is_nested() {
            continue;
        }
        let parquet_schema = footer.file_metadata().schema_descr();
        let converter = StatisticsConverter::try_new(name, schema, parquet_schema)?;
        let counts = converter.row_group_null_counts(footer.row_groups())?;
        let count: u64 = arrow::compute::sum(&counts).unwrap_or(0);
        nulls.insert(name.clone(), json!(count));
        let minima = converter.row_group_mins(footer.row_groups())?;
        let maxima = converter.row_group_maxes(footer.row_groups())?;
        let low = extreme(minima.as_ref(), std::cmp::Ordering::Less);
        let high = extreme(maxima.as_ref(), std::cmp::Ordering::Greater);
        if let (Some(low), Some(high)) =
            (low.as_ref().and_then(bound), high.as_ref().and_then(bound))
        {
            smallest.insert(name.clone(), low);
            largest.insert(name.clone(), high);
        }
    }
    Ok(json!({
        "numRecords": footer.file_metadata().num_rows(),
        "minValues": smallest,
        "maxValues": largest,
        "nullCount": nulls,
    })
    .to_string())
}

fn extreme(values: &dyn arrow::array::Array, wanted: std::cmp::Ordering) -> Option<ScalarValue> {
    let mut found: Option<ScalarValue> = None;
    for index in 0..values.len() {
        let value = ScalarValue::try_from_array(values, index).ok()?;
        if value.is_null() {
            return None;
        }
        if found.as_ref().is_none_or(|found| value.partial_cmp(found) == Some(wanted)) {
            found = Some(value);
        }
    }
    found
}

/// A bound as Delta writes it; `None` for types that are not used for pruning.
fn bound(value: &ScalarValue) -> Option<Value> {
    match value {
        ScalarValue::Int8(Some(v)) => Some(json!(v)),
        ScalarValue::Int16(Some(v)) => Some(json!(v)),
        ScalarValue::Int32(Some(v)) => Some(json!(v)),
        ScalarValue::Int64(Some(v)) => Some(json!(v)),
        ScalarValue::Float32(Some(v)) if v.is_finite() => Some(json!(v)),
        ScalarValue::Float64(Some(v)) if v.is_finite() => Some(json!(v)),
        ScalarValue::Utf8(Some(v)) if v.len() <= LONGEST_STRING => Some(json!(v)),
        ScalarValue::Date32(Some(_)) => Some(json!(value.to_string())),
        ScalarValue::TimestampMicrosecond(Some(v), _) => {
            let time = DateTime::from_timestamp_micros(*v)?;
            Some(json!(time.to_rfc3339_opts(SecondsFormat::Micros, true)))
        }
        _ => None,
    }
}

/// The statistics of a file for the planner. What is missing or unreadable is unknown. Of other
/// writers' files (`foreign`) the bounds of strings and timestamps count as unknown: they may be
/// truncated.
pub fn for_planner(schema: &SchemaRef, file: &DataFile, foreign: bool) -> Statistics {
    let stats = file.stats.as_deref();
    let parsed =
        stats.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
    let column = |field: &FieldRef| {
        if file.partition.contains_key(field.name()) {
            return of_partition(file, field);
        }
        let (name, data_type) = (field.name().as_str(), field.data_type());
        let rounded = matches!(data_type, DataType::Utf8 | DataType::Timestamp(_, _));
        let scalar = |kind: &str| {
            // Bounds of floats say nothing of NaN, which is greater than all of them.
            if data_type.is_floating() || foreign && rounded {
                return Precision::Absent;
            }
            let text = match &parsed[kind][name] {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Precision::Absent,
            };
            ScalarValue::try_from_string(text, data_type)
                .map_or(Precision::Absent, Precision::Exact)
        };
        let nulls = parsed["nullCount"][name].as_u64();
        ColumnStatistics {
            null_count: nulls.map_or(Precision::Absent, |count| Precision::Exact(count as usize)),
            min_value: scalar("minValues"),
            max_value: scalar("maxValues"),
            ..ColumnStatistics::new_unknown()
        }
    };
    Statistics {
        num_rows: file.rows.map_or(Precision::Absent, |rows| Precision::Exact(rows as usize)),
        total_byte_size: Precision::Inexact(file.bytes as usize),
        column_statistics: schema.fields().iter().map(column).collect(),
    }
}

/// All rows of the file have the same value.
fn of_partition(file: &DataFile, field: &FieldRef) -> ColumnStatistics {
    let value = match partition_value(file, field) {
        Ok(value) => value,
        Err(_) => return ColumnStatistics::new_unknown(),
    };
    let nulls = if value.is_null() { file.rows } else { Some(0) };
    let bound = if value.is_null() { Precision::Absent } else { Precision::Exact(value) };
    ColumnStatistics {
        null_count: nulls.map_or(Precision::Absent, |count| Precision::Exact(count as usize)),
        min_value: bound.clone(),
        max_value: bound,
        ..ColumnStatistics::new_unknown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    };
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use std::sync::Arc;

    #[test]
    fn come_back_as_they_were_written() {
        let times = TimestampMicrosecondArray::from(vec![1_000_001, 2_000_002, 5]);
        let long = "x".repeat(100);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("number", Arc::new(Int64Array::from(vec![Some(3), None, Some(-7)]))),
            ("nan", Arc::new(Float64Array::from(vec![1.0, f64::INFINITY, 2.0]))),
            ("day", Arc::new(Date32Array::from(vec![10, 20, 30]))),
            ("time", Arc::new(times.with_timezone("UTC"))),
            ("short", Arc::new(StringArray::from(vec!["b", "a", "c"]))),
            ("long", Arc::new(StringArray::from(vec![long.as_str(), "a", "c"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_statistics_truncate_length(None).build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let footer = writer.finish().unwrap();
        let json = from_footer(&batch.schema(), &footer).unwrap();

        let file = DataFile {
            path: "f".to_string(),
            bytes: 99,
            rows: Some(3),
            stats: Some(json),
            written_at: 0,
            partition: Default::default(),
        };
        let read = for_planner(&batch.schema(), &file, false);
        let columns = &read.column_statistics;
        assert_eq!(columns[0].null_count, Precision::Exact(1));
        assert_eq!(columns[0].min_value, Precision::Exact(ScalarValue::Int64(Some(-7))));
        assert_eq!(columns[0].max_value, Precision::Exact(ScalarValue::Int64(Some(3))));
        assert_eq!(columns[1].min_value, Precision::Absent);
        assert_eq!(columns[2].max_value, Precision::Exact(ScalarValue::Date32(Some(30))));
        let latest = ScalarValue::TimestampMicrosecond(Some(2_000_002), Some("UTC".into()));
        assert_eq!(columns[3].max_value, Precision::Exact(latest));
        assert_eq!(columns[4].min_value, Precision::Exact(ScalarValue::from("a")));
        assert_eq!(columns[5].max_value, Precision::Absent);
        assert_eq!(read.num_rows, Precision::Exact(3));
        let foreign = for_planner(&batch.schema(), &file, true);
        assert_eq!(foreign.column_statistics[0], columns[0]);
        assert_eq!(foreign.column_statistics[3].max_value, Precision::Absent);
        assert_eq!(foreign.column_statistics[4].min_value, Precision::Absent);
    }
}
