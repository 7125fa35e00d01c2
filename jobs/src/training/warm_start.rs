//! Where training starts that goes on from the published version of the model.

use super::options::{MatrixFactorization, ModelSpec, PageRank, recorded_spec};
use super::prepare::Ids;
use super::teleport::Topics;
use super::{Training, quoted};
use crate::superstep::{Content, Distributions, ItemFiles, Partitioned, PublishedItems};
use crate::table_functions::Model;
use crate::{JobError, Result};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use nightshift_catalog::scan::WarehouseTable;
use nightshift_udfs::csr::Duplicates;
use std::ops::Range;
use std::sync::Arc;

impl Training<'_> {
    fn warm_start_error(&self, reason: String) -> JobError {
        JobError::Option { model: self.name.to_string(), option: "warm_start".to_string(), reason }
    }

    /// The published version, if there is one.
    async fn published(&self) -> Result<Option<(Model, ModelSpec)>> {
        let name = self.name.to_string();
        let Some(model) = self.view.model(self.session, &name).await? else {
            self.progress.note(&format!("{name} has no published version to start from"));
            return Ok(None);
        };
        let spec = recorded_spec(&name, &model.details)?;
        Ok(Some((model, spec)))
    }

    /// One of the published version's tables, whose ids must be of a type.
    fn published_table(&self, model: &Model, name: &str, new: &DataType) -> Result<WarehouseTable> {
        let table = model.tables.get(name).cloned();
        let table = table.ok_or_else(|| {
            self.warm_start_error(format!("the published version has no table {name}"))
        })?;
        let old = table.schema();
        let old = old.field(0);
        if old.data_type() != new {
            return Err(self.warm_start_error(format!(
                "column {} is a {} in the published version, and a {new} in the training query: cast it",
                old.name(),
                old.data_type()
            )));
        }
        Ok(table)
    }

    /// The published version's factors of items, if a version with such options can start from them.
    pub(super) async fn published_factors(
        &self,
        spec: &MatrixFactorization,
        item_type: &DataType,
    ) -> Result<Option<WarehouseTable>> {
        let Some((model, before)) = self.published().await? else { return Ok(None) };
        match before {
            ModelSpec::MatrixFactorization(before) if before.factors == spec.factors => {}
            ModelSpec::MatrixFactorization(before) => {
                return Err(self.warm_start_error(format!(
                    "num_factors is {}, and {} in the published version: use that, or no warm_start",
                    spec.factors, before.factors
                )));
            }
            ModelSpec::PageRank(_) => {
                let reason = "the published version is a pagerank model".to_string();
                return Err(self.warm_start_error(reason));
            }
        }
        self.published_table(&model, "item_factors", item_type).map(Some)
    }

    /// The published version's factors for the items that are trained.
    pub(super) async fn published_items(
        &self,
        spec: &MatrixFactorization,
        items: &Ids,
        cut: Partitioned,
    ) -> Result<Option<PublishedItems>> {
        let item_type = items.numbered.id_type.data_type()?;
        let Some(table) = self.published_factors(spec, &item_type).await? else {
            return Ok(None);
        };
        let sql = format!(
            r#"SELECT ids.index AS "row", old.item_index AS "column", CAST(1 AS DOUBLE) AS weight
               FROM ids JOIN old ON ids.id = old.{}"#,
            quoted(table.schema().field(0).name())
        );
        let files = table.spec.files(self.session.runtime()).await?;
        let files = files.into_iter().map(|file| file.path).collect();
        let factors = ItemFiles { table: table.spec.table.clone(), files };
        let tables: [(&str, Arc<dyn TableProvider>); 2] =
            [("ids", self.ids_table(items).await?), ("old", Arc::new(table))];
        let content = Content::Single(Duplicates::Keep);
        let rows = self.write_blocks("published-items", &sql, &tables, cut, content).await?;
        Ok(Some(PublishedItems { rows: rows.folder, factors }))
    }

    /// The published version's ranks, if a version with such options can start from them.
    pub(super) async fn published_ranks_table(
        &self,
        spec: &PageRank,
        node_type: &DataType,
    ) -> Result<Option<WarehouseTable>> {
        let Some((model, before)) = self.published().await? else { return Ok(None) };
        let by = |spec: &PageRank| spec.teleport_by.clone().unwrap_or_else(|| "missing".into());
        match before {
            ModelSpec::PageRank(before) if before.teleport_by == spec.teleport_by => {}
            ModelSpec::PageRank(before) => {
                return Err(self.warm_start_error(format!(
                    "teleport_by is {}, and {} in the published version: use that, or no warm_start",
                    by(spec),
                    by(&before)
                )));
            }
            ModelSpec::MatrixFactorization(_) => {
                let reason = "the published version is a matrix_factorization model".to_string();
                return Err(self.warm_start_error(reason));
            }
        }
        self.published_table(&model, "ranks", node_type).map(Some)
    }

    /// The published version's ranks of the nodes, for each topic of a batch; nothing if it has none of them.
    pub(super) async fn published_ranks(
        &self,
        spec: &PageRank,
        ids: &Ids,
        topics: Option<&Topics>,
        cut: Partitioned,
        batch: &Range<u64>,
    ) -> Result<Option<Distributions>> {
        let node_type = ids.numbered.id_type.data_type()?;
        let Some(table) = self.published_ranks_table(spec, &node_type).await? else {
            return Ok(None);
        };
        let table: Arc<dyn TableProvider> = Arc::new(table);
        let tables = vec![("ids", self.ids_table(ids).await?), ("old", table)];
        let what = ("t.rank", "ids JOIN old AS t ON ids.id = t.node");
        let folder = format!("published-{}", batch.start);
        let ranks = self.vectors(&folder, what, tables, topics, cut, batch).await?;
        Ok(ranks.sums.iter().any(|sum| *sum > 0.0).then_some(ranks))
    }
}
