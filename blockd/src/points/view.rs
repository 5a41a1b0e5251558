//! All recovery points at one moment, by the names of their disks: many items are looked at for the price of looking once.

use super::find::name_all;
use super::listing::Listing;
use super::{Held, Tiers, Trouble, instant, stored};
use crate::disks::Named;
use crate::groups::Members;
use crate::marks::Marks;
use crate::names::{is_group, is_machine};
use block::{DiskId, StateId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// The points.
pub struct View {
    marks: Arc<Marks>,
    /// Disks by name.
    disks: BTreeMap<String, Arc<Named>>,
    /// By the name their points have now: which listing, which group of it.
    groups: BTreeMap<String, Vec<(usize, usize)>>,
    listings: Vec<Arc<Listing>>,
    /// The members of groups.
    members: Arc<Members>,
}

/// What belongs to an item that is no group: the name itself, or all below a machine's.
fn below<'a, T>(
    map: &'a BTreeMap<String, T>,
    item: Option<&str>,
) -> Box<dyn Iterator<Item = (&'a String, &'a T)> + 'a> {
    match item {
        None => Box::new(map.iter()),
        Some(machine) if is_machine(machine) => {
            let front = format!("{machine}/");
            let from = (Bound::Included(front.clone()), Bound::Unbounded);
            Box::new(map.range(from).take_while(move |(name, _)| name.starts_with(&front)))
        }
        Some(disk) => Box::new(map.get_key_value(disk).into_iter()),
    }
}

impl Tiers {
    /// All points as they are now.
    pub fn look(&self) -> View {
        let disks: BTreeMap<String, Arc<Named>> =
            self.disks.all().into_iter().map(|named| (named.name.clone(), named)).collect();
        let alive: HashMap<DiskId, &String> = disks.iter().map(|(name, named)| (named.id, name)).collect();
        let listings = self.listings();
        let mut groups: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        for (at, listing) in listings.iter().enumerate() {
            for (number, group) in listing.groups.iter().enumerate() {
                let name = alive.get(&group.disk).map_or(&group.item, |name| *name);
                match groups.get_mut(name) {
                    Some(places) => places.push((at, number)),
                    None => drop(groups.insert(name.clone(), vec![(at, number)])),
                }
            }
        }
        // that they cannot be read is in the warnings of the status
        let members = self.disks.groups.all().unwrap_or_default();
        View { marks: self.vaults.marks().clone(), disks, groups, listings, members }
    }
}

impl View {
    /// The names of disks that live or of which a vault holds something, in order.
    pub fn names(&self) -> BTreeSet<&str> {
        self.disks.keys().chain(self.groups.keys()).map(String::as_str).collect()
    }

    /// The points of one item, or of all, oldest first within a disk. Copies that were deleted are none.
    pub fn held(&self, item: Option<&str>) -> Vec<Held> {
        self.copies(item, false)
    }

    /// What could not be looked at.
    pub fn trouble(&self) -> Vec<Arc<Trouble>> {
        self.listings.iter().flat_map(|listing| listing.trouble.iter().cloned()).collect()
    }

    /// The items that an item consists of; all of them where none is named.
    fn parts<'a>(&'a self, item: Option<&'a str>) -> Vec<Option<&'a str>> {
        match item {
            Some(group) if is_group(group) => {
                self.members.get(group).into_iter().flatten().map(|member| Some(member.as_str())).collect()
            }
            other => vec![other],
        }
    }

    /// Points by their copies, or by those copies in vaults that were deleted and can come back.
    pub(super) fn copies(&self, item: Option<&str>, deleted: bool) -> Vec<Held> {
        let mut points: HashMap<(DiskId, StateId), Held> = HashMap::new();
        let parts = self.parts(item);
        let disks = parts.iter().flat_map(|part| below(&self.disks, *part));
        for (_, named) in disks.filter(|_| !deleted) {
            let Ok(disk) = named.disk() else { continue };
            points.extend(disk.points().iter().map(|point| ((named.id, point.state), instant(named, point))));
        }
        for (name, places) in parts.iter().flat_map(|part| below(&self.groups, *part)) {
            for (at, number) in places {
                let (listing, group) = (&self.listings[*at], &self.listings[*at].groups[*number]);
                let key = listing.vault.key();
                for point in &group.points {
                    if self.marks.is_deleted_from(point.state, &key) != deleted {
                        continue;
                    }
                    let held = points.entry((point.disk, point.state)).or_insert_with(|| stored(name, point));
                    let copies = if listing.vault.archive { &mut held.archived } else { &mut held.copies };
                    copies.push((listing.vault.clone(), point.manifest));
                }
            }
        }
        let mut points: Vec<Held> = points.into_values().collect();
        for held in &mut points {
            // the nearest first, in the order of their names
            held.copies.sort_by_key(|(vault, _)| vault.is_remote());
            held.archived.sort_by_key(|(vault, _)| vault.is_remote());
        }
        points.sort_by(|a, b| (&a.item, a.time, a.epoch, a.state).cmp(&(&b.item, b.time, b.epoch, b.state)));
        name_all(&mut points, &|name| self.disks.get(name).map(|named| named.id));
        points
    }

    /// Some points in order, behind the one called `after`, of the items that `sees` says: no more than `limit`, and whether
    /// there are more.
    pub fn page(&self, after: Option<&str>, limit: usize, sees: &dyn Fn(&str) -> bool) -> (Vec<Held>, bool) {
        let begin = after.and_then(|name| name.split_once('@')).map(|(item, _)| item);
        let mut page = Vec::new();
        let is_next = |name: &&str| begin.is_none_or(|begin| *name >= begin) && sees(name);
        for name in self.names().into_iter().filter(is_next) {
            let mut points = self.held(Some(name));
            if Some(name) == begin {
                // one that is gone by now: begin anew with its disk rather than leave something out
                let gone = points.iter().position(|held| Some(held.name.as_str()) == after);
                points.drain(..gone.map_or(0, |at| at + 1));
            }
            page.extend(points);
            if page.len() > limit {
                page.truncate(limit);
                return (page, true);
            }
        }
        (page, false)
    }
}

impl View {
    /// Bytes that were stored for each point of a vault when it came there.
    pub fn stored_bytes(&self, vault: &str) -> HashMap<StateId, u64> {
        let of_vault = self.listings.iter().filter(|listing| listing.vault.name == vault);
        let points = of_vault.flat_map(|listing| listing.groups.iter().flat_map(|group| &group.points));
        points.map(|point| (point.state, point.bytes_stored.get())).collect()
    }
}
