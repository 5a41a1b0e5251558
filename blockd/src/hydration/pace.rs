//! How fast all hydrations together may go.

use block::sync::{Mutex, lock};
use std::time::Duration;

/// A limit of bytes a second, if there is one.
pub struct Pace {
    limit: Option<u64>,
    /// When what was brought so far is paid off.
    free_at: Mutex<Duration>,
}

impl Pace {
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit, free_at: Mutex::default() }
    }

    /// Accounts for bytes brought by now; how long to wait before the next.
    pub fn pay(&self, bytes: u64, now: Duration) -> Option<Duration> {
        let limit = self.limit?;
        let mut free_at = lock(&self.free_at);
        let price = Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(limit)) as u64);
        *free_at = (*free_at).max(now) + price;
        Some(*free_at - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_is_paid_off_at_the_limit() {
        assert_eq!(Pace::new(None).pay(1 << 40, Duration::ZERO), None);
        let pace = Pace::new(Some(1000));
        let second = Duration::from_secs(1);
        assert_eq!(pace.pay(500, second), Some(second / 2));
        assert_eq!(pace.pay(500, second), Some(second), "two threads share the limit");
        assert_eq!(pace.pay(1000, 10 * second), Some(second), "what was not used is not saved up");
    }
}
