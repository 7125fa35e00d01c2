//! Where training starts that goes on from the published version of the model.

use super::options::{MatrixFactorization, ModelSpec, recorded_spec};
use super::prepare::Ids;
use super::{Training, quoted};
use crate::superstep::{Content, Folder, ItemFiles, Partitioned, PublishedItems};
use crate::table_functions::Model;
use crate::{JobError, Result};
use datafusion::catalog::TableProvider;
use nightshift_catalog::scan::WarehouseTable;
use nightshift_udfs::csr::Duplicates;
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

    /// One of the published version's tables, whose first column is compared with `ids`.
    fn published_table(&self, model: &Model, name: &str, ids: &Ids) -> Result<WarehouseTable> {
        let table = model.tables.get(name).cloned();
        let table = table.ok_or_else(|| {
            self.warm_start_error(format!("the published version has no table {name}"))
        })?;
        let (old, new) = (table.schema(), ids.table.schema());
        let (old, new) = (old.field(0), new.field(0).data_type());
        if old.data_type() != new {
            return Err(self.warm_start_error(format!(
                "column {} is a {} in the published version, and a {new} in the training query: cast it",
                old.name(),
                old.data_type()
            )));
        }
        Ok(table)
    }

    /// The published version's factors for the items that are trained.
    pub(super) async fn published_items(
        &self,
        spec: &MatrixFactorization,
        items: &Ids,
        cut: Partitioned,
    ) -> Result<Option<PublishedItems>> {
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
        let table = self.published_table(&model, "item_factors", items)?;
        let sql = format!(
            r#"SELECT ids.index AS "row", old.item_index AS "column", CAST(1 AS DOUBLE) AS weight
               FROM ids JOIN old ON ids.id = old.{}"#,
            quoted(table.schema().field(0).name())
        );
        let files = table.spec.files(self.session.runtime()).await?;
        let files = files.into_iter().map(|file| file.path).collect();
        let factors = ItemFiles { table: table.spec.table.clone(), files };
        let tables: [(&str, Arc<dyn TableProvider>); 2] =
            [("ids", Arc::clone(&items.table)), ("old", Arc::new(table))];
        let content = Content::Single(Duplicates::Keep);
        let rows = self.write_blocks("published-items", &sql, &tables, cut, content).await?;
        Ok(Some(PublishedItems { rows: rows.folder, factors }))
    }

    /// The published version's ranks of the nodes, and their sum.
    pub(super) async fn published_ranks(
        &self,
        ids: &Ids,
        cut: Partitioned,
    ) -> Result<Option<(Folder, f64)>> {
        let Some((model, before)) = self.published().await? else { return Ok(None) };
        if let ModelSpec::MatrixFactorization(_) = before {
            let reason = "the published version is a matrix_factorization model".to_string();
            return Err(self.warm_start_error(reason));
        }
        let table = self.published_table(&model, "ranks", ids)?;
        let sql = r#"SELECT ids.index AS "row", CAST(0 AS BIGINT) AS "column", old.rank AS weight
                     FROM ids JOIN old ON ids.id = old.node"#;
        let tables: [(&str, Arc<dyn TableProvider>); 2] =
            [("ids", Arc::clone(&ids.table)), ("old", Arc::new(table))];
        let ranks =
            self.write_blocks("published-ranks", sql, &tables, cut, Content::RowSums).await?;
        let sum = ranks.sum();
        Ok((sum > 0.0).then_some((ranks.folder, sum)))
    }
}
