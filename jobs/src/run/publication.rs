//! The end of a run: published in one commit, suspended, or abandoned.

use super::{Run, Step};
use crate::{JobError, Result};
use nightshift_catalog::CatalogError;
use nightshift_catalog::export::ExportTarget;
use nightshift_catalog::registry::Entry;
use std::collections::BTreeSet;
use std::sync::PoisonError;

impl Run {
    pub(super) fn exports(&self) -> Vec<ExportTarget> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes everything what everybody sees, in one commit. What was published before under the run's id is not
    /// published again.
    pub async fn commit(&self) -> Result<Vec<Entry>> {
        let warehouse = self.session.warehouse();
        if self.staged.is_empty() {
            return Ok(Vec::new());
        }
        let published = warehouse.publish(&self.id, &self.operation, &self.staged).await?;
        for entry in &published {
            tracing::info!(run = %self.id, publication = entry.publication, name = entry.name,
                version = entry.version, held = entry.held, "published");
        }
        Ok(published)
    }

    /// What is published, or held, under the run's id.
    pub async fn committed(&self) -> Result<Vec<Entry>> {
        Ok(self.session.warehouse().registry().await?.of_run(&self.id))
    }

    /// Gives the files for other programs their places. If the run is held, they are deleted.
    pub async fn export(&self) -> Result<()> {
        for export in self.exports() {
            match self.staged.held {
                true => export.discard(&self.id).await?,
                false => export.publish(&self.id).await?,
            }
        }
        Ok(())
    }

    /// Deletes what only the run itself has needed. What is published stands, whether or not that succeeds.
    pub async fn tidy(&self) {
        let warehouse = self.session.warehouse();
        let kept = self.staged.files();
        let tidied = async {
            warehouse.close_run(&self.id).await?;
            if !self.incomplete {
                warehouse.discard(&self.id, &self.touched, &kept).await?;
            }
            warehouse.forget(&self.folder()).await
        };
        if let Err(error) = tidied.await {
            self.progress.note(&format!("some intermediate files could not be deleted: {error}"));
        }
    }

    /// Publishes everything in one commit. If that fails, what was written is deleted.
    pub async fn publish(self) -> Result<(Vec<Step>, Vec<Entry>)> {
        let published = match self.commit().await {
            Ok(published) => published,
            // What may be published must keep its files. VACUUM deletes them if it is not.
            Err(error @ JobError::Catalog(CatalogError::Unsettled { .. })) => {
                if let Err(left) = self.session.warehouse().close_run(&self.id).await {
                    let id = &self.id;
                    self.progress.note(&format!("run {id} still counts as under way: {left}"));
                }
                return Err(error);
            }
            Err(error) => {
                self.abandon().await?;
                return Err(error);
            }
        };
        self.tidy().await;
        self.export().await?;
        Ok((self.steps, published))
    }

    async fn discard_exports(&self) -> Result<()> {
        let failed = self.failed_exports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for export in self.exports().into_iter().chain(failed) {
            export.discard(&self.id).await?;
        }
        Ok(())
    }

    /// Leaves what it has made where somebody finds it who goes on with it, apart from files for other programs.
    pub async fn suspend(self) -> Result<()> {
        // What tasks finish in between is deleted by them.
        self.warehouse().close_run(&self.id).await?;
        self.discard_exports().await?;
        self.warehouse().open_run(&self.id).await?;
        tracing::info!(run = %self.id, "run suspended, nothing is published");
        Ok(())
    }

    /// Deletes everything that the run has written.
    pub async fn abandon(self) -> Result<()> {
        let warehouse = self.session.warehouse();
        warehouse.close_run(&self.id).await?;
        warehouse.discard(&self.id, &self.touched, &BTreeSet::new()).await?;
        self.discard_exports().await?;
        warehouse.forget(&self.folder()).await?;
        tracing::info!(run = %self.id, "run abandoned, nothing is published");
        Ok(())
    }
}
