//! What is known of the hydration of one disk.

use std::collections::VecDeque;
use std::time::Duration;

/// For as long after a guest's last request its disk counts as used.
const USED_FOR: Duration = Duration::from_millis(200);
/// Speed is measured over so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two looks at how far it is.
const SAMPLE: Duration = Duration::from_millis(500);
/// What was brought is made durable after so much, or so long: that much is brought again after a crash.
const SETTLE_BYTES: u64 = 1 << 30;
const SETTLE_AFTER: Duration = Duration::from_secs(5);

/// A disk that is being hydrated.
#[derive(Default)]
pub struct Track {
    /// Why it does not go on.
    pub trouble: Option<String>,
    left_alone_until: Duration,
    /// How far it was, and when.
    samples: VecDeque<(Duration, u64)>,
    unsettled: u64,
    /// When it was made durable last, or the first of what is not was brought.
    settled_at: Duration,
    /// Requests of its guest when last counted, and when the count last grew.
    requests: u64,
    used_at: Option<Duration>,
}

impl Track {
    pub fn may_go_on(&self, now: Duration) -> bool {
        now >= self.left_alone_until
    }

    pub fn leave_alone(&mut self, until: Duration, why: String) {
        (self.left_alone_until, self.trouble) = (until, Some(why));
        self.samples.clear();
    }

    /// So many bytes were brought, and so far it is.
    pub fn went_on(&mut self, now: Duration, far: u64, bytes: u64) {
        self.trouble = None;
        if self.unsettled == 0 {
            self.settled_at = now;
        }
        self.unsettled += bytes;
        if self.samples.back().is_none_or(|(last, _)| now >= *last + SAMPLE) {
            self.samples.push_back((now, far));
        }
        while self.samples.front().is_some_and(|(first, _)| *first + WINDOW < now) && self.samples.len() > 2 {
            self.samples.pop_front();
        }
    }

    /// Bytes a second; none before it is known.
    pub fn speed(&self) -> Option<u64> {
        let ((first, from), (last, to)) = (self.samples.front()?, self.samples.back()?);
        let took = last.checked_sub(*first).filter(|took| !took.is_zero())?;
        Some((u128::from(to.saturating_sub(*from)) * 1000 / took.as_millis().max(1)) as u64)
    }

    /// Whether what was brought is to be made durable now; it then counts as being so.
    pub fn is_to_settle(&mut self, now: Duration) -> bool {
        let is_due =
            self.unsettled >= SETTLE_BYTES || self.unsettled > 0 && now >= self.settled_at + SETTLE_AFTER;
        if is_due {
            (self.unsettled, self.settled_at) = (0, now);
        }
        is_due
    }

    /// Whether the guest has asked for something just now.
    pub fn is_used(&mut self, requests: u64, now: Duration) -> bool {
        if self.requests != requests {
            (self.requests, self.used_at) = (requests, Some(now));
        }
        self.used_at.is_some_and(|used| now < used + USED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let mut track = Track::default();
        assert_eq!(track.speed(), None);
        for second in 0..30 {
            // ten times as fast in the end
            let far =
                if second < 15 { u64::from(second) * 100 } else { 1500 + u64::from(second - 15) * 1000 };
            track.went_on(second * SECOND, far, 1);
        }
        assert_eq!(track.speed(), Some(1000));
        track.leave_alone(31 * SECOND, "away".to_owned());
        assert_eq!((track.speed(), track.may_go_on(30 * SECOND)), (None, false));
    }

    #[test]
    fn it_is_settled_by_size_or_by_time_and_never_for_nothing() {
        let mut track = Track::default();
        assert!(!track.is_to_settle(100 * SECOND), "nothing was brought");
        track.went_on(100 * SECOND, 1, 1);
        assert!(!track.is_to_settle(102 * SECOND), "it has waited for two seconds");
        track.went_on(103 * SECOND, 2, 1);
        assert!(track.is_to_settle(105 * SECOND) && !track.is_to_settle(200 * SECOND));
        track.went_on(201 * SECOND, 1, 1);
        assert!(!track.is_to_settle(202 * SECOND));
        track.went_on(202 * SECOND, 1, SETTLE_BYTES);
        assert!(track.is_to_settle(202 * SECOND));
    }

    #[test]
    fn a_guest_counts_for_a_moment() {
        let mut track = Track::default();
        assert!(!track.is_used(0, SECOND));
        assert!(track.is_used(1, SECOND) && track.is_used(1, SECOND + USED_FOR / 2));
        assert!(!track.is_used(1, SECOND + USED_FOR));
    }
}
