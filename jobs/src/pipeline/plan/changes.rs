//! What would be different for whoever reads what a pipeline makes.

use super::{Pipeline, PlannedStep};
use crate::Result;
use crate::introspection::sql_type;
use crate::progress::Silent;
use crate::run::Rehearsal;
use crate::session::Session;
use crate::statement::{Located, Statement};
use crate::training::{model_spec, table_names};
use arrow::datatypes::Schema;
use std::sync::Arc;

impl Pipeline {
    /// Which columns of published tables would be others after the steps that are executed: a line for each, such as
    /// `features.ratings: rating is DOUBLE, was BIGINT`.
    ///
    /// # Errors
    /// What is wrong in the statements.
    pub async fn column_changes(
        &self,
        session: Session,
        steps: &[PlannedStep],
    ) -> Result<Vec<String>> {
        let mut rehearsal = Rehearsal::start(session, Arc::new(Silent)).await?;
        let mut changes = Vec::new();
        for ((statement, check), planned) in self.statements().zip(steps) {
            if check.is_some() || planned.why.is_none() {
                continue;
            }
            rehearsal.execute(statement, Some(self.folder().to_path_buf())).await?;
            for table in tables_of(statement)? {
                let (before, after) = rehearsal.schemas(&table).await?;
                let (Some(before), Some(after)) = (before, after) else { continue };
                changes.extend(differences(&table, &before, &after));
            }
        }
        Ok(changes)
    }
}

/// The tables that a statement makes or changes.
fn tables_of(statement: &Located) -> Result<Vec<String>> {
    Ok(match &statement.statement {
        Statement::CreateModel(model) => {
            let tables = table_names(&model_spec(model)?).iter();
            tables.map(|table| format!("{}.{table}", model.name)).collect()
        }
        _ => statement.object().into_iter().chain(statement.quarantine()).collect(),
    })
}

fn differences(table: &str, before: &Schema, after: &Schema) -> Vec<String> {
    let gone = before.fields().iter().filter(|field| after.field_with_name(field.name()).is_err());
    let mut found: Vec<_> =
        gone.map(|field| format!("{table}: {} is gone", field.name())).collect();
    for field in after.fields() {
        let (name, now) = (field.name(), sql_type(field.data_type()));
        match before.field_with_name(name) {
            Err(_) => found.push(format!("{table}: {name} is new, {now}")),
            Ok(old) if old.data_type() != field.data_type() => {
                found.push(format!("{table}: {name} is {now}, was {}", sql_type(old.data_type())));
            }
            Ok(_) => {}
        }
    }
    found
}
