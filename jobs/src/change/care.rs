//! `OPTIMIZE`, with and without an order; how long `VACUUM` keeps what it could delete.

use super::{Change, Changed, TARGET, quoted};
use crate::session::Session;
use crate::{JobError, Result};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{LogicalPlanBuilder, ident, lit};
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::write::WriteTarget;
use std::collections::BTreeMap;

/// Files of less than this many bytes are written together.
const SMALL: u64 = 64 << 20;

/// The size that files are brought to.
const WANTED: u64 = 256 << 20;

/// Hours for which files that were replaced are kept.
pub const RETAIN_HOURS: u64 = 168;

/// Files that a table is written into with an order, unless that makes them smaller than `SMALLEST`.
const PARTS: u64 = 16;

/// The least size of files with an order: smaller ones cost more than skipping them saves.
const SMALLEST: u64 = 1 << 20;

/// Writes the small files of each partition together, or all of them in an order.
pub async fn optimize(change: &Change<'_>, zorder: &[String]) -> Result<Changed> {
    if !zorder.is_empty() {
        return order(change, zorder).await;
    }
    let old = &change.table.contents;
    if change.rehearsed {
        return Ok(Changed::computed(old.clone(), 0));
    }
    let mut small: BTreeMap<_, Vec<DataFile>> = BTreeMap::new();
    for file in old.files.iter().filter(|file| file.bytes < SMALL) {
        small.entry(&file.partition).or_default().push(file.clone());
    }
    let rewritten: Vec<DataFile> =
        small.into_values().filter(|files| files.len() > 1).flatten().collect();
    if rewritten.is_empty() {
        return Ok(Changed::computed(old.clone(), 0));
    }
    let contents = Contents { files: rewritten.clone(), ..old.clone() };
    let groups = contents.bytes().div_ceil(WANTED).max(1) as usize;
    let view = change.reading_in(&contents, Some(groups)).await?;
    let plan = view.plan_text(change.session, &format!("SELECT * FROM {TARGET}")).await?;
    let (folder, partitions) = (&change.table.folder, &old.partition_columns);
    let written =
        change.session.write_files(change.run, plan, folder, &old.schema, partitions).await?;
    let kept = old.files.iter().filter(|file| !rewritten.contains(file)).cloned();
    let rows = contents.rows();
    let contents = Contents { files: kept.chain(written).collect(), ..old.clone() };
    Ok(Changed::computed(contents, rows))
}

/// Writes the table again, with rows next to each other that are alike in some columns: so the files
/// are about different values of each of them, and their statistics tell which a query can skip.
async fn order(change: &Change<'_>, columns: &[String]) -> Result<Changed> {
    let old = &change.table.contents;
    for column in columns {
        change.check_column(column)?;
        if old.partition_columns.contains(column) {
            return Err(JobError::Statement(format!(
                "column {column}: the table is partitioned by it, rows with different values of it are in \
                 different files already"
            )));
        }
    }
    if old.files.is_empty() || change.rehearsed {
        return Ok(Changed::computed(old.clone(), 0));
    }
    let view = change.reading(old).await?;
    let bounds = columns.iter().map(|name| format!("min({0}), max({0})", quoted(name)));
    let bounds = format!("SELECT {} FROM {TARGET}", bounds.collect::<Vec<_>>().join(", "));
    let bounds = change.session.collect(view.plan_text(change.session, &bounds).await?).await?;
    let Some(bounds) = bounds.iter().find(|batch| batch.num_rows() == 1) else {
        return Err(JobError::Damaged {
            what: format!("the answer about the columns of {}", change.name),
            reason: "it has no row".to_string(),
        });
    };
    let function = change.session.state().scalar_functions().get("zorder").cloned();
    let function =
        function.ok_or_else(|| JobError::Statement("there is no function zorder".to_string()))?;
    let mut arguments = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let bound = |at: usize| ScalarValue::try_from_array(bounds.column(at), 0);
        arguments.extend([ident(column), lit(bound(2 * at)?), lit(bound(2 * at + 1)?)]);
    }
    let place = function.call(arguments).sort(true, true);
    let partitions = old.partition_columns.iter().map(|name| ident(name).sort(true, true));
    let all = view.plan_text(change.session, &format!("SELECT * FROM {TARGET}")).await?;
    let sorted = LogicalPlanBuilder::from(all).sort(partitions.chain([place]))?.build()?;
    let sorted = Session::as_stored(sorted, &old.schema)?;
    let (folder, partitions) = (&change.table.folder, &old.partition_columns);
    let target = change.session.warehouse().write_target(change.run, folder, partitions)?;
    let size = (old.bytes() / PARTS).clamp(SMALLEST, WANTED);
    let target = WriteTarget { ordered: true, file_bytes: Some(size), ..target };
    let files = change.session.write_to(target, sorted).await?;
    Ok(Changed::computed(Contents { files, ..old.clone() }, old.rows()))
}
