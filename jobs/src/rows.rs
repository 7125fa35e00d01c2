//! Rows as other programs can read them: clients of the servers, and readers of files.

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{self, can_cast_types};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::{Column, TableReference};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use std::sync::Arc;

/// The type as other programs get it: views and dictionaries are the engine's own business, and many
/// can't read them.
fn plain_type(from: &DataType) -> DataType {
    let field = |field: &FieldRef| plain_field(field);
    match from {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(field(item), *size),
        DataType::Struct(fields) => DataType::Struct(plain_fields(fields)),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let kind = plain_type(field.data_type());
    if &kind == field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), kind, field.is_nullable()))
}

fn plain_fields(fields: &Fields) -> Fields {
    fields.iter().map(plain_field).collect()
}

/// A schema as other programs get it: texts and bytes as such, whatever the engine uses inside.
pub fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(plain_fields(schema.fields())))
}

/// Rows as other programs get them; `schema` is what [`plain_schema`] makes of theirs.
///
/// # Errors
///
/// If a column can't be cast, which no column of that schema should be.
pub fn plain_rows(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let typed = |(column, field): (&ArrayRef, &FieldRef)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            compute::cast(column, field.data_type())
        }
    };
    let columns =
        rows.columns().iter().zip(schema.fields()).map(typed).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Bytes of rows that travel in one message, about.
const MESSAGE_BYTES: usize = 2 << 20;

/// The bytes of rows without what they share: rows that were received, or are a part of others, have buffers that
/// they share with those. All of its items count with a list, even those that are not in the rows.
fn own_bytes(rows: &RecordBatch) -> usize {
    let own = |column: &ArrayRef| {
        let data = column.to_data();
        data.get_slice_memory_size().unwrap_or_else(|_| column.get_buffer_memory_size())
    };
    rows.columns().iter().map(own).sum()
}

/// Rows, of plain types, in pieces that fit into messages unless a single row does not.
pub fn messages(rows: &RecordBatch) -> Vec<RecordBatch> {
    let (mut pieces, mut left) = (Vec::new(), vec![rows.clone()]);
    while let Some(rows) = left.pop() {
        let (count, bytes) = (rows.num_rows(), own_bytes(&rows));
        if bytes <= MESSAGE_BYTES || count < 2 {
            pieces.extend((count > 0).then_some(rows));
            continue;
        }
        let (first, second) = (rows.slice(0, count / 2), rows.slice(count / 2, count - count / 2));
        if own_bytes(&first) + own_bytes(&second) > bytes + bytes / 2 {
            // They are no smaller by themselves, so equal pieces are what can be had.
            let most = count.div_ceil(bytes.div_ceil(MESSAGE_BYTES));
            let starts = (0..count).step_by(most);
            pieces.extend(starts.map(|first| rows.slice(first, most.min(count - first))));
        } else {
            left.extend([second, first]);
        }
    }
    pieces
}

/// The same query with the types that other programs get: what a text's view refers to is more than the text, and
/// all of it would travel.
///
/// # Errors
///
/// If the engine finds the casts wrong, which it should not.
pub(crate) fn with_plain_types(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let is_castable = |field: &FieldRef, to: &DataType| {
        field.data_type() != to && can_cast_types(field.data_type(), to)
    };
    let plain = |(table, field): (Option<&TableReference>, &FieldRef)| {
        let to = plain_type(field.data_type());
        let column = Expr::Column(Column::from((table, field)));
        match is_castable(field, &to) {
            true => cast(column, to).alias_qualified(table.cloned(), field.name()),
            false => column,
        }
    };
    let schema = plan.schema();
    if schema.fields().iter().all(|field| !is_castable(field, &plain_type(field.data_type()))) {
        return Ok(plan);
    }
    let columns: Vec<_> = schema.iter().map(plain).collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        AsArray, DictionaryArray, Int64Array, ListArray, StringArray, StringViewArray,
    };
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Int32Type, Int64Type};
    use datafusion::prelude::{DataFrame, SessionContext};

    #[test]
    fn clients_see_neither_views_nor_dictionaries() {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
        let coded: DictionaryArray<Int32Type> = vec!["x", "x"].into_iter().collect();
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)]), None]);
        let rows = RecordBatch::try_from_iter([
            ("text", text),
            ("coded", Arc::new(coded) as ArrayRef),
            ("list", Arc::new(list.clone()) as ArrayRef),
        ])
        .unwrap();
        let schema = plain_schema(rows.schema_ref());
        let sent = plain_rows(&rows, &schema).unwrap();
        assert_eq!(sent.column(0).data_type(), &DataType::Utf8);
        assert_eq!(sent.column(0).as_string::<i32>().value(0), "a");
        assert!(sent.column(0).is_null(1));
        assert_eq!(sent.column(1).as_string::<i32>().value(1), "x");
        assert_eq!(sent.column(2).data_type(), list.data_type());
    }

    #[test]
    fn messages_are_as_large_as_their_own_rows() {
        let numbers = Int64Array::from_iter_values(0..1_000_000);
        let rows = RecordBatch::try_from_iter([("i", Arc::new(numbers) as ArrayRef)]).unwrap();
        let pieces = messages(&rows);
        assert_eq!(pieces.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [250_000; 4]);
        assert_eq!(messages(&rows.slice(10, 1000)), [rows.slice(10, 1000)]);
        assert_eq!(messages(&rows.slice(0, 0)), []);
        // A few rows can have most of the bytes.
        let long = "x".repeat(1_000_000);
        let texts = (0..3000).map(|i| if (1000..1020).contains(&i) { long.as_str() } else { "x" });
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let rows = RecordBatch::try_from_iter([("t", texts)]).unwrap();
        let pieces = messages(&rows);
        assert!(pieces.len() < 40 && pieces.iter().all(|piece| own_bytes(piece) <= 2 << 20));
        assert_eq!(concat_batches(rows.schema_ref(), &pieces).unwrap(), rows);
        let lists = (0..1000).map(|_| Some(vec![Some(1); 1000]));
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        let rows = RecordBatch::try_from_iter([("l", Arc::new(lists) as ArrayRef)]).unwrap();
        assert_eq!(messages(&rows).len(), 4);
    }

    #[tokio::test]
    async fn queries_return_neither_views_nor_dictionaries() {
        let context = SessionContext::new();
        let sql = "SELECT arrow_cast(a, 'Utf8View') AS a, arrow_cast(a, 'Dictionary(Int32, Utf8)') AS b, c
            FROM (VALUES ('x', 1), ('y', 2)) AS t(a, c)";
        let view = context.sql(sql).await.unwrap().into_view();
        context.register_table("t", view).unwrap();
        let joined = "SELECT t.*, u.a FROM t JOIN t AS u ON t.c = u.c ORDER BY t.a";
        let plan = context.sql(joined).await.unwrap().into_unoptimized_plan();
        let names = plan.schema().columns();
        let plan = with_plain_types(plan).unwrap();
        assert_eq!(plan.schema().columns(), names);
        let rows = DataFrame::new(context.state(), plan).collect().await.unwrap();
        let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
        let types: Vec<_> = rows.columns().iter().map(|column| column.data_type()).collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Utf8, &DataType::Int64, &DataType::Utf8]);
        assert_eq!(rows.column(3).as_string::<i32>().value(1), "y");
    }

    #[tokio::test]
    async fn queries_without_views_stay_as_they_are() {
        let plan =
            SessionContext::new().sql("EXPLAIN SELECT 1").await.unwrap().into_unoptimized_plan();
        assert_eq!(with_plain_types(plan.clone()).unwrap(), plan);
    }
}
