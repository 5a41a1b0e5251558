//! Letting others run before a connection waits for more.
//!
//! A thread that waits is woken by the first request, and answers it alone while the client is still writing the second:
//! then each request costs a wake on both sides. One that first lets others run finds all that a client on the same core
//! had to ask for. Measured with its reason in `docs/decisions/threads-and-batches.md`.

use block::Clock;
use block::linux::SystemClock;

/// Replies in a batch that show that the client keeps several requests under way. One that waits for each reply gains
/// nothing.
const SEVERAL: usize = 2;

/// A turn of others that lasts longer was not our client's: somebody else wants the core for long, a guest's processor
/// say.
const LONG_TURN_NS: u64 = 1_000_000;

/// For how long nobody is let run after such a turn, so that at most a slice in so much time is lost.
const REST_NS: u64 = 100_000_000;

/// When a connection lets others run.
#[derive(Default)]
pub(super) struct Pacing {
    not_before_ns: u64,
}

impl Pacing {
    /// Called before a wait, after a batch of so many replies.
    pub(super) fn before_wait(&mut self, replies: usize) {
        if replies < SEVERAL {
            return;
        }
        let began = SystemClock.monotonic_ns();
        if began < self.not_before_ns {
            return;
        }
        std::thread::yield_now();
        self.took(began, SystemClock.monotonic_ns());
    }

    fn took(&mut self, began: u64, ended: u64) {
        if ended.saturating_sub(began) > LONG_TURN_NS {
            self.not_before_ns = ended.saturating_add(REST_NS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_turn_is_not_repeated_soon() {
        let mut pacing = Pacing::default();
        pacing.took(0, LONG_TURN_NS);
        assert_eq!(pacing.not_before_ns, 0);
        pacing.took(0, LONG_TURN_NS + 1);
        assert_eq!(pacing.not_before_ns, LONG_TURN_NS + 1 + REST_NS);
        pacing.not_before_ns = u64::MAX;
        pacing.before_wait(100);
        assert_eq!(pacing.not_before_ns, u64::MAX, "not asked while it rests");
    }
}
