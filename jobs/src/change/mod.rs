//! What statements do to tables that are there: each computes a table's next contents from those it
//! has, and writes the files that are new.
//!
//! Nothing is changed in place. Files with rows that change are written again without them or with
//! others, by a query on the executors, and the commit replaces the old ones.

mod assign;
mod care;
mod insert;
mod merge;
mod rewrite;

pub use assign::{assigned, declared};
pub use care::{RETAIN_HOURS, optimize};
pub use insert::{insert, replace_partitions};
pub use merge::merge;
pub use rewrite::{delete, update};

use crate::session::Session;
use crate::view::View;
use crate::{JobError, Result};
use arrow::array::AsArray;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::sql::sqlparser::ast::{Ident, TableAlias};
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::warehouse::{Name, StagedTable};

/// What a change works on.
pub struct Change<'a> {
    /// What runs its queries.
    pub session: &'a Session,
    /// The tables that they see.
    pub view: &'a View,
    /// The run.
    pub run: &'a str,
    /// The run's folder within the warehouse.
    pub folder: &'a str,
    /// The table.
    pub name: &'a Name,
    /// What it is now.
    pub table: &'a StagedTable,
    /// Whether its queries are only planned.
    pub rehearsed: bool,
}

/// The contents that a change leads to.
pub struct Changed {
    /// All that the table is to consist of.
    pub contents: Contents,
    /// Rows that were added, changed or taken out.
    pub rows: u64,
    /// The new files, if all that was done is to add them.
    pub appended: Option<Vec<DataFile>>,
}

impl Changed {
    /// Contents that were computed from all that the table has.
    fn computed(contents: Contents, rows: u64) -> Self {
        Self { contents, rows, appended: None }
    }
}

/// The name under which a change's queries read the table.
const TARGET: &str = "\"_nightshift\".\"target\"";

/// The same name, as it is looked up.
const TARGET_KEY: &str = "_nightshift.target";

impl Change<'_> {
    /// A view in which the change's queries read these contents as the table.
    async fn reading(&self, contents: &Contents) -> Result<View> {
        self.reading_in(contents, None).await
    }

    /// The same, in a number of partitions.
    async fn reading_in(&self, contents: &Contents, groups: Option<usize>) -> Result<View> {
        let warehouse = self.session.warehouse();
        let list = format!("{}/staged/target-{}.json", self.folder, uuid::Uuid::now_v7());
        let mut provider = match self.rehearsed {
            true => warehouse.planned(&self.table.folder, contents),
            false => warehouse.stage(&self.table.folder, contents, &list).await?,
        };
        provider.spec.groups = groups;
        let mut view = self.view.clone();
        view.stage(TARGET_KEY.to_string(), provider);
        Ok(view)
    }

    /// Plans queries that would be counted, and those whose rows would be the table's.
    async fn rehearse(
        &self,
        counted: impl Iterator<Item = String>,
        written: impl Iterator<Item = String>,
    ) -> Result<Changed> {
        let old = &self.table.contents;
        let view = self.reading(old).await?;
        for query in counted {
            self.session.analyze(view.plan_text(self.session, &query).await?)?;
        }
        for query in written {
            let rows = view.plan_text(self.session, &query).await?;
            self.session.analyze(assigned(rows, &[], &old.schema)?)?;
        }
        Ok(Changed::computed(old.clone(), 0))
    }

    /// The number that a query returns.
    async fn count(&self, view: &View, query: &str) -> Result<u64> {
        let batches = self.session.collect(view.plan_text(self.session, query).await?).await?;
        let first = batches.iter().find(|batch| batch.num_rows() > 0);
        let number = |batch: &RecordBatch| {
            let column = batch.column(0).as_primitive_opt::<Int64Type>()?;
            column.is_valid(0).then(|| column.value(0) as u64)
        };
        Ok(first.and_then(number).unwrap_or(0))
    }

    /// The table's name in conditions and values, quoted.
    fn alias(&self, alias: &Option<TableAlias>) -> String {
        match alias {
            Some(alias) => quoted(&crate::statement::identifier(&alias.name)),
            None => quoted(&self.name.name),
        }
    }

    /// A column of the table, or an error that says which there are.
    fn check_column(&self, column: &str) -> Result<()> {
        let schema = &self.table.contents.schema;
        if schema.field_with_name(column).is_ok() {
            return Ok(());
        }
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        Err(JobError::Statement(format!(
            "{} has no column {column}; it has {}",
            self.name,
            names.join(", ")
        )))
    }
}

/// An identifier that stays as it is.
fn quoted(name: &str) -> String {
    Ident::with_quote('"', name).to_string()
}
