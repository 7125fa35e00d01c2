//! Versions of models: which there are, how they differ, and which one everybody reads.

use crate::run::Run;
use crate::{JobError, Result};
use nightshift_catalog::registry::{Change, Entry, Kind, NewEntry, Registry};
use nightshift_catalog::warehouse::{Staged, Warehouse};
use std::collections::BTreeSet;

/// A value of two versions of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// What it is of: `option`, `metric`, `input`, or `query`.
    pub of: &'static str,
    /// Its name.
    pub name: String,
    /// What it is in the one version.
    pub one: Option<String>,
    /// What it is in the other.
    pub other: Option<String>,
}

/// A version of a model that there is.
///
/// # Errors
/// If there is no such model or version.
pub fn version<'a>(registry: &'a Registry, model: &str, version: u64) -> Result<&'a Entry> {
    match registry.version_of(Kind::Model, model, version) {
        Some(entry) => Ok(entry),
        None if known(registry, model) => {
            Err(JobError::Statement(format!("{model} has no version {version}")))
        }
        None => Err(JobError::Statement(format!("there is no model {model}"))),
    }
}

fn known(registry: &Registry, model: &str) -> bool {
    rows(registry, model).next().is_some()
}

fn rows<'a>(registry: &'a Registry, model: &str) -> impl DoubleEndedIterator<Item = &'a Entry> {
    let rows = registry.entries().iter();
    rows.filter(move |row| row.kind == Kind::Model && row.name == model)
}

/// The version that everybody read before the one that they read now.
///
/// # Errors
/// If there was none.
pub fn before(registry: &Registry, model: &str) -> Result<u64> {
    let current = registry.current(Kind::Model, model);
    let current =
        current.ok_or_else(|| JobError::Statement(format!("there is no model {model}")))?;
    let published = rows(registry, model).rev().filter(|row| !row.held);
    let before =
        published.take_while(|row| !row.dropped).find(|row| row.version != current.version);
    before.map(|row| row.version).ok_or_else(|| {
        let version = current.version;
        JobError::Statement(format!("nothing of {model} was published before version {version}"))
    })
}

/// The last version that a gate has kept from being published, if it is later than the published one.
///
/// # Errors
/// If there is none.
pub fn held(registry: &Registry, model: &str) -> Result<u64> {
    let last = rows(registry, model).next_back();
    match last {
        Some(row) if row.held => Ok(row.version),
        Some(_) => Err(JobError::Statement(format!(
            "no version of {model} is held: say which one is to be published"
        ))),
        None => Err(JobError::Statement(format!("there is no model {model}"))),
    }
}

/// What is different in two versions of a model: all of it if `all` is set, values that are the same among it.
pub fn differences(one: &Entry, other: &Entry, all: bool) -> Vec<Difference> {
    let (a, b) =
        (one.model().cloned().unwrap_or_default(), other.model().cloned().unwrap_or_default());
    let mut found = Vec::new();
    let mut compare = |of, name: &str, one: Option<String>, other: Option<String>| {
        if all || one != other {
            found.push(Difference { of, name: name.to_string(), one, other });
        }
    };
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let names: BTreeSet<_> = a.options.keys().chain(b.options.keys()).collect();
    for name in names {
        compare("option", name, a.options.get(name).map(text), b.options.get(name).map(text));
    }
    let number = |value: &f64| value.to_string();
    let names: BTreeSet<_> = a.metrics.keys().chain(b.metrics.keys()).collect();
    for name in names {
        compare("metric", name, a.metrics.get(name).map(number), b.metrics.get(name).map(number));
    }
    let names: BTreeSet<_> = a.inputs.keys().chain(b.inputs.keys()).collect();
    for name in names {
        compare("input", name, a.inputs.get(name).cloned(), b.inputs.get(name).cloned());
    }
    compare("query", "text", Some(a.query), Some(b.query));
    found
}

/// Makes a version of a model, which was published before or is held, the one that everybody reads.
pub async fn publish(warehouse: &Warehouse, model: &str, version: u64) -> Result<Vec<Entry>> {
    self::version(warehouse.registry().await?.as_ref(), model, version)?;
    warehouse.check_writable().await?;
    let (kind, name, change) = (Kind::Model, model.to_string(), Change::Again(version));
    let staged =
        Staged { names: vec![NewEntry { kind, name, change, base: None }], ..Staged::default() };
    Ok(warehouse.publish(&Run::new_id(), "SET VERSION", &staged).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_catalog::registry::{Details, ModelDetails};
    use nightshift_catalog::storage::Stores;
    use std::collections::BTreeMap;
    use url::Url;

    #[tokio::test]
    async fn back_and_forth() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let put = async |change: fn(BTreeMap<String, u64>, Option<Details>) -> Change,
                         loss: f64| {
            let metrics = BTreeMap::from([("loss".to_string(), loss), ("rows".to_string(), 9.0)]);
            let details = Details::Model(ModelDetails { metrics, ..ModelDetails::default() });
            let (kind, name) = (Kind::Model, "a.m".to_string());
            let change = change(BTreeMap::new(), Some(details));
            let names = vec![NewEntry { kind, name, change, base: None }];
            let staged = Staged { names, ..Staged::default() };
            warehouse.publish(&Run::new_id(), "TEST", &staged).await.unwrap();
        };
        let registry = async || warehouse.registry().await.unwrap();
        let current = async || registry().await.current(Kind::Model, "a.m").unwrap().version;
        put(Change::New, 1.0).await;
        assert!(before(&*registry().await, "a.m").unwrap_err().to_string().contains("version 1"));
        put(Change::New, 2.0).await;
        put(Change::Hold, 3.0).await;
        assert_eq!(current().await, 2);
        assert_eq!(before(&*registry().await, "a.m").unwrap(), 1);
        assert_eq!(held(&*registry().await, "a.m").unwrap(), 3);
        publish(&warehouse, "a.m", 3).await.unwrap();
        assert_eq!(current().await, 3);
        assert!(held(&*registry().await, "a.m").is_err());
        let back = before(&*registry().await, "a.m").unwrap();
        publish(&warehouse, "a.m", back).await.unwrap();
        assert_eq!(current().await, 2);
        assert!(
            publish(&warehouse, "a.m", 7).await.unwrap_err().to_string().contains("no version 7")
        );
        assert!(
            publish(&warehouse, "a.x", 7).await.unwrap_err().to_string().contains("no model a.x")
        );

        let registry = registry().await;
        let (one, other) =
            (version(&registry, "a.m", 1).unwrap(), version(&registry, "a.m", 3).unwrap());
        let loss = Difference {
            of: "metric",
            name: "loss".to_string(),
            one: Some("1".to_string()),
            other: Some("3".to_string()),
        };
        assert_eq!(differences(one, other, false), [loss]);
        let all = differences(one, other, true);
        let all: Vec<_> = all.iter().map(|row| (row.of, row.name.as_str())).collect();
        assert_eq!(all, [("metric", "loss"), ("metric", "rows"), ("query", "text")]);
    }
}
