//! `MERGE INTO`: the table is written again, joined to the rows that change it.

use super::{Change, Changed, TARGET, assigned, quoted};
use crate::statement::{Merge, assignments_of, identifier, parts_of};
use crate::{JobError, Result, counted};
use datafusion::sql::sqlparser::ast::{
    Expr, MergeAction, MergeClause, MergeClauseKind, MergeInsertExpr, MergeInsertKind, TableFactor,
};
use nightshift_catalog::delta::Contents;

/// Says of a joined row that it has a row of the source, or of the table.
const IN_SOURCE: &str = "\"_in_source\"";
const IN_TARGET: &str = "\"_in_target\"";

/// Applies the clauses: a row of the table is changed or taken out by the first clause whose condition
/// it meets, a row of the source that belongs to none is added by the first that wants it.
pub async fn merge(change: &Change<'_>, statement: &Merge) -> Result<Changed> {
    let old = &change.table.contents;
    let plan = Clauses::new(change, statement)?;
    let pairs = format!("SELECT count(*) FROM {}", plan.matched());
    if change.rehearsed {
        let counted = [pairs, plan.count_changed()].into_iter().chain(plan.count_added());
        let rest = (!plan.on_target.is_empty()).then(|| plan.rest()).into_iter();
        return change.rehearse(counted, rest.chain(plan.added())).await;
    }
    let view = change.reading(old).await?;
    let pairs = change.count(&view, &pairs).await?;
    let rows = format!(
        "SELECT count(*) FROM {TARGET} AS {} WHERE EXISTS (SELECT 1 FROM {} WHERE {})",
        plan.target, statement.source, statement.on
    );
    if pairs > change.count(&view, &rows).await? {
        return Err(JobError::Statement(format!(
            "several rows of the source belong to one row of {}: make them one with GROUP BY or DISTINCT",
            change.name
        )));
    }
    let changed = change.count(&view, &plan.count_changed()).await?;
    let added = match plan.count_added() {
        Some(count) => change.count(&view, &count).await?,
        None => 0,
    };
    if changed + added == 0 {
        return Ok(Changed::computed(old.clone(), 0));
    }
    let (folder, partitions) = (&change.table.folder, &old.partition_columns);
    let mut files = if changed == 0 { old.files.clone() } else { Vec::new() };
    let rest = (changed > 0).then(|| plan.rest()).into_iter();
    for query in rest.chain(plan.added().filter(|_| added > 0)) {
        let rows = view.plan_text(change.session, &query).await?;
        let rows = assigned(rows, &[], &old.schema)?;
        let run = change.run;
        files.extend(change.session.write_files(run, rows, folder, &old.schema, partitions).await?);
    }
    Ok(Changed::computed(Contents { files, ..old.clone() }, changed + added))
}

/// What becomes of a row of the table.
struct OnTarget {
    condition: String,
    /// New values by column; `None` takes the row out.
    values: Option<Vec<(String, Expr)>>,
}

/// What becomes of a row of the source that belongs to no row of the table.
struct OnSource {
    condition: String,
    /// A value for each column of the table.
    values: Vec<String>,
}

struct Clauses {
    target: String,
    source: String,
    source_name: String,
    on: String,
    columns: Vec<String>,
    on_target: Vec<OnTarget>,
    on_source: Vec<OnSource>,
}

impl Clauses {
    fn new(change: &Change<'_>, statement: &Merge) -> Result<Self> {
        let schema = &change.table.contents.schema;
        let mut clauses = Self {
            target: change.alias(&statement.alias),
            source: statement.source.to_string(),
            source_name: source_name(&statement.source)?,
            on: statement.on.to_string(),
            columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
            on_target: Vec::new(),
            on_source: Vec::new(),
        };
        for clause in &statement.clauses {
            clauses.add(change, clause)?;
        }
        Ok(clauses)
    }

    fn add(&mut self, change: &Change<'_>, clause: &MergeClause) -> Result<()> {
        let predicate = clause.predicate.as_ref().map_or("TRUE".to_string(), Expr::to_string);
        let in_source = format!("{}.{IN_SOURCE}", self.source_name);
        let when = match clause.clause_kind {
            MergeClauseKind::Matched => format!("{in_source} IS TRUE AND ({predicate})"),
            MergeClauseKind::NotMatchedBySource => {
                format!("{in_source} IS NULL AND ({predicate})")
            }
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => {
                let MergeAction::Insert(insert) = &clause.action else {
                    return Err(JobError::Statement(
                        "WHEN NOT MATCHED THEN can only INSERT".to_string(),
                    ));
                };
                let values = self.inserted(change, insert)?;
                self.on_source.push(OnSource { condition: predicate, values });
                return Ok(());
            }
        };
        let values = match &clause.action {
            MergeAction::Update(update) => {
                let values = assignments_of(&update.assignments)?;
                for (column, _) in &values {
                    change.check_column(column)?;
                }
                Some(values)
            }
            MergeAction::Delete { .. } => None,
            other => {
                return Err(JobError::Statement(format!(
                    "WHEN MATCHED THEN can UPDATE or DELETE, not {other}"
                )));
            }
        };
        self.on_target.push(OnTarget { condition: when, values });
        Ok(())
    }

