//! What a statement of a run does, before it is done: so that it can be written down, and done again by whoever goes
//! on with the run.

use super::{Made, Run, Step};
use crate::Result;
use crate::external::{Copies, ExternalTable};
use nightshift_catalog::registry::{Change, Details, NewEntry};
use nightshift_catalog::warehouse::{
    ModelRecord, Name, ReadableModel, ReadableTable, TableRecord, Warehouse,
};
use serde::{Deserialize, Serialize};

/// What a statement has made, and what becomes of names.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// What is told of it; `None` if it was nothing.
    pub(super) made: Option<Made>,
    /// The next contents of tables.
    pub(super) tables: Vec<(Name, ReadableTable)>,
    /// Trained models.
    pub(super) models: Vec<(Name, ReadableModel)>,
    /// Names that change without a table being written.
    pub(super) names: Vec<NewEntry>,
    /// Files that are read in place under a name.
    pub(super) external: Option<(String, ExternalTable)>,
    /// What is read instead of some of these files.
    pub(super) copies: Copies,
}

impl Effect {
    /// Whether it is none: what was to be created is there already.
    pub(super) fn is_none(&self) -> bool {
        self.made.is_none()
            && self.tables.is_empty()
            && self.models.is_empty()
            && self.names.is_empty()
            && self.external.is_none()
    }

    /// What changes names only.
    pub(super) fn names(names: Vec<NewEntry>) -> Self {
        Self { names, ..Self::default() }
    }
}

/// An effect, written down. Files that are read in place are not in it, only what is read instead of some of them:
/// whoever goes on with the run opens them again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EffectRecord {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tables: Vec<(Name, TableRecord)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    models: Vec<(Name, ModelRecord)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<NewEntry>,
    #[serde(default, skip_serializing_if = "Copies::is_empty")]
    copies: Copies,
}

impl EffectRecord {
    pub(super) fn of(effect: &Effect) -> Result<Self> {
        let tables = effect.tables.iter();
        let tables = tables.map(|(name, table)| Ok((name.clone(), TableRecord::of(table)?)));
        let models = effect.models.iter();
        let models = models.map(|(name, model)| Ok((name.clone(), ModelRecord::of(model)?)));
        Ok(Self {
            tables: tables.collect::<Result<_>>()?,
            models: models.collect::<Result<_>>()?,
            names: effect.names.clone(),
            copies: effect.copies.clone(),
        })
    }

    /// Whether nothing was made that later statements could read.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.models.is_empty()
    }

    /// The folders of the tables that were written.
    pub fn folders(&self) -> Vec<String> {
        let tables = self.tables.iter().map(|(_, table)| table.folder());
        let of_models = self.models.iter().flat_map(|(_, model)| model.folders());
        tables.chain(of_models).map(str::to_string).collect()
    }

    /// What is read instead of some files.
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// The effect without the files that are read in place.
    pub(super) async fn recall(&self, warehouse: &Warehouse) -> Result<Effect> {
        let mut effect = Effect::names(self.names.clone());
        for (name, table) in &self.tables {
            effect.tables.push((name.clone(), table.recall(warehouse).await?));
        }
        for (name, model) in &self.models {
            effect.models.push((name.clone(), model.recall(warehouse).await?));
        }
        Ok(effect)
    }
}

impl Run {
    /// Lets the run's later statements see what a statement has done, and stages it for publication.
    pub(super) fn apply(&mut self, effect: Effect) {
        for (name, table) in effect.tables {
            self.touched.insert(table.staged.folder.clone());
            self.view.stage(name.to_string(), table.provider);
            self.staged.tables.insert(name, table.staged);
        }
        for (name, model) in effect.models {
            for (table, readable) in &model.tables {
                self.touched.insert(readable.staged.folder.clone());
                self.view.stage(format!("{name}.{table}"), readable.provider.clone());
            }
            self.view.stage_model(name.to_string(), model.details.clone());
            self.staged.models.insert(name, model.staged());
        }
        for entry in &effect.names {
            match &entry.change {
                Change::New(_, Some(Details::View { view })) => {
                    self.view.stage_view(entry.name.clone(), view.clone());
                }
                Change::Drop => self.view.hide(&entry.name),
                _ => {}
            }
        }
        self.staged.names.extend(effect.names);
        if let Some((name, external)) = effect.external {
            self.view.add_external(name, external);
        }
    }

    /// Does again what a statement has done in another process.
    pub async fn restore(&mut self, record: &EffectRecord, made: Option<Step>) -> Result<()> {
        let effect = record.recall(self.session.warehouse()).await?;
        self.apply(effect);
        self.steps.extend(made);
        Ok(())
    }
}
