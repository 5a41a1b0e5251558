//! How fast transfers may go, and when those that policies ask for wait: `transfer-bytes-per-second` and `[[transfer-hours]]` of
//! `docs/config.md`.

use super::{Run, Urgency};
use crate::gate::stamp;
use crate::pace::Pace;
use crate::policy::{Days, days_of_week, time_of_day};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Clock, Visit};
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest sleep before somebody looks whether the job was cancelled.
const STEP: Duration = Duration::from_millis(100);

/// Less is no transfer: a piece of a backup is 1 MiB.
const LEAST: u64 = 64 << 10;

/// A part of the day, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HoursKeys {
    from: String,
    until: String,
    days: Option<Vec<String>>,
    bytes_per_second: Option<u64>,
    #[serde(default)]
    wait: bool,
}

/// A part of the day in which another limit holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hours {
    from: Time,
    until: Time,
    /// On which it begins.
    days: Days,
    limit: Option<u64>,
    wait: bool,
}

/// The limits of all transfers together.
pub struct Limits {
    clock: Arc<dyn Clock>,
    zone: TimeZone,
    usual: Option<u64>,
    hours: Vec<Hours>,
    pace: Pace,
}

impl Limits {
    /// What a configuration says.
    ///
    /// # Errors
    /// What is wrong with which key.
    pub fn new(clock: Arc<dyn Clock>, usual: Option<u64>, hours: &[HoursKeys]) -> Result<Self, String> {
        least("transfer-bytes-per-second", usual)?;
        let hours = hours.iter().map(Hours::read).collect::<Result<_, _>>()?;
        Ok(Self { clock, zone: TimeZone::system(), usual, hours, pace: Pace::default() })
    }

    /// Whether a job has to wait now for the end of some hours.
    pub(super) fn holds(&self, urgency: Urgency) -> bool {
        let is_asked = matches!(urgency, Urgency::Restore | Urgency::ByHand);
        !is_asked && self.now().is_some_and(|hours| hours.wait)
    }

    /// Whether that changes with time.
    pub(super) fn change(&self) -> bool {
        self.hours.iter().any(|hours| hours.wait)
    }

    fn now(&self) -> Option<&Hours> {
        let now = stamp(self.clock.now());
        self.hours.iter().find(|hours| hours.has(now, &self.zone))
    }

    fn limit(&self) -> Option<u64> {
        match self.now() {
            Some(hours) => hours.limit.or(self.usual),
            None => self.usual,
        }
    }

    /// Waits as long as so many bytes take, or until the job is cancelled.
    fn pay(&self, bytes: u64, cancelled: &AtomicBool) {
        let now = || Duration::from_nanos(self.clock.monotonic_ns());
        let begun = now();
        let Some(pause) = self.pace.pay(bytes, self.limit(), begun) else { return };
        while !cancelled.load(Ordering::Relaxed) {
            let left = (begun + pause).saturating_sub(now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}

impl Hours {
    fn read(keys: &HoursKeys) -> Result<Self, String> {
        let (from, until) = (
            time_of_day("transfer-hours.from", &keys.from)?,
            time_of_day("transfer-hours.until", &keys.until)?,
        );
        if from == until {
            return Err("transfer-hours.from and until are the same time of day".to_owned());
        }
        if keys.bytes_per_second.is_none() && !keys.wait {
            return Err("transfer-hours says neither bytes-per-second nor wait".to_owned());
        }
        least("transfer-hours.bytes-per-second", keys.bytes_per_second)?;
        let days =
            keys.days.as_deref().map_or(Ok(Days::ALL), |days| days_of_week("transfer-hours.days", days))?;
        Ok(Self { from, until, days, limit: keys.bytes_per_second, wait: keys.wait })
    }

    fn has(&self, now: Timestamp, zone: &TimeZone) -> bool {
        let local = zone.to_datetime(now);
        let (time, today) = (local.time(), local.date());
        let begins = |date: jiff::civil::Date| self.days.contains(date.weekday());
        if self.from < self.until {
            return begins(today) && time >= self.from && time < self.until;
        }
        // over midnight: they belong to the day on which they begin
        (begins(today) && time >= self.from) || (time < self.until && today.yesterday().is_ok_and(begins))
    }
}

fn least(key: &str, limit: Option<u64>) -> Result<(), String> {
    match limit {
        Some(bytes) if bytes < LEAST => Err(format!("{key} is {bytes}, must be at least {LEAST}")),
        _ => Ok(()),
    }
}

/// A source that is read no faster than all transfers together may go.
struct Paced {
    source: Arc<dyn BlockSource>,
    limits: Arc<Limits>,
    cancelled: Arc<AtomicBool>,
}

impl BlockSource for Paced {
    fn size(&self) -> ByteCount {
        self.source.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.limits.pay(buf.len() as u64, &self.cancelled);
        self.source.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.source.extents(range, visit)
    }
}

impl Run {
    /// The source, read no faster than transfers may go.
    pub fn paced(&self, source: Arc<dyn BlockSource>) -> Arc<dyn BlockSource> {
        let (limits, cancelled) = (self.jobs.limits.clone(), self.cancelled.clone());
        if limits.usual.is_none() && limits.hours.is_empty() {
            return source;
        }
        Arc::new(Paced { source, limits, cancelled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> Result<Hours, String> {
        Hours::read(&toml::from_str::<HoursKeys>(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn hours_hold_where_they_say() {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        let at = |text: &str| {
            text.parse::<jiff::civil::DateTime>()
                .expect("a time")
                .to_zoned(zone.clone())
                .expect("it is")
                .timestamp()
        };
        let office = hours("from = \"08:00\"\nuntil = \"18:00\"\ndays = [\"mon\", \"fri\"]\nwait = true")
            .expect("hours");
        // 2026-11-27 is a Friday
        assert!(office.has(at("2026-11-27T08:00"), &zone) && office.has(at("2026-11-27T17:59"), &zone));
        assert!(!office.has(at("2026-11-27T18:00"), &zone) && !office.has(at("2026-11-28T10:00"), &zone));
        let night = hours("from = \"22:00\"\nuntil = \"06:00\"\ndays = [\"fri\"]\nbytes-per-second = 65536")
            .expect("hours");
        assert!(night.has(at("2026-11-27T23:00"), &zone) && night.has(at("2026-11-28T05:59"), &zone));
        assert!(!night.has(at("2026-11-28T23:00"), &zone) && !night.has(at("2026-11-27T05:00"), &zone));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        for (text, key) in [
            ("from = \"8\"\nuntil = \"18:00\"\nwait = true", "transfer-hours.from"),
            ("from = \"08:00\"\nuntil = \"08:00\"\nwait = true", "the same"),
            ("from = \"08:00\"\nuntil = \"18:00\"", "neither"),
            ("from = \"08:00\"\nuntil = \"18:00\"\nbytes-per-second = 1", "bytes-per-second"),
            ("from = \"08:00\"\nuntil = \"18:00\"\ndays = []\nwait = true", "transfer-hours.days"),
            ("from = \"08:00\"\nuntil = \"18:00\"\nspeed = 1", "speed"),
        ] {
            let said = hours(text).expect_err(text);
            assert!(said.contains(key), "{text}: {said}");
        }
    }
}
