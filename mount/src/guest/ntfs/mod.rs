//! NTFS, read-only.
//!
//! Written from the documentation of the Linux-NTFS project. Alternate streams are shown as attributes `user.NAME`, as
//! ntfs-3g does, and can be opened as `FILE:NAME` besides. Owners and access lists of Windows have no counterpart here:
//! everything belongs to user 0 and may be read by all. Not read, each said so by itself: files that are encrypted,
//! deduplicated, or compressed by the overlay filter. The journal of the filesystem is not replayed.

mod boot;
mod directory;
mod lznt1;
mod record;
mod special;
mod stream;

use super::lines::Lines;
use super::names::Names;
use super::pieces::{clip, push};
use super::utf16::to_bytes;
use super::{
    Guest, Listing, MAX_ATTRIBUTE, MAX_ATTRIBUTE_NAME, MAX_INODE, MAX_LINK, MAX_PIECES, Node, NodeKind,
    Piece, Place, Space, Stamp,
};
use crate::fields::{le16, le32, le64, u8_at};
use crate::{Error, Result};
use block::BlockSource;
use block::sync::{Mutex, lock};
use boot::Boot;
use record::{I30, REFERENCE, Record, kind};
use special::Special;
use std::sync::Arc;
use stream::{Content, ENCRYPTED, Stream};

/// The number of the root directory's record.
const ROOT: u64 = 5;
const TABLE: u64 = 0;
const LOG: u64 = 2;
const BITMAP: u64 = 6;
/// A stream's inode number has its place among the streams of its file above these bits.
const RECORD_BITS: u32 = 32;
const MAX_STREAMS: usize = (MAX_INODE >> RECORD_BITS) as usize;
/// Files with this flag may stand for something else.
const SYSTEM: u32 = 0x4;
const REPARSE_POINT: u32 = 0x400;
/// Directories above a link; Windows paths have at most 32767 characters.
const MAX_DEPTH: usize = 1024;
/// The largest value of a reparse point.
const MAX_REPARSE: u64 = 16 << 10;
/// The bitmap of clusters is read for the free space up to this size, 32 GiB in clusters of 4 KiB: it is read when the volume
/// is opened, and nobody should wait for it.
const MAX_BITMAP: u64 = 1 << 20;
/// Ticks of 100 ns since 1601 begin this many seconds before 1970.
const EPOCH: i64 = 11_644_473_600;
const LOG_PAGE: u64 = 4096;

/// An open filesystem.
pub struct Ntfs {
    boot: Boot,
    lines: Lines,
    table: Stream,
    names: Names,
    space: Mutex<Option<Space>>,
    unclean: bool,
}

/// Whether a volume that begins like this is NTFS. Says nothing about its health.
pub fn detect(start: &[u8]) -> bool {
    boot::has_magic(start)
}

/// Checks the geometry without opening.
///
/// # Errors
/// As [`Ntfs::open`].
pub fn check(start: &[u8]) -> Result<()> {
    Boot::decode(start).map(|_| ())
}

