//! What the names stand for that a step reads, and how large that is.

use super::Part;
use crate::Result;
use crate::session::Session;
use crate::statement::{Located, References, Statement, parse};
use datafusion::logical_expr::Volatility;
use nightshift_catalog::registry::{Details, Entry, Kind, Registry};
use nightshift_catalog::warehouse::Warehouse;
use std::collections::BTreeSet;

/// What a name stands for.
#[derive(Default)]
pub(super) struct Identity {
    /// A text that is another one when it stands for something else; `None` if that can't be told.
    pub(super) identity: Option<String>,
    /// Bytes of what is published of it.
    pub(super) bytes: u64,
    /// What it reads itself, if it is a view.
    pub(super) reads: BTreeSet<String>,
}

/// Where names are looked up.
pub(super) struct Names<'a> {
    pub(super) warehouse: &'a Warehouse,
    pub(super) registry: &'a Registry,
    pub(super) volatile: &'a Volatile,
}

impl Names<'_> {
    /// What a name stands for after the steps so far.
    pub(super) async fn identify(
        &self,
        name: &str,
        parts: &[Part<'_>],
        depth: usize,
    ) -> Result<Identity> {
        let makes = |part: &&Part<'_>| {
            part.object.as_deref() == Some(name) || part.quarantine.as_deref() == Some(name)
        };
        let maker = parts.iter().rev().find(makes);
        if let Some(maker) = maker {
            return Ok(Identity { identity: maker.fingerprint.clone(), ..Identity::default() });
        }
        if name.starts_with("system.") || name.starts_with("information_schema.") {
            return Ok(Identity::default());
        }
        let kinds = [Kind::Table, Kind::Model, Kind::View].into_iter();
        let Some(entry) = kinds.filter_map(|kind| self.registry.current(kind, name)).next() else {
            let identity = Some("nothing".to_string());
            return Ok(Identity { identity, ..Identity::default() });
        };
        let (kind, version, publication) = (entry.kind.as_str(), entry.version, entry.publication);
        let mut found = Identity {
            identity: Some(format!("{kind} {version} {publication}")),
            ..Identity::default()
        };
        if entry.kind == Kind::View {
            let Some(Details::View { view }) = &entry.details else { return Ok(found) };
            if depth == MOST_VIEWS || self.volatile.is_in(view) {
                return Ok(Identity::default());
            }
            for located in parse(name, view)? {
                for name in reads_of(&located)? {
                    let inner = Box::pin(self.identify(&name, parts, depth + 1)).await?;
                    found.identity = match (found.identity, inner.identity) {
                        (Some(all), Some(one)) => Some(format!("{all}\n{name} {one}")),
                        _ => None,
                    };
                    found.bytes += inner.bytes;
                    found.reads.extend(inner.reads);
                    found.reads.insert(name);
                }
            }
            return Ok(found);
        }
        found.bytes = bytes_of(self.warehouse, entry).await?;
        Ok(found)
    }
}

/// Bytes of a version of a table or model.
async fn bytes_of(warehouse: &Warehouse, entry: &Entry) -> Result<u64> {
    let folder = entry.name.replacen('.', "/", 1);
    let tables = entry.tables.iter();
    let mut tables: Vec<_> =
        tables.map(|(table, version)| (format!("{folder}/{table}"), *version)).collect();
    if entry.kind == Kind::Table {
        tables.push((folder, entry.version));
    }
    let mut bytes = 0;
    for (folder, version) in tables {
        bytes += warehouse.snapshot(&folder, version).await?.contents.bytes();
    }
    Ok(bytes)
}

/// Bytes of the table or model that is published under a name, 0 if there is none.
pub(super) async fn published_bytes(warehouse: &Warehouse, registry: &Registry, name: &str) -> u64 {
    let kinds = [Kind::Table, Kind::Model].into_iter();
    let entry = kinds.filter_map(|kind| registry.current(kind, name)).next();
    let Some(entry) = entry else { return 0 };
    bytes_of(warehouse, entry).await.unwrap_or_else(|error| {
        // The run may be what makes it readable again.
        tracing::debug!(%error, table = name, "its size is not known");
        0
    })
}

/// How deeply views can be within views.
const MOST_VIEWS: usize = 16;

fn reads_of(located: &Located) -> Result<BTreeSet<String>> {
    match &located.statement {
        Statement::Query(query) => Ok(References::of(query)?.created_names()),
        _ => Ok(BTreeSet::new()),
    }
}

/// The functions whose results depend on more than their arguments.
pub(super) struct Volatile(BTreeSet<String>);

impl Volatile {
    pub(super) fn of(session: &Session) -> Self {
        let functions = session.state().scalar_functions().iter();
        let volatile = functions.filter(|(_, function)| {
            !matches!(function.signature().volatility, Volatility::Immutable)
        });
        let mut names: BTreeSet<String> = volatile.map(|(name, _)| name.to_lowercase()).collect();
        let keywords = ["current_date", "current_time", "current_timestamp", "localtimestamp"];
        names.extend(keywords.map(str::to_string));
        Self(names)
    }

    /// Whether one of them is named in a text. A column of the same name is one too many.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut words = text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
        words.any(|word| self.0.contains(&word.to_lowercase()))
    }
}
