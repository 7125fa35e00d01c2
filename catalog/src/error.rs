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
    /// An entry `[[store]]` of the settings that can't be used.
    #[error("store {url} in nightshift.toml: {reason}")]
    StoreSettings {
        /// The entry's URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A store on which commits would be lost.
    #[error(
        "{url}: the store doesn't honour the condition that an object must not be there yet \
         (If-None-Match: *), so commits made at the same time would be lost: use a store or a version of \
         it that does: {reason}"
    )]
    Unconditional {
        /// The warehouse.
        url: String,
        /// How it shows.
        reason: String,
    },
    /// An object of which it isn't known whether it was created.
    #[error(
        "{url}: the store stopped answering, it isn't known whether this was created: {source}"
    )]
    Undecided {
        /// The object.
        url: String,
        /// What the store said last.
        #[source]
        source: object_store::Error,
    },
    /// A run of which it isn't known whether it was published.
    #[error(
        "the store stopped answering while run {run} was published. Look whether system.registry has \
         rows of it, and run it again if not; its files are left where they are: {source}"
    )]
    Unsettled {
        /// The run.
        run: String,
        /// What happened.
        #[source]
        source: Box<CatalogError>,
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
    /// A version of a table that is not in its log.
    #[error(
        "version {version} of the table at {url} is not in its log: versions that were replaced are kept there \
         for {} days",
        crate::cleaning::LOG_DAYS
    )]
    NotKept {
        /// The table.
        url: String,
        /// The version.
        version: u64,
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
    /// An event of a journal that can't be read.
    #[error("event {url}: {reason}")]
    Event {
        /// The event.
        url: String,
        /// Why not.
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

impl CatalogError {
    /// Whether the store has refused because of who asked.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Store { source, .. } => matches!(
                source,
                object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
            ),
            Self::NotWritable { source, .. } => source.is_permission(),
            _ => false,
        }
    }
}

impl CatalogError {
    /// Whether it says that there is no such object.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Store { source: object_store::Error::NotFound { .. }, .. })
    }

    /// Whether the same may succeed later: a store that doesn't answer, or others who were faster.
    pub fn can_pass(&self) -> bool {
        match self {
            Self::Store { source, .. } => store_can_recover(source),
            Self::NotWritable { source, .. } => source.can_pass(),
            Self::Undecided { .. } | Self::Unsettled { .. } | Self::Contention { .. } => true,
            _ => false,
        }
    }
}

/// Whether a store that has answered with this may answer otherwise later. What it says of a request that it has
/// understood is final.
pub fn store_can_recover(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}

impl From<CatalogError> for datafusion::error::DataFusionError {
    fn from(error: CatalogError) -> Self {
        Self::External(Box::new(error))
    }
}
