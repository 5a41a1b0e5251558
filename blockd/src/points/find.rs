//! Which point a name means, and the names points are given.

use super::{Held, Tiers, Trouble};
use crate::error::{Error, Result};
use crate::names::{self, PointName, Which, has_members, is_group, rfc3339};
use block::{DiskId, Epoch, Time};
use control::Kind;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl Tiers {
    /// The point a name means.
    ///
    /// # Errors
    /// `NotFound` naming disk or point; the trouble instead, if something could not be looked at that may hold it.
    pub fn find(&self, name: &str) -> Result<Held> {
        let wanted = PointName::parse(name)?;
        if has_members(&wanted.item) {
            let members = self.members(name)?;
            let names: Vec<&str> = members.iter().map(|held| held.name.as_str()).collect();
            let why = "is a point of several disks, and this takes the point of one";
            return Err(Error::said(Kind::Invalid, format!("point {name}"), why)
                .with_help(format!("name one of {}", names.join(", "))));
        }
        let (points, trouble) = self.held(Some(&wanted.item));
        let named = self.disks.get(&wanted.item).ok();
        let alive = named.as_ref().map(|named| named.id);
        let chosen = choose(&points, wanted.which, alive);
        // what a disk that failed to open holds is not known: a vault may only have an older point
        let is_exact = chosen.is_some() && matches!(wanted.which, Which::Epoch(_));
        if let Some(Err(error)) = named.as_ref().filter(|_| !is_exact).map(|named| named.disk()) {
            return Err(error.with_help(
                "a point of it that a vault holds can be named by its number; `blockctl point list`",
            ));
        }
        match chosen {
            Some(index) => Ok(points[index].clone()),
            None => Err(self.missing(name, &wanted, &points, &trouble)),
        }
    }

    /// The points a name means: that of a disk, or those of all disks of a machine or a group that were made at one instant.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn members(&self, name: &str) -> Result<Vec<Held>> {
        let wanted = PointName::parse(name)?;
        if !has_members(&wanted.item) {
            return Ok(vec![self.find(name)?]);
        }
        let (mut points, trouble) = self.held(Some(&wanted.item));
        if is_group(&wanted.item) {
            keep_common(&mut points, &self.disks.groups.members(&wanted.item)?);
        }
        let Some(index) = choose(&points, wanted.which, None) else {
            return Err(self.missing(name, &wanted, &points, &trouble));
        };
        let instant = (points[index].epoch, points[index].time);
        Ok(points.into_iter().filter(|held| (held.epoch, held.time) == instant).collect())
    }

    /// Why a point is not there.
    fn missing(&self, name: &str, wanted: &PointName, points: &[Held], trouble: &[Arc<Trouble>]) -> Error {
        if let Some(trouble) = trouble.iter().find(|trouble| trouble.may_hide(name)) {
            let body = &trouble.body;
            return match body.message.strip_prefix(&format!("point {name}: ")) {
                Some(why) => Error::said(body.kind, format!("point {name}"), why),
                None => Error::said(
                    body.kind,
                    format!("point {name}"),
                    format!("not found, but {}", body.message),
                ),
            }
            .with_help(body.help.as_deref().unwrap_or("`blockctl status` says more"));
        }
        let item = &wanted.item;
        let error = Error::not_found(format!("point {name}"));
        let is_earlier =
            |held: &&Held| matches!(wanted.which, Which::Epoch(epoch) if held.epoch.get() == epoch);
        if let Some(earlier) = points.iter().filter(is_earlier).max_by_key(|held| held.time) {
            return error
                .with_help(format!("an earlier disk of this name had one, called {} now", earlier.name));
        }
        match points.iter().max_by_key(|held| (held.time, held.epoch)) {
            Some(last) if has_members(item) => {
                error.with_help(format!("the newest point of {item} is {item}@{}", last.epoch))
            }
            Some(last) => error.with_help(format!("the newest point of {item} is {}", last.name)),
            None if self.disks.of(item).is_err() => {
                error.with_help(format!("there is no {item} either; `blockctl disk list`"))
            }
            None => error.with_help(format!("`blockctl snapshot {item}` makes the first")),
        }
    }
}

/// Leaves those points of a group that were made at an instant of which every member has one: members have points of their
/// own besides.
fn keep_common(points: &mut Vec<Held>, members: &[String]) {
    let mut instants: HashMap<(Epoch, Time), HashSet<&String>> = HashMap::new();
    for held in &*points {
        let member = members.iter().find(|member| names::is_of(member, &held.item));
        instants.entry((held.epoch, held.time)).or_default().extend(member);
    }
    let common: HashSet<(Epoch, Time)> = instants
        .into_iter()
        .filter(|(_, of)| of.len() == members.len())
        .map(|(instant, _)| instant)
        .collect();
    points.retain(|held| common.contains(&(held.epoch, held.time)));
}