impl Ntfs {
    /// Opens the filesystem that fills `source`.
    ///
    /// # Errors
    /// `Corrupt` if the boot sector or the table of files cannot be one.
    pub fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let lines = Lines::new(source);
        let boot = Boot::decode(&lines.read(0, boot::LEN)?)?;
        let content = Content::Runs(Vec::new());
        let table = Stream { flags: 0, size: 0, written: 0, allocated: 0, unit: 0, content };
        let (names, space) = Default::default();
        let mut fs = Self { boot, lines, table, names, space, unclean: false };
        // the first record describes the table; further ones, if its runs need them, lie in what it describes
        let at = fs.boot.table.checked_mul(fs.boot.cluster);
        let at =
            at.ok_or_else(|| Error::corrupt("the NTFS boot sector", "its table is outside the volume"))?;
        let first = Record::decode(TABLE, fs.lines.read(at, fs.boot.record)?.to_vec())?;
        for attribute in first.attributes()? {
            if attribute.kind()? == kind::DATA && attribute.name()?.is_empty() {
                fs.table = stream::begin(&fs, &first, attribute)?;
            }
        }
        let whole = stream::find(&fs, &first, kind::DATA, b"")?;
        fs.table = whole.ok_or_else(|| first.damaged("the table of files has no content"))?;
        fs.unclean = !fs.log_is_clean().unwrap_or(false);
        Ok(fs)
    }

    /// Whether the journal says that nothing waits in it.
    fn log_is_clean(&self) -> Result<bool> {
        let log = stream::find(self, &self.record(LOG)?, kind::DATA, b"")?;
        let Some(log) = log.filter(|log| log.size >= 2 * LOG_PAGE) else { return Ok(false) };
        let mut newest = None;
        for page in [0, LOG_PAGE] {
            let mut bytes = self.read_stream(&log, page, LOG_PAGE as usize)?;
            if bytes.iter().all(|byte| *byte == 0xff) {
                newest = newest.or(Some((0, true)));
                continue;
            }
            if record::unprotect(&mut bytes, b"RSTR", "the journal").is_err() {
                continue;
            }
            let area = usize::from(le16(&bytes, 24)?);
            let (position, clients, flags) =
                (le64(&bytes, area)?, le16(&bytes, area + 12)?, le16(&bytes, area + 14)?);
            let clean = clients == 0xffff || flags & 0x2 != 0;
            if newest.is_none_or(|(before, _)| before <= position) {
                newest = Some((position, clean));
            }
        }
        Ok(newest.is_some_and(|(_, clean)| clean))
    }

    /// A record of the table, unprotected.
    fn record(&self, number: u64) -> Result<Record> {
        let at = number.checked_mul(self.boot.record as u64);
        let at = at
            .filter(|at| *at < self.table.size)
            .ok_or_else(|| Error::not_found(format!("file {number}")))?;
        Record::decode(number, self.read_stream(&self.table, at, self.boot.record)?)
    }

    /// The record of a file that a directory may name.
    fn file(&self, ino: u64) -> Result<Record> {
        let record = self.record(ino & ((1 << RECORD_BITS) - 1))?;
        if record.is_extension()? {
            return Err(Error::not_found(format!("file {ino}")));
        }
        Ok(record)
    }

    /// Exactly `len` bytes of a value that is not compressed; `len` is bounded by the caller.
    fn read_stream(&self, stream: &Stream, at: u64, len: usize) -> Result<Vec<u8>> {
        let short = || Error::corrupt("a value of a file", format!("it ends before {len} bytes at {at}"));
        if at.checked_add(len as u64).is_none_or(|end| end > stream.size) {
            return Err(short());
        }
        if let Content::Resident(bytes) = &stream.content {
            return bytes.get(at as usize..at as usize + len).map(<[u8]>::to_vec).ok_or_else(short);
        }
        if stream.is_compressed() {
            return Err(Error::unsupported("a value of a file", "it is compressed where it never should be"));
        }
        let mut bytes = Vec::with_capacity(len);
        let cluster = self.boot.cluster;
        while bytes.len() < len {
            let at = at + bytes.len() as u64;
            let run = stream.run(at / cluster).ok_or_else(short)?;
            let into = at - run.first * cluster;
            let count = (run.count * cluster - into).min((len - bytes.len()) as u64) as usize;
            match run.cluster {
                Some(first) => bytes.extend_from_slice(&self.lines.read(first * cluster + into, count)?),
                None => bytes.resize(bytes.len() + count, 0),
            }
        }
        Ok(bytes)
    }

    /// All of a small value.
    fn whole(&self, stream: &Stream, limit: u64) -> Result<Vec<u8>> {
        if stream.size > limit {
            return Err(Error::unsupported("a value of a file", format!("it has {} bytes", stream.size)));
        }
        if stream.flags & ENCRYPTED != 0 {
            return Err(Error::unsupported("a value of a file", "it is encrypted"));
        }
        if !stream.is_compressed() {
            return self.read_stream(stream, 0, stream.size as usize);
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < stream.size {
            let rest = (stream.size - bytes.len() as u64) as usize;
            bytes.extend(self.decode(stream, bytes.len() as u64, rest)?);
        }
        Ok(bytes)
    }

    /// Bytes of a compressed value: the rest of the unit that holds `at`, at most `len`.
    fn decode(&self, stream: &Stream, at: u64, len: usize) -> Result<Vec<u8>> {
        let unit = self.boot.cluster << stream.unit;
        let first = (at / unit) << stream.unit;
        let mut packed = Vec::new();
        let mut cluster = first;
        let end = first + (1 << stream.unit);
        while cluster < end {
            let Some(run) = stream.run(cluster) else { break };
            let count = (run.first + run.count).min(end) - cluster;
            if let Some(place) = run.cluster {
                let at = (place + (cluster - run.first)) * self.boot.cluster;
                packed.extend_from_slice(&self.lines.read(at, (count * self.boot.cluster) as usize)?);
            }
            cluster += count;
        }
        // a unit that takes all its clusters is stored as it is
        let mut bytes = match packed.len() as u64 {
            0 => vec![0; unit as usize],
            full if full == unit => packed,
            _ => lznt1::decompress(&packed, unit as usize)?,
        };
        let start = first * self.boot.cluster;
        let written = stream.written.saturating_sub(start).min(unit) as usize;
        bytes.get_mut(written..).unwrap_or_default().fill(0);
        bytes.truncate((stream.size - start).min(unit) as usize);
        let from = (at - start) as usize;
        Ok(bytes.get(from..(from + len).min(bytes.len())).unwrap_or_default().to_vec())
    }

    /// The stream an inode number stands for: the content of a file, or a stream beside it.
    fn stream_of(&self, record: &Record, ino: u64) -> Result<Option<Stream>> {
        match (ino >> RECORD_BITS) as usize {
            0 => stream::find(self, record, kind::DATA, b""),
            place => {
                let names = self.stream_names(record)?;
                let name = names.get(place - 1).ok_or_else(|| Error::not_found(format!("file {ino}")))?;
                stream::find(self, record, kind::DATA, name)
            }
        }
    }

    fn stream_names(&self, record: &Record) -> Result<Vec<Vec<u8>>> {
        let mut names = stream::names(self, record, kind::DATA)?;
        names.retain(|name| !name.is_empty());
        names.truncate(MAX_STREAMS);
        Ok(names)
    }

    fn standard(&self, record: &Record) -> Result<Vec<u8>> {
        let standard = stream::residents(self, record, kind::STANDARD)?.into_iter().next();
        standard.ok_or_else(|| record.damaged("it has no times"))
    }

    /// What the file stands for, if it is more than its content.
    fn special(&self, record: &Record) -> Result<Option<Special>> {
        let flags = le32(&self.standard(record)?, 32)?;
        if flags & REPARSE_POINT != 0
            && let Some(stream) = stream::find(self, record, kind::REPARSE, b"")?
        {
            return special::reparse(&self.whole(&stream, MAX_REPARSE)?);
        }
        if flags & SYSTEM == 0 || record.is_directory() {
            return Ok(None);
        }
        match stream::find(self, record, kind::DATA, b"")? {
            Some(stream) if stream.size <= 8 + 2 * MAX_LINK as u64 && !stream.is_compressed() => {
                let head = self.read_stream(&stream, 0, stream.size as usize)?;
                special::interix(stream.size, &head)
            }
            _ => Ok(None),
        }
    }

    /// `../` for every directory between a file and the root.
    fn way_to_root(&self, record: &Record) -> Result<Vec<u8>> {
        let mut way = Vec::new();
        let mut parent = self.parent(record)?;
        for _ in 0..MAX_DEPTH {
            if parent == ROOT {
                return Ok(way);
            }
            way.extend_from_slice(b"../");
            parent = self.parent(&self.record(parent)?)?;
        }
        Err(record.damaged("it lies in no directory"))
    }

    fn parent(&self, record: &Record) -> Result<u64> {
        let name = stream::residents(self, record, kind::NAME)?.into_iter().next();
        Ok(le64(&name.ok_or_else(|| record.damaged("it has no name"))?, 0)? & REFERENCE)
    }

    fn links(&self, record: &Record) -> Result<u32> {
        let names = stream::residents(self, record, kind::NAME)?;
        let real = names.iter().filter(|name| !u8_at(name, 65).is_ok_and(|space| space == 2));
        Ok(real.count() as u32)
    }

    /// The content of a plain file, if it can be read as such.
    fn plain(&self, ino: u64) -> Result<Option<Stream>> {
        let record = self.file(ino)?;
        let what = || format!("file {ino}");
        if ino >> RECORD_BITS == 0 {
            match self.special(&record)? {
                Some(Special::Elsewhere(why)) => return Err(Error::unsupported(what(), why)),
                Some(_) => return Err(Error::invalid(what(), "it is not a plain file")),
                None if record.is_directory() => return Err(Error::invalid(what(), "it is a directory")),
                None => {}
            }
        }
        let stream = self.stream_of(&record, ino)?;
        if stream.as_ref().is_some_and(|stream| stream.flags & ENCRYPTED != 0) {
            return Err(Error::unsupported(what(), "its content is encrypted (EFS)"));
        }
        Ok(stream)
    }

    fn count_space(&self) -> Result<Space> {
        let inodes = self.table.size / self.boot.record as u64;
        let (blocks, block_size) = (self.boot.clusters, self.boot.cluster as u32);
        let bitmap = stream::find(self, &self.record(BITMAP)?, kind::DATA, b"")?;
        let bitmap = bitmap.filter(|bitmap| bitmap.size <= MAX_BITMAP);
        let mut used = 0;
        let Some(bitmap) = bitmap else {
            return Ok(Space { block_size, blocks, free: 0, inodes, free_inodes: 0 });
        };
        let mut at = 0;
        while at < bitmap.size {
            let part = self.read_stream(&bitmap, at, (bitmap.size - at).min(LOG_PAGE) as usize)?;
            used += part.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            at += part.len() as u64;
        }
        Ok(Space {
            block_size,
            blocks,
            free: (bitmap.size * 8).saturating_sub(used).min(blocks),
            inodes,
            free_inodes: 0,
        })
    }
}

