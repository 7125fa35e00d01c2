use super::encode::WeightBuffer;
use super::*;
use crate::superstep::Reuse;
use crate::superstep::blocks::{BlockWrite, Content};
use crate::superstep::exec::{Kernel, Task};
use crate::superstep::layout::{Folder, Partitioned};
use crate::superstep::{Resident, Sink, SinkExec};
use crate::threads::Threads;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type, Int64Type, ToByteSlice};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use nightshift_udfs::csr::{Csr, Duplicates};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rows of a training query with ids of 1000 users and 70 items, some pairs more than once.
fn rows(texts: bool) -> Vec<(i64, i64, f64)> {
    let random = |at: i64, salt: u64| {
        let mixed = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt;
        (mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33) as i64
    };
    // Segments with weights of each form.
    let weight = |at| match at {
        _ if !texts => 1.0,
        ..1500 => 1.0,
        1500..3000 => (random(at, 3) % 100) as f64 / 2.0,
        _ => random(at, 3) as f64 / 10.0,
    };
    (0..5000).map(|at| (random(at, 1) % 1000, -7 * (random(at, 2) % 70), weight(at))).collect()
}

fn name(id: i64) -> String {
    format!("id {id}")
}

/// The first measure of each block.
fn measures(answers: &[RecordBatch]) -> Vec<f64> {
    let first = |answer: &RecordBatch| {
        answer.column(1).as_list::<i32>().value(0).as_primitive::<Float64Type>().value(0)
    };
    answers.iter().map(first).collect()
}

/// What is in a folder after all steps, cut by row and by column, with what was returned of the ids.
async fn prepared(
    rows: &[(i64, i64, f64)],
    texts: bool,
    partitions: usize,
    segment: usize,
) -> (Vec<Csr<f64>>, Vec<Csr<f64>>, Vec<RecordBatch>) {
    let folder = tempfile::tempdir().unwrap();
    let context = SessionContext::new();
    let place = |name: &str| {
        let path = folder.path().join(name);
        Folder(url::Url::from_directory_path(path).unwrap())
    };
    let ids = |of: fn(&(i64, i64, f64)) -> i64, part: &[(i64, i64, f64)]| -> ArrayRef {
        match texts {
            true => Arc::new(StringArray::from_iter_values(part.iter().map(|row| name(of(row))))),
            false => Arc::new(Int64Array::from_iter_values(part.iter().map(of))),
        }
    };
    let batch = |part: &[(i64, i64, f64)]| {
        let weights: ArrayRef =
            Arc::new(Float64Array::from_iter_values(part.iter().map(|row| row.2)));
        let columns = [("row", ids(|row| row.0, part)), ("column", ids(|row| row.1, part))];
        RecordBatch::try_from_iter(columns.into_iter().chain([("weight", weights)])).unwrap()
    };
    let parts = rows.chunks(rows.len().div_ceil(partitions));
    let parts: Vec<Vec<RecordBatch>> =
        parts.map(|part| part.chunks(300).map(batch).collect()).collect();
    let source = MemorySourceConfig::try_new(&parts, parts[0][0].schema(), None).unwrap();
    let encode = Encode { folder: place("entries"), negative: true, segment };
    let sink = SinkExec::new(Sink::Segments(encode), DataSourceExec::from_data_source(source));
    let sink: Arc<dyn ExecutionPlan> = Arc::new(sink);
    // As a task does that is lost when it has written everything.
    collect(Arc::clone(&sink), context.task_ctx()).await.unwrap();
    let encoded = collect(sink, context.task_ctx()).await.unwrap();
    let encoded = Encoded::collect(&encoded).unwrap();
    assert_eq!(encoded.rows, rows.len() as u64);
    assert!(encoded.segments.iter().all(|written| written.entries <= segment));

    let (runtime, resident) = (context.runtime_env(), Resident::default());
    let run = async |kernel: &dyn Kernel| {
        let mut answers = Vec::new();
        for block in 0..kernel.blocks() {
            let reuse = Reuse::default();
            let (runtime, resident, reuse) = (&runtime, &resident, &reuse);
            let threads = &Arc::new(Threads::new(1));
            let task = Task { block, runtime, resident, reuse, threads };
            answers.push(kernel.run(task).await.unwrap());
        }
        answers
    };
    let data_type = if texts { DataType::Utf8 } else { DataType::Int64 };
    let mut ids = Vec::new();
    for axis in [Axis::Row, Axis::Column] {
        let numbered = NumberedIds {
            folder: place("entries"),
            name: format!("{}.ids", axis.name()),
            id_type: IdType::new(&data_type),
        };
        let number = Number {
            folder: place("entries"),
            segments: encoded.segments.clone(),
            axes: vec![axis],
            ids: numbered.clone(),
        };
        let count = measures(&run(&number).await)[0] as u64;
        let export = IdsExport { ids: numbered, cut: Partitioned { count, block_rows: 64 } };
        let exported = run(&export).await;
        ids.push(concat_batches(&export.schema(), &exported).unwrap());
    }
    let content = Content::Double(Duplicates::Keep);
    let ways = [Axis::Row, Axis::Column].map(|by| Destination {
        folder: place(by.name()),
        by,
        cut: Partitioned::new(ids[by as usize].num_rows() as u64, rows.len() as u64),
        content,
    });
    let segments = encoded.segments.clone();
    let scatter = Scatter { folder: place("entries"), segments, to: ways.to_vec() };
    // As after a task that is lost when it has written everything.
    let first = measures(&run(&scatter).await);
    assert_eq!(measures(&run(&scatter).await), first);
    let mut made = Vec::new();
    for way in ways {
        let blocks = place(&format!("{}-blocks", way.by.name()));
        let write = BlockWrite { folder: blocks.clone(), cut: way.cut, content };
        let segments = encoded.segments.clone();
        run(&Gather { folder: way.folder, segments, write }).await;
        let mut found = Vec::new();
        for block in 0..way.cut.blocks() {
            let (runtime, resident, reuse) = (&runtime, &resident, &Reuse::default());
            let threads = &Arc::new(Threads::new(1));
            let task = Task { block, runtime, resident, reuse, threads };
            found.push(Csr::clone(&*task.csr::<f64>(&blocks).await.unwrap()));
        }
        made.push(found);
    }
    let [by_row, by_column] = made.try_into().unwrap();
    (by_row, by_column, ids)
}

