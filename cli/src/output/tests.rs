//! Tests of all formats with the same rows.

use super::*;
use arrow::array::{Int64Array, ListArray};
use arrow::datatypes::Int32Type;
use futures::stream;
use std::io::Write;

fn rows() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a, \"b\"\nc"), None]));
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
    ]));
    RecordBatch::try_from_iter_with_nullable([
        ("n", numbers, true),
        ("text", texts, true),
        ("list", list, true),
    ])
    .unwrap()
}

/// What two batches with the rows look like in a file, or one of them without rows.
fn written(style: Style, batches: Vec<RecordBatch>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result");
    let mut output = Output::new(style.format, Some(&path)).unwrap();
    output.style = style;
    write(&mut output, batches.into_iter().map(Ok).collect()).unwrap();
    assert!(!path.exists(), "a result has its name before it is complete");
    output.close().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    std::fs::read(path).unwrap()
}

fn write(
    output: &mut Output,
    batches: Vec<Result<RecordBatch, JobError>>,
) -> Result<Option<Written>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut interrupts = Interrupts::listen().unwrap();
        output.rows(rows().schema(), stream::iter(batches), &mut interrupts).await
    })
}

fn text(format: Format, batches: Vec<RecordBatch>) -> String {
    String::from_utf8(written(Style::new(format), batches)).unwrap()
}

#[test]
fn texts_of_rows() {
    let two = || vec![rows(), rows().slice(1, 1)];
    let table = text(Format::Table, two());
    assert!(table.contains("| n    | text   | list      |"), "{table}");
    assert!(table.contains("| NULL | NULL   | NULL      |"), "{table}");
    assert_eq!(
        text(Format::Vertical, two()),
        "-[ RECORD 1 ]---------------------------\nn    | 1\ntext | a, \"b\"\n     | c\nlist | [1, NULL]\n\
         -[ RECORD 2 ]---------------------------\nn    | NULL\ntext | NULL\nlist | NULL\n\
         -[ RECORD 3 ]---------------------------\nn    | NULL\ntext | NULL\nlist | NULL\n"
    );
    assert_eq!(text(Format::Csv, two()), "n,text,list\n1,\"a, \"\"b\"\"\nc\",\"[1, ]\"\n,,\n,,\n");
    let first = r#"{"n":1,"text":"a, \"b\"\nc","list":[1,null]}"#;
    let null = r#"{"n":null,"text":null,"list":null}"#;
    assert_eq!(text(Format::Jsonl, two()), format!("{first}\n{null}\n{null}\n"));
    assert_eq!(text(Format::Json, two()), format!("[{first},{null},{null}]\n"));
}

#[test]
fn results_without_rows_have_columns_all_the_same() {
    assert_eq!(text(Format::Csv, vec![]), "n,text,list\n");
    assert_eq!(text(Format::Json, vec![]), "[]\n");
    assert_eq!(text(Format::Jsonl, vec![]), "");
    assert!(text(Format::Table, vec![]).contains("| n | text | list |"));
    let file = parquet_file(vec![]);
    let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    assert_eq!(reader.unwrap().schema().fields().len(), 3);
}

fn parquet_file(batches: Vec<RecordBatch>) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&written(Style::new(Format::Parquet), batches)).unwrap();
    file
}

#[test]
fn binary_files_can_be_read_again() {
    let file = parquet_file(vec![rows(), rows()]);
    let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    let read: Vec<_> = reader.unwrap().build().unwrap().map(Result::unwrap).collect();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    let file = written(Style::new(Format::Arrow), vec![rows(), rows()]);
    let reader = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(file), None).unwrap();
    let read: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(read, [rows(), rows()]);
}

#[test]
fn a_table_for_people_is_cut() {
    let style = Style { limit: 3, null: "-".to_string(), ..Style::new(Format::Table) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result");
    let mut output = Output::new(Format::Table, Some(&path)).unwrap();
    output.style = style.clone();
    let four = || vec![Ok(rows()), Ok(rows())];
    let shown = write(&mut output, four()).unwrap().unwrap();
    assert_eq!((shown.rows, shown.cut), (3, true));
    output.style.limit = 4;
    let shown = write(&mut output, four()).unwrap().unwrap();
    assert_eq!((shown.rows, shown.cut), (4, false));
    // Other formats are for programs.
    output.style = Style { format: Format::Csv, ..style };
    let shown = write(&mut output, four()).unwrap().unwrap();
    assert_eq!((shown.rows, shown.cut), (4, false));
}

#[test]
fn a_result_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result");
    std::fs::write(&path, "before").unwrap();
    let wrong = || Err(JobError::Statement("wrong".to_string()));
    let mut output = Output::new(Format::Jsonl, Some(&path)).unwrap();
    write(&mut output, vec![Ok(rows()), wrong()]).unwrap_err();
    drop(output);
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
    // Results before and after it are there.
    let mut output = Output::new(Format::Jsonl, Some(&path)).unwrap();
    write(&mut output, vec![Ok(rows())]).unwrap();
    write(&mut output, vec![Ok(rows()), Ok(rows()), wrong()]).unwrap_err();
    write(&mut output, vec![Ok(rows())]).unwrap();
    output.close().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_binary_file_holds_one_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result");
    let mut output = Output::new(Format::Parquet, Some(&path)).unwrap();
    write(&mut output, vec![Ok(rows())]).unwrap();
    let error = write(&mut output, vec![Ok(rows())]).unwrap_err().to_string();
    assert!(error.contains("parquet holds one result"), "{error}");
    let nowhere = Output::new(Format::Csv, Some(&folder.path().join("no/result")));
    let error = nowhere.err().unwrap().to_string();
    assert!(error.contains("no/result: No such file"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_written_to_as_it_is() {
    let mut output = Output::new(Format::Csv, Some(Path::new("/dev/null"))).unwrap();
    write(&mut output, vec![Ok(rows())]).unwrap();
    output.close().unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}