    /// A value for each column of the table.
    fn inserted(&self, change: &Change<'_>, insert: &MergeInsertExpr) -> Result<Vec<String>> {
        let named: Vec<String> =
            insert.columns.iter().filter_map(|column| parts_of(column).pop()).collect();
        for column in &named {
            change.check_column(column)?;
        }
        let columns = if named.is_empty() { &self.columns } else { &named };
        let values: Vec<String> = match &insert.kind {
            MergeInsertKind::Values(values) => match values.rows.as_slice() {
                [row] => row.content.iter().map(Expr::to_string).collect(),
                _ => return Err(JobError::Statement("INSERT takes one row of VALUES".to_string())),
            },
            MergeInsertKind::Row => {
                let value = |column: &String| format!("{}.{}", self.source_name, quoted(column));
                columns.iter().map(value).collect()
            }
        };
        if values.len() != columns.len() {
            return Err(JobError::Statement(format!(
                "INSERT has {} for {}",
                counted(values.len(), "value"),
                counted(columns.len(), "column")
            )));
        }
        let value = |name: &String| match columns.iter().position(|column| column == name) {
            Some(at) => values[at].clone(),
            None => "NULL".to_string(),
        };
        Ok(self.columns.iter().map(value).collect())
    }

    /// Rows of the table with their rows of the source.
    fn matched(&self) -> String {
        format!("{TARGET} AS {} JOIN {} ON {}", self.target, self.source, self.on)
    }

    /// All rows of the table, with their rows of the source if they have one.
    fn targets(&self) -> String {
        format!(
            "{TARGET} AS {} LEFT JOIN (SELECT *, TRUE AS {IN_SOURCE} FROM {}) AS {} ON {}",
            self.target, self.source, self.source_name, self.on
        )
    }

    /// Rows of the source that belong to no row of the table.
    fn new_rows(&self) -> String {
        format!(
            "{} LEFT JOIN (SELECT *, TRUE AS {IN_TARGET} FROM {TARGET}) AS {} ON {} \
             WHERE {}.{IN_TARGET} IS NULL",
            self.source, self.target, self.on, self.target
        )
    }

    fn count_changed(&self) -> String {
        let any: Vec<_> = self.on_target.iter().map(|c| format!("({})", c.condition)).collect();
        let any = if any.is_empty() { "FALSE".to_string() } else { any.join(" OR ") };
        format!("SELECT count(*) FROM {} WHERE {any}", self.targets())
    }

    fn wanted(&self) -> String {
        let any: Vec<_> = self.on_source.iter().map(|c| format!("({})", c.condition)).collect();
        any.join(" OR ")
    }

    fn count_added(&self) -> Option<String> {
        (!self.on_source.is_empty())
            .then(|| format!("SELECT count(*) FROM {} AND ({})", self.new_rows(), self.wanted()))
    }

    /// The rows of the table after the change.
    fn rest(&self) -> String {
        let value = |name: &String| {
            let old = format!("{}.{}", self.target, quoted(name));
            let mut cases = String::new();
            for clause in &self.on_target {
                let values = clause.values.iter().flatten();
                let new = values.rev().find(|(column, _)| column == name);
                let new = new.map_or(old.clone(), |(_, value)| format!("({value})"));
                cases.push_str(&format!(" WHEN {} THEN {new}", clause.condition));
            }
            format!("CASE{cases} ELSE {old} END")
        };
        let mut taken_out = String::new();
        for clause in &self.on_target {
            let gone = if clause.values.is_none() { "TRUE" } else { "FALSE" };
            taken_out.push_str(&format!(" WHEN {} THEN {gone}", clause.condition));
        }
        let values: Vec<_> = self.columns.iter().map(value).collect();
        format!(
            "SELECT {} FROM {} WHERE NOT (CASE{taken_out} ELSE FALSE END)",
            values.join(", "),
            self.targets()
        )
    }

    /// The rows that are added.
    fn added(&self) -> impl Iterator<Item = String> {
        let value = |at: usize| {
            let cases = self
                .on_source
                .iter()
                .map(|clause| format!(" WHEN ({}) THEN ({})", clause.condition, clause.values[at]));
            format!("CASE{} END", cases.collect::<String>())
        };
        let query = (!self.on_source.is_empty()).then(|| {
            let values: Vec<_> = (0..self.columns.len()).map(value).collect();
            format!("SELECT {} FROM {} AND ({})", values.join(", "), self.new_rows(), self.wanted())
        });
        query.into_iter()
    }
}

/// The source's name in conditions and values, quoted.
fn source_name(source: &TableFactor) -> Result<String> {
    let name = match source {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. } => Some(identifier(&alias.name)),
        TableFactor::Table { name, .. } => parts_of(name).pop(),
        _ => None,
    };
    name.map(|name| quoted(&name)).ok_or_else(|| {
        JobError::Statement("the source of MERGE needs a name: USING (…) AS source".to_string())
    })
}
