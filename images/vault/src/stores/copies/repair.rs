//! Giving copies what they lack, from one that has it proven.

use std::ops::ControlFlow;

use block::sync::lock;
use block::{BlobStore, ByteCount, Error, Kind, Result};

use super::member::{OWN, forget, unmark_behind};
use super::{ReplicatedStore, merge};
use crate::stores::sums;

/// Blobs no copy has, by name, that one report lists; more are only counted.
const MAX_LISTED: usize = 1000;

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Blobs looked at.
    pub blobs: u64,
    /// Bytes of them that were read, of all copies together.
    pub bytes_read: u64,
    /// Copies of blobs that were missing or damaged and are right again.
    pub repaired: u64,
    /// Blobs that cannot be made right, at most 1,000 of them, and why.
    pub hopeless: Vec<(String, String)>,
    /// All of those.
    pub hopeless_count: u64,
    /// Whether everything was looked at.
    pub complete: bool,
}

impl Repaired {
    pub(in crate::stores) fn note(&mut self, name: &str, error: &Error) {
        self.hopeless_count += 1;
        if self.hopeless.len() < MAX_LISTED {
            self.hopeless.push((name.to_owned(), error.to_string()));
        }
    }
}

impl ReplicatedStore {
    /// Gives every copy the blobs it lacks. With `all`, every blob of every copy is read and proven too; otherwise only names and
    /// lengths are compared. `step` is told after each blob and may stop the work.
    ///
    /// # Errors
    /// `Unavailable` if too few copies take writes; what a copy reports that cannot be listed.
    pub fn repair(&self, all: bool, step: &mut dyn FnMut(&Repaired) -> ControlFlow<()>) -> Result<Repaired> {
        self.members.try_failed();
        self.members.mark_away("repair")?;
        self.apply_deletions()?;
        let copies = self.members.present();
        let stores: Vec<&dyn BlobStore> = copies.iter().map(|copy| &*copy.store).collect();
        let mut report = Repaired { complete: true, ..Repaired::default() };
        let ends = merge::each_name(&stores, "", &mut |name, said| {
            if name.starts_with(OWN) || self.is_buried(name) {
                return ControlFlow::Continue(());
            }
            let is_even = said.len() == copies.len() && said.iter().all(|(_, size)| *size == said[0].1);
            report.blobs += 1;
            if all || !is_even {
                report.bytes_read += said.iter().map(|(_, size)| size.get()).sum::<u64>();
                match self.heal(name) {
                    Ok(count) => report.repaired += count,
                    Err(error) => report.note(name, &error),
                }
            }
            let go_on = step(&report);
            report.complete &= go_on.is_continue();
            go_on
        });
        ends.into_iter().collect::<Result<()>>()?;
        if report.complete && report.hopeless_count == 0 {
            self.all_caught_up()?;
        }
        Ok(report)
    }

    /// Reads and proves every copy of one blob, and makes those right that are not. Gives the bytes of all copies in service.
    ///
    /// # Errors
    /// Why it cannot be made right; `Conflict` if two copies hold different bytes.
    pub fn prove(&self, name: &str) -> Result<u64> {
        self.heal(name)?;
        let sizes = self.members.present().into_iter().map(|copy| copy.store.size(name));
        sizes.map(|size| size.map(ByteCount::get)).sum()
    }

    /// Makes every copy of one blob right. Gives how many were not.
    pub(super) fn heal(&self, name: &str) -> Result<u64> {
        // who has the name taken is at work on it
        let Ok(_taken) = self.take(name) else { return Ok(0) };
        if self.is_buried(name) {
            return Ok(0);
        }
        let (mut good, mut bad): (Option<Vec<u8>>, _) = (None, Vec::new());
        for copy in self.members.present() {
            match sums::get_whole(&*copy.store, name) {
                Ok(stored) if good.as_ref().is_some_and(|good| *good != stored) => {
                    let why = "two copies hold different bytes, each with its right sums".to_owned();
                    return Err(Error::Conflict { what: format!("blob {name}"), why });
                }
                Ok(stored) => good = Some(stored),
                Err(error) => bad.push((copy, error)),
            }
        }
        let Some(stored) = good else {
            return Err(bad.into_iter().next().map_or_else(|| self.members.too_few(0), |(_, error)| error));
        };
        let mut repaired = 0;
        for (copy, error) in bad {
            let removed = if error.kind() == Kind::NotFound { Ok(()) } else { copy.store.delete(name) };
            match removed.and_then(|()| copy.store.put(name, &stored)) {
                Ok(()) => {
                    self.members.count_repaired(copy.number);
                    repaired += 1;
                }
                Err(error) => self.members.fail(copy.number, &error),
            }
        }
        Ok(repaired)
    }

    /// Deletes in each copy what was deleted while it could not hear. Forgotten once every copy has heard.
    fn apply_deletions(&self) -> Result<()> {
        let gone: Vec<String> = lock(&self.buried).iter().cloned().collect();
        let copies = self.members.writable("repair")?;
        let heard_by_all = copies.len() == self.members.count();
        for name in gone {
            for copy in &copies {
                match copy.store.delete(&name) {
                    Err(error) if error.kind() != Kind::NotFound => return Err(error),
                    _ => {}
                }
            }
            if heard_by_all {
                copies.iter().try_for_each(|copy| forget(&*copy.store, &name))?;
                lock(&self.buried).remove(&name);
            }
        }
        Ok(())
    }

    /// No copy in service lacks anything.
    fn all_caught_up(&self) -> Result<()> {
        let copies = self.members.writable("repair")?;
        for number in copies.iter().map(|copy| copy.number) {
            copies.iter().try_for_each(|copy| unmark_behind(&*copy.store, number))?;
            self.members.caught_up(number);
        }
        Ok(())
    }
}
