//! Which runs have been told of to the end, so that the next leader doesn't tell all of it again.

use crate::{Result, journal};
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::Warehouse;

/// The folder in which that is noted, an object for each run.
const FOLDER: &str = "_nightshift/lineage";

/// What the name of a note ends with.
const SUFFIX: &str = ".json";

fn folder(warehouse: &Warehouse) -> Storage {
    warehouse.storage().folder(FOLDER)
}

/// Notes that all events of a run that is over are delivered.
pub async fn note_delivered(warehouse: &Warehouse, run: &str, events: usize) -> Result<()> {
    let noted = serde_json::json!({ "events": events }).to_string();
    Ok(folder(warehouse).put(&format!("{run}{SUFFIX}"), noted).await?)
}

/// Whether all events of a run are delivered.
pub async fn was_delivered(warehouse: &Warehouse, run: &str) -> Result<bool> {
    Ok(folder(warehouse).exists(&format!("{run}{SUFFIX}")).await?)
}

/// Deletes the notes of runs that are in an archive: nobody tells of those again.
pub async fn forget(warehouse: &Warehouse) -> Result<()> {
    // Listed first: a run that is begun meanwhile has no note yet.
    let listed = folder(warehouse).list().await?;
    let runs = journal::runs(warehouse).await?;
    for object in listed {
        let Some(name) = object.location.filename() else { continue };
        let Some(run) = name.strip_suffix(SUFFIX) else { continue };
        if !runs.iter().any(|other| other == run) {
            folder(warehouse).delete(name).await?;
        }
    }
    Ok(())
}
