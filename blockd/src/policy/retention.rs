//! Which recovery points stay, and why: pure, and judged against a model of its own.

use super::windows::Cuts;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A reason to keep a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It is one of the newest.
    Latest,
    /// It stands for a day.
    Daily,
    /// It stands for a week.
    Weekly,
    /// It stands for a month.
    Monthly,
    /// It stands for a year.
    Yearly,
    /// It is one of the last good ones.
    Floor,
    /// It was made to be kept for a time.
    Asked,
    /// Somebody holds it.
    Hold,
}

impl Reason {
    /// Its name, in the API and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Floor => "floor",
            Self::Asked => "asked",
            Self::Hold => "hold",
        }
    }
}

/// A class: how time is cut, and how many windows keep their point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// What it is called.
    pub reason: Reason,
    /// Its windows.
    pub cuts: Cuts,
    /// How many.
    pub count: usize,
}

/// How many points stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// The newest so many, whenever they were made.
    pub latest: usize,
    /// The classes.
    pub classes: Vec<Class>,
    /// So many of the newest good points stay whatever else is said.
    pub floor: usize,
}

/// A point to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// When it was made.
    pub time: Timestamp,
    /// Whether nothing says that it is damaged.
    pub is_good: bool,
    /// Until when it was made to be kept.
    pub keep_until: Option<Timestamp>,
    /// Whether somebody holds it.
    pub is_held: bool,
}

/// Why a point stays, and until when as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The reason.
    pub reason: Reason,
    /// The day on which it ends if every window gets its point; none where no day can be told.
    pub until: Option<Date>,
}

/// Judges points of one disk, oldest first. For each, every reason to keep it; one without a reason may go.
pub fn judge(retention: &Retention, zone: &TimeZone, now: Timestamp, points: &[Candidate]) -> Vec<Vec<Kept>> {
    let mut kept = vec![Vec::new(); points.len()];
    let mut keep = |index: usize, reason, until| kept[index].push(Kept { reason, until });
    newest(points, retention.latest).for_each(|index| keep(index, Reason::Latest, None));
    for class in &retention.classes {
        for (index, until) in stand(class, zone, points) {
            keep(index, class.reason, Some(until));
        }
    }
    for (index, point) in points.iter().enumerate() {
        if let Some(until) = point.keep_until.filter(|until| *until > now) {
            // the day after the last on which it is asked for
            let day = zone.to_datetime(until).date();
            keep(index, Reason::Asked, Some(day.saturating_add(1.day())));
        }
        if point.is_held {
            keep(index, Reason::Hold, None);
        }
    }
    newest(points, retention.floor).for_each(|index| keep(index, Reason::Floor, None));
    kept
}

/// The newest so many good points, and those that are not good among them.
fn newest(points: &[Candidate], count: usize) -> impl Iterator<Item = usize> {
    let good = || (0..points.len()).rev().filter(|&index| points[index].is_good);
    let first = match good().nth(count.saturating_sub(1)) {
        _ if count == 0 => points.len(),
        Some(index) => index,
        // there are fewer good ones
        None => 0,
    };
    first..points.len()
}

/// A window that has a point.
struct Window {
    start: Date,
    points: std::ops::Range<usize>,
}

/// The points that stand for the windows a class keeps, with the day on which each is displaced at the earliest.
fn stand(class: &Class, zone: &TimeZone, points: &[Candidate]) -> Vec<(usize, Date)> {
    let windows = windows(class.cuts, zone, points);
    let good_in = |window: &Window| window.points.clone().find(|&index| points[index].is_good);
    let newest = windows.iter().rev().find(|window| good_in(window).is_some());
    let newest = newest.or(windows.last()).map_or(Date::MIN, |window| window.start);
    let mut standing = Vec::new();
    // how many windows with a good point are newer
    let mut newer = 0;
    for window in windows.iter().rev() {
        if newer == class.count {
            break;
        }
        let displaced = class.cuts.nth_after(newest, class.count - newer);
        match good_in(window) {
            Some(index) => {
                standing.push((index, displaced));
                newer += 1;
            }
            None => standing.extend(window.points.clone().map(|index| (index, displaced))),
        }
    }
    standing
}

fn windows(cuts: Cuts, zone: &TimeZone, points: &[Candidate]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    let mut next = Date::MIN;
    for (index, point) in points.iter().enumerate() {
        let date = zone.to_datetime(point.time).date();
        match windows.last_mut() {
            // times that go back by a zone's change stay in the window that is open
            Some(open) if date < next => open.points.end = index + 1,
            _ => {
                let start = cuts.start_of(date);
                next = cuts.next_after(start);
                windows.push(Window { start, points: index..index + 1 });
            }
        }
    }
    windows
}