/// All entries of blocks under their ids.
fn entries(blocks: &[Csr<f64>], rows: &[String], columns: &[String]) -> Vec<(String, String, u64)> {
    let mut all = Vec::new();
    for block in blocks {
        for row in 0..block.rows() {
            let (numbers, values) = block.row(row);
            assert!(numbers.is_sorted());
            for (column, value) in numbers.iter().zip(values) {
                let row = &rows[block.first_row as usize + row];
                all.push((row.clone(), columns[*column as usize].clone(), value.to_bits()));
            }
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn blocks_hold_the_rows_of_the_query_however_they_come() {
    for texts in [false, true] {
        let rows = rows(texts);
        let (by_row, by_column, ids) = prepared(&rows, texts, 3, 400).await;
        let shown = |id: i64| if texts { name(id) } else { id.to_string() };
        let lists: Vec<Vec<String>> = ids
            .iter()
            .map(|ids| {
                let indexes = ids.column(1).as_primitive::<Int64Type>();
                assert!(indexes.values().iter().copied().eq(0..ids.num_rows() as i64));
                let ids = ids.column(0);
                let id = |at| match texts {
                    true => ids.as_string::<i32>().value(at).to_string(),
                    false => ids.as_primitive::<Int64Type>().value(at).to_string(),
                };
                (0..ids.len()).map(id).collect()
            })
            .collect();
        let expected: BTreeSet<i64> = rows.iter().map(|row| row.1).collect();
        let mut expected: Vec<String> = expected.into_iter().map(shown).collect();
        if texts {
            expected.sort();
        }
        assert_eq!(lists[1], expected);
        let mut expected: Vec<_> =
            rows.iter().map(|row| (shown(row.0), shown(row.1), row.2.to_bits())).collect();
        expected.sort();
        assert_eq!(entries(&by_row, &lists[0], &lists[1]), expected);
        let turned = entries(&by_column, &lists[1], &lists[0]);
        let mut turned: Vec<_> =
            turned.into_iter().map(|(row, column, value)| (column, row, value)).collect();
        turned.sort();
        assert_eq!(turned, expected);

        let mut reversed = rows.clone();
        reversed.reverse();
        let again = prepared(&reversed, texts, 1, 1 << 20).await;
        assert!(again == (by_row, by_column, ids));
    }
}

#[tokio::test]
async fn rows_without_a_meaning_are_counted_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let context = SessionContext::new();
    let batch = |rows: &[(Option<i64>, Option<&str>, Option<f64>)]| {
        RecordBatch::try_from_iter([
            ("row", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))) as ArrayRef),
            ("column", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1)))),
            ("weight", Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.2)))),
        ])
        .unwrap()
    };
    let (nan, infinity) = (f64::NAN, f64::NEG_INFINITY);
    let parts = vec![
        vec![batch(&[(Some(1), Some("a"), Some(0.0)), (None, None, Some(2.0))])],
        vec![
            batch(&[(Some(2), Some("b"), Some(nan)), (Some(3), Some("c"), Some(infinity))]),
            batch(&[(Some(4), Some("d"), None), (Some(5), None, Some(-1.0))]),
        ],
    ];
    let place = Folder(url::Url::from_directory_path(folder.path()).unwrap());
    for negative in [false, true] {
        let source = MemorySourceConfig::try_new(&parts, parts[0][0].schema(), None).unwrap();
        let encode = Encode { folder: place.clone(), negative, segment: SEGMENT };
        let sink = SinkExec::new(Sink::Segments(encode), DataSourceExec::from_data_source(source));
        let encoded = collect(Arc::new(sink), context.task_ctx()).await.unwrap();
        let encoded = Encoded::collect(&encoded).unwrap();
        assert_eq!(encoded.rows, 6);
        let good: usize = encoded.segments.iter().map(|segment| segment.entries).sum();
        assert_eq!(good, 1);
        let below_zero = if negative { 0 } else { 2 };
        assert_eq!(encoded.wrong.clone().map(|wrong| wrong.count), [1, 2, 1, 1, 1, below_zero]);
        let example = encoded.wrong[2].example.clone().unwrap();
        assert_eq!(example, ["4", "d", "NULL"]);
    }
}

