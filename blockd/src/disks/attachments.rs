//! The clients that may write to a disk, and how they are cut off: none of their requests begins any more, and those that
//! began are waited for.

use block::sync::{Mutex, lock};
use block::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two looks whether the requests of a client that was cut off have ended.
const PAUSE: Duration = Duration::from_millis(1);

/// One connection's permission to ask.
#[derive(Default)]
pub struct Hold {
    is_cut_off: AtomicBool,
    /// Requests under way.
    inside: AtomicU64,
}

/// A request under way.
pub struct Inside<'a>(&'a Hold);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Hold {
    pub(super) fn enter(&self) -> Result<Inside<'_>> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        if self.is_cut_off.load(Ordering::SeqCst) {
            return Err(Error::refused(Kind::Unavailable, "the connection", "was cut off"));
        }
        Ok(inside)
    }
}

/// All connections that may write to a disk.
#[derive(Clone, Default)]
pub struct Attachments(Arc<Mutex<Vec<Weak<Hold>>>>);

impl Attachments {
    pub(super) fn add(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold::default());
        let mut all = lock(&self.0);
        all.retain(|hold| hold.strong_count() > 0);
        all.push(Arc::downgrade(&hold));
        hold
    }

    /// Cuts all of them off. When this returns none of them writes any more, whatever they ask.
    pub(super) fn cut_off(&self) {
        let all: Vec<Arc<Hold>> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|hold| hold.is_cut_off.store(true, Ordering::SeqCst));
        while all.iter().any(|hold| hold.inside.load(Ordering::SeqCst) > 0) {
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_cut_off_begins_nothing_and_what_began_is_waited_for() {
        let attachments = Attachments::default();
        let (one, other) = (attachments.add(), attachments.add());
        let inside = one.enter().expect("it may");
        std::thread::scope(|scope| {
            let cutting = scope.spawn(|| attachments.cut_off());
            while !one.is_cut_off.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert!(one.enter().is_err() && other.enter().is_err());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!cutting.is_finished(), "a request is under way");
            drop(inside);
        });
        assert!(attachments.add().enter().is_ok(), "whoever comes later may");
    }
}