/// A time: ticks of 100 ns since 1601.
fn stamp(bytes: &[u8], at: usize) -> Result<Stamp> {
    const TICKS: u64 = 10_000_000;
    let ticks = le64(bytes, at)?;
    Ok(Stamp::bounded((ticks / TICKS).cast_signed() - EPOCH, (ticks % TICKS) as u32 * 100))
}

impl Guest for Ntfs {
    fn root(&self) -> u64 {
        ROOT
    }

    fn remark(&self) -> Option<String> {
        self.unclean.then(|| {
            "Windows had not unmounted it and would first apply its journal, which is not done here: what changed in \
             the last seconds may be older, or damaged"
                .to_owned()
        })
    }

    fn space(&self) -> Space {
        let mut space = lock(&self.space);
        *space.get_or_insert_with(|| self.count_space().unwrap_or_default())
    }

    fn node(&self, ino: u64) -> Result<Node> {
        let record = self.file(ino)?;
        let special = if ino >> RECORD_BITS == 0 { self.special(&record)? } else { None };
        let stream = match record.is_directory() && ino >> RECORD_BITS == 0 {
            true => stream::find(self, &record, kind::INDEX, I30)?,
            false => self.stream_of(&record, ino)?,
        };
        let (size, allocated) = stream.map_or((0, 0), |stream| (stream.size, stream.allocated));
        let (kind, size, rdev) = match special {
            Some(Special::Link(target)) => (NodeKind::Symlink, target.len() as u64, 0),
            Some(Special::FromRoot(_)) => (NodeKind::Symlink, self.link(ino)?.len() as u64, 0),
            Some(Special::Node(kind, rdev)) => (kind, 0, rdev),
            _ if record.is_directory() && ino >> RECORD_BITS == 0 => (NodeKind::Directory, size, 0),
            _ => (NodeKind::File, size, 0),
        };
        let standard = self.standard(&record)?;
        Ok(Node {
            ino,
            kind,
            perm: 0o777,
            uid: 0,
            gid: 0,
            nlink: if kind == NodeKind::Directory { 1 } else { self.links(&record)?.max(1) },
            size,
            blocks: allocated.div_ceil(512),
            rdev,
            atime: stamp(&standard, 24)?,
            mtime: stamp(&standard, 8)?,
            ctime: stamp(&standard, 16)?,
            generation: u32::from(record.sequence),
        })
    }

