//! Making sets of what is in none, and removing those that protect nothing.

use block::sync::lock;
use block::{BlobStore, ByteRange, Error, Kind, Result};

use super::columns::{encode, parts};
use super::set::{BLOCK, Head, MAX_PARITY, Member, SetId, Sums, gone_name, set_name, sums_of};
use super::{ParityStore, tolerate};

impl ParityStore {
    /// Makes sets of all that none protects as it should. What a vault put before a point is protected when the point is there.
    ///
    /// # Errors
    /// `NoSpace`, and what else the store reports; `Corrupt` if it gives back other bytes than were put.
    pub fn protect(&self) -> Result<()> {
        if lock(&self.table).next_group(self.scheme).is_empty() {
            return Ok(());
        }
        let _making = lock(&self.making);
        loop {
            let group = lock(&self.table).next_group(self.scheme);
            if group.is_empty() {
                return Ok(());
            }
            self.make_set(group)?;
            self.remove_empty()?;
        }
    }

    fn make_set(&self, members: Vec<Member>) -> Result<()> {
        let mut set = [0; 16];
        self.entropy.fill(&mut set)?;
        let head = Head { set, number: 0, parity: self.scheme.parity() as u8, members };
        for (number, bytes) in self.parity_of(&head)?.into_iter().enumerate() {
            self.store.put(&set_name(&set, number), &bytes)?;
        }
        lock(&self.table).add(&head, head.parity.into());
        Ok(())
    }

    /// All parity blobs of a set, from its members.
    pub(super) fn parity_of(&self, head: &Head) -> Result<Vec<Vec<u8>>> {
        let columns = head.columns();
        let mut sums: Vec<Vec<u32>> = vec![Vec::new(); head.members.len()];
        let room = (columns * BLOCK) as usize;
        let mut parity: Vec<Vec<u8>> = (0..head.parity).map(|_| Vec::with_capacity(room)).collect();
        for part in parts(columns) {
            let mut shards = Vec::with_capacity(head.members.len());
            for (member, sums) in head.members.iter().zip(&mut sums) {
                let (start, end) = (part.start * BLOCK, (part.end * BLOCK).min(member.len));
                let mut bytes = match start < end {
                    true => self.get(&member.name, ByteRange::between(start, end))?,
                    false => Vec::new(),
                };
                sums.extend(sums_of(&bytes));
                bytes.resize(((part.end - part.start) * BLOCK) as usize, 0);
                shards.push(bytes);
            }
            for (parity, part) in parity.iter_mut().zip(encode(head.parity.into(), &shards)?) {
                parity.extend_from_slice(&part);
            }
        }
        self.compare(head, &sums)?;
        let whole = |(number, parity): (u8, Vec<u8>)| {
            let mut all = sums.clone();
            all.push(sums_of(&parity));
            let mut bytes = Head { number, ..head.clone() }.encode();
            bytes.reserve_exact((head.total() as usize).saturating_sub(bytes.len()));
            bytes.extend_from_slice(&Sums::new(all).encode());
            bytes.extend_from_slice(&parity);
            bytes
        };
        Ok((0..).zip(parity).map(whole).collect())
    }

    /// What was read of members that wait must be what was put.
    fn compare(&self, head: &Head, sums: &[Vec<u32>]) -> Result<()> {
        let table = lock(&self.table);
        for (member, read) in head.members.iter().zip(sums) {
            let put = table.waiting.get(&member.name).and_then(|waiting| waiting.sums.as_ref());
            if let Some(put) = put.filter(|put| *put != read) {
                let differs = put.iter().zip(read).position(|(put, read)| put != read).unwrap_or(read.len());
                let why = "the store gives back other bytes than were put";
                let what = format!("blob {}", member.name);
                return Err(Error::corrupt(what, Some(differs as u64 * BLOCK), why));
            }
        }
        Ok(())
    }

    /// Removes sets that nobody is left in, and the marks of what was deleted from them.
    pub(super) fn remove_empty(&self) -> Result<()> {
        loop {
            let Some((set, marks)) = lock(&self.table).next_empty() else { return Ok(()) };
            self.remove_parity(&set)?;
            for name in &marks {
                tolerate(self.store.delete(&gone_name(name)), Kind::NotFound)?;
            }
            lock(&self.table).forget(&set, &marks);
        }
    }

    fn remove_parity(&self, set: &SetId) -> Result<()> {
        let names = (0..MAX_PARITY).map(|number| set_name(set, number.into()));
        names.into_iter().try_for_each(|name| tolerate(self.store.delete(&name), Kind::NotFound))
    }
}
