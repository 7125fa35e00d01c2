//! Asks for memory some time before it is used, where nothing tells the processor what comes next.

/// Bytes of a line of the cache.
pub const LINE: usize = 64;

/// Asks for the line that an address is in, which need not be valid.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a prefetch is a hint: it reads nothing and never faults")]
#[inline(always)]
pub fn line<T>(address: *const T) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // Into the second cache: panels of ALS fill the first, and a step of PageRank on a Zen 4 gains a tenth by asking for
    // lines of the first, and nearly half by these.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn line<T>(_: *const T) {}

/// Asks for the lines of some numbers, which need not be there. Where the first doesn't begin a line, the last may be left
/// out.
#[inline(always)]
pub fn numbers<T>(first: *const T, count: usize) {
    for at in (0..count).step_by(LINE / size_of::<T>().clamp(1, LINE)) {
        line(first.wrapping_add(at));
    }
}
