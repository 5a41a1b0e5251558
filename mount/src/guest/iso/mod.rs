//! ISO 9660 with Rock Ridge or Joliet, read-only.
//!
//! Written from ECMA-119 and the Rock Ridge and Joliet specifications. Rock Ridge is preferred to Joliet, which is preferred to
//! plain names. A file's number is the place of its directory record.

mod record;
mod rock;

use super::lines::Lines;
use super::names::Names;
use super::pieces::{clip, push};
use super::{Entry, Guest, Listing, MAX_ENTRIES, MAX_LINK, Node, NodeKind, Piece, Place, Space, is_name};
use crate::fields::{le32, u8_at};
use crate::{Error, Result};
use block::BlockSource;
use record::{Dialect, Record, SECTOR, both16};
use rock::Rock;
use std::ops::ControlFlow;
use std::sync::Arc;

const DESCRIPTORS_AT: u64 = 16 * SECTOR;
const ROOT_AT: u64 = 156;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const END: u8 = 255;
/// Descriptors looked at.
const MAX_DESCRIPTORS: u64 = 64;
/// The largest directory read, in bytes.
const MAX_DIRECTORY: u64 = 256 << 20;
/// Records one file may be made of: 4 GiB each.
const MAX_EXTENTS: usize = 4096;

/// An open filesystem.
pub struct Iso {
    lines: Lines,
    names: Names,
    block: u64,
    blocks: u64,
    root: u64,
    dialect: Dialect,
}

/// Whether a volume that begins like this is ISO 9660.
pub fn detect(start: &[u8]) -> bool {
    let at = DESCRIPTORS_AT as usize;
    start.get(at + 1..at + 6) == Some(b"CD001")
}

