//! What the allocator does with memory that was freed.

use libmimalloc_sys::{mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

/// Batches of rows come and go by the megabyte. The system's allocator gives each back to the system, and
/// gets it again page by page.
///
/// And what is large begins at a line of the cache. Where factors and panels straddle lines, the exact solver of ALS takes a
/// fifth longer.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The number of mimalloc's option that says how many milliseconds memory stays that was freed.
const PURGE_DELAY: mi_option_t = 15;

/// What it is here. By itself mimalloc keeps memory for a second: an executor that has little of it to work with takes
/// two thirds more then (`bench/run same`).
const MILLISECONDS: std::ffi::c_long = 10;

/// The variable of the environment that says something else.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Has memory given back to the system soon after it was freed. To be called before there are threads.
#[expect(unsafe_code, reason = "mimalloc has no other way to be told")]
pub fn give_back_soon() {
    if std::env::var_os(VARIABLE).is_none() {
        // It changes a number, which only other threads could read meanwhile.
        unsafe { mi_option_set(PURGE_DELAY, MILLISECONDS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    /// Options are told by their numbers, which another version of mimalloc may have changed.
    #[test]
    #[expect(unsafe_code, reason = "mimalloc has no other way to be asked")]
    fn memory_stays_for_as_long_as_it_is_told() {
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        let told = std::env::var(VARIABLE).ok().map(|value| value.parse().unwrap());
        assert_eq!(delay(), told.unwrap_or(1000));
        give_back_soon();
        assert_eq!(delay(), told.unwrap_or(MILLISECONDS));
    }
}
