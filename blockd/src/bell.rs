//! What wakes a thread that works in the background, and ends it.

use block::sync::{Condvar, Mutex, lock};
use std::time::Duration;

/// Rung by others; the thread waits for it.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    is_stopping: bool,
    has_work: bool,
}

impl Bell {
    /// Says that there is something to do.
    pub fn wake(&self) {
        self.ring(|rung| rung.has_work = true);
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.ring(|rung| rung.is_stopping = true);
    }

    /// Whether it was asked to.
    pub fn is_stopping(&self) -> bool {
        lock(&self.rung).is_stopping
    }

    /// Waits for work, but no longer than this.
    pub fn wait_for_work(&self, most: Duration) {
        let sleeps = |rung: &mut Rung| !rung.is_stopping && !std::mem::take(&mut rung.has_work);
        drop(self.changed.wait_timeout_while(lock(&self.rung), most, sleeps));
    }

    /// Sleeps so long, or until the end; whether to go on.
    pub fn pause(&self, length: Duration) -> bool {
        drop(self.changed.wait_timeout_while(lock(&self.rung), length, |rung| !rung.is_stopping));
        !self.is_stopping()
    }

    fn ring(&self, change: impl FnOnce(&mut Rung)) {
        change(&mut lock(&self.rung));
        self.changed.notify_all();
    }
}
