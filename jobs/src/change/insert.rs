//! `INSERT INTO` and `INSERT OVERWRITE`.

use super::{Change, Changed, assigned};
use crate::Result;
use crate::statement::Insert;
use datafusion::logical_expr::LogicalPlan;
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
    let replaced = |file: &DataFile, written: &[DataFile]| {
        statement.overwrite
            && (old.partition_columns.is_empty()
                || written.iter().any(|new| new.partition == file.partition))
    };
    let (changed, written) = put(change, plan, replaced).await?;
    let appended = (!statement.overwrite && !change.rehearsed).then_some(written);
    Ok(Changed { appended, ..changed })
}

/// Puts rows in the place of the files that are `replaced`. They have the table's columns, in order.
pub async fn replace_partitions(
    change: &Change<'_>,
    rows: LogicalPlan,
    replaced: impl Fn(&DataFile) -> bool,
) -> Result<Changed> {
    let rows = assigned(rows, &[], &change.table.contents.schema)?;
    Ok(put(change, rows, |file, _| replaced(file)).await?.0)
}

/// Writes rows, and takes out the files that they replace. Returns the new files, too.
async fn put(
    change: &Change<'_>,
    rows: LogicalPlan,
    replaced: impl Fn(&DataFile, &[DataFile]) -> bool,
) -> Result<(Changed, Vec<DataFile>)> {
    let old = &change.table.contents;
    if change.rehearsed {
        change.session.analyze(rows)?;
        return Ok((Changed::computed(old.clone(), 1), Vec::new()));
    }
    let (folder, partitions) = (&change.table.folder, &old.partition_columns);
    let written =
        change.session.write_files(change.run, rows, folder, &old.schema, partitions).await?;
    let rows = written.iter().filter_map(|file| file.rows).sum();
    let kept = old.files.iter().filter(|file| !replaced(file, &written)).cloned();
    let files = kept.chain(written.iter().cloned()).collect();
    Ok((Changed::computed(Contents { files, ..old.clone() }, rows), written))
}
