//! Which blob is in which set, and which sets are to be made.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};

use super::set::{Head, Member, Scheme, SetId};

/// A blob that is in no set yet.
pub(super) struct Waiting {
    pub(super) len: u64,
    /// The sums of what was put; none if that was before the store was opened.
    pub(super) sums: Option<Vec<u32>>,
}

/// A set whose parity is in the store.
struct Set {
    members: Vec<Member>,
    /// Parities that are there.
    present: usize,
    /// Members that are in no other set and not deleted.
    left: usize,
}

impl Set {
    fn is_weak(&self, scheme: Scheme) -> bool {
        self.present < scheme.parity() || self.left < self.members.len()
    }
}

/// Where a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) set: SetId,
    pub(super) at: usize,
}

/// All of it, in memory.
#[derive(Default)]
pub(super) struct Table {
    sets: BTreeMap<SetId, Set>,
    seats: BTreeMap<String, Seat>,
    pub(super) waiting: BTreeMap<String, Waiting>,
    gone: BTreeSet<String>,
}

impl Table {
    pub(super) fn bury(&mut self, name: &str) {
        self.gone.insert(name.to_owned());
        self.waiting.remove(name);
        if let Some(seat) = self.seats.remove(name) {
            self.leave(&seat.set);
        }
    }

    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.gone.contains(name)
    }

    fn leave(&mut self, set: &SetId) {
        if let Some(set) = self.sets.get_mut(set) {
            set.left -= 1;
        }
    }

    /// A set is in the store; from now on it protects its members.
    pub(super) fn add(&mut self, head: &Head, present: usize) {
        self.sets.insert(head.set, Set { members: head.members.clone(), present, left: 0 });
        for (at, member) in head.members.iter().enumerate() {
            if self.gone.contains(&member.name) {
                continue;
            }
            self.waiting.remove(&member.name);
            if let Some(before) = self.seats.insert(member.name.clone(), Seat { set: head.set, at }) {
                self.leave(&before.set);
            }
            if let Some(set) = self.sets.get_mut(&head.set) {
                set.left += 1;
            }
        }
    }

    /// The set of a blob.
    pub(super) fn seat(&self, name: &str) -> Option<Seat> {
        self.seats.get(name).copied()
    }

    /// What a set says of a member.
    pub(super) fn member(&self, seat: &Seat) -> Option<&Member> {
        self.sets.get(&seat.set)?.members.get(seat.at)
    }

    /// All members that begin like this, with their lengths.
    pub(super) fn members_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let from = self
            .seats
            .range::<str, _>((Included(prefix), Unbounded))
            .take_while(move |(name, _)| name.starts_with(prefix));
        from.filter_map(|(name, seat)| Some((name.as_str(), self.member(seat)?.len)))
    }

    pub(super) fn set_ids(&self) -> Vec<SetId> {
        self.sets.keys().copied().collect()
    }

    pub(super) fn members_of(&self, set: &SetId) -> Vec<Member> {
        self.sets.get(set).map(|set| set.members.clone()).unwrap_or_default()
    }

    /// Blobs that no set protects as it should.
    pub(super) fn loose(&self, scheme: Scheme) -> Vec<Member> {
        let waiting = self.waiting.iter().map(|(name, one)| Member { name: name.clone(), len: one.len });
        let weak = self.sets.iter().filter(|(_, set)| set.is_weak(scheme));
        waiting.chain(weak.flat_map(|(id, set)| self.still_in(id, set))).collect()
    }

    fn still_in<'a>(&'a self, id: &'a SetId, set: &'a Set) -> impl Iterator<Item = Member> + 'a {
        let is_here =
            move |member: &&Member| self.seats.get(&member.name).is_some_and(|seat| seat.set == *id);
        set.members.iter().filter(is_here).cloned()
    }

    /// What the next set is made of; none if there is nothing to do.
    pub(super) fn next_group(&self, scheme: Scheme) -> Vec<Member> {
        let mut group = self.loose(scheme);
        let short =
            || self.sets.iter().filter(|(_, set)| !set.is_weak(scheme) && set.left < scheme.members());
        let in_short: usize = short().map(|(_, set)| set.left).sum();
        if !group.is_empty() && group.len() + in_short >= scheme.members() {
            for (id, set) in short() {
                if group.len() + set.left <= scheme.members() {
                    group.extend(self.still_in(id, set));
                }
            }
        }
        group.truncate(scheme.members());
        group
    }

    /// A set nobody is left in, and whom of it a mark still calls deleted.
    pub(super) fn next_empty(&self) -> Option<(SetId, Vec<String>)> {
        let (id, set) = self.sets.iter().find(|(_, set)| set.left == 0)?;
        let elsewhere = |name: &str| {
            let others = self.sets.iter().filter(|(other, _)| *other != id);
            others.flat_map(|(_, set)| &set.members).any(|member| member.name == name)
        };
        let names = set.members.iter().map(|member| &member.name);
        let marks = names.filter(|name| self.gone.contains(*name) && !elsewhere(name)).cloned().collect();
        Some((*id, marks))
    }

    pub(super) fn forget(&mut self, set: &SetId, marks: &[String]) {
        self.sets.remove(set);
        self.gone.retain(|name| !marks.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(id: u8, names: &[&str]) -> Head {
        let members = names.iter().map(|name| Member { name: (*name).to_owned(), len: 5000 }).collect();
        Head { set: [id; 16], number: 0, parity: 1, members }
    }

    fn group(table: &Table) -> Vec<String> {
        let scheme = Scheme::new(3, 1).unwrap();
        table.next_group(scheme).into_iter().map(|member| member.name).collect()
    }

    #[test]
    fn sets_are_made_of_what_waits_of_short_sets_and_of_weak_ones() {
        let mut table = Table::default();
        let wait = |table: &mut Table, name: &str| {
            table.waiting.insert(name.to_owned(), Waiting { len: 5000, sums: None });
        };
        assert!(group(&table).is_empty());
        wait(&mut table, "a");
        assert_eq!(group(&table), ["a"]);
        table.add(&head(1, &["a"]), 1);
        assert!(group(&table).is_empty(), "it is protected");
        wait(&mut table, "b");
        assert_eq!(group(&table), ["b"]);
        table.add(&head(2, &["b"]), 1);
        wait(&mut table, "c");
        assert_eq!(group(&table), ["c", "a", "b"], "a full set");
        table.add(&head(3, &["c", "a", "b"]), 1);
        assert_eq!(table.next_empty(), Some(([1; 16], Vec::new())));
        table.forget(&[1; 16], &[]);
        table.forget(&[2; 16], &[]);
        assert_eq!((table.next_empty(), group(&table).len()), (None, 0));
        table.bury("a");
        assert_eq!(group(&table), ["c", "b"], "weak without a");
        table.add(&head(4, &["c", "b"]), 1);
        assert_eq!(table.next_empty(), Some(([3; 16], vec!["a".to_owned()])));
        assert!(table.is_gone("a") && table.seat("a").is_none());
        table.forget(&[3; 16], &["a".to_owned()]);
        assert!(!table.is_gone("a"));
        table.add(&head(5, &["d"]), 0);
        assert_eq!(group(&table), ["d", "c", "b"], "its parity is lost");
    }
}
