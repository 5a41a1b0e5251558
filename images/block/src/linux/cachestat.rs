//! Whether the host has a part of a file in memory.

use crate::ByteRange;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `cachestat(2)`, Linux 6.5; the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Found {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether all pages of the range are in memory. Kernels that cannot say, say no.
pub(super) fn is_cached(fd: BorrowedFd<'_>, range: ByteRange) -> bool {
    let page = rustix::param::page_size() as u64;
    let asked = Range { offset: range.start(), len: range.count().get() };
    let mut found = Found::default();
    // SAFETY: both structures are those of the system call, and live until it returns; it keeps no pointer.
    let done = unsafe {
        libc::syscall(SYS_CACHESTAT, fd.as_raw_fd(), &raw const asked, &raw mut found, 0 as libc::c_uint)
    };
    let pages = range.end().div_ceil(page) - range.start() / page;
    done == 0 && found.cached >= pages
}
