//! How an executor divides its memory between tasks and what it keeps from one superstep to the next.

use sysinfo::{MemoryRefreshKind, System};
use thiserror::Error;

/// What executors take of the machine's memory if they aren't told.
const SHARE: f64 = 0.7;

/// What of its memory it keeps blocks and states in, if it isn't told: a quarter, and not more than this.
const MOST_RESIDENT: u64 = 2 << 30;

/// Less than this is not enough for tasks, however few they are.
const LEAST_FOR_TASKS: u64 = 32 << 20;

/// The memory is not enough.
#[derive(Debug, Error, PartialEq)]
#[error(
    "{} MB of memory are not enough: {} MB of them are for blocks and states, and tasks need {} MB at least; give more \
     (--memory), or keep less (--resident-memory)",
    .total >> 20, .resident >> 20, LEAST_FOR_TASKS >> 20
)]
pub struct TooLittle {
    total: u64,
    resident: u64,
}

/// An executor's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// What tasks may reserve together.
    pub tasks: u64,
    /// Blocks and states that are kept between supersteps.
    pub resident: u64,
}

impl Memory {
    /// Divides so many bytes in `total`, of which `resident` are kept for blocks and states.
    ///
    /// # Errors
    /// If next to nothing is left for tasks.
    pub fn divide(total: Option<u64>, resident: Option<u64>) -> Result<Self, TooLittle> {
        let total = total.unwrap_or_else(share_of_the_machine);
        let resident = resident.unwrap_or((total / 4).min(MOST_RESIDENT));
        match total.checked_sub(resident) {
            Some(tasks) if tasks >= LEAST_FOR_TASKS => Ok(Self { tasks, resident }),
            _ => Err(TooLittle { total, resident }),
        }
    }
}

/// Bytes that executors take together of what this machine has, or the container that this process is in.
pub fn share_of_the_machine() -> u64 {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let of_machine = system.total_memory();
    // It must not be asked where the machine's memory is not known.
    let limits = if of_machine > 0 { system.cgroup_limits() } else { None };
    let of_container = limits.map_or(u64::MAX, |limits| limits.total_memory);
    (of_machine.min(of_container) as f64 * SHARE) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_a_part_of_the_memory() {
        let megabytes = |bytes: u64| bytes << 20;
        let divided = |total, resident| {
            Memory::divide(Some(megabytes(total)), Some(megabytes(resident)))
                .map(|memory| (memory.tasks >> 20, memory.resident >> 20))
        };
        assert_eq!(divided(1000, 400), Ok((600, 400)));
        assert_eq!(divided(432, 400), Ok((32, 400)));
        for (total, resident) in [(431, 400), (400, 400), (300, 400)] {
            let error = divided(total, resident).unwrap_err().to_string();
            assert!(error.contains(&format!("{total} MB of memory")), "{error}");
        }
        let of = |total| Memory::divide(Some(total), None).unwrap();
        assert_eq!(of(megabytes(400)).resident, megabytes(100));
        assert_eq!(of(64 << 30).resident, MOST_RESIDENT);
    }

    #[test]
    fn the_machines_memory_is_known() {
        let memory = Memory::divide(None, None).unwrap();
        assert!(
            memory.tasks > LEAST_FOR_TASKS && memory.resident <= memory.tasks / 3 + 1,
            "{memory:?}"
        );
    }
}
