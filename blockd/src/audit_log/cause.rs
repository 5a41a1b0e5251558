//! Whose request a thread carries out, so that a job it begins, which ends long after, is laid at the same door.

use std::cell::RefCell;

/// Who asked, and the entry that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Who.
    pub who: String,
    /// The entry's number.
    pub of: u64,
}

thread_local! {
    static CAUSE: RefCell<Option<Cause>> = const { RefCell::new(None) };
}

/// Does something for a cause.
pub(super) fn with<T>(cause: Cause, work: impl FnOnce() -> T) -> T {
    /// Puts the one before back, also if the work panics.
    struct Before(Option<Cause>);
    impl Drop for Before {
        fn drop(&mut self) {
            CAUSE.with(|cause| *cause.borrow_mut() = self.0.take());
        }
    }
    let _before = Before(CAUSE.with(|now| now.borrow_mut().replace(cause)));
    work()
}

/// For what this thread works; none for what the daemon does by itself.
pub fn current() -> Option<Cause> {
    CAUSE.with(|cause| cause.borrow().clone())
}
