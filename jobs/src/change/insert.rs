//! `INSERT INTO` and `INSERT OVERWRITE`.

use super::{Change, Changed, assigned};
use crate::Result;
use crate::statement::Insert;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast;
use nightshift_catalog::delta::{Contents, DataFile};

/// Adds the rows of a query, in place of all that is there, or of the partitions that they are in, if
/// it says so.
pub async fn insert(change: &Change<'_>, statement: &Insert) -> Result<Changed> {
    let old = &change.table.contents;
    let query = ast::Statement::Query(statement.source.clone());
    let query = EngineStatement::Statement(Box::new(query));
    let plan = change.view.plan(change.session, query).await?;
    let plan = assigned(plan, &statement.columns, &old.schema)?;
    if change.rehearsed {
        change.session.analyze(plan)?;
        return Ok(Changed::computed(old.clone(), 1));
    }
    let (folder, partitions) = (&change.table.folder, &old.partition_columns);
    let written =
        change.session.write_files(change.run, plan, folder, &old.schema, partitions).await?;
    let rows = written.iter().filter_map(|file| file.rows).sum();
    let replaced = |file: &DataFile| {
        statement.overwrite
            && (partitions.is_empty() || written.iter().any(|new| new.partition == file.partition))
    };
    let kept = old.files.iter().filter(|file| !replaced(file)).cloned();
    let files = kept.chain(written.iter().cloned()).collect();
    let appended = (!statement.overwrite).then_some(written);
    Ok(Changed { contents: Contents { files, ..old.clone() }, rows, appended })
}
