//! Reading what is damaged, and making it right again.

use std::ops::ControlFlow;

use block::sync::atomic::Ordering;
use block::sync::{Arc, lock};
use block::{BlobStore, ByteRange, Error, Kind, Result};

use super::columns::{Lying, parts, sums};
use super::set::{BLOCK, Head, SetId, Sums, set_name, sums_of};
use super::table::Seat;
use super::{ParityStore, not_found, tolerate, twin};
use crate::stores::Repaired;
use crate::stores::sums as twins;

impl ParityStore {
    /// The head of a set, as the table has it.
    fn head(&self, set: &SetId) -> Head {
        let members = lock(&self.table).members_of(set);
        Head { set: *set, number: 0, parity: self.scheme.parity() as u8, members }
    }

    /// The sums of a set's members, from the first of its parities that has them.
    fn sums(&self, set: &SetId) -> Result<Arc<Sums>> {
        if let Some(known) = lock(&self.sums).get(set) {
            return Ok(known);
        }
        let head = self.head(set);
        let read = (0..head.parity.into()).map(|number| sums(&*self.store, &head, set, number));
        let mut first = None;
        for one in read {
            match one {
                Ok(found) => {
                    let found = Arc::new(found);
                    lock(&self.sums).put(*set, found.clone());
                    return Ok(found);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| not_found(&set_name(set, 0))))
    }

    /// A range of a member, proven by the sums of its set or computed from the rest of it.
    pub(super) fn get_member(&self, name: &str, seat: &Seat, range: ByteRange) -> Result<Vec<u8>> {
        let len = lock(&self.table).member(seat).map(|member| member.len).ok_or_else(|| not_found(name))?;
        if range.end() > len {
            return Err(Error::OutOfRange { offset: range.start(), count: range.count().get(), size: len });
        }
        let Ok(sums) = self.sums(&seat.set) else {
            // without any sums the blob is what there is, and seals tell
            return self.store.get(name, range);
        };
        let first = range.start() / BLOCK;
        let (start, end) = (first * BLOCK, range.end().next_multiple_of(BLOCK).min(len));
        let part = |bytes: &[u8], from: u64| {
            bytes[(range.start() - from) as usize..(range.end() - from) as usize].to_vec()
        };
        let is_right = |bytes: &[u8]| {
            let mut sums = sums.of(seat.at).iter().skip(first as usize);
            bytes.chunks(BLOCK as usize).all(|block| sums.next() == Some(&crc32fast::hash(block)))
        };
        match self.store.get(name, ByteRange::between(start, end.max(start))) {
            Ok(bytes) if is_right(&bytes) => Ok(part(&bytes, start)),
            _ => Ok(part(&self.mend(name)?, 0)),
        }
    }

    /// A member as it was, from its set; it is written in its place.
    fn mend(&self, name: &str) -> Result<Arc<Vec<u8>>> {
        let _mending = lock(&self.mending);
        if let Some((_, whole)) = lock(&self.given).as_ref().filter(|(of, _)| of == name) {
            return Ok(whole.clone());
        }
        // deleted since, or in another set by now
        let seat = lock(&self.table).seat(name).ok_or_else(|| not_found(name))?;
        let head = self.head(&seat.set);
        let lying = Lying::of(&*self.store, &head)?;
        let member = head.members.get(seat.at).ok_or_else(|| not_found(name))?;
        let mut whole = Vec::with_capacity(member.len as usize);
        for part in parts(member.blocks()) {
            whole.extend_from_slice(&lying.mended(seat.at, &part)?);
        }
        whole.truncate(member.len as usize);
        if lying.sums.get(seat.at) != Some(&sums_of(&whole)) {
            return Err(Error::corrupt(format!("blob {name}"), None, "its set gives back something else"));
        }
        let whole = Arc::new(whole);
        if self.replace(name, &whole).is_err() {
            // who asked gets what was asked for; it is written when the store takes it again
            *lock(&self.given) = Some((name.to_owned(), whole.clone()));
        }
        Ok(whole)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        tolerate(self.store.delete(name), Kind::NotFound)?;
        self.store.put(name, bytes)?;
        self.mended.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A range of a blob that has a twin, proven by it.
    pub(super) fn get_small(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        match twins::get_beside(&*self.store, name, &twin(name), range) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == Kind::OutOfRange => return Err(error),
            Err(_) => {}
        }
        let _mending = lock(&self.mending);
        let Ok(stored) = twins::get_whole(&*self.store, &twin(name)) else {
            // without a sound twin the blob is what there is, and seals tell
            return self.store.get(name, range);
        };
        let bytes = twins::decode(name, &stored)?;
        let part = bytes.get(range.start() as usize..range.end() as usize).ok_or(Error::OutOfRange {
            offset: range.start(),
            count: range.count().get(),
            size: bytes.len() as u64,
        })?;
        // who asked gets what was asked for; what cannot be written now is met again
        self.replace(name, bytes).ok();
        Ok(part.to_vec())
    }

    /// Makes sets of what has none, gives back what is missing, and with `all` reads and proves everything. `step` is told after each blob
    /// and may stop the work.
    ///
    /// # Errors
    /// What the store reports that cannot be listed or written.
    pub fn repair(&self, all: bool, step: &mut dyn FnMut(&Repaired) -> ControlFlow<()>) -> Result<Repaired> {
        self.protect()?;
        *lock(&self.given) = None;
        let before = self.mended.load(Ordering::Relaxed);
        let mut report = Repaired { complete: true, ..Repaired::default() };
        let mut step = |report: &mut Repaired| {
            report.repaired = self.mended.load(Ordering::Relaxed) - before;
            report.complete = step(report).is_continue();
            report.complete
        };
        let sets = lock(&self.table).set_ids();
        for set in sets {
            let head = self.head(&set);
            let members = head.members.iter().enumerate();
            for (at, member) in members {
                let seat = Seat { set, at };
                if lock(&self.table).seat(&member.name) != Some(seat) {
                    continue;
                }
                let whole = || self.prove_member(&member.name, &seat, member.len);
                self.look_at(&member.name, member.len, all, &mut report, &whole);
                if !step(&mut report) {
                    return Ok(report);
                }
            }
            self.prove_parity(&head, all, &mut report)?;
            if !step(&mut report) {
                return Ok(report);
            }
        }
        self.repair_small(all, &mut report, &mut step)?;
        Ok(report)
    }

    /// Looks at a blob, and mends it if it is not right.
    fn look_at(
        &self,
        name: &str,
        len: u64,
        all: bool,
        report: &mut Repaired,
        prove: &dyn Fn() -> Result<()>,
    ) {
        report.blobs += 1;
        let is_there = |name: &str| self.store.size(name).is_ok_and(|size| size.get() == len);
        if is_there(name) && !all {
            return;
        }
        report.bytes_read += len;
        match prove() {
            Ok(()) if is_there(name) && !self.is_only_given(name) => {}
            Ok(()) => {
                report.note(name, &Error::refused(Kind::Io, name, "it could not be written in its place"));
            }
            Err(error) => report.note(name, &error),
        }
    }

    fn is_only_given(&self, name: &str) -> bool {
        lock(&self.given).as_ref().is_some_and(|(given, _)| given == name)
    }

    fn prove_member(&self, name: &str, seat: &Seat, len: u64) -> Result<()> {
        if self.store.size(name).is_ok_and(|size| size.get() != len) {
            return self.mend(name).map(drop);
        }
        for part in parts(len.div_ceil(BLOCK)) {
            let range = ByteRange::between(part.start * BLOCK, (part.end * BLOCK).min(len));
            self.get_member(name, seat, range)?;
        }
        Ok(())
    }

    /// The parity of a set, made anew where it is not what its members say.
    fn prove_parity(&self, head: &Head, all: bool, report: &mut Repaired) -> Result<()> {
        let (names, total) = (0..usize::from(head.parity), head.total());
        let names: Vec<String> = names.map(|number| set_name(&head.set, number)).collect();
        let is_there = |name: &String| self.store.size(name).is_ok_and(|size| size.get() == total);
        report.blobs += names.len() as u64;
        if !all && names.iter().all(is_there) {
            return Ok(());
        }
        report.bytes_read += total * names.len() as u64;
        let made = match self.parity_of(head) {
            Ok(made) => made,
            Err(error) => {
                report.note(&names[0], &error);
                return Ok(());
            }
        };
        for (name, bytes) in names.iter().zip(made) {
            let lies = self.store.size(name).and_then(|size| self.store.get(name, ByteRange::whole(size)));
            if lies.is_ok_and(|lies| lies == bytes) {
                continue;
            }
            self.replace(name, &bytes)?;
        }
        Ok(())
    }

    /// Blobs with twins: each of the two from the other.
    fn repair_small(
        &self,
        all: bool,
        report: &mut Repaired,
        step: &mut dyn FnMut(&mut Repaired) -> bool,
    ) -> Result<()> {
        let mut names = Vec::new();
        self.list("", &mut |name, size| {
            names.push((name.to_owned(), size.get()));
            ControlFlow::Continue(())
        })?;
        for (name, len) in names {
            let is_large = {
                let table = lock(&self.table);
                table.seat(&name).is_some() || table.waiting.contains_key(&name)
            };
            if is_large {
                continue;
            }
            let whole = ByteRange::between(0, len);
            self.look_at(&name, len, all, report, &|| self.get_small(&name, whole).map(drop));
            self.look_at_twin(&name, all)?;
            if !step(report) {
                break;
            }
        }
        Ok(())
    }

    fn look_at_twin(&self, name: &str, all: bool) -> Result<()> {
        let _mending = lock(&self.mending);
        let is_right = match all {
            true => twins::get_whole(&*self.store, &twin(name)).is_ok(),
            false => twins::size(&*self.store, &twin(name)).is_ok(),
        };
        let Ok(size) = self.store.size(name) else { return Ok(()) };
        if !is_right {
            let bytes = self.store.get(name, ByteRange::whole(size))?;
            self.replace(&twin(name), &twins::encode(&bytes))?;
        }
        Ok(())
    }
}