    /// A name, or a name with the name of a stream behind a colon.
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        let dir = self.file(dir)?;
        if let Some(found) = directory::lookup(self, &dir, name)? {
            return Ok(Some(found));
        }
        let Some(colon) = name.iter().rposition(|byte| *byte == b':') else { return Ok(None) };
        let (file, stream) = name.split_at(colon);
        let Some(file) = directory::lookup(self, &dir, file)?.filter(|file| file >> RECORD_BITS == 0) else {
            return Ok(None);
        };
        let names = self.stream_names(&self.file(file)?)?;
        let place = names.iter().position(|its| Some(&*to_bytes(its)) == stream.get(1..));
        Ok(place.map(|place| (place as u64 + 1) << RECORD_BITS | file))
    }

    fn list(&self, dir: u64, cookie: u64) -> Result<Listing> {
        directory::list(self, &self.file(dir)?, cookie)
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        let record = self.file(ino)?;
        let target = match self.special(&record)? {
            Some(Special::Link(target)) => target,
            Some(Special::FromRoot(path)) => {
                let way = self.way_to_root(&record)?;
                let path = path.strip_prefix(b"/").unwrap_or(&path);
                let target = [way.as_slice(), path].concat();
                if target.is_empty() { b".".to_vec() } else { target }
            }
            _ => return Err(Error::invalid(format!("file {ino}"), "it is not a link")),
        };
        if target.is_empty() || target.len() > MAX_LINK || target.contains(&0) {
            return Err(record.damaged("its target is no path"));
        }
        Ok(target)
    }

    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>> {
        let Some(stream) = self.plain(ino)? else { return Ok(Vec::new()) };
        let to = to.min(stream.size);
        if from >= to {
            return Ok(Vec::new());
        }
        if let Content::Resident(bytes) = &stream.content {
            let place = Place::Bytes(bytes.as_slice().into());
            return Ok(vec![Piece { at: 0, len: stream.size, place }]);
        }
        let mut pieces = Vec::new();
        let cluster = self.boot.cluster;
        let unit = 1 << stream.unit;
        let step = if stream.is_compressed() { unit } else { 1 };
        let mut at = from / cluster / step * step;
        while at * cluster < to && pieces.len() < MAX_PIECES {
            let (place, end) = self.place(&stream, at, step)?;
            push(&mut pieces, at * cluster, (end - at) * cluster, place);
            at = end;
        }
        unwritten(&mut pieces, stream.written);
        clip(&mut pieces, stream.size);
        Ok(pieces)
    }

    fn content(&self, ino: u64, at: u64, len: usize) -> Result<Vec<u8>> {
        match self.plain(ino)? {
            Some(stream) if stream.is_compressed() && at < stream.size => self.decode(&stream, at, len),
            _ => Err(Error::invalid(format!("file {ino}"), format!("nothing is coded at {at}"))),
        }
    }

    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        if ino >> RECORD_BITS != 0 {
            return Ok(Vec::new());
        }
        let names = self.stream_names(&self.file(ino)?)?.into_iter().map(|name| to_bytes(&name));
        let shown = names.map(|name| [b"user.", name.as_slice()].concat());
        Ok(shown.filter(|name| name.len() <= MAX_ATTRIBUTE_NAME && !name.contains(&0)).collect())
    }

    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let record = self.file(ino)?;
        let names = if ino >> RECORD_BITS == 0 { self.stream_names(&record)? } else { Vec::new() };
        let found = names.into_iter().find(|its| Some(&*to_bytes(its)) == name.strip_prefix(b"user."));
        let stream = match found {
            Some(name) => stream::find(self, &record, kind::DATA, &name)?,
            None => None,
        };
        let stream = stream.ok_or_else(|| Error::not_found("the attribute"))?;
        if stream.size > MAX_ATTRIBUTE as u64 {
            return Err(Error::unsupported(
                format!("the stream as an attribute of file {ino}"),
                format!("it has {} bytes; open it as the file's name, a colon and its own", stream.size),
            ));
        }
        self.whole(&stream, MAX_ATTRIBUTE as u64)
    }
}

