//! The tables of a run: created, changed, described.

use super::effect::Effect;
use super::{Made, Run};
use crate::change::{self, Change, Changed};
use crate::statement::{CreateTable, Moment};
use crate::{JobError, Result};
use arrow::datatypes::Schema;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast;
use nightshift_catalog::delta::Contents;
use nightshift_catalog::partition;
use nightshift_catalog::registry::Kind;
use nightshift_catalog::schema::stored;
use nightshift_catalog::warehouse::{Name, StagedTable, Warehouse};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Run {
    pub(super) async fn create_table(&self, table: &CreateTable) -> Result<Effect> {
        let free =
            self.check_free(&table.name, Kind::Table, table.or_replace, table.if_not_exists)?;
        if !free {
            return Ok(Effect::default());
        }
        let folder = Warehouse::table_folder(&table.name);
        let partitions = table.partitioned_by.clone();
        let (schema, files) = match &table.query {
            None => {
                let schema = self.session.declared_columns(&table.columns).await?;
                partition::check(&schema, &partitions)?;
                (Arc::new(schema), Vec::new())
            }
            Some(query) => {
                let query = ast::Statement::Query(query.clone());
                let query = EngineStatement::Statement(Box::new(query));
                let plan = self.view.plan(&self.session, query).await?;
                if let Some(slice) = &table.slice
                    && let Some(effect) = self.replace_slice(table, slice, &plan).await?
                {
                    return Ok(effect);
                }
                let schema = Arc::new(stored(plan.schema().as_arrow())?);
                partition::check(&schema, &partitions)?;
                let session = &self.session;
                let written = match self.rehearsed {
                    true => session.analyze(plan).map(|_| Vec::new())?,
                    false => {
                        session.write_files(&self.id, plan, &folder, &schema, &partitions).await?
                    }
                };
                (schema, written)
            }
        };
        let contents = Contents {
            schema,
            partition_columns: partitions,
            description: table.comment.clone(),
            files,
        };
        let made = Made::all(&table.name, &contents);
        // What is created, and not replaced, must not have been created by others meanwhile.
        let base = (!table.or_replace).then_some(None);
        let staged = StagedTable { folder, contents, base, appended: None };
        Ok(Effect { made: Some(made), ..self.put(&table.name, staged).await? })
    }

    /// What a table is for this run, to be changed.
    pub(super) async fn current(&self, name: &Name) -> Result<StagedTable> {
        if let Some(staged) = self.staged.tables.get(name) {
            return Ok(staged.clone());
        }
        let whole = name.to_string();
        let published = self.view.registry().current(Kind::Table, &whole);
        let Some(entry) = published.filter(|_| !self.view.is_hidden(&whole)) else {
            let kind = [Kind::Model, Kind::View].into_iter();
            let other = kind.filter(|kind| self.view.registry().current(*kind, &whole).is_some());
            let reason = match other.map(Kind::as_str).next() {
                Some(kind) => format!("{whole} is a {kind}, not a table"),
                None if self.view.external(&whole).is_some() => {
                    format!("{whole} is read in place, it can't be changed")
                }
                None => format!("there is no table {whole}"),
            };
            return Err(JobError::Statement(reason));
        };
        let folder = Warehouse::table_folder(name);
        let snapshot = self.session.warehouse().snapshot(&folder, entry.version).await?;
        let base = Some(Some(entry.version));
        Ok(StagedTable { folder, contents: snapshot.contents.clone(), base, appended: None })
    }

    /// Makes a table what it is to be for the run's later statements.
    pub(super) async fn put(&self, name: &Name, mut table: StagedTable) -> Result<Effect> {
        table.contents.files.sort_by(|a, b| a.path.cmp(&b.path));
        let table = self.readable(&name.to_string(), table).await?;
        Ok(Effect { tables: vec![(name.clone(), table)], ..Effect::default() })
    }

    /// Changes a table that is there. What leads to the same contents is no change.
    pub(super) async fn change(
        &self,
        name: &Name,
        compute: impl AsyncFnOnce(Change<'_>) -> Result<Changed>,
    ) -> Result<Effect> {
        let table = self.current(name).await?;
        let run_folder = self.folder();
        let changed = compute(Change {
            session: &self.session,
            view: &self.view,
            run: &self.id,
            folder: &run_folder,
            name,
            table: &table,
            rehearsed: self.rehearsed,
        })
        .await?;
        let old: BTreeSet<&str> = table.contents.files.iter().map(|f| f.path.as_str()).collect();
        let new = changed.contents.files.iter().filter(|file| !old.contains(file.path.as_str()));
        let (files, bytes) = new.fold((0, 0), |(n, bytes), file| (n + 1, bytes + file.bytes));
        let made = Made { name: name.to_string(), rows: changed.rows, files, bytes };
        // A rehearsal adds rows that nobody has written.
        let added = self.rehearsed && changed.rows > 0;
        let same = !added && files == 0 && changed.contents.files.len() == old.len();
        if same {
            return Ok(Effect { made: Some(made), ..Effect::default() });
        }
        // What is added to a table that this run has changed before is more than an addition.
        let untouched = !self.staged.tables.contains_key(name);
        let appended = changed.appended.filter(|_| untouched);
        let staged = StagedTable { contents: changed.contents, appended, ..table };
        Ok(Effect { made: Some(made), ..self.put(name, staged).await? })
    }

    /// Changes what is said about a table.
    pub(super) async fn describe(
        &self,
        name: &Name,
        change: impl FnOnce(&mut Contents) -> Result<()>,
    ) -> Result<Effect> {
        let mut table = self.current(name).await?;
        change(&mut table.contents)?;
        table.appended = None;
        self.put(name, table).await
    }

    pub(super) async fn add_columns(
        &self,
        name: &Name,
        columns: &[ast::ColumnDef],
    ) -> Result<Effect> {
        let added = self.session.declared_columns(columns).await?;
        self.describe(name, |contents| {
            let all: Vec<_> =
                contents.schema.fields().iter().chain(added.fields()).cloned().collect();
            // It refuses names that are there already.
            stored(&Schema::new(all.clone()))?;
            contents.schema = Arc::new(Schema::new(all));
            Ok(())
        })
        .await
    }

    pub(super) async fn comment(
        &self,
        name: &Name,
        column: Option<&str>,
        text: Option<&str>,
    ) -> Result<Effect> {
        self.describe(name, |contents| {
            let Some(column) = column else {
                contents.description = text.map(str::to_string);
                return Ok(());
            };
            let mut fields: Vec<_> = contents.schema.fields().iter().cloned().collect();
            let found = fields.iter_mut().find(|field| field.name() == column);
            let field = found
                .ok_or_else(|| JobError::Statement(format!("{name} has no column {column}")))?;
            let mut metadata = field.metadata().clone();
            match text {
                Some(text) => metadata.insert("comment".to_string(), text.to_string()),
                None => metadata.remove("comment"),
            };
            *field = Arc::new(field.as_ref().clone().with_metadata(metadata));
            contents.schema = Arc::new(Schema::new(fields));
            Ok(())
        })
        .await
    }

    pub(super) async fn restore_table(&self, name: &Name, moment: &Moment) -> Result<Effect> {
        let table = self.current(name).await?;
        let version = self.view.version_at(&name.to_string(), moment)?;
        let snapshot = self.session.warehouse().snapshot(&table.folder, version).await?;
        let made = Made { files: 0, bytes: 0, ..Made::all(name, &snapshot.contents) };
        let restored = StagedTable { contents: snapshot.contents.clone(), appended: None, ..table };
        Ok(Effect { made: Some(made), ..self.put(name, restored).await? })
    }

    pub(super) async fn vacuum(
        &self,
        name: Option<&Name>,
        retain_hours: Option<u64>,
        dry_run: bool,
    ) -> Result<Effect> {
        if let Some(name) = name {
            self.current(name).await?;
        }
        let warehouse = self.session.warehouse();
        let hours = retain_hours.unwrap_or(change::RETAIN_HOURS);
        let mut made = Made { name: "all tables".to_string(), rows: 0, files: 0, bytes: 0 };
        if let Some(name) = name {
            made.name = name.to_string();
        }
        if self.rehearsed {
            return Ok(Effect { made: Some(made), ..Effect::default() });
        }
        let found = warehouse.unneeded(name, hours).await?.into_iter();
        // Nothing is deleted if a table can't be read.
        for cleaning in found.collect::<Result<Vec<_>, _>>()? {
            made.files += cleaning.files.len() as u64;
            made.bytes += cleaning.bytes;
            if !dry_run {
                warehouse.clean(&cleaning).await?;
                continue;
            }
            for file in &cleaning.files {
                self.progress.note(&format!("{}/{file} would be deleted", cleaning.folder));
            }
        }
        Ok(Effect { made: Some(made), ..Effect::default() })
    }
}