/// Which of an item's points is meant. While a disk is alive under the name, numbers and `latest` mean its points only:
/// what `web@2` names must not change when the disk of today gets its second point.
fn choose(points: &[Held], which: Which, alive: Option<DiskId>) -> Option<usize> {
    let newest = |fits: &dyn Fn(&Held) -> bool| {
        let fitting = (0..points.len()).filter(|&index| fits(&points[index]));
        fitting.max_by_key(|&index| (points[index].time, points[index].epoch))
    };
    let is_todays = |held: &Held| alive.is_none_or(|alive| held.disk == alive);
    match which {
        Which::Epoch(epoch) => newest(&|held| held.epoch.get() == epoch && is_todays(held)),
        Which::Latest => newest(&is_todays),
        Which::At(time) => newest(&|held| held.time <= time),
    }
}

/// Gives every point the shortest name that means it.
pub(super) fn name_all(points: &mut [Held], alive: &dyn Fn(&str) -> Option<DiskId>) {
    for start in 0..points.len() {
        if start > 0 && points[start - 1].item == points[start].item {
            continue;
        }
        let item = points[start].item.clone();
        let count = points[start..].iter().take_while(|held| held.item == item).count();
        let group = &mut points[start..start + count];
        let alive = alive(&item);
        let disk = group[0].disk;
        let is_of_one = group.iter().all(|held| held.disk == disk) && alive.is_none_or(|alive| alive == disk);
        // a disk has no number twice, unless its state was copied and both go on
        if is_of_one && group.is_sorted_by(|one, next| one.epoch < next.epoch) {
            continue;
        }
        for index in 0..group.len() {
            if choose(group, Which::Epoch(group[index].epoch.get()), alive) != Some(index) {
                group[index].name = format!("{item}@{}", rfc3339(group[index].time));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{ByteCount, StateId};

    fn held(disk: u8, epoch: u64, unix_ms: u64) -> Held {
        Held {
            name: format!("web@{epoch}"),
            item: "web".to_owned(),
            disk: DiskId::from_bytes([disk; 16]),
            state: StateId::from_bytes([disk; 16]),
            parent: None,
            epoch: Epoch::new(epoch),
            time: Time { unix_ms },
            size: ByteCount::new(4096),
            seal_ns: None,
            instant: None,
            copies: Vec::new(),
            archived: Vec::new(),
        }
    }

    #[test]
    fn the_disk_of_today_goes_before_an_earlier_one_of_the_same_name() {
        let points = [held(1, 1, 10), held(1, 2, 20), held(2, 1, 30), held(2, 5, 40)];
        let (old, new) = (DiskId::from_bytes([1; 16]), DiskId::from_bytes([2; 16]));
        assert_eq!(choose(&points, Which::Epoch(1), Some(new)), Some(2));
        assert_eq!(choose(&points, Which::Epoch(1), Some(old)), Some(0));
        assert_eq!(choose(&points, Which::Epoch(2), Some(new)), None, "only by its time");
        assert_eq!(choose(&points, Which::Latest, Some(old)), Some(1));
        assert_eq!(choose(&points, Which::Latest, None), Some(3));
        assert_eq!(choose(&points, Which::At(Time { unix_ms: 29 }), Some(new)), Some(1));
        assert_eq!(choose(&points, Which::At(Time { unix_ms: 9 }), Some(new)), None);
        assert_eq!(choose(&points, Which::Epoch(9), Some(new)), None);
    }

    #[test]
    fn points_of_a_group_are_those_all_its_members_have() {
        let of = |item: &str, epoch, unix_ms| Held { item: item.to_owned(), ..held(1, epoch, unix_ms) };
        let mut points = vec![
            of("db", 7, 10),
            of("vm/web/vda", 7, 10),
            of("vm/web/vdb", 7, 10),
            // of its own
            of("db", 8, 20),
            // the same number at another time
            of("vm/web/vda", 8, 30),
        ];
        keep_common(&mut points, &["db".to_owned(), "vm/web".to_owned()]);
        assert_eq!(points.iter().map(|held| held.epoch.get()).collect::<Vec<_>>(), [7, 7, 7]);
    }

    #[test]
    fn every_point_has_a_name_that_means_it() {
        let mut points = vec![held(1, 1, 1000), held(1, 2, 2000), held(2, 1, 3000)];
        name_all(&mut points, &|_| None);
        for (index, point) in points.iter().enumerate() {
            let name = PointName::parse(&point.name).expect("a name");
            assert_eq!(choose(&points, name.which, None), Some(index), "{}", point.name);
        }
        assert_eq!(points[0].name, "web@1970-01-01T00:00:01.000Z");
        assert_eq!(points[2].name, "web@1");
        // of a copied state and its original
        let mut twice = vec![held(1, 1, 1000), held(1, 2, 2000), held(1, 2, 3000)];
        name_all(&mut twice, &|_| Some(DiskId::from_bytes([1; 16])));
        let names: Vec<&str> = twice.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, ["web@1", "web@1970-01-01T00:00:02.000Z", "web@2"]);
    }
}
