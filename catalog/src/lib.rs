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
//! | `lookup` | how much of a table a scan has to read |
//! | `cache` | what never changes, read once |
//! | [`write`] | the operator that writes a table, each task its own files |
//! | [`registry`] | what is published: tables and model versions |
//! | [`warehouse`] | names to tables, and publication of what a run has written |

mod cache;
mod error;
mod lookup;

pub mod delta;
pub mod partition;
pub mod registry;
pub mod scan;
pub mod schema;
pub mod statistics;
pub mod storage;
pub mod warehouse;
pub mod write;

pub use error::{CatalogError, Result};