impl Ntfs {
    /// Where the clusters from `at` on lie, and up to which one that is so; compressed ones unit by unit.
    fn place(&self, stream: &Stream, at: u64, step: u64) -> Result<(Place, u64)> {
        let missing =
            || Error::corrupt("the content of a file", format!("its runs end before its cluster {at}"));
        let run = stream.run(at).ok_or_else(missing)?;
        let end = run.first + run.count;
        let volume = |first: u64| Place::Volume((first + (at - run.first)) * self.boot.cluster);
        if step == 1 {
            return Ok((run.cluster.map_or(Place::Zero, volume), end));
        }
        // whole units in one run are alike: stored as they are, or nothing at all
        let whole = (end - at) / step * step;
        if whole > 0 {
            return Ok((run.cluster.map_or(Place::Zero, volume), at + whole));
        }
        let (mut taken, mut cluster) = (0, at);
        while let Some(run) = stream.run(cluster).filter(|_| cluster < at + step) {
            let count = (run.first + run.count).min(at + step) - cluster;
            taken += if run.cluster.is_some() { count } else { 0 };
            cluster += count;
        }
        Ok((if taken == 0 { Place::Zero } else { Place::Coded }, at + step))
    }
}

/// What was never written reads as zeros, whatever its clusters hold.
fn unwritten(pieces: &mut Vec<Piece>, written: u64) {
    let Some(last) = pieces.last().map(|piece| piece.at + piece.len).filter(|end| *end > written) else {
        return;
    };
    let start = pieces.first().map_or(0, |piece| piece.at).max(written);
    // decoded content is cut where it is decoded
    let keeps = |piece: &Piece| piece.place == Place::Coded && piece.at < written;
    let start =
        pieces.iter().filter(|piece| keeps(piece)).map(|piece| piece.at + piece.len).fold(start, u64::max);
    pieces.retain(|piece| piece.at < start);
    if let Some(piece) = pieces.last_mut() {
        piece.len = piece.len.min(start - piece.at);
    }
    if last > start {
        push(pieces, start, last - start, Place::Zero);
    }
}
