//! How fast all that share a limit may go together.

use block::sync::{Mutex, lock};
use std::time::Duration;

/// What was moved, and when that is paid off.
#[derive(Default)]
pub struct Pace {
    free_at: Mutex<Duration>,
}

impl Pace {
    /// Accounts for bytes moved by now, at a limit of bytes a second; how long to wait before the next. None without a limit.
    pub fn pay(&self, bytes: u64, limit: Option<u64>, now: Duration) -> Option<Duration> {
        let limit = limit?;
        let mut free_at = lock(&self.free_at);
        let price =
            Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(limit.max(1))) as u64);
        *free_at = (*free_at).max(now) + price;
        Some(*free_at - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_is_paid_off_at_the_limit() {
        let pace = Pace::default();
        let second = Duration::from_secs(1);
        assert_eq!(pace.pay(1 << 40, None, Duration::ZERO), None);
        assert_eq!(pace.pay(500, Some(1000), second), Some(second / 2));
        assert_eq!(pace.pay(500, Some(1000), second), Some(second), "two threads share the limit");
        assert_eq!(
            pace.pay(1000, Some(1000), 10 * second),
            Some(second),
            "what was not used is not saved up"
        );
        assert_eq!(pace.pay(1000, Some(2000), 11 * second), Some(second / 2), "the limit of the hour counts");
    }
}
