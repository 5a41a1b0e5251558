//! The index in memory: one sorted array over all index blobs.

use std::collections::HashMap;

use crate::index::{Entry, IndexContent, PackRow};
use crate::name::{Address, ContentId};
use crate::pack::Record;

/// All known places of all known chunks and nodes.
#[derive(Default, Clone)]
pub(crate) struct Index {
    packs: Vec<PackRow>,
    rows: HashMap<Address, u32>,
    // ascending by id; of equal ids the newest first
    entries: Vec<Entry>,
}

/// One place where a chunk or node is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub(crate) entry: Entry,
    pub(crate) pack: PackRow,
}

impl Index {
    /// This index and newer content. Costs one pass over both.
    pub(crate) fn with(&self, content: &IndexContent) -> Self {
        let mut next = Self { packs: self.packs.clone(), rows: self.rows.clone(), entries: Vec::new() };
        let place: Vec<u32> = content.packs.iter().map(|row| next.row(row)).collect();
        let fresh = content.entries.iter().map(|entry| Entry { pack: place[entry.pack as usize], ..*entry });
        next.entries.reserve_exact(self.entries.len() + content.entries.len());
        let mut old = self.entries.iter().copied().peekable();
        for entry in fresh {
            while let Some(before) = old.next_if(|old| old.record.id < entry.record.id) {
                next.entries.push(before);
            }
            next.entries.push(entry);
        }
        next.entries.extend(old);
        next
    }

    /// The index of several contents, oldest first. Costs one sort.
    pub(crate) fn of(contents: &[IndexContent]) -> Self {
        let mut index = Self::default();
        for content in contents.iter().rev() {
            let place: Vec<u32> = content.packs.iter().map(|row| index.row(row)).collect();
            let entries = content.entries.iter();
            index.entries.extend(entries.map(|entry| Entry { pack: place[entry.pack as usize], ..*entry }));
        }
        // stable: what was added first, the newest, stays first
        index.entries.sort_by_key(|entry| entry.record.id);
        index
    }

    fn row(&mut self, row: &PackRow) -> u32 {
        *self.rows.entry(row.address).or_insert_with(|| {
            self.packs.push(*row);
            (self.packs.len() - 1) as u32
        })
    }

    /// Every known place of a chunk or node, newest first.
    pub(crate) fn find(&self, id: &ContentId) -> impl Iterator<Item = Spot> + '_ {
        let id = *id;
        let first = self.entries.partition_point(|entry| entry.record.id < id);
        let same = self.entries[first..].iter().take_while(move |entry| entry.record.id == id);
        same.filter_map(|entry| Some(Spot { entry: *entry, pack: *self.packs.get(entry.pack as usize)? }))
    }

    /// The record of every known place.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().map(|entry| &entry.record)
    }

    pub(crate) fn knows(&self, pack: &Address) -> bool {
        self.rows.contains_key(pack)
    }
}
