//! Planted bugs: the harness is tested by breaking the product on purpose.
//!
//! [`planted!`](crate::planted!) marks a place where a named bug can be switched on. Without the feature `planted`, which only test
//! builds have, it is the constant `false` and the compiler removes the place.

/// Whether the bug of this name is switched on in this thread. Constant `false` without the feature `planted`.
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is_on($name)
    };
}

/// Whether the bug is on.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_on(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use on::{all_on, is_on, with};

#[cfg(feature = "planted")]
mod on {
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    static ANY: AtomicBool = AtomicBool::new(false);
    static NAME: RwLock<Option<String>> = RwLock::new(None);

    /// Whether the bug of this name is switched on.
    pub fn is_on(name: &str) -> bool {
        // `with` is the only writer and leaves a valid name behind even if its closure panicked
        ANY.load(Ordering::Relaxed)
            && NAME.read().unwrap_or_else(|e| e.into_inner()).as_deref().is_some_and(|on| on == name)
    }

    /// The name of the bug switched on now, for messages.
    pub fn all_on() -> Option<String> {
        NAME.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Runs `test` with the bug switched on in the whole process; other tests of the binary must not run beside it.
    pub fn with<T>(name: &str, test: impl FnOnce() -> T) -> T {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                ANY.store(false, Ordering::SeqCst);
                *NAME.write().unwrap_or_else(|e| e.into_inner()) = None;
            }
        }
        *NAME.write().unwrap_or_else(|e| e.into_inner()) = Some(name.to_owned());
        ANY.store(true, Ordering::SeqCst);
        let _off = Off;
        test()
    }
}