impl Iso {
    /// Opens the filesystem that fills `source`.
    ///
    /// # Errors
    /// `Corrupt` if it has no primary descriptor.
    pub fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let lines = Lines::new(source);
        let (mut primary, mut joliet) = (None, None);
        for number in 0..MAX_DESCRIPTORS {
            let at = DESCRIPTORS_AT + number * SECTOR;
            let descriptor = lines.read(at, SECTOR as usize)?;
            if descriptor.get(1..6) != Some(b"CD001") {
                break;
            }
            match u8_at(&descriptor, 0)? {
                PRIMARY if primary.is_none() => {
                    primary =
                        Some((at, u64::from(both16(&descriptor, 128)?), u64::from(le32(&descriptor, 80)?)));
                }
                SUPPLEMENTARY if matches!(descriptor.get(88..91), Some(b"%/@" | b"%/C" | b"%/E")) => {
                    joliet = joliet.or(Some(at));
                }
                END => break,
                _ => {}
            }
        }
        let damaged = |why: &str| Error::corrupt("the ISO 9660 filesystem", why);
        let (at, block, blocks) = primary.ok_or_else(|| damaged("it has no primary descriptor"))?;
        if !block.is_power_of_two() || !(512..=SECTOR).contains(&block) {
            return Err(damaged("its blocks have no possible size"));
        }
        let (names, root) = (Names::default(), at + ROOT_AT);
        let mut iso = Self { lines, names, block, blocks, root, dialect: Dialect::Plain };
        // the first record of the root directory is its own, and says whether there is Rock Ridge
        let root = iso.record(iso.root)?;
        let own = iso.lines.read(root.extent, SECTOR as usize)?;
        let own = own.get(..usize::from(u8_at(&own, 0)?)).unwrap_or_default();
        match (Rock::detect(own.get(34..).unwrap_or_default()), joliet) {
            (Some(skip), _) => iso.dialect = Dialect::RockRidge(skip),
            (None, Some(at)) => (iso.root, iso.dialect) = (at + ROOT_AT, Dialect::Joliet),
            (None, None) => {}
        }
        Ok(iso)
    }

    fn record(&self, byte: u64) -> Result<Record> {
        Record::at(self, byte)?.ok_or_else(|| Error::not_found(format!("file {byte}")))
    }

    /// Where the records of a directory are.
    fn area(&self, dir: u64) -> Result<(u64, u64)> {
        let record = self.record(dir)?;
        if record.kind() != NodeKind::Directory {
            return Err(Error::invalid(format!("file {dir}"), "it is not a directory"));
        }
        let (start, size) = match record.rock.child {
            // moved elsewhere: its own first record tells its size
            Some(block) => (block * self.block, self.record(block * self.block)?.size),
            None => (record.extent, record.size),
        };
        if size > MAX_DIRECTORY {
            return Err(Error::unsupported(format!("directory {dir}"), format!("it has {size} bytes")));
        }
        Ok((start, size))
    }

    /// Calls `visit` with the records of a directory from its byte `from` on, and the byte after each. The first record of a
    /// file in several parts stands for it.
    fn walk(&self, dir: u64, from: u64, visit: &mut dyn FnMut(Record, u64) -> ControlFlow<()>) -> Result<()> {
        let (start, size) = self.area(dir)?;
        let mut at = from;
        let mut within = false;
        while at < size {
            let Some(record) = Record::at(self, start + at)? else {
                at = (start + at + 1).next_multiple_of(SECTOR) - start;
                continue;
            };
            at += record.len;
            let is_part = std::mem::replace(&mut within, record.more);
            let shown = !record.is_dot && !is_part && !record.rock.moved && is_name(&record.name);
            // a page never ends within a file
            if shown && visit(record, at).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The parts of a plain file, as (byte, length).
    fn parts(&self, ino: u64) -> Result<Vec<(u64, u64)>> {
        let mut record = self.record(ino)?;
        if record.kind() != NodeKind::File {
            return Err(Error::invalid(format!("file {ino}"), "it is not a plain file"));
        }
        if let Some(why) = record.rock.coded {
            return Err(Error::unsupported(format!("file {ino}"), why));
        }
        let mut parts = vec![(record.extent, record.size)];
        while record.more && parts.len() < MAX_EXTENTS {
            let after = record.byte + record.len;
            record = match Record::at(self, after)? {
                Some(record) => record,
                None => self.record((after + 1).next_multiple_of(SECTOR))?,
            };
            parts.push((record.extent, record.size));
        }
        Ok(parts)
    }
}

impl Guest for Iso {
    fn root(&self) -> u64 {
        self.root
    }

    fn space(&self) -> Space {
        Space { block_size: self.block as u32, blocks: self.blocks, free: 0, inodes: 0, free_inodes: 0 }
    }

    fn node(&self, ino: u64) -> Result<Node> {
        let mut record = self.record(ino)?;
        let kind = record.kind();
        if ino == self.root || record.rock.child.is_some() {
            // its own first record knows more
            let own = record.rock.child.map_or(record.extent, |block| block * self.block);
            record = Record { byte: ino, ..self.record(own)? };
        }
        let size = match kind {
            NodeKind::File if record.more => self.parts(ino)?.iter().map(|(_, len)| len).sum(),
            NodeKind::Symlink => record.rock.link.len() as u64,
            NodeKind::File | NodeKind::Directory => record.size,
            _ => 0,
        };
        let rock = &record.rock;
        let has_rock = rock.kind.is_some();
        let [atime, mtime, ctime] = rock.times.map(|time| time.unwrap_or(record.time));
        Ok(Node {
            ino,
            kind,
            perm: if has_rock { rock.perm } else { 0o555 },
            uid: rock.uid,
            gid: rock.gid,
            nlink: if has_rock { rock.nlink } else { 1 },
            size,
            blocks: size.div_ceil(SECTOR) * (SECTOR / 512),
            rdev: if matches!(kind, NodeKind::CharDevice | NodeKind::BlockDevice) { rock.rdev } else { 0 },
            atime,
            mtime,
            ctime,
            generation: 0,
        })
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        self.names
            .lookup(dir, name, |visit| self.walk(dir, 0, &mut |record, _| visit(record.name, record.byte)))
    }

    fn list(&self, dir: u64, cookie: u64) -> Result<Listing> {
        let mut entries = Vec::new();
        let mut full = false;
        self.walk(dir, cookie, &mut |record, next| {
            // a cookie must not lead into a file of several parts
            full = entries.len() >= MAX_ENTRIES - 1 && !record.more;
            let kind = Some(record.kind());
            entries.push(Entry { name: record.name, ino: record.byte, kind, next });
            if full || entries.len() == MAX_ENTRIES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        let full = full || entries.len() == MAX_ENTRIES;
        Ok(Listing { next: entries.last().map(|entry| entry.next).filter(|_| full), entries })
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        let target = match self.record(ino)? {
            record if record.kind() == NodeKind::Symlink => record.rock.link,
            _ => return Err(Error::invalid(format!("file {ino}"), "it is not a link")),
        };
        if target.is_empty() || target.len() > MAX_LINK || target.contains(&0) {
            return Err(Error::corrupt(format!("file {ino}"), "its target is no path"));
        }
        Ok(target)
    }

    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>> {
        let parts = self.parts(ino)?;
        let size = parts.iter().map(|(_, len)| len).sum();
        if from >= to.min(size) {
            return Ok(Vec::new());
        }
        let (mut pieces, mut at) = (Vec::new(), 0);
        for (byte, len) in parts {
            if byte + len > self.lines.size() {
                return Err(Error::corrupt(format!("file {ino}"), "it lies behind the end of the volume"));
            }
            if len > 0 {
                push(&mut pieces, at, len, Place::Volume(byte));
            }
            at += len;
        }
        clip(&mut pieces, size);
        Ok(pieces)
    }

    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        self.record(ino).map(|_| Vec::new())
    }

    fn attribute(&self, _ino: u64, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Error::not_found("the attribute"))
    }
}
