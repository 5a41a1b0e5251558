//! When a backup is due: local times of day on days of the week. Nothing is remembered of runs; what is due follows from the
//! newest recovery point.

use super::windows::Days;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// When backups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The zone of the times.
    pub zone: TimeZone,
    /// Times of day, ascending, no two the same, at least one.
    pub times: Vec<Time>,
    /// Days of the week, at least one.
    pub days: Days,
    /// How much later an item starts at the most.
    pub jitter: Duration,
}

/// The longest gap between two slots: a week, and what a zone may leap over.
const LONGEST_GAP_DAYS: usize = 9;

impl Schedule {
    /// The newest slot not after `now`, and the first after it. None where the calendar ends.
    pub fn around(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let today = self.zone.to_datetime(now).date();
        let before = std::iter::successors(Some(today), |date| date.yesterday().ok()).take(LONGEST_GAP_DAYS);
        let after = std::iter::successors(Some(today), |date| date.tomorrow().ok()).take(LONGEST_GAP_DAYS);
        let last = before.flat_map(|date| self.slots(date)).filter(|slot| *slot <= now).max();
        let next = after.flat_map(|date| self.slots(date)).filter(|slot| *slot > now).min();
        last.zip(next)
    }

    /// When the next backup of an item begins, whose newest point is of `newest`: now if it is late. None where the calendar
    /// ends.
    pub fn next_start(&self, item: &str, now: Timestamp, newest: Option<Timestamp>) -> Option<Timestamp> {
        let (last, next) = self.around(now)?;
        let slot = if newest.is_none_or(|newest| newest < last) { last } else { next };
        let start = slot.checked_add(SignedDuration::try_from(self.delay(item, slot)).ok()?).ok()?;
        Some(start.max(now))
    }

    /// The slots of a day.
    fn slots(&self, date: Date) -> impl Iterator<Item = Timestamp> {
        let is_one = self.days.contains(date.weekday());
        let times = self.times.iter().filter(move |_| is_one);
        times
            .filter_map(move |time| date.to_datetime(*time).to_zoned(self.zone.clone()).ok())
            .map(|zoned| zoned.timestamp())
    }

    /// How much later than the slot this item starts.
    pub fn delay(&self, item: &str, slot: Timestamp) -> Duration {
        let seconds = self.jitter.as_secs();
        let drawn = crc32fast::hash(format!("{item} {}", slot.as_second()).as_bytes());
        Duration::from_secs(u64::from(drawn).checked_rem(seconds).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::time;

    fn berlin(times: &[Time]) -> Schedule {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        Schedule { zone, times: times.to_vec(), days: Days::ALL, jitter: Duration::from_secs(1800) }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_day_has_each_slot_once_whatever_the_clock_does() {
        let schedule = berlin(&[time(2, 30, 0, 0), time(14, 0, 0, 0)]);
        let slots = |from: &str, count: usize| -> Vec<String> {
            let mut now = at(from);
            let next = |_| {
                now = schedule.around(now).expect("a next one").1;
                now.to_string()
            };
            (0..count).map(next).collect()
        };
        // forward on 29 March 2026: 02:30 does not exist and is 03:30 summer time
        assert_eq!(
            slots("2026-03-28T20:00:00Z", 3),
            ["2026-03-29T01:30:00Z", "2026-03-29T12:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // back on 25 October 2026: 02:30 exists twice
        assert_eq!(
            slots("2026-10-24T20:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T13:00:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn slots_before_and_after_meet() {
        use jiff::civil::Weekday;
        let days = Days::default().and(Weekday::Sunday);
        let schedule = Schedule { days, ..berlin(&[time(2, 0, 0, 0)]) };
        let (last, next) = schedule.around(at("2026-11-28T09:00:00Z")).expect("slots");
        assert_eq!((last, next), (at("2026-11-22T01:00:00Z"), at("2026-11-29T01:00:00Z")));
        assert_eq!(schedule.around(next).expect("slots").0, next, "a slot is due at its time");
        assert_eq!(schedule.around(at("9999-12-30T00:00:00Z")), None);
    }

    #[test]
    fn jitter_is_the_same_after_a_restart_and_another_for_another_item() {
        let schedule = berlin(&[time(2, 0, 0, 0)]);
        let slot = at("2026-11-29T01:00:00Z");
        let delays: Vec<_> = ["web", "db", "mail"].map(|item| schedule.delay(item, slot)).to_vec();
        assert_eq!(delays, ["web", "db", "mail"].map(|item| schedule.delay(item, slot)));
        assert!(delays.iter().all(|delay| delay.as_secs() < 1800));
        assert!(delays[0] != delays[1] || delays[1] != delays[2]);
        assert_eq!(Schedule { jitter: Duration::ZERO, ..schedule }.delay("web", slot), Duration::ZERO);
    }
}
