//! Columns of a set: making parity, and what is missing from the rest. Specified in `docs/parity.md`.

use std::ops::Range;

use block::{BlobStore, ByteRange, Error, Kind, Result};

use super::set::{BLOCK, Head, SetId, Sums, set_name};

/// Columns worked on at once: 1 MiB of each blob.
const COLUMNS_AT_ONCE: u64 = 256;

/// Columns in parts that fit memory.
pub(super) fn parts(columns: u64) -> impl Iterator<Item = Range<u64>> {
    (0..columns)
        .step_by(COLUMNS_AT_ONCE as usize)
        .map(move |first| first..columns.min(first + COLUMNS_AT_ONCE))
}

/// Some neighbouring columns of one blob, filled up with zeros.
pub(super) struct Shard {
    pub(super) bytes: Vec<u8>,
    /// Which of its blocks are what they were.
    pub(super) good: Vec<bool>,
}

impl Shard {
    /// Reads what lies at `start` of a blob and is no longer than `len`. What cannot be read is not good.
    pub(super) fn read(
        store: &dyn BlobStore,
        name: &str,
        (start, len): (u64, u64),
        columns: &Range<u64>,
        sums: &[u32],
    ) -> Self {
        let count = (columns.end - columns.start) as usize;
        let mut shard = Self { bytes: vec![0; count * BLOCK as usize], good: vec![true; count] };
        let (from, end) = (columns.start * BLOCK, (columns.end * BLOCK).min(len));
        if from >= end {
            return shard;
        }
        let mut read =
            |from: u64, end: u64| match store.get(name, ByteRange::between(start + from, start + end)) {
                Ok(bytes) => {
                    let at = (from - columns.start * BLOCK) as usize;
                    shard.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
                    true
                }
                Err(_) => false,
            };
        if !read(from, end) && store.size(name).is_ok() {
            // one sector that cannot be read, or an end that is missing, is not the rest
            for from in (from..end).step_by(BLOCK as usize) {
                read(from, end.min(from + BLOCK));
            }
        }
        for (at, block) in shard.bytes.chunks(BLOCK as usize).enumerate() {
            let column = columns.start + at as u64;
            let held = len.saturating_sub(column * BLOCK).min(BLOCK) as usize;
            let is_right = sums.get(column as usize) == Some(&crc32fast::hash(&block[..held]));
            shard.good[at] = held == 0 || is_right;
        }
        shard
    }

    pub(super) fn is_whole(&self) -> bool {
        self.good.iter().all(|good| *good)
    }

    fn block(&self, at: usize) -> Option<&[u8]> {
        let start = at * BLOCK as usize;
        self.good.get(at).filter(|good| **good).and_then(|_| self.bytes.get(start..start + BLOCK as usize))
    }
}

/// The parity of some columns, one for each parity of the set.
pub(super) fn encode(parity: usize, shards: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    reed_solomon_simd::encode(shards.len(), parity, shards).map_err(unfit)
}

fn unfit(error: reed_solomon_simd::Error) -> Error {
    Error::refused(Kind::Invalid, "parity", error.to_string())
}

/// A set as it lies in a store.
pub(super) struct Lying<'a> {
    pub(super) store: &'a dyn BlobStore,
    pub(super) head: &'a Head,
    /// Of the members and of each parity behind them; nothing is known of a parity that cannot be read.
    pub(super) sums: Vec<Vec<u32>>,
}

impl<'a> Lying<'a> {
    /// Reads the sums of every parity.
    ///
    /// # Errors
    /// `Corrupt` if none of them can be read.
    pub(super) fn of(store: &'a dyn BlobStore, head: &'a Head) -> Result<Self> {
        let count = head.members.len();
        let read: Vec<Result<Sums>> =
            (0..head.parity).map(|number| sums(store, head, &head.set, number.into())).collect();
        let Some(Ok(first)) = read.iter().find(|sums| sums.is_ok()) else {
            let first = read.into_iter().find_map(Result::err);
            return Err(
                first.unwrap_or_else(|| Error::corrupt(set_name(&head.set, 0), None, "it has no parity"))
            );
        };
        let mut all: Vec<Vec<u32>> = (0..count).map(|at| first.of(at).to_vec()).collect();
        all.extend(read.iter().map(|sums| sums.as_ref().map_or(Vec::new(), |sums| sums.of(count).to_vec())));
        Ok(Self { store, head, sums: all })
    }

