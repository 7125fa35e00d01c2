//! Rows of a block in groups, each of which needs so few rows of a state that these fit into memory: for states that
//! don't fit as a whole.

use super::exec::Task;
use crate::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use nightshift_udfs::csr::{Csr, Group, Value};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// The groups of a block, one after another.
pub(super) struct Groups<V> {
    block: Arc<Csr<V>>,
    /// The numbers of rows that need nothing of the state.
    without: Arc<HashSet<u32>>,
    next: usize,
    most_columns: usize,
    column_bytes: usize,
}

/// A group, with memory set aside for it and for what it needs of the state.
pub(super) struct ReservedGroup<V> {
    pub(super) group: Group<V>,
    /// The place of its first row in the block.
    pub(super) first: usize,
    _memory: MemoryReservation,
}

impl<V: Value> Groups<V> {
    /// The groups of a block whose columns need `column_bytes` of the state each, but for those of the rows with the
    /// numbers in `without`.
    pub(super) fn new(
        task: Task<'_>,
        block: Arc<Csr<V>>,
        column_bytes: usize,
        without: HashSet<u32>,
    ) -> Self {
        let most_columns = task.resident.group_bytes() / column_bytes;
        Self { block, without: Arc::new(without), next: 0, most_columns, column_bytes }
    }

    /// The next group; the groups become smaller where memory is short.
    pub(super) async fn next(&mut self, task: Task<'_>) -> Result<Option<ReservedGroup<V>>> {
        let first = self.next;
        while first < self.block.rows() {
            let (block, most_columns) = (Arc::clone(&self.block), self.most_columns);
            let without = Arc::clone(&self.without);
            let group = move || block.group(first, most_columns, |row| !without.contains(&row));
            let group = spawn_blocking(group).await?;
            let memory = MemoryConsumer::new("group of rows").register(&task.runtime.memory_pool);
            let (rows, columns) = (group.rows.rows(), group.columns.len());
            match memory.try_grow(columns * self.column_bytes + group.rows.size()) {
                Ok(()) => {
                    self.next += rows;
                    return Ok(Some(ReservedGroup { group, first, _memory: memory }));
                }
                Err(_) if rows > 1 && columns > 0 => self.most_columns = columns / 2,
                Err(error) => {
                    let row = self.block.first_row as usize + first;
                    let reason = format!(
                        "row {row} of the training data needs {columns} rows of the other side at once: \
                         give executors more --memory, or fewer cores ({error})"
                    );
                    return Err(DataFusionError::ResourcesExhausted(reason).into());
                }
            }
        }
        Ok(None)
    }
}