#[test]
fn weights_come_back_exactly() {
    for (weights, width) in [
        (vec![1.0, 1.0, 1.0], 0),
        (vec![1.0, -2.5, 1024.0], 4),
        (vec![0.1, 1.0, f64::MIN_POSITIVE], 8),
    ] {
        let mut buffer = WeightBuffer::new(weights.len());
        // Those before may have been 1.
        let (first, others) = weights.split_at(1);
        buffer.push(first);
        buffer.push(others);
        let mut words = Vec::new();
        buffer.finish(&mut words);
        let bytes = words.to_byte_slice();
        let read = Weights::read(bytes, weights.len()).unwrap();
        assert_eq!(read.width(), width);
        let values: Vec<f64> = (0..weights.len()).map(|index| read.get(index)).collect();
        assert_eq!(values, weights);
        assert!(Weights::read(&[bytes, &[0]].concat(), weights.len()).is_none());
    }
}

#[test]
fn entries_that_are_cut_off_are_refused() {
    let bytes = [0; 36];
    assert!(Entries::read(&bytes, 3, "it").is_ok());
    for length in (0..36).filter(|length| *length != 24) {
        assert!(Entries::read(&bytes[..length], 3, "it").is_err());
    }
    assert!(Entries::read(&bytes, usize::MAX, "it").is_err());
}