    /// Columns of a member, or of a parity behind them.
    pub(super) fn shard(&self, at: usize, columns: &Range<u64>) -> Shard {
        let sums = self.sums.get(at).map_or(&[][..], Vec::as_slice);
        match self.head.members.get(at) {
            Some(member) => Shard::read(self.store, &member.name, (0, member.len), columns, sums),
            None => {
                let all = self.head.data_range(&(0..self.head.columns()));
                let name = set_name(&self.head.set, at - self.head.members.len());
                Shard::read(self.store, &name, (all.start(), all.count().get()), columns, sums)
            }
        }
    }

    /// These columns of a member as they were, from the rest of them where they are damaged.
    ///
    /// # Errors
    /// `Corrupt` if more is damaged than there is parity.
    pub(super) fn mended(&self, at: usize, columns: &Range<u64>) -> Result<Vec<u8>> {
        let mut wanted = self.shard(at, columns);
        if wanted.is_whole() {
            return Ok(wanted.bytes);
        }
        let count = self.head.members.len();
        let all: Vec<Shard> =
            (0..count + usize::from(self.head.parity)).map(|other| self.shard(other, columns)).collect();
        for column in (0..wanted.good.len()).filter(|column| !wanted.good[*column]) {
            let blocks = || all.iter().enumerate().filter_map(|(at, shard)| Some((at, shard.block(column)?)));
            let (members, parity): (Vec<_>, Vec<_>) = blocks().partition(|(at, _)| *at < count);
            let parity = parity.into_iter().map(|(at, block)| (at - count, block));
            let found = reed_solomon_simd::decode(count, self.head.parity.into(), members, parity);
            let block = found.ok().and_then(|mut found| found.remove(&at));
            let Some(block) = block else { return Err(self.hopeless(at, columns.start + column as u64)) };
            let start = column * BLOCK as usize;
            wanted.bytes[start..start + BLOCK as usize].copy_from_slice(&block);
        }
        Ok(wanted.bytes)
    }

    fn hopeless(&self, at: usize, column: u64) -> Error {
        let name = self.head.members.get(at).map_or("", |member| member.name.as_str());
        let why =
            format!("more of its set is damaged here than its {} parity can give back", self.head.parity);
        Error::corrupt(format!("blob {name}"), Some(column * BLOCK), why)
    }
}

/// The sums that one parity of a set holds.
pub(super) fn sums(store: &dyn BlobStore, head: &Head, set: &SetId, number: usize) -> Result<Sums> {
    let name = set_name(set, number);
    let bytes = store.get(&name, head.sums_range())?;
    Sums::decode(head, &bytes).map_err(|why| Error::corrupt(&name, None, why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format says that columns are coded each by itself.
    #[test]
    fn columns_are_coded_each_by_itself() {
        let byte = |shard: usize, at: usize| (at * 31 + shard * 7 + at / 4096) as u8;
        let shards: Vec<Vec<u8>> =
            (0..5).map(|shard| (0..3 * BLOCK as usize).map(|at| byte(shard, at)).collect()).collect();
        let all = encode(2, &shards).unwrap();
        for column in 0..3 {
            let part = column * BLOCK as usize..(column + 1) * BLOCK as usize;
            let alone: Vec<Vec<u8>> = shards.iter().map(|shard| shard[part.clone()].to_vec()).collect();
            for (parity, alone) in all.iter().zip(encode(2, &alone).unwrap()) {
                assert_eq!(parity[part.clone()], alone);
            }
        }
        assert_eq!(encode(3, &shards[..1]).unwrap().len(), 3, "a set of one");
    }
}
