//! The file of a policy, `docs/policy.md`: read strictly, since a misspelt key would cost backups.

use super::retention::{Class, Reason, Retention};
use super::schedule::Schedule;
use super::windows::{Cuts, Days};
use super::{ArchiveRule, Policy, RehearsalRule};
use crate::error::{Error, Result};
use crate::names;
use crate::rehearsal::Sign;
use control::{Consistency, Kind, RehearseRequest};
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::time::Duration;

/// More of anything than this is a slip: 27 years of days.
const MOST: u32 = 9_999;
/// More often than hourly is a stream, not a schedule.
const MOST_TIMES: usize = 24;
/// Half a day, so that two runs of a daily schedule stay apart.
const MOST_JITTER_MINUTES: u32 = 720;
const HOUR_MINUTES: i32 = 60;
const DAY_MINUTES: i32 = 24 * HOUR_MINUTES;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    zone: Option<String>,
    schedule: ScheduleKeys,
    retention: RetentionKeys,
    #[serde(default)]
    instant: InstantKeys,
    #[serde(default)]
    objectives: ObjectiveKeys,
    archive: Option<ArchiveKeys>,
    rehearsal: Option<RehearsalFileKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RehearsalFileKeys {
    every_days: u32,
    wait: Option<String>,
    timeout_seconds: Option<u64>,
    probe: Option<String>,
    memory_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ScheduleKeys {
    #[serde(default)]
    at: Vec<String>,
    every_hours: Option<i32>,
    from: Option<String>,
    until: Option<String>,
    days: Option<Vec<String>>,
    #[serde(default)]
    jitter_minutes: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RetentionKeys {
    latest: Option<u32>,
    daily: Option<u32>,
    weekly: Option<WeeklyKeys>,
    monthly: Option<MonthlyKeys>,
    yearly: Option<YearlyKeys>,
    floor: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeeklyKeys {
    count: u32,
    days: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MonthlyKeys {
    count: u32,
    day: Day,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct YearlyKeys {
    count: u32,
    month: i8,
    day: Day,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Day {
    Number(i8),
    Word(String),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstantKeys {
    days: Option<u32>,
    points: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ArchiveKeys {
    to: String,
    after_days: u32,
    classes: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ObjectiveKeys {
    rpo_hours: Option<u32>,
    rto_minutes: Option<u32>,
    consistency: Option<Consistency>,
}

/// Reads a policy.
///
/// # Errors
/// `Invalid` naming the key and what it may be.
pub fn parse(text: &str) -> Result<Policy> {
    let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
    let zone = zone(file.zone.as_deref())?;
    let instant_days = within("instant.days", file.instant.days.unwrap_or(2))?;
    let instant_points = file.instant.points.map(|count| within("instant.points", count)).transpose()?;
    let rpo = file.objectives.rpo_hours.map(|hours| within("objectives.rpo-hours", hours)).transpose()?;
    let rto =
        file.objectives.rto_minutes.map(|minutes| within("objectives.rto-minutes", minutes)).transpose()?;
    let retention = retention(&file.retention)?;
    Ok(Policy {
        text: text.to_owned(),
        schedule: schedule(&file.schedule, zone)?,
        archive: file.archive.map(|keys| archive(keys, &retention)).transpose()?,
        retention,
        instant_days: instant_days as u32,
        instant_points,
        rpo: rpo.map(|hours| Duration::from_secs(hours as u64 * 3600)),
        rto: rto.map(|minutes| Duration::from_secs(minutes as u64 * 60)),
        consistency: file.objectives.consistency,
        rehearsal: file.rehearsal.map(rehearsal).transpose()?,
    })
}

fn rehearsal(keys: RehearsalFileKeys) -> Result<RehearsalRule> {
    if let Some(wait) = &keys.wait {
        Sign::parse(wait).map_err(|error| wrong(format!("rehearsal.wait: {}", error.body().message)))?;
    }
    let every_days = within("rehearsal.every-days", keys.every_days)? as u32;
    let RehearsalFileKeys { wait, timeout_seconds, probe, memory_bytes, .. } = keys;
    let request = RehearseRequest { point: String::new(), wait, timeout_seconds, probe, memory_bytes };
    Ok(RehearsalRule { every_days, request })
}

fn archive(keys: ArchiveKeys, retention: &Retention) -> Result<ArchiveRule> {
    names::check_vault(&keys.to).map_err(|error| wrong(format!("archive.to: {}", error.body().message)))?;
    let known = || retention.classes.iter().map(|class| class.reason);
    let class = |name: &String| {
        let found = known().find(|reason| reason.name() == name);
        found.ok_or_else(|| wrong(format!("archive.classes has {name:?}, which is no class of retention")))
    };
    let classes: Vec<Reason> = match keys.classes {
        Some(names) => names.iter().map(class).collect::<Result<_>>()?,
        None => known().collect(),
    };
    if classes.is_empty() {
        return Err(wrong("archive has no class: retention names none that could go there"));
    }
    let after_days = within("archive.after-days", keys.after_days)? as u32;
    Ok(ArchiveRule { to: keys.to, after_days, classes })
}

fn wrong(why: impl Into<String>) -> Error {
    Error::said(Kind::Invalid, "policy", why).with_help("blockd/docs/policy.md describes the file")
}

fn within(key: &str, count: u32) -> Result<usize> {
    match count {
        1..=MOST => Ok(count as usize),
        _ => Err(wrong(format!("{key} is {count}, must be 1 to {MOST}"))),
    }
}

fn zone(name: Option<&str>) -> Result<TimeZone> {
    match name {
        None => Ok(TimeZone::system()),
        Some(name) => TimeZone::get(name)
            .map_err(|_| wrong(format!("zone is {name:?}, which is no time zone such as \"Europe/Berlin\""))),
    }
}

fn schedule(keys: &ScheduleKeys, zone: TimeZone) -> Result<Schedule> {
    let mut times = match (keys.at.is_empty(), keys.every_hours) {
        (false, None) if keys.from.is_none() && keys.until.is_none() => {
            keys.at.iter().map(|text| time("schedule.at", text)).collect::<Result<Vec<_>>>()?
        }
        (true, Some(hours)) => every(hours, keys.from.as_deref(), keys.until.as_deref())?,
        (false, None) => {
            return Err(wrong("schedule.from and schedule.until go with every-hours, not with at"));
        }
        _ => return Err(wrong("schedule has either at, a list of times such as \"02:00\", or every-hours")),
    };
    times.sort();
    times.dedup();
    if times.len() > MOST_TIMES {
        return Err(wrong(format!(
            "schedule.at has {} times, at most {MOST_TIMES} are possible",
            times.len()
        )));
    }
    if keys.jitter_minutes > MOST_JITTER_MINUTES {
        let minutes = keys.jitter_minutes;
        return Err(wrong(format!(
            "schedule.jitter-minutes is {minutes}, must be 0 to {MOST_JITTER_MINUTES}"
        )));
    }
    Ok(Schedule {
        zone,
        times,
        days: keys.days.as_deref().map_or(Ok(Days::ALL), |days| self::days("schedule.days", days))?,
        jitter: Duration::from_secs(u64::from(keys.jitter_minutes) * 60),
    })
}

/// Every so many hours of a part of the day, its end included.
fn every(hours: i32, from: Option<&str>, until: Option<&str>) -> Result<Vec<Time>> {
    if !(1..=24).contains(&hours) || 24 % hours != 0 {
        return Err(wrong(format!("schedule.every-hours is {hours}, must be 1, 2, 3, 4, 6, 8, 12 or 24")));
    }
    let minutes = |key, text: Option<&str>, unless: i32| match text {
        None => Ok(unless),
        Some(text) => {
            time(key, text).map(|time| i32::from(time.hour()) * HOUR_MINUTES + i32::from(time.minute()))
        }
    };
    let from = minutes("schedule.from", from, 0)?;
    let until = minutes("schedule.until", until, DAY_MINUTES - 1)?;
    if until < from {
        return Err(wrong(
            "schedule.until is before schedule.from; a part of the day does not go past midnight",
        ));
    }
    let minutes = (from..=until).step_by((hours * HOUR_MINUTES) as usize);
    Ok(minutes.map(|at| Time::constant((at / HOUR_MINUTES) as i8, (at % HOUR_MINUTES) as i8, 0, 0)).collect())
}

fn time(key: &str, text: &str) -> Result<Time> {
    time_of_day(key, text).map_err(wrong)
}

/// A time such as 02:00; else what is wrong with the key.
///
/// # Errors
/// What is wrong with which key.
pub fn time_of_day(key: &str, text: &str) -> std::result::Result<Time, String> {
    let digits = |part: &str| {
        let is_two = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_two.then(|| part.parse::<i8>().ok()).flatten()
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| digits(hour).zip(digits(minute)));
    parts
        .and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok())
        .ok_or_else(|| format!("{key} has {text:?}, which is no time of day such as \"02:00\""))
}

fn days(key: &str, names: &[String]) -> Result<Days> {
    days_of_week(key, names).map_err(wrong)
}

/// Days such as mon; else what is wrong with the key.
///
/// # Errors
/// What is wrong with which key.
pub fn days_of_week(key: &str, names: &[String]) -> std::result::Result<Days, String> {
    const ALL: [(&str, Weekday); 7] = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];
    let mut days = Days::default();
    for name in names {
        let found = ALL.iter().find(|(known, _)| known == name);
        let (_, day) = found.ok_or_else(|| {
            format!("{key} has {name:?}, which is none of mon, tue, wed, thu, fri, sat, sun")
        })?;
        days = days.and(*day);
    }
    if days.count() == 0 {
        return Err(format!("{key} names no day"));
    }
    Ok(days)
}

fn retention(keys: &RetentionKeys) -> Result<Retention> {
    let mut classes = Vec::new();
    let mut class = |reason: Reason, cuts, count: u32| {
        let count = within(&format!("retention.{}", reason.name()), count)?;
        classes.push(Class { reason, cuts, count });
        Ok::<_, Error>(())
    };
    if let Some(count) = keys.daily {
        class(Reason::Daily, Cuts::Daily, count)?;
    }
    if let Some(weekly) = &keys.weekly {
        class(Reason::Weekly, Cuts::Weekly(days("retention.weekly.days", &weekly.days)?), weekly.count)?;
    }
    if let Some(monthly) = &keys.monthly {
        class(Reason::Monthly, Cuts::Monthly(day("retention.monthly.day", &monthly.day)?), monthly.count)?;
    }
    if let Some(yearly) = &keys.yearly {
        let (month, day) = (yearly.month, day("retention.yearly.day", &yearly.day)?);
        if !(1..=12).contains(&month) {
            return Err(wrong(format!("retention.yearly.month is {month}, must be 1 to 12")));
        }
        class(Reason::Yearly, Cuts::Yearly { month, day }, yearly.count)?;
    }
    let latest = keys.latest.map_or(Ok(0), |count| within("retention.latest", count))?;
    if classes.is_empty() && latest == 0 {
        return Err(wrong(
            "retention has none of latest, daily, weekly, monthly, yearly: nothing would stay",
        ));
    }
    let floor = within("retention.floor", keys.floor.unwrap_or(1))?;
    Ok(Retention { latest, classes, floor })
}

fn day(key: &str, day: &Day) -> Result<i8> {
    match day {
        Day::Number(day @ 1..=31) => Ok(*day),
        Day::Word(word) if word == "last" => Ok(31),
        Day::Number(other) => Err(wrong(format!("{key} is {other}, must be 1 to 31 or \"last\""))),
        Day::Word(other) => Err(wrong(format!("{key} is {other:?}, must be 1 to 31 or \"last\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::time as at;

    const ALL: &str = r#"
        zone = "Europe/Berlin"
        [schedule]
        every-hours = 6
        from = "08:00"
        until = "20:00"
        days = ["mon", "fri"]
        jitter-minutes = 30
        [retention]
        latest = 5
        daily = 30
        weekly = { count = 8, days = ["sun"] }
        monthly = { count = 12, day = "last" }
        yearly = { count = 7, month = 1, day = 1 }
        floor = 2
        [instant]
        days = 3
        points = 20
        [objectives]
        rpo-hours = 26
        rto-minutes = 90
        consistency = "filesystem"
        [archive]
        to = "cold"
        after-days = 90
        classes = ["monthly", "yearly"]
        [rehearsal]
        every-days = 7
        wait = "console:login:"
        timeout-seconds = 900
    "#;

    #[test]
    fn everything_can_be_said() {
        let policy = parse(ALL).expect("a policy");
        assert_eq!(policy.schedule.times, [at(8, 0, 0, 0), at(14, 0, 0, 0), at(20, 0, 0, 0)]);
        assert!(policy.schedule.days.contains(Weekday::Friday) && policy.schedule.days.count() == 2);
        let reasons: Vec<_> = policy.retention.classes.iter().map(|class| class.reason.name()).collect();
        assert_eq!(reasons, ["daily", "weekly", "monthly", "yearly"]);
        assert_eq!(policy.retention.classes[2].cuts, Cuts::Monthly(31));
        assert_eq!((policy.retention.latest, policy.retention.floor), (5, 2));
        assert_eq!((policy.instant_days, policy.instant_points), (3, Some(20)));
        assert_eq!(policy.rpo, Some(Duration::from_secs(26 * 3600)));
        assert_eq!(policy.rto, Some(Duration::from_secs(90 * 60)));
        assert_eq!(policy.consistency, Some(Consistency::Filesystem));
        let rule = policy.rehearsal.expect("a rule");
        assert_eq!((rule.every_days, rule.request.timeout_seconds), (7, Some(900)));
        assert_eq!(rule.request.wait.as_deref(), Some("console:login:"));
        let rule = policy.archive.expect("a rule");
        assert_eq!((rule.to.as_str(), rule.after_days), ("cold", 90));
        assert_eq!(rule.classes, [Reason::Monthly, Reason::Yearly]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        let refused = |from: &str, to: &str, key: &str| {
            let text = ALL.replace(from, to);
            assert_ne!(text, ALL, "{from}");
            let said = parse(&text).expect_err(to).body().message;
            assert!(said.contains(key), "{to}: {said}");
        };
        refused("Europe/Berlin", "Europe/Atlantis", "zone");
        refused("every-hours = 6", "every-hours = 5", "every-hours");
        refused("every-hours = 6", "every-hours = 0", "every-hours");
        refused("every-hours = 6", "at = [\"02:00\"]", "from");
        refused("until = \"20:00\"", "until = \"07:00\"", "until");
        refused("\"08:00\"", "\"8:00\"", "schedule.from");
        refused("\"08:00\"", "\"+8:00\"", "schedule.from");
        refused("\"08:00\"", "\"24:00\"", "schedule.from");
        refused("[\"mon\", \"fri\"]", "[]", "schedule.days");
        refused("\"fri\"", "\"friday\"", "friday");
        refused("jitter-minutes = 30", "jitter-minutes = 721", "jitter-minutes");
        refused("daily = 30", "daily = 0", "retention.daily");
        refused("daily = 30", "daily = 10000", "retention.daily");
        refused("daily = 30", "dayly = 30", "dayly");
        refused("\"last\"", "\"first\"", "retention.monthly.day");
        refused("month = 1", "month = 13", "retention.yearly.month");
        refused("floor = 2", "floor = 0", "retention.floor");
        refused("days = 3", "days = 0", "instant.days");
        refused("every-days = 7", "every-days = 0", "rehearsal.every-days");
        refused("console:login:", "ssh", "rehearsal.wait");
        refused("\"filesystem\"", "\"perfect\"", "perfect");
        refused("after-days = 90", "after-days = 0", "archive.after-days");
        refused("\"cold\"", "\"Cold/er\"", "archive.to");
        refused("[\"monthly\", \"yearly\"]", "[\"hourly\"]", "archive.classes");
        refused("[\"monthly\", \"yearly\"]", "[]", "archive");
        let nothing = "[schedule]\nat = [\"02:00\"]\n[retention]\nfloor = 1\n";
        assert!(parse(nothing).expect_err("nothing stays").body().message.contains("nothing would stay"));
        assert!(parse("").is_err());
    }
}
