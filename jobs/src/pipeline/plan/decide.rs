//! Which steps are executed, and why.

use super::super::select::CHECK;
use super::{Part, Why};
use crate::journal::{Planned, RunState, StepState};
use crate::statement::Statement;
use nightshift_catalog::registry::{Kind, Registry};
use std::collections::{BTreeMap, BTreeSet};

/// The run that has made what a step of a fingerprint makes, if the last run had such a step.
pub(super) fn origin(last: &RunState, fingerprint: Option<&str>) -> Option<String> {
    let fingerprint = fingerprint?;
    let step = last.begun.steps.iter().find(|s| s.fingerprint.as_deref() == Some(fingerprint))?;
    Some(step.unchanged.clone().unwrap_or_else(|| last.id.clone()))
}

/// For each step why it is executed, or nothing if it isn't.
pub(super) fn decide(
    parts: &[Part<'_>],
    last: Option<&RunState>,
    registry: &Registry,
    all: bool,
    left_out: &BTreeSet<usize>,
) -> Vec<Option<Why>> {
    let mut whys: Vec<Option<Why>> = parts.iter().map(|part| alone(part, last, all)).collect();
    // What is made in several steps is made again in all of them, or in none.
    let mut chains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        for name in part.object.iter().chain(&part.quarantine) {
            chains.entry(name).or_default().push(at);
        }
    }
    loop {
        let before = whys.clone();
        for (name, chain) in &chains {
            let again = chain.iter().any(|at| whys[*at].is_some());
            let from_nothing = replaces(&parts[chain[0]].statement.statement);
            let why = match (again, from_nothing) {
                (true, _) => Why::After(name.to_string()),
                // What was there before it is changed once more by each run.
                (false, false) => Why::Changed,
                (false, true) if is_current(name, parts, chain, last, registry) => continue,
                (false, true) => Why::Replaced,
            };
            for at in chain {
                whys[*at].get_or_insert(why.clone());
            }
        }
        for at in 0..parts.len() {
            // Whoever opens files makes the table of bad records again.
            if whys[at].is_none() && parts[at].quarantine.is_some() && is_read(parts, &whys, at) {
                whys[at] = Some(Why::Always);
            }
            let made = |name: &&String| {
                chains.get(name.as_str()).is_some_and(|chain| {
                    chain.iter().any(|maker| *maker < at && whys[*maker].is_some())
                })
            };
            let in_place = |name: &&String| {
                chains.get(name.as_str()).is_some_and(|chain| {
                    let first = &parts[chain[0]];
                    matches!(first.statement.statement, Statement::CreateExternalTable(_))
                        && first.object.as_ref() == Some(*name)
                })
            };
            if whys[at].is_none() {
                let again = parts[at].reads.iter().find(|name| made(name) && !in_place(name));
                whys[at] = again.map(|name| Why::After(name.clone()));
            }
        }
        if whys == before {
            break;
        }
    }
    for at in left_out {
        whys[*at] = None;
    }
    // Files are opened for those that read them, and for the table of bad records.
    for at in 0..parts.len() {
        let Statement::CreateExternalTable(_) = parts[at].statement.statement else { continue };
        if is_read(parts, &whys, at) {
            whys[at] = Some(Why::Always);
        } else if parts[at].quarantine.is_none() {
            whys[at] = None;
        }
    }
    whys
}

/// Whether a step that is executed reads what another one makes.
fn is_read(parts: &[Part<'_>], whys: &[Option<Why>], at: usize) -> bool {
    let object = parts[at].object.as_ref();
    let reads = |(part, why): (&Part<'_>, &Option<Why>)| {
        why.is_some() && part.reads.iter().any(|name| Some(name) == object)
    };
    parts.iter().zip(whys).any(reads)
}

/// Why a step is executed, whatever becomes of others.
fn alone(part: &Part<'_>, last: Option<&RunState>, all: bool) -> Option<Why> {
    if all {
        return Some(Why::Asked);
    }
    match &part.statement.statement {
        Statement::CreateExternalTable(_) if part.quarantine.is_none() => return None,
        Statement::CreateSchema { .. }
        | Statement::Copy(_)
        | Statement::Vacuum { .. }
        | Statement::Drop(_)
        | Statement::Restore { .. }
        | Statement::SetModelVersion { .. } => return Some(Why::Always),
        _ => {}
    }
    let Some(fingerprint) = &part.fingerprint else { return Some(Why::Volatile) };
    let Some(last) = last else { return Some(Why::New) };
    if origin(last, Some(fingerprint)).is_some() {
        let is_same = |step: &&StepState| step.planned.fingerprint.as_ref() == Some(fingerprint);
        let warns = last.steps.iter().find(is_same).is_some_and(|step| step.wrong.is_some());
        return warns.then_some(Why::Warns);
    }
    let had = |step: &Planned| match part.check {
        true => step.action == CHECK && step.file.ends_with(file_name(&part.statement.file)),
        false => Some(&step.name) == part.object.as_ref(),
    };
    Some(if last.begun.steps.iter().any(had) { Why::Changed } else { Why::New })
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a statement makes something from what it reads alone.
fn replaces(statement: &Statement) -> bool {
    match statement {
        Statement::CreateTable(table) => table.or_replace && table.query.is_some(),
        Statement::CreateModel(model) => model.or_replace,
        Statement::CreateView(view) => view.or_replace,
        Statement::CreateExternalTable(_) => true,
        _ => false,
    }
}

/// Whether what the steps of a chain have made under its name is what everybody reads.
fn is_current(
    name: &str,
    parts: &[Part<'_>],
    chain: &[usize],
    last: Option<&RunState>,
    registry: &Registry,
) -> bool {
    let first = &parts[chain[0]];
    let kind = match &first.statement.statement {
        Statement::CreateTable(_) => Kind::Table,
        Statement::CreateExternalTable(_) if first.quarantine.as_deref() == Some(name) => {
            Kind::Table
        }
        Statement::CreateModel(_) => Kind::Model,
        Statement::CreateView(_) => Kind::View,
        _ => return true,
    };
    let made_by = last.and_then(|last| origin(last, first.fingerprint.as_deref()));
    let entry = registry.current(kind, name);
    // A statement that is there no more has left its traces.
    let before = last.map(|last| {
        let steps = last.begun.steps.iter().filter(|step| step.action != "CHECK");
        let same = steps.filter(|s| s.name == name || Some(&s.name) == first.object.as_ref());
        same.map(|step| step.fingerprint.as_deref()).collect::<Vec<_>>()
    });
    let now: Vec<_> = chain.iter().map(|at| parts[*at].fingerprint.as_deref()).collect();
    before == Some(now) && entry.is_some_and(|entry| made_by.as_ref() == Some(&entry.run))
}
