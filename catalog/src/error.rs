//! What can go wrong with tables and object storage.

use thiserror::Error;

/// A result of this crate.
pub type Result<T, E = CatalogError> = std::result::Result<T, E>;

/// What went wrong, where, and what to do.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// A URL that names no usable location.
    #[error("{url}: {reason}")]
    Location {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object store refused or failed.
    #[error("{url}: {source}")]
    Store {
        /// The object.
        url: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// The warehouse can't be written.
    #[error("the warehouse {url} can't be written, choose another with --warehouse: {source}")]
    NotWritable {
        /// The warehouse.
        url: String,
        /// What the store said.
        #[source]
        source: Box<CatalogError>,
    },
    /// A table whose log can't be read.
    #[error("table at {url}: {source}")]
    Delta {
        /// The table.
        url: String,
        /// What the log's reader said.
        #[source]
        source: Box<deltalake_core::DeltaTableError>,
    },
    /// A table that uses something that would be misread.
    #[error("table at {url} uses {feature}, which can't be read here")]
    Unsupported {
        /// The table.
        url: String,
        /// The Delta feature.
        feature: String,
    },
    /// A column that a Delta table can't hold.
    #[error("column {column}: {reason}")]
    Column {
        /// The column's name.
        column: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// Writers got in each other's way too often.
    #[error("{url}: other writers committed first, {attempts} times in a row; run it again")]
    Contention {
        /// The table.
        url: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// Something that was changed by another writer since it was read.
    #[error("{name} was changed by another writer meanwhile; run it again")]
    Conflict {
        /// The table or model.
        name: String,
    },
    /// A name that isn't `schema.table` or `schema.model.table`.
    #[error("{name}: {reason}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Data that should be there but isn't what it should be.
    #[error("{url} is damaged: {reason}")]
    Damaged {
        /// The object.
        url: String,
        /// How it shows.
        reason: String,
    },
    /// A file that was finished when its run had ended.
    #[error("{file}: its run has ended, the file is deleted")]
    RunEnded {
        /// The file.
        file: String,
    },
    /// An option of files that is unknown or has a wrong value.
    #[error("option {option}: {reason}")]
    Option {
        /// The option.
        option: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A folder or file that rows can't be written to.
    #[error("{url}: {reason}")]
    Target {
        /// The folder or file.
        url: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// Bytes could not be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Parquet refused.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
}

impl From<CatalogError> for datafusion::error::DataFusionError {
    fn from(error: CatalogError) -> Self {
        Self::External(Box::new(error))
    }
}
