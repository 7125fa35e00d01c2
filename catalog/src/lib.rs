//! Tables and models on object storage.
//!
//! The only crate that knows Delta and the layout of the warehouse. A table is a Delta table; a
//! model version is a set of Delta table versions; the [`registry`] says, in one commit for all of
//! them, which versions are published. Nothing here knows SQL text, runs or Ballista.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`storage`] | one URL on an object store: read, write, create if absent |
//! | [`delta`] | snapshots and commits of one Delta table |
//! | [`schema`] | which columns a Delta table can hold, and how others are converted |
//! | [`partition`] | rows by the values of partition columns |
//! | [`statistics`] | per-file column statistics in Delta's JSON form |
//! | [`scan`] | a table as a DataFusion provider, scanned as plain Parquet |
//! | [`row_groups`] | which task reads which row groups of Parquet files |
//! | [`encode`] | rows to the bytes of files: Parquet, CSV, JSON |
//! | [`write`] | the operator that writes files, each task its own |
//! | [`export`] | files for other programs, in a folder outside the warehouse |
//! | `lookup` | how much of a table a scan has to read |
//! | `cache` | what never changes, read once |
//! | [`registry`] | what is published: tables and model versions |
//! | [`journal`] | sequences of events |
//! | [`lease`] | who leads, of those that share a warehouse |
//! | [`cleaning`] | files that no version needs any more, and logs of long ago |
//! | [`warehouse`] | names to tables, and publication of what a run has written |

mod cache;
mod error;
mod lookup;

pub mod cleaning;
pub mod delta;
pub mod encode;
pub mod export;
pub mod journal;
pub mod lease;
pub mod partition;
pub mod registry;
pub mod row_groups;
pub mod scan;
pub mod schema;
pub mod statistics;
pub mod storage;
pub mod warehouse;
pub mod write;

pub use error::{CatalogError, Result, store_can_recover};
