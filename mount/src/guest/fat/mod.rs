//! FAT12, FAT16, FAT32 and exFAT, read-only.
//!
//! Written from Microsoft's descriptions of both formats. There are no inodes: a file's number is the place of its entry on
//! the volume. There are no owners or permissions: everything belongs to user 0 and may be read by all. Times of FAT have
//! no zone and are shown as if they were universal.

mod boot;
mod chain;
mod entry;

use super::lines::Lines;
use super::names::Names;
use super::pieces::{clip, push};
use super::{Entry, Guest, Listing, MAX_ENTRIES, MAX_PIECES, Node, NodeKind, Piece, Place, Space, Stamp};
use crate::{Error, Result};
use block::BlockSource;
use block::sync::{Mutex, lock};
use boot::Boot;
use chain::Area;
use entry::RECORD;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The root directory has no entry; the first entries lie behind the boot sector.
const ROOT: u64 = 1;
/// The table is read for the free space up to this many clusters: nobody should wait for it.
const MAX_COUNTED: u64 = 1 << 18;

/// An open filesystem.
pub struct Fat {
    boot: Boot,
    lines: Lines,
    names: Names,
    space: Mutex<Option<Space>>,
}

/// Whether a volume that begins like this is FAT or exFAT.
pub fn detect(start: &[u8]) -> bool {
    boot::detect(start)
}

/// Checks the geometry without opening.
///
/// # Errors
/// As [`Fat::open`].
pub fn check(start: &[u8]) -> Result<()> {
    Boot::decode(start).map(|_| ())
}

impl Fat {
    /// Opens the filesystem that fills `source`.
    ///
    /// # Errors
    /// `Corrupt` if the boot sector cannot be one.
    pub fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let lines = Lines::new(source);
        let boot = Boot::decode(&lines.read(0, boot::LEN)?)?;
        Ok(Self { boot, lines, names: Names::default(), space: Mutex::default() })
    }

    fn root_area(&self) -> Area {
        match self.boot.root {
            Ok(cluster) => Area::Chain(cluster),
            Err((byte, len)) => Area::Place(byte, len),
        }
    }

    fn entry(&self, ino: u64) -> Result<entry::Entry> {
        let byte = ino.checked_mul(RECORD).filter(|_| ino > ROOT);
        entry::at(self, byte.ok_or_else(|| Error::not_found(format!("file {ino}")))?)
    }

    fn directory(&self, ino: u64) -> Result<Area> {
        if ino == ROOT {
            return Ok(self.root_area());
        }
        match self.entry(ino)? {
            entry if entry.kind == NodeKind::Directory => Ok(entry.area),
            _ => Err(Error::invalid(format!("file {ino}"), "it is not a directory")),
        }
    }

    fn plain(&self, ino: u64) -> Result<entry::Entry> {
        match ino {
            ROOT => Err(Error::invalid("the root directory", "it is not a plain file")),
            _ => Some(self.entry(ino)?)
                .filter(|entry| entry.kind == NodeKind::File)
                .ok_or_else(|| Error::invalid(format!("file {ino}"), "it is not a plain file")),
        }
    }

    fn count_space(&self) -> Result<Space> {
        let (blocks, block_size) = (self.boot.clusters, self.boot.cluster as u32);
        let mut free = 0;
        // exFAT keeps a map of its own instead
        if self.boot.width != boot::Width::Exfat && blocks <= MAX_COUNTED {
            for cluster in 2..blocks as u32 + 2 {
                free += u64::from(self.next(cluster)? == Some(0));
            }
        }
        Ok(Space { block_size, blocks, free, inodes: 0, free_inodes: 0 })
    }
}

impl Guest for Fat {
    fn root(&self) -> u64 {
        ROOT
    }

    fn remark(&self) -> Option<String> {
        self.boot.dirty.then(|| {
            "it was in use and has no journal: what was being written at that moment may be damaged"
                .to_owned()
        })
    }

    fn space(&self) -> Space {
        let mut space = lock(&self.space);
        *space.get_or_insert_with(|| self.count_space().unwrap_or_default())
    }

    fn node(&self, ino: u64) -> Result<Node> {
        let root = || entry::Entry {
            name: Vec::new(),
            kind: NodeKind::Directory,
            read_only: false,
            size: 0,
            written: 0,
            area: Area::Empty,
            times: [Stamp::default(); 3],
        };
        let entry = if ino == ROOT { root() } else { self.entry(ino)? };
        let [atime, mtime, ctime] = entry.times;
        Ok(Node {
            ino,
            kind: entry.kind,
            perm: if entry.read_only { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            nlink: 1,
            size: entry.size,
            blocks: entry.size.div_ceil(self.boot.cluster) * (self.boot.cluster / 512),
            rdev: 0,
            atime,
            mtime,
            ctime,
            generation: 0,
        })
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        let area = self.directory(dir)?;
        self.names.lookup(dir, name, |visit| {
            entry::walk(self, area, 0, &mut |it| visit(it.entry.name, it.byte / RECORD)).map(|_| ())
        })
    }

    fn list(&self, dir: u64, cookie: u64) -> Result<Listing> {
        let mut entries = Vec::new();
        entry::walk(self, self.directory(dir)?, cookie, &mut |it| {
            let (name, kind) = (it.entry.name, Some(it.entry.kind));
            entries.push(Entry { name, ino: it.byte / RECORD, kind, next: it.next });
            if entries.len() < MAX_ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let full = entries.len() == MAX_ENTRIES;
        Ok(Listing { next: entries.last().map(|entry| entry.next).filter(|_| full), entries })
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        Err(Error::invalid(format!("file {ino}"), "there are no links on this filesystem"))
    }

    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>> {
        let file = self.plain(ino)?;
        let to = to.min(file.size);
        if from >= to {
            return Ok(Vec::new());
        }
        let mut pieces = Vec::new();
        let mut end = 0;
        if from < file.written {
            self.spans(file.area, from, &mut |at, span| {
                if span.byte + span.len > self.lines.size() {
                    return Err(Error::corrupt(
                        format!("file {ino}"),
                        "it lies behind the end of the volume",
                    ));
                }
                push(&mut pieces, at, span.len, Place::Volume(span.byte));
                end = at + span.len;
                Ok(end < to && pieces.len() < MAX_PIECES)
            })?;
            if end <= from {
                return Err(Error::corrupt(
                    format!("file {ino}"),
                    format!("its clusters end before its byte {from}"),
                ));
            }
            clip(&mut pieces, file.written);
        }
        if end >= file.written || from >= file.written {
            let start = file.written.max(pieces.last().map_or(file.written, |piece| piece.at + piece.len));
            if start < file.size {
                push(&mut pieces, start, file.size - start, Place::Zero);
            }
        }
        Ok(pieces)
    }

    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        self.node(ino).map(|_| Vec::new())
    }

    fn attribute(&self, _ino: u64, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Error::not_found("the attribute"))
    }
}
