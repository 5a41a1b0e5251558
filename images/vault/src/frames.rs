//! Decoded frames. They are kept for all readers of a vault under one budget, and several are read and decoded at once.

use std::thread;

use block::ByteRange;
use block::sync::Arc;

use crate::chunk::Kind;
use crate::inner::Inner;
use crate::name::{Address, Shelf};
use crate::pack::{PackHead, open_entry};
use crate::{Error, Result};

/// Frames read and decoded at once, at most: 4 MiB of a disk.
pub(crate) const FRAMES_AT_ONCE: usize = 16;
/// Heads of packs kept: a few KiB each, and as many packs as hold 4 GiB.
pub(crate) const KEPT_HEADS: usize = 256;

/// A frame's place: pack and entry.
pub(crate) type FrameId = (Address, u32);

/// Neighbouring frames of one pack, that one read fetches.
struct Stretch {
    head: Arc<PackHead>,
    first: u32,
    count: u32,
}

impl Inner {
    /// The raw bytes of these frames, in their order.
    pub(crate) fn frames(&self, wanted: &[FrameId]) -> Result<Vec<Arc<Vec<u8>>>> {
        let load = |missing: &[FrameId]| self.load(missing).inspect_err(|error| self.distrust.witness(error));
        self.options.frames.get(wanted, load)
    }

    /// Reads and decodes, over all cores if it is worth it.
    fn load(&self, ids: &[FrameId]) -> Result<Vec<Arc<Vec<u8>>>> {
        let mut sealed = Vec::with_capacity(ids.len());
        for stretch in self.stretches(ids)? {
            sealed.extend(self.fetch_stretch(stretch)?);
        }
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let each = sealed.len().div_ceil(cores.min(4)).max(1);
        let mut parts: Vec<Vec<Sealed>> = Vec::new();
        while !sealed.is_empty() {
            let rest = sealed.split_off(each.min(sealed.len()));
            parts.push(std::mem::replace(&mut sealed, rest));
        }
        let Some(mine) = parts.pop() else { return Ok(Vec::new()) };
        thread::scope(|scope| {
            let others: Vec<_> = parts
                .into_iter()
                .map(|part| {
                    thread::Builder::new().name("vault-open".to_owned()).spawn_scoped(scope, || open(part))
                })
                .collect();
            let last = open(mine);
            let mut all = Vec::with_capacity(ids.len());
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

    fn stretches(&self, ids: &[FrameId]) -> Result<Vec<Stretch>> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for &(pack, number) in ids {
            match stretches.last_mut() {
                Some(last) if last.head.address == pack && last.first + last.count == number => {
                    last.count += 1
                }
                _ => stretches.push(Stretch { head: self.head(pack)?, first: number, count: 1 }),
            }
        }
        Ok(stretches)
    }

    /// The sealed bytes of a stretch, frame by frame.
    fn fetch_stretch(&self, stretch: Stretch) -> Result<Vec<Sealed>> {
        let Stretch { head, first, count } = stretch;
        let name = head.address.name(Shelf::Packs);
        let entry = |number: u32| match head.table.get(number) {
            Some(entry) if entry.record.kind == Kind::Frame => Ok(*entry),
            _ => Err(Error::damaged(&name, format!("entry {number}"), "it is no frame")),
        };
        let (start, last) = (entry(first)?.offset, entry(first + count - 1)?);
        let range =
            ByteRange::between(u64::from(start), u64::from(last.offset) + u64::from(last.record.stored));
        let bytes = self.get_pack(&name, range)?;
        let mut sealed = Vec::with_capacity(count as usize);
        for number in first..first + count {
            let entry = entry(number)?;
            let at = (entry.offset - start) as usize;
            let bytes = bytes[at..at + entry.record.stored as usize].to_vec();
            sealed.push(Sealed { head: head.clone(), number, bytes });
        }
        Ok(sealed)
    }
}

struct Sealed {
    head: Arc<PackHead>,
    number: u32,
    bytes: Vec<u8>,
}

fn open(part: Vec<Sealed>) -> Result<Vec<Arc<Vec<u8>>>> {
    let open_one = |mut one: Sealed| match one.head.table.get(one.number) {
        Some(entry) => {
            let raw =
                open_entry(&one.head.key, &one.head.address, one.number, &entry.record, &mut one.bytes)?;
            Ok(Arc::new(raw))
        }
        None => Ok(Arc::default()),
    };
    part.into_iter().map(open_one).collect()
}
