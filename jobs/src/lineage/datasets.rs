//! The names of what plans scan.
//!
//! A table is `schema.table`, one of a model's `schema.model.table`, whatever it is called in a plan. Files that are
//! read in place are known by their location, because the name is that of a run. Views are what they read.

use crate::view::View;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use nightshift_catalog::scan::WarehouseTable;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The name of the table that lists everything.
const REGISTRY: &str = "system.registry";

/// The names of what plans of a view scan.
pub struct Datasets {
    /// The URL of the warehouse, with a slash at its end.
    warehouse: String,
    /// Locations of files that are read in place, by where what reads them is in memory.
    external: HashMap<usize, String>,
}

impl Datasets {
    /// Those of a view of a warehouse.
    pub fn of(warehouse: &str, view: &View) -> Self {
        let mut external = HashMap::new();
        for (name, table) in view.externals() {
            let provider = table.provider();
            let location = table.location().unwrap_or_else(|| name.clone());
            // Columns in the names of folders are made by a query over the files.
            if let Some(plan) = provider.get_logical_plan() {
                for scan in scans(&plan) {
                    if let Ok(files) = source_as_provider(&scan.source) {
                        external.insert(address(&files), location.clone());
                    }
                }
            }
            external.insert(address(&provider), location);
        }
        Self { warehouse: warehouse.to_string(), external }
    }

    /// The dataset that is scanned; `None` if it is none, such as rows that are in the plan itself.
    pub fn scanned(&self, scan: &TableScan) -> Option<String> {
        self.named(&source_as_provider(&scan.source).ok()?)
    }

    /// All that a table reads, which is itself if it is no view.
    pub fn read(&self, table: &Arc<dyn TableProvider>) -> BTreeSet<String> {
        match (self.named(table), table.get_logical_plan()) {
            (Some(name), _) => BTreeSet::from([name]),
            (None, Some(plan)) => {
                scans(&plan).iter().filter_map(|scan| self.scanned(scan)).collect()
            }
            (None, None) => BTreeSet::new(),
        }
    }

    fn named(&self, table: &Arc<dyn TableProvider>) -> Option<String> {
        if let Some(location) = self.external.get(&address(table)) {
            return Some(location.clone());
        }
        let url = table.downcast_ref::<WarehouseTable>()?.spec.table.as_str();
        let Some(folder) = url.strip_prefix(&self.warehouse) else {
            return Some(url.trim_end_matches('/').to_string());
        };
        match folder.starts_with('_') {
            true => Some(REGISTRY.to_string()),
            false => Some(folder.trim_end_matches('/').replace('/', ".")),
        }
    }
}

/// All scans of a plan, those in subqueries among them.
fn scans(plan: &LogicalPlan) -> Vec<TableScan> {
    let mut found = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if let Err(error) = visited {
        tracing::debug!(%error, "not all of a plan could be looked at");
    }
    found
}

/// Where a table is in memory: plans share it with the view that they were made in.
fn address(table: &Arc<dyn TableProvider>) -> usize {
    Arc::as_ptr(table).cast::<()>() as usize
}
