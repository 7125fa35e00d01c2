//! Files that a run reads in place, and what becomes of the records in them that can't be read.

use super::effect::{Effect, EffectRecord};
use super::{Made, Run, Step};
use crate::external::{ExternalTable, Quarantine, Sorted, rows};
use crate::statement::{Located, Statement, name_of};
use crate::{JobError, Result, counted};
use datafusion::sql::parser::CreateExternalTable;
use futures::future::try_join;
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::registry::Kind;
use nightshift_catalog::warehouse::{Name, StagedTable, Warehouse};
use nightshift_catalog::write::write_rows;
use std::path::Path;

impl Run {
    pub(super) async fn create_external(
        &self,
        table: &CreateExternalTable,
        folder: Option<&Path>,
    ) -> Result<Effect> {
        let name = name_of(&table.name)?;
        let external = ExternalTable::open(&self.session, table.clone(), folder).await?;
        let Some(quarantine) = external.quarantine().cloned() else {
            let external = Some((name.to_string(), external));
            return Ok(Effect { external, ..Effect::default() });
        };
        self.check_quarantine(&name, &quarantine.table)?;
        let (sorted, files) = match self.rehearsed {
            true => (Sorted::default(), Vec::new()),
            false => self.sort(&name, &quarantine, &external).await?,
        };
        let external = external.with_copies(self.session.warehouse().storage(), &sorted.copies)?;
        let contents = Contents::plain(Quarantine::schema(), files);
        let made = Made::all(&quarantine.table, &contents);
        let folder = Warehouse::table_folder(&quarantine.table);
        let staged = StagedTable { folder, contents, base: None, appended: None };
        Ok(Effect {
            made: Some(made),
            external: Some((name.to_string(), external)),
            copies: sorted.copies,
            ..self.put(&quarantine.table, staged).await?
        })
    }

    /// Whether bad records of files can go to a table.
    fn check_quarantine(&self, name: &Name, table: &Name) -> Result<()> {
        if self.by_itself {
            return Err(JobError::Statement(
                "option quarantine: it is for statements of a pipeline, whose run keeps copies of the files \
                 without their bad records until it ends"
                    .to_string(),
            ));
        }
        if name == table {
            return Err(JobError::Statement(format!(
                "option quarantine: {table} is the name of the files themselves"
            )));
        }
        if self.view.external(&table.to_string()).is_some() {
            return Err(JobError::Statement(format!(
                "option quarantine: {table} is read in place, use another name"
            )));
        }
        self.check_free(table, Kind::Table, true, false).map(drop)
    }

    /// Looks at all records: those that can't be read become rows of the quarantine.
    async fn sort(
        &self,
        name: &Name,
        quarantine: &Quarantine,
        external: &ExternalTable,
    ) -> Result<(Sorted, Vec<DataFile>)> {
        let (session, table) = (&self.session, &quarantine.table);
        let target =
            session.warehouse().write_target(&self.id, &Warehouse::table_folder(table), &[])?;
        let (sender, rows) = rows();
        let sorting = external.sort(session, format!("{}/external/{name}", self.folder()), sender);
        let writing =
            async { Ok::<_, JobError>(write_rows(session.runtime(), &target, rows).await?) };
        let (sorted, files) = try_join(sorting, writing).await?;
        sorted.check(name, quarantine)?;
        if sorted.bad > 0 {
            let Sorted { bad, records, .. } = &sorted;
            tracing::warn!(run = %self.id, table = %name, quarantine = %table, bad, records,
                "bad records are in quarantine");
            let (all, are) = (counted(*records, "record"), if *bad == 1 { "is" } else { "are" });
            self.progress.note(&format!("{bad} of {all} of {name} {are} in {table}"));
        }
        Ok((sorted, files))
    }

    /// Opens files that another process has opened in this run. What was bad in them is in the quarantine already, and
    /// what is read instead in the run's folder.
    pub async fn open_again(
        &mut self,
        located: &Located,
        folder: Option<&Path>,
        record: &EffectRecord,
        made: Option<Step>,
    ) -> Result<()> {
        let Statement::CreateExternalTable(table) = &located.statement else {
            return self.restore(record, made).await;
        };
        let opened = async {
            let name = name_of(&table.name)?.to_string();
            let external = ExternalTable::open(&self.session, table.clone(), folder).await?;
            let warehouse = self.session.warehouse();
            let external = external.with_copies(warehouse.storage(), record.copies())?;
            let effect = record.recall(warehouse).await?;
            Ok::<_, JobError>(Effect { external: Some((name, external)), ..effect })
        };
        let effect = opened.await.map_err(|error| located.locate(error))?;
        self.apply(effect);
        self.steps.extend(made);
        Ok(())
    }
}
