//! Rows as other programs can read them: clients of the servers, and readers of files.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
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
            cast(column, field.data_type())
        }
    };
    let columns =
        rows.columns().iter().zip(schema.fields()).map(typed).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray, DictionaryArray, ListArray, StringViewArray};
    use arrow::datatypes::{Int32Type, Int64Type};

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
}
