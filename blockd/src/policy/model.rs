//! Retention against a model that shares nothing with it but the rules: days are counted by arithmetic of its own, and every
//! point is judged by itself, by counting what is newer.

use super::retention::{Class, Reason};
use super::windows::{Cuts, Days};
use super::{Candidate, Retention, judge};
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;

/// A day as year, month and day of the month, from the days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let era_days = days + 719_468;
    let era = era_days.div_euclid(146_097);
    let of_era = era_days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from((year % 4 == 0 && year % 100 != 0) || year % 400 == 0),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The number of the window that a day lies in.
fn window(cuts: Cuts, days: i64) -> i64 {
    let (year, month, of_month) = civil(days);
    let begun = |day: i8, month: i64| of_month >= i64::from(day).min(month_days(year, month));
    match cuts {
        Cuts::Daily => days,
        Cuts::Weekly(of_week) => {
            // 1970-01-01 was a Thursday
            let weekday =
                |day: i64| Weekday::from_monday_zero_offset((day + 3).rem_euclid(7) as i8).expect("a day");
            let monday = days - (days + 3).rem_euclid(7);
            let this_week = (monday..=days).filter(|day| of_week.contains(weekday(*day))).count();
            monday.div_euclid(7) * of_week.count() as i64 + this_week as i64
        }
        Cuts::Monthly(day) => year * 12 + month - i64::from(!begun(day, month)),
        Cuts::Yearly { month: cut, day } => {
            let cut = i64::from(cut);
            year - i64::from(month < cut || (month == cut && !begun(day, month)))
        }
    }
}

/// Which points each class keeps.
fn expected(
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
    points: &[Candidate],
) -> Vec<BTreeSet<Reason>> {
    let mut kept = vec![BTreeSet::new(); points.len()];
    let newer_good = |index: usize| points[index + 1..].iter().filter(|point| point.is_good).count();
    for index in 0..points.len() {
        for (reason, count) in [(Reason::Latest, retention.latest), (Reason::Floor, retention.floor)] {
            if newer_good(index) < count {
                kept[index].insert(reason);
            }
        }
        if points[index].keep_until.is_some_and(|until| until > now) {
            kept[index].insert(Reason::Asked);
        }
        if points[index].is_held {
            kept[index].insert(Reason::Hold);
        }
    }
    for class in &retention.classes {
        let day = |point: &Candidate| {
            let offset = zone.to_offset(point.time).seconds();
            (point.time.as_second() + i64::from(offset)).div_euclid(86_400)
        };
        let mut latest = i64::MIN;
        let windows: Vec<i64> = points
            .iter()
            .map(|point| {
                // a window that has begun is not left when clocks go back over midnight
                latest = latest.max(window(class.cuts, day(point)));
                latest
            })
            .collect();
        for index in 0..points.len() {
            let good = |other: &usize| points[*other].is_good;
            let newer = (0..points.len()).filter(|&other| good(&other) && windows[other] > windows[index]);
            let newer: BTreeSet<i64> = newer.map(|other| windows[other]).collect();
            let mut same =
                (0..points.len()).filter(|&other| good(&other) && windows[other] == windows[index]);
            let stands = same.next().is_none_or(|first| first == index);
            if stands && newer.len() < class.count {
                kept[index].insert(class.reason);
            }
        }
    }
    kept
}

/// Draws numbers, the same ones for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn retention(dice: &mut Dice) -> Retention {
    let count = |dice: &mut Dice| 1 + dice.below(6) as usize;
    let day = |dice: &mut Dice| 1 + dice.below(31) as i8;
    let mut classes = Vec::new();
    let kinds = dice.below(15) + 1;
    let mut class = |reason, cuts, count| classes.push(Class { reason, cuts, count });
    if kinds & 1 != 0 {
        class(Reason::Daily, Cuts::Daily, count(dice));
    }
    if kinds & 2 != 0 {
        let drawn = 1 + dice.below(127);
        let days = (0..7).filter(|bit| drawn & 1 << bit != 0);
        let days = days.map(|bit| Weekday::from_monday_zero_offset(bit).expect("a day"));
        class(Reason::Weekly, Cuts::Weekly(days.fold(Days::default(), Days::and)), count(dice));
    }
    if kinds & 4 != 0 {
        class(Reason::Monthly, Cuts::Monthly(day(dice)), count(dice));
    }
    if kinds & 8 != 0 {
        let month = 1 + dice.below(12) as i8;
        class(Reason::Yearly, Cuts::Yearly { month, day: day(dice) }, count(dice));
    }
    Retention { latest: dice.below(4) as usize, classes, floor: 1 + dice.below(3) as usize }
}

