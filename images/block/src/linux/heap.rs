//! The C library's heap.

/// Has all threads share so many heaps, which is asked before there are any threads. By default each of many threads gets its own, and what
/// readers of large pieces free stays in those: a restore held 400 MiB of memory it no longer used.
///
/// Other C libraries than glibc have no such heaps, and nothing happens.
pub fn share_heaps(count: u16) {
    #[cfg(target_env = "gnu")]
    // SAFETY: only a number of the allocator is set; it takes any, and keeps its own where it does not like it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count.into());
    }
}
