//! `OPTIMIZE` and `VACUUM`.

use super::{Change, Changed, TARGET};
use crate::Result;
use crate::progress::Progress;
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::warehouse::Cleaning;
use std::collections::BTreeMap;

/// Files of less than this many bytes are written together.
const SMALL: u64 = 64 << 20;

/// The size that files are brought to.
const WANTED: u64 = 256 << 20;

/// Hours for which files that were replaced are kept.
const RETAIN_HOURS: u64 = 168;

/// Writes the small files of each partition together.
pub async fn optimize(change: &Change<'_>) -> Result<Changed> {
    let old = &change.table.contents;
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

/// Deletes files that belong to no version which is or was published in the last `retain_hours`, and
/// to no run that is under way. Returns how many files and bytes.
pub async fn vacuum(
    change: &Change<'_>,
    retain_hours: Option<u64>,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Cleaning> {
    let hours = retain_hours.unwrap_or(RETAIN_HOURS);
    let (warehouse, registry) = (change.session.warehouse(), change.view.registry());
    let cleaning = warehouse.unneeded(registry, change.name, hours).await?;
    for file in cleaning.files.iter().filter(|_| dry_run) {
        progress.note(&format!("{file} would be deleted"));
    }
    if !dry_run {
        warehouse.clean(change.name, &cleaning).await?;
    }
    Ok(cleaning)
}