/// Points at distances of minutes to years, some at the same moment, over changes of clocks and leap days.
fn points(dice: &mut Dice) -> Vec<Candidate> {
    let pace = [600, 3_600, 20_000, 86_400, 90_000, 604_800, 2_700_000, 31_600_000][dice.below(8) as usize];
    let mut at = 600_000_000 + dice.below(2_400_000_000) as i64;
    (0..dice.below(40))
        .map(|_| {
            at += dice.below(2 * pace) as i64;
            let time = Timestamp::from_second(at).expect("a time");
            let kept = (dice.below(20) == 0).then(|| dice.below(100_000_000) as i64 + at);
            Candidate {
                time,
                is_good: dice.below(10) > 0,
                keep_until: kept.map(|until| Timestamp::from_second(until).expect("a time")),
                is_held: dice.below(30) == 0,
            }
        })
        .collect()
}

#[test]
fn a_model_agrees_on_random_calendars() {
    // Havana's clocks go back at midnight, Lord Howe's by half an hour; Apia left out a day
    let zones = ["UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia"];
    let zones = zones.map(|name| TimeZone::get(name).expect("a zone"));
    let rounds = if std::env::var_os("BLOCKD_SOAK").is_some() { 1_000_000 } else { 100_000 };
    for seed in 0..rounds {
        let mut dice = Dice(seed);
        let (retention, points) = (retention(&mut dice), points(&mut dice));
        let zone = &zones[dice.below(zones.len() as u64) as usize];
        let last = points.last().map_or(Timestamp::UNIX_EPOCH, |point| point.time);
        let judged = judge(&retention, zone, last, &points);
        let reasons = |kept: &Vec<super::Kept>| kept.iter().map(|kept| kept.reason).collect::<BTreeSet<_>>();
        let judged: Vec<_> = judged.iter().map(reasons).collect();
        let expected = expected(&retention, zone, last, &points);
        assert_eq!(judged, expected, "seed {seed}: {retention:?} of {points:?}");
        let good = points.iter().filter(|point| point.is_good).count();
        let left =
            points.iter().zip(&judged).filter(|(point, kept)| point.is_good && !kept.is_empty()).count();
        assert!(left >= good.min(retention.floor), "seed {seed}: the floor");
    }
}

/// What `until` says comes true: with a point in every window the point goes on that day and not a day sooner.
#[test]
fn points_go_on_the_day_that_was_told() {
    let zone = TimeZone::UTC;
    for (cuts, count) in [(Cuts::Daily, 5), (Cuts::Monthly(31), 2), (Cuts::Weekly(Days::ALL), 3)] {
        let class = Class { reason: Reason::Daily, cuts, count };
        let retention = Retention { latest: 0, classes: vec![class], floor: 1 };
        let point = |day: i64| Candidate {
            time: Timestamp::from_second(1_700_000_000 + day * 86_400).expect("a time"),
            is_good: true,
            keep_until: None,
            is_held: false,
        };
        let mut told: Vec<Option<jiff::civil::Date>> = Vec::new();
        for days in 1..120 {
            let points: Vec<_> = (0..days).map(point).collect();
            let today = zone.to_datetime(points[points.len() - 1].time).date();
            let judged = judge(&retention, &zone, points[points.len() - 1].time, &points);
            told.resize(points.len(), None);
            for (kept, told) in judged.iter().zip(&mut told) {
                let stands = kept.iter().find(|kept| kept.reason == Reason::Daily);
                if let Some(until) = *told {
                    assert_eq!(stands.is_some(), today < until, "{cuts:?}: told {until}, it is {today}");
                }
                *told = stands.and_then(|kept| kept.until);
            }
        }
    }
}
