//! Decoded frames. They are kept for all readers of a vault under one budget, and several are read and decoded at once.

use std::sync::OnceLock;
use std::thread;

use block::ByteRange;
use block::sync::Arc;

use crate::chunk::{Kind, MAX_RAW};
use crate::inner::Inner;
use crate::name::{Address, Shelf};
use crate::pack::{Entry, PackHead, open_front};
use crate::{Error, Result};

/// Frames read and decoded at once, at most: 4 MiB of a disk.
pub(crate) const FRAMES_AT_ONCE: usize = 64;
/// Heads of packs kept: a few KiB each, and as many packs as hold 4 GiB.
pub(crate) const KEPT_HEADS: usize = 256;

/// A frame's place: pack and entry.
pub(crate) type FrameId = (Address, u32);

/// What of a frame is wanted: so many bytes from its front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameFront {
    pub(crate) frame: FrameId,
    pub(crate) until: usize,
}

/// Neighbouring frames of one pack, that one read fetches.
struct Stretch {
    head: Arc<PackHead>,
    first: u32,
    /// What is wanted of each.
    untils: Vec<usize>,
}

/// A frame as it is stored.
struct Sealed<'a> {
    head: &'a PackHead,
    number: u32,
    entry: &'a Entry,
    bytes: &'a mut [u8],
    until: usize,
}

impl Inner {
    /// At least what is wanted of these frames, in their order. `reads_on` decodes all of those that have to be read, as more of
    /// them will be wanted; and so does a store that is far away, where reading one twice costs more than decoding it.
    pub(crate) fn frames(&self, wanted: &[FrameFront], reads_on: bool) -> Result<Vec<Arc<Vec<u8>>>> {
        let reads_on = reads_on || self.options.is_far;
        let load = |missing: &[FrameFront]| {
            let mut missing = missing.to_vec();
            missing.iter_mut().filter(|_| reads_on).for_each(|front| front.until = MAX_RAW);
            self.load(&missing).inspect_err(|error| self.distrust.witness(error))
        };
        self.options.frames.get(wanted, load)
    }

    /// Reads and decodes, over all cores if it is worth it.
    fn load(&self, wanted: &[FrameFront]) -> Result<Vec<Arc<Vec<u8>>>> {
        let mut fetched = Vec::new();
        for stretch in self.stretches(wanted)? {
            fetched.push((self.fetch_stretch(&stretch)?, stretch));
        }
        let mut sealed = Vec::with_capacity(wanted.len());
        for (bytes, stretch) in &mut fetched {
            sealed.extend(stretch.cut(bytes)?);
        }
        let each = sealed.len().div_ceil(threads()).max(1);
        let mut parts = sealed.chunks_mut(each);
        let Some(mine) = parts.next_back() else { return Ok(Vec::new()) };
        thread::scope(|scope| {
            let others: Vec<_> = parts
                .map(|part| {
                    thread::Builder::new().name("vault-open".to_owned()).spawn_scoped(scope, || open(part))
                })
                .collect();
            let last = open(mine);
            let mut all = Vec::with_capacity(wanted.len());
            for other in others {
                match other.map_err(Error::Threads)?.join() {
                    Ok(opened) => all.extend(opened?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all.extend(last?);
            Ok(all)
        })
    }

    fn stretches(&self, wanted: &[FrameFront]) -> Result<Vec<Stretch>> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for &FrameFront { frame: (pack, number), until } in wanted {
            match stretches.last_mut() {
                Some(last) if last.head.address == pack && last.past() == number => last.untils.push(until),
                _ => stretches.push(Stretch { head: self.head(pack)?, first: number, untils: vec![until] }),
            }
        }
        Ok(stretches)
    }

    /// The sealed bytes of a stretch.
    fn fetch_stretch(&self, stretch: &Stretch) -> Result<Vec<u8>> {
        let (first, last) = (stretch.entry(stretch.first)?, stretch.entry(stretch.past() - 1)?);
        let end = u64::from(last.offset) + u64::from(last.record.stored);
        self.get_pack(&stretch.name(), ByteRange::between(u64::from(first.offset), end))
    }
}

impl Stretch {
    fn past(&self) -> u32 {
        self.first + self.untils.len() as u32
    }

    fn name(&self) -> String {
        self.head.address.name(Shelf::Packs)
    }

    fn entry(&self, number: u32) -> Result<&Entry> {
        match self.head.table.get(number) {
            Some(entry) if entry.record.kind == Kind::Frame => Ok(entry),
            _ => Err(Error::damaged(&self.name(), format!("entry {number}"), "it is no frame")),
        }
    }

    /// Its bytes frame by frame: entries follow each other without gap.
    fn cut<'a>(&'a self, mut bytes: &'a mut [u8]) -> Result<Vec<Sealed<'a>>> {
        let mut sealed = Vec::with_capacity(self.untils.len());
        for (number, &until) in (self.first..).zip(&self.untils) {
            let entry = self.entry(number)?;
            let len = (entry.record.stored as usize).min(bytes.len());
            let (one, rest) = bytes.split_at_mut(len);
            sealed.push(Sealed { head: &self.head, number, entry, bytes: one, until });
            bytes = rest;
        }
        Ok(sealed)
    }
}

/// Threads that decode what one read needs. Asked once: the answer takes as long as half a frame.
fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| thread::available_parallelism().map_or(1, |cores| cores.get()).min(4))
}

fn open(part: &mut [Sealed<'_>]) -> Result<Vec<Arc<Vec<u8>>>> {
    let open_one = |Sealed { head, number, entry, bytes, until }: &mut Sealed<'_>| {
        open_front(&head.key, &head.address, *number, &entry.record, bytes, *until).map(Arc::new)
    };
    part.iter_mut().map(open_one).collect()
}
