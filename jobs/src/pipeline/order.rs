//! The order of a pipeline's files, which follows from what they read and create.

use super::File;
use crate::JobError;
use crate::statement::Located;
use std::collections::{BTreeMap, BTreeSet};

/// Files in an order in which each comes after those that create or change what it reads, and after those that create
/// what it changes. Among files that could come next, the first by name does.
pub(super) struct Ordered {
    pub(super) files: Vec<File>,
    /// What keeps files from having an order: they are in one all the same.
    pub(super) mistakes: Vec<JobError>,
    /// What files wait for that wait for each other.
    pub(super) circular: BTreeSet<String>,
    /// Statements that create what another creates, or nothing that has a name: their files and lines.
    pub(super) refused: BTreeSet<(String, u64)>,
}

/// The place of a statement: its file's, and its own within the file.
type Place = (usize, usize);

/// A file that another has to come after.
struct Need {
    /// The name that both are about.
    name: String,
    /// The place of the statement that needs it.
    at: Place,
}

impl Ordered {
    pub(super) fn new(files: Vec<File>) -> Self {
        let mut mistakes = Vec::new();
        let names = Names::of(&files, &mut mistakes);
        let needs = names.needs(&files, &mut mistakes);
        let mut circular = BTreeSet::new();
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        while order.len() < files.len() {
            let ready = (0..files.len()).find(|index| {
                !done.contains(index) && needs[*index].keys().all(|needed| done.contains(needed))
            });
            let next = ready.unwrap_or_else(|| {
                let cycle = cycle(&needs, &done);
                mistakes.push(explain(&files, &needs, &cycle));
                let pairs = cycle.iter().zip(cycle.iter().cycle().skip(1));
                let needed = pairs.filter_map(|(index, next)| needs[*index].get(next));
                circular.extend(needed.map(|need| need.name.clone()));
                // It is broken here, so that others are found too.
                cycle[0]
            });
            done.insert(next);
            order.push(next);
        }
        let mut files: Vec<Option<File>> = files.into_iter().map(Some).collect();
        let files = order.into_iter().filter_map(|index| files[index].take()).collect();
        Self { files, mistakes, circular, refused: names.refused }
    }
}

/// Which statements create and change what.
struct Names {
    creators: BTreeMap<String, Place>,
    changers: BTreeMap<String, Vec<usize>>,
    refused: BTreeSet<(String, u64)>,
}

impl Names {
    fn of(files: &[File], mistakes: &mut Vec<JobError>) -> Self {
        let (creators, changers, refused) = Default::default();
        let mut names = Self { creators, changers, refused };
        for (at, statement) in statements(files) {
            let place = || (statement.file.clone(), statement.line);
            let created = statement.creates_all().unwrap_or_else(|error| {
                mistakes.push(error);
                names.refused.insert(place());
                Vec::new()
            });
            for name in created {
                match names.creators.get(&name) {
                    Some(other) if other.0 != at.0 => {
                        let both = (&files[other.0].name, &files[at.0].name);
                        let reason = format!("both {} and {} create {name}", both.0, both.1);
                        mistakes.push(statement.locate(JobError::Statement(reason)));
                        names.refused.insert(place());
                    }
                    _ => drop(names.creators.insert(name, at)),
                }
            }
            if let Some(name) = statement.changes() {
                names.changers.entry(name).or_default().push(at.0);
            }
        }
        names
    }

    /// For each file those that it has to come after.
    fn needs(&self, files: &[File], mistakes: &mut Vec<JobError>) -> Vec<BTreeMap<usize, Need>> {
        let mut needs: Vec<BTreeMap<usize, Need>> = files.iter().map(|_| BTreeMap::new()).collect();
        for (at, statement) in statements(files) {
            let read = match statement.reads() {
                Ok(read) => read.created_names(),
                Err(error) => {
                    mistakes.push(error);
                    continue;
                }
            };
            for name in read {
                let creator = self.creators.get(&name).map(|at| at.0);
                let changers = self.changers.get(&name).into_iter().flatten().copied();
                for maker in creator.into_iter().chain(changers).filter(|maker| *maker != at.0) {
                    needs[at.0].insert(maker, Need { name: name.clone(), at });
                }
            }
            if let Some(name) = statement.changes()
                && let Some(creator) = self.creators.get(&name)
                && creator.0 != at.0
            {
                needs[at.0].insert(creator.0, Need { name, at });
            }
        }
        needs
    }
}

fn statements(files: &[File]) -> impl Iterator<Item = (Place, &Located)> {
    files.iter().enumerate().flat_map(|(file, of)| {
        of.statements.iter().enumerate().map(move |(number, statement)| ((file, number), statement))
    })
}

/// Follows what files need, among those that can't run, until one comes again.
fn cycle(needs: &[BTreeMap<usize, Need>], done: &BTreeSet<usize>) -> Vec<usize> {
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..needs.len()).find(|index| !done.contains(index)).unwrap_or(0);
    while !path.contains(&at) {
        path.push(at);
        at = needs[at].keys().copied().find(|needed| !done.contains(needed)).unwrap_or(at);
    }
    let start = path.iter().position(|index| *index == at).unwrap_or(0);
    path.split_off(start)
}

fn explain(files: &[File], needs: &[BTreeMap<usize, Need>], cycle: &[usize]) -> JobError {
    let mut steps: Vec<String> = Vec::new();
    for (position, index) in cycle.iter().enumerate() {
        let next = cycle.get(position + 1).unwrap_or(&cycle[0]);
        let name = needs[*index].get(next).map_or("", |need| &need.name);
        steps.push(format!("{} reads {name} of {}", files[*index].name, files[*next].name));
    }
    let reason = format!("its files wait for each other: {}", steps.join(", "));
    let next = cycle.get(1).unwrap_or(&cycle[0]);
    match needs[cycle[0]].get(next) {
        Some(Need { at: (file, number), .. }) => {
            files[*file].statements[*number].locate(JobError::Statement(reason))
        }
        None => JobError::Statement(reason),
    }
}
