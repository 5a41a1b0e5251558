//! How many requests a disk's guests have made. Every connection counts for itself, in memory it shares with nobody, so
//! that counting costs a request next to nothing.

use block::sync::{Mutex, lock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The counters of all connections to a disk.
#[derive(Default)]
pub struct Traffic(Mutex<Counters>);

#[derive(Default)]
struct Counters {
    open: Vec<Weak<Counter>>,
    /// Of connections that are gone.
    closed: u64,
}

/// One connection's.
#[repr(align(64))]
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts a request. Only the connection's own thread counts, so that a plain addition does.
    pub fn count(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl Traffic {
    /// A counter for a new connection.
    pub fn counter(&self) -> Arc<Counter> {
        let counter = Arc::new(Counter::default());
        lock(&self.0).open.push(Arc::downgrade(&counter));
        counter
    }

    /// Takes leave of a connection's counter.
    pub fn close(&self, counter: &Arc<Counter>) {
        let mut all = lock(&self.0);
        all.closed += counter.0.load(Ordering::Relaxed);
        all.open.retain(|open| !std::ptr::eq(open.as_ptr(), Arc::as_ptr(counter)));
    }

    /// Requests of all connections, of those that are gone too.
    pub fn requests(&self) -> u64 {
        let all = lock(&self.0);
        let open = all.open.iter().filter_map(Weak::upgrade);
        all.closed + open.map(|counter| counter.0.load(Ordering::Relaxed)).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closed_connections_asked_still_counts() {
        let traffic = Traffic::default();
        let (one, other) = (traffic.counter(), traffic.counter());
        (0..3).for_each(|_| one.count());
        other.count();
        assert_eq!(traffic.requests(), 4);
        traffic.close(&one);
        drop(one);
        other.count();
        assert_eq!(traffic.requests(), 5);
    }
}
