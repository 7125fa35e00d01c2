//! `COPY … TO`: the rows of a query as files for other programs.

use super::effect::Effect;
use super::{Made, Run};
use crate::external::{COMPRESSIONS, check_allowed, is_inside, located, options_of};
use crate::{JobError, Result};
use datafusion::sql::parser::{
    CopyToSource, CopyToStatement, DFParser, Statement as EngineStatement,
};
use datafusion::sql::sqlparser::ast;
use nightshift_catalog::delta::DataFile;
use nightshift_catalog::encode::{Encoding, Format};
use nightshift_catalog::export::ExportTarget;
use nightshift_catalog::partition;
use nightshift_catalog::write::{Export, WriteTarget};
use std::path::Path;
use std::sync::PoisonError;

/// Says whether what is there is replaced.
const OVERWRITE: &str = "overwrite";

impl Run {
    /// Writes files, each task its own. They are there while the run is under way, and deleted if it
    /// fails; what they replace is deleted when the run is published.
    pub(super) async fn copy(
        &self,
        statement: &CopyToStatement,
        folder: Option<&Path>,
    ) -> Result<Effect> {
        let location = located(&statement.target, folder)?;
        let warehouse = self.session.warehouse().storage().url();
        if is_inside(&location, warehouse) || is_inside(warehouse, &location) {
            return Err(JobError::Statement(format!(
                "{}: files for other programs can't be written into the warehouse, whose tables they \
                 would damage: use CREATE TABLE … AS, or a folder of `locations` in nightshift.toml",
                statement.target
            )));
        }
        check_allowed(&self.session, &location)?;
        let (encoding, overwrite) = encoding(statement)?;
        let plan = self.view.plan(&self.session, source(&statement.source)?).await?;
        let schema = plan.schema().as_arrow();
        let columns = &statement.partitioned_by;
        partition::check(schema, columns)?;
        let rest: Vec<usize> = (0..schema.fields().len())
            .filter(|at| !columns.contains(schema.field(*at).name()))
            .collect();
        encoding.check(&schema.project(&rest)?)?;
        if self.rehearsed {
            self.session.analyze(plan)?;
            return Ok(Effect::default());
        }
        if self.exports().iter().any(|other| other.location() == &location) {
            return Err(JobError::Statement(format!(
                "{} is written twice in this run",
                statement.target
            )));
        }
        // If the run may have been published, what is there may be its own.
        let overwrite = overwrite || self.published_before;
        let runtime = self.session.runtime();
        let export = ExportTarget::open(runtime, &location, overwrite, &self.id).await?;
        let single = export.file.is_some();
        if single && !columns.is_empty() {
            return Err(JobError::Statement(format!(
                "{}: files that are PARTITIONED BY are written into a folder: a location without an \
                 extension",
                statement.target
            )));
        }
        let table = export.folder.url().clone();
        let target = self.session.warehouse().write_target(&self.id, "", columns)?;
        let target = WriteTarget {
            run: export.tag(&self.id),
            table,
            export: Some(Export { encoding, single }),
            ordered: true,
            ..target
        };
        // What it writes is deleted if the run ends here.
        let exports = || self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports().push(export.clone());
        let files = match self.session.write_to(target, plan).await {
            Ok(files) => files,
            Err(error) => {
                // It may be tried again. Tasks that go on may write more: it is looked for once more when the run ends.
                export.discard(&self.id).await?;
                exports().retain(|other| other.location() != &location);
                self.failed_exports.lock().unwrap_or_else(PoisonError::into_inner).push(export);
                return Err(error);
            }
        };
        let sum = |value: fn(&DataFile) -> u64| files.iter().map(value).sum();
        let made = Made {
            name: statement.target.clone(),
            rows: sum(|file| file.rows.unwrap_or(0)),
            files: files.len() as u64,
            bytes: sum(|file| file.bytes),
        };
        if let Some(export) = exports().iter_mut().find(|other| other.location() == &location) {
            export.keep(files);
        }
        Ok(Effect { made: Some(made), ..Effect::default() })
    }
}

impl Run {
    /// Deletes what another process of this run has written, and lets what its tasks may still write go with the run.
    pub(super) async fn claim_export(
        &self,
        statement: &CopyToStatement,
        folder: &Path,
    ) -> Result<()> {
        let location = located(&statement.target, Some(folder))?;
        check_allowed(&self.session, &location)?;
        let runtime = self.session.runtime();
        let export = ExportTarget::open(runtime, &location, true, &self.id).await?;
        self.failed_exports.lock().unwrap_or_else(PoisonError::into_inner).push(export);
        Ok(())
    }
}

/// The query whose rows are written.
fn source(source: &CopyToSource) -> Result<EngineStatement> {
    let query = match source {
        CopyToSource::Query(query) => query.clone(),
        CopyToSource::Relation(name) => {
            let all = DFParser::parse_sql(&format!("SELECT * FROM {name}"))?.pop_front();
            let none = || JobError::Statement(format!("{name} is not a table"));
            return all.ok_or_else(none);
        }
    };
    Ok(EngineStatement::Statement(Box::new(ast::Statement::Query(query))))
}

/// How rows become bytes, and whether what is there is replaced. The format is that of the location's
/// extension if it isn't said, and so is the compression.
fn encoding(statement: &CopyToStatement) -> Result<(Encoding, bool)> {
    let mut options = options_of(&statement.options)?;
    let overwrite = match options.remove(OVERWRITE) {
        None => false,
        Some(text) => text.to_ascii_lowercase().parse().map_err(|_| {
            JobError::Statement(format!("option {OVERWRITE}: {text} is neither true nor false"))
        })?,
    };
    let lower = statement.target.to_ascii_lowercase();
    let compressed = COMPRESSIONS.iter().find(|(suffix, _)| lower.ends_with(suffix));
    let plain = compressed.map_or(lower.as_str(), |(suffix, _)| lower.trim_end_matches(suffix));
    let extension = plain.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    let named = match (&statement.stored_as, extension) {
        (Some(name), _) => name.as_str(),
        (None, Some((_, extension))) => extension,
        (None, None) => {
            return Err(JobError::Statement(format!(
                "{}: say with STORED AS in which format: PARQUET, CSV or JSON",
                statement.target
            )));
        }
    };
    let format = Format::of_name(named).ok_or_else(|| {
        JobError::Statement(format!(
            "{named} is not a format that can be written: use STORED AS PARQUET, CSV or JSON"
        ))
    })?;
    if let Some((_, compression)) = compressed
        && format != Format::Parquet
    {
        options.entry("compression".to_string()).or_insert_with(|| compression.to_string());
    }
    Ok((Encoding { format, options }, overwrite))
}
