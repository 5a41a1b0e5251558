//! How much memory a thread holds: what a reader takes must fit the parser's limit, whatever the bytes are.

use mount::parser::sandbox::MEMORY_LIMIT;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

/// What is left of the parser's limit for one reader: its program, its stack and the messages take the rest.
const LIMIT: isize = (MEMORY_LIMIT as isize) / 4 * 3;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    let _not_in_a_thread_that_ends = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        PEAK.with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: the system's allocator does all of it; counting allocates nothing, since the counters have no initialiser.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Runs something that may take no more memory than a reader may, and gives back what it gives.
pub fn bounded<T>(run: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let done = run();
    let taken = PEAK.get() - before;
    assert!(taken <= LIMIT, "{} MiB of memory at once", taken >> 20);
    done
}

#[test]
#[should_panic(expected = "200 MiB of memory at once")]
fn more_than_the_limit_is_seen() {
    assert_eq!(bounded(|| vec![1_u8; 100 << 20].len()), 100 << 20);
    bounded(|| drop(vec![1_u8; 200 << 20]));
}
