//! The names of a run: schemas, views, what is dropped, what is rolled back.

use super::Run;
use super::effect::Effect;
use crate::statement::{CreateView, Drop, References};
use crate::{JobError, Result};
use nightshift_catalog::registry::{Change, Details, Kind, NewEntry};
use nightshift_catalog::warehouse::Name;
use std::collections::BTreeMap;

impl Run {
    pub(super) fn create_schema(&self, name: &str, if_not_exists: bool) -> Result<Effect> {
        let staged = |new: &NewEntry| new.kind == Kind::Schema && new.name == name;
        if self.view.registry().schemas().contains(name) || self.staged.names.iter().any(staged) {
            return match if_not_exists {
                true => Ok(Effect::default()),
                false => Err(JobError::Statement(format!("the schema {name} exists already"))),
            };
        }
        let change = Change::New(BTreeMap::new(), None);
        let entry = NewEntry { kind: Kind::Schema, name: name.to_string(), change, base: None };
        Ok(Effect::names(vec![entry]))
    }

    pub(super) async fn create_view(&self, view: &CreateView) -> Result<Effect> {
        if !self.check_free(&view.name, Kind::View, view.or_replace, view.if_not_exists)? {
            return Ok(Effect::default());
        }
        let name = view.name.to_string();
        let references = References::of_query(&view.query)?;
        for external in references.created_names() {
            if self.view.external(&external).is_some() {
                return Err(JobError::Statement(format!(
                    "{external} is only there for this run or connection, a view can't read it"
                )));
            }
        }
        let query = view.query.to_string();
        let mut with_it = self.view.clone();
        with_it.stage_view(name.clone(), query.clone());
        // A view that can't be planned, because it reads itself for instance, is none.
        with_it.plan_text(&self.session, &format!("SELECT * FROM {}", view.name)).await?;
        let change = Change::New(BTreeMap::new(), Some(Details::View { view: query }));
        Ok(Effect::names(vec![NewEntry { kind: Kind::View, name, change, base: None }]))
    }

    pub(super) fn drop(&self, drop: &Drop) -> Result<Effect> {
        let registry = self.view.registry();
        let mut gone: Vec<(Kind, String)> = Vec::new();
        if drop.kind == Kind::Schema {
            let inside = format!("{}.", drop.name);
            let all = registry.all_current().into_iter();
            let within = all.filter(|entry| entry.name.starts_with(&inside));
            gone.extend(within.map(|entry| (entry.kind, entry.name.clone())));
            if !gone.is_empty() && !drop.cascade {
                let names: Vec<_> = gone.iter().map(|(_, name)| name.as_str()).collect();
                return Err(JobError::Statement(format!(
                    "the schema {} has {} in it: drop it with CASCADE",
                    drop.name,
                    names.join(", ")
                )));
            }
        }
        let staged = self.staged.tables.keys().chain(self.staged.models.keys());
        if let Some(name) = staged
            .map(Name::to_string)
            .find(|name| *name == drop.name || gone.iter().any(|(_, other)| name == other))
        {
            return Err(JobError::Statement(format!("{name} is created or changed in this run")));
        }
        let exists = match drop.kind {
            Kind::Schema => registry.schemas().contains(&drop.name),
            kind => registry.current(kind, &drop.name).is_some(),
        };
        if !exists {
            return match drop.if_exists {
                true => Ok(Effect::default()),
                false => Err(JobError::Statement(format!(
                    "there is no {} {}",
                    drop.kind.as_str(),
                    drop.name
                ))),
            };
        }
        if registry.current(drop.kind, &drop.name).is_some() {
            gone.push((drop.kind, drop.name.clone()));
        }
        let entry = |(kind, name)| NewEntry { kind, name, change: Change::Drop, base: None };
        Ok(Effect::names(gone.into_iter().map(entry).collect()))
    }

    pub(super) fn set_version(&self, model: &Name, version: u64) -> Result<Effect> {
        let (registry, name) = (self.view.registry(), model.to_string());
        if registry.current(Kind::Model, &name).is_none() {
            return Err(JobError::Statement(format!("there is no model {name}")));
        }
        if registry.version_of(Kind::Model, &name, version).is_none() {
            return Err(JobError::Statement(format!(
                "{name} has no version {version}; DESCRIBE MODEL {name} lists them"
            )));
        }
        let change = Change::Again(version);
        Ok(Effect::names(vec![NewEntry { kind: Kind::Model, name, change, base: None }]))
    }

    /// Whether something is to be created under a name. A name stands for one thing, and what exists
    /// is only replaced, or left alone, when asked for.
    pub(super) fn check_free(
        &self,
        name: &Name,
        kind: Kind,
        or_replace: bool,
        if_not_exists: bool,
    ) -> Result<bool> {
        let whole = name.to_string();
        let staged = |new: &NewEntry| new.name == whole && !matches!(new.change, Change::Drop);
        if self.staged.tables.contains_key(name)
            || self.staged.models.contains_key(name)
            || self.staged.names.iter().any(staged)
        {
            return Err(JobError::Statement(format!("{whole} is created twice in this run")));
        }
        let exists = |kind| {
            self.view.registry().current(kind, &whole).is_some() && !self.view.is_hidden(&whole)
        };
        let others = [Kind::Table, Kind::Model, Kind::View].into_iter();
        if let Some(other) = others.filter(|other| *other != kind).find(|other| exists(*other)) {
            return Err(JobError::Statement(format!(
                "{whole} is a {}: use another name",
                other.as_str()
            )));
        }
        match exists(kind) {
            true if if_not_exists => Ok(false),
            true if !or_replace => Err(JobError::Statement(format!(
                "{whole} exists already: use CREATE OR REPLACE {}",
                kind.as_str().to_uppercase()
            ))),
            _ => Ok(true),
        }
    }
}
