//! What a run has staged, written down, so that another process can go on with the run.

use super::{StagedModel, StagedTable, Warehouse};
use crate::delta::{Contents, DataFile};
use crate::registry::ModelDetails;
use crate::scan::{FileList, WarehouseTable};
use crate::{CatalogError, Result};
use arrow::datatypes::Schema;
use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A staged table that plans can read.
#[derive(Debug, Clone)]
pub struct ReadableTable {
    /// What is staged.
    pub staged: StagedTable,
    /// The same, for plans.
    pub provider: WarehouseTable,
    /// Where its list of files is, a name within the warehouse; empty if it is only planned.
    pub list: String,
}

/// A trained model whose tables plans can read.
#[derive(Debug, Clone)]
pub struct ReadableModel {
    /// Its tables by their names.
    pub tables: BTreeMap<String, ReadableTable>,
    /// What is known about it.
    pub details: ModelDetails,
}

impl ReadableModel {
    /// The model as it is published.
    pub fn staged(&self) -> StagedModel {
        let tables = self.tables.iter();
        let tables = tables.map(|(name, table)| (name.clone(), table.staged.clone())).collect();
        StagedModel { tables, details: self.details.clone() }
    }
}

/// The published version that a table was computed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Base {
    Any,
    None,
    Version(u64),
}

/// A staged table, written down. Its files are in a list of their own, which can be long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    folder: String,
    /// The columns, in Delta's form.
    schema: StructType,
    partition_columns: Vec<String>,
    description: Option<String>,
    list: String,
    base: Base,
    /// The paths of the files that are new, if all that was done is to add them.
    appended: Option<BTreeSet<String>>,
}

/// A trained model, written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    tables: BTreeMap<String, TableRecord>,
    details: ModelDetails,
}

impl TableRecord {
    /// Writes a staged table down.
    pub fn of(table: &ReadableTable) -> Result<Self> {
        let StagedTable { folder, contents, base, appended } = &table.staged;
        Ok(Self {
            folder: folder.clone(),
            schema: contents.schema.as_ref().try_into_kernel()?,
            partition_columns: contents.partition_columns.clone(),
            description: contents.description.clone(),
            list: table.list.clone(),
            base: match base {
                None => Base::Any,
                Some(None) => Base::None,
                Some(Some(version)) => Base::Version(*version),
            },
            appended: appended
                .as_ref()
                .map(|files| files.iter().map(|file| file.path.clone()).collect()),
        })
    }

    /// The folder of its files.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The table that was written down. Its files are not looked at: nobody deletes them while the run is open.
    pub async fn recall(&self, warehouse: &Warehouse) -> Result<ReadableTable> {
        let damaged = |reason: String| CatalogError::Damaged { url: self.list.clone(), reason };
        let bytes = warehouse.storage().get(&self.list).await?;
        let files: Vec<DataFile> =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let schema: Schema = (&self.schema).try_into_arrow()?;
        let appended = self
            .appended
            .as_ref()
            .map(|paths| files.iter().filter(|file| paths.contains(&file.path)).cloned().collect());
        let contents = Contents {
            schema: Arc::new(schema),
            partition_columns: self.partition_columns.clone(),
            description: self.description.clone(),
            files,
        };
        let base = match self.base {
            Base::Any => None,
            Base::None => Some(None),
            Base::Version(version) => Some(Some(version)),
        };
        let folder = warehouse.storage().folder(&self.folder);
        let list = FileList::Staged(warehouse.url_of(&self.list)?);
        let provider = WarehouseTable::of(folder.url().clone(), list, &contents);
        let staged = StagedTable { folder: self.folder.clone(), contents, base, appended };
        Ok(ReadableTable { staged, provider, list: self.list.clone() })
    }
}

impl ModelRecord {
    /// Writes a trained model down.
    pub fn of(model: &ReadableModel) -> Result<Self> {
        let tables = model.tables.iter();
        let tables = tables.map(|(name, table)| Ok((name.clone(), TableRecord::of(table)?)));
        Ok(Self { tables: tables.collect::<Result<_>>()?, details: model.details.clone() })
    }

    /// The folders of its tables' files.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.tables.values().map(TableRecord::folder)
    }

    /// The model that was written down.
    pub async fn recall(&self, warehouse: &Warehouse) -> Result<ReadableModel> {
        let mut tables = BTreeMap::new();
        for (name, table) in &self.tables {
            tables.insert(name.clone(), table.recall(warehouse).await?);
        }
        Ok(ReadableModel { tables, details: self.details.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Stores;
    use arrow::datatypes::{DataType, Field, TimeUnit};
    use url::Url;

    #[tokio::test]
    async fn a_table_that_is_recalled_is_the_one_that_was_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let comment = [("comment".to_string(), "who".to_string())].into();
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("user", DataType::Int64, true).with_metadata(comment),
            Field::new("at", utc, true),
            Field::new_list("tags", Field::new("element", DataType::Utf8, true), true),
            Field::new("price", DataType::Decimal128(10, 2), true),
        ]));
        let file = |path: &str| DataFile {
            path: path.to_string(),
            bytes: 3,
            rows: Some(2),
            stats: Some("{}".to_string()),
            written_at: 5,
            partition: BTreeMap::from([("day".to_string(), None)]),
        };
        let contents = Contents {
            schema,
            partition_columns: vec!["day".to_string()],
            description: Some("ratings".to_string()),
            files: vec![file("a"), file("b")],
        };
        for base in [None, Some(None), Some(Some(7))] {
            let (contents, appended) = (contents.clone(), Some(vec![file("b")]));
            let staged = StagedTable { folder: "x/t".to_string(), contents, base, appended };
            let table = warehouse.make_readable(staged, "_nightshift/list.json").await.unwrap();
            let text = serde_json::to_string(&TableRecord::of(&table).unwrap()).unwrap();
            let record: TableRecord = serde_json::from_str(&text).unwrap();
            let recalled = record.recall(&warehouse).await.unwrap();
            assert_eq!(recalled.staged, table.staged);
            assert_eq!(format!("{:?}", recalled.provider), format!("{:?}", table.provider));
        }
    }
}
