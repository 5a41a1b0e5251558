//! Packs files of a recovery point into an archive that GNU tar, star and others unpack. An archive is only bytes, so it
//! keeps everything whoever makes it; sockets alone have no place in one.

mod acl;
mod header;

use super::copy::{Report, Watch};
use super::walk::{Found, Step};
use super::{Files, LostKind, PART, Tally};
use crate::guest::{Node, NodeKind};
use crate::{Error, Result};
use header::{BLOCK, Header, pad};
use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

/// Runs of data told apart in one file. What lies behind the last of them is packed with its holes, as zeros: a map
/// of more would take more memory than a guest may make us use.
const MAX_RUNS: usize = 1 << 20;
/// An archive ends at a multiple of this, as tapes want it.
const RECORD: u64 = 20 * BLOCK;

/// Packs a file, or a directory with all that is in it. In the archive it is `name`, which must not be empty.
///
/// # Errors
/// The archive cannot be written. What concerns one file is told to `watch`; bytes of a file that cannot be read are
/// zeros in the archive.
pub fn tar(
    files: &Files,
    from: &Node,
    name: &[u8],
    out: &mut dyn Write,
    watch: &mut dyn Watch,
) -> Result<Report> {
    let (first, lost, report) = (HashMap::new(), Tally::default(), Report::default());
    let mut packer = Packer { files, name, out, written: 0, first, lost, report };
    for step in files.walk(from) {
        let (path, done) = match step {
            Step::At(found) => {
                let done = packer.pack(&found);
                (found.path, done)
            }
            Step::Left(_) => continue,
            Step::Failed { path, error } => (path, Err(Trouble::File(error))),
        };
        match done {
            Ok(()) => watch.at(packer.report.files, packer.report.bytes),
            Err(Trouble::File(error)) => {
                packer.report.failed += 1;
                watch.failed(&path, &error);
            }
            Err(Trouble::Archive(error)) => return Err(error),
        }
    }
    let end = (packer.written + 2 * BLOCK).next_multiple_of(RECORD) - packer.written;
    packer.put(&vec![0; end as usize]).and_then(|()| packer.flush()).map_err(Trouble::into_error)?;
    packer.report.not_kept = packer.lost.into_vec();
    Ok(packer.report)
}

/// What went wrong: with one file, or with all that follows.
enum Trouble {
    File(Error),
    Archive(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

impl Trouble {
    fn into_error(self) -> Error {
        match self {
            Self::File(error) | Self::Archive(error) => error,
        }
    }
}

struct Packer<'a> {
    files: &'a Files,
    name: &'a [u8],
    out: &'a mut dyn Write,
    written: u64,
    /// The first name of each file with several.
    first: HashMap<u64, Vec<u8>>,
    lost: Tally,
    report: Report,
}

impl Packer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.written += bytes.len() as u64;
        let written = self.out.write_all(bytes);
        written.map_err(|error| Trouble::Archive(Error::host("write", "the archive", error)))
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        self.out.flush().map_err(|error| Trouble::Archive(Error::host("write", "the archive", error)))
    }

    fn pack(&mut self, found: &Found) -> Result<(), Trouble> {
        let node = &found.node;
        let mut name = match found.path.as_slice() {
            [] => self.name.to_vec(),
            path => [self.name, b"/", path].concat(),
        };
        let kind = match node.kind {
            NodeKind::File => b'0',
            NodeKind::Symlink => b'2',
            NodeKind::CharDevice => b'3',
            NodeKind::BlockDevice => b'4',
            NodeKind::Directory => b'5',
            NodeKind::Fifo => b'6',
            NodeKind::Socket => {
                self.lost.add(LostKind::Sockets, &found.path, "an archive has no place for it");
                return Ok(());
            }
        };
        if node.kind == NodeKind::Directory {
            name.push(b'/');
        } else if node.nlink > 1 {
            if let Some(first) = self.first.get(&node.ino) {
                let header = Header { name: &name, link: first, kind: b'1', ..header(node) }.encode();
                self.report.others += 1;
                return self.put(&header);
            }
            self.first.insert(node.ino, name.clone());
        }
        let link = if node.kind == NodeKind::Symlink { self.files.link(node)? } else { Vec::new() };
        // a file without its attributes is better than neither
        let attributes = self.files.attributes(node);
        let records = records(attributes.as_ref().map_or(&[][..], Vec::as_slice));
        let header = Header { name: &name, link: &link, kind, records, ..header(node) };
        match node.kind {
            NodeKind::File => self.pack_file(node, header)?,
            NodeKind::Directory => {
                self.put(&header.encode())?;
                self.report.directories += 1;
            }
            _ => {
                self.put(&header.encode())?;
                self.report.others += 1;
            }
        }
        Ok(attributes.map(|_| ())?)
    }

    fn pack_file(&mut self, node: &Node, header: Header<'_>) -> Result<(), Trouble> {
        let runs = self.runs(node)?;
        let data: u64 = runs.iter().map(|run| run.end - run.start).sum();
        let sparse_name = [b"GNUSparseFile/", header.name].concat();
        let mut header = Header { size: data, ..header };
        let mut map = Vec::new();
        if data < node.size {
            map = sparse_map(&runs, node.size);
            header.size += map.len() as u64;
            let mut add = |key: &str, value: Vec<u8>| header.records.push((key.into(), value));
            add("GNU.sparse.major", b"1".to_vec());
            add("GNU.sparse.minor", b"0".to_vec());
            add("GNU.sparse.name", header.name.to_vec());
            add("GNU.sparse.realsize", node.size.to_string().into_bytes());
            header.name = sparse_name.get(..sparse_name.len().min(100)).unwrap_or_default();
        }
        self.put(&header.encode())?;
        self.put(&map)?;
        let damage = self.content(node, &runs)?;
        self.put(&vec![0; (data.next_multiple_of(BLOCK) - data) as usize])?;
        self.report.files += 1;
        self.report.bytes += data;
        damage.map_or(Ok(()), |error| Err(Trouble::File(error)))
    }

    /// Writes the runs. What cannot be read becomes zeros, since their number is written already; the first reason is
    /// returned.
    fn content(&mut self, node: &Node, runs: &[Range<u64>]) -> Result<Option<Error>, Trouble> {
        let (mut buf, mut damage) = (Vec::new(), None);
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                buf.resize(usize::try_from(run.end - at).unwrap_or(PART).min(PART), 0);
                match self.files.read(node, at, &mut buf) {
                    Ok(read) => buf[read..].fill(0),
                    Err(error) => {
                        buf.fill(0);
                        damage.get_or_insert(error);
                    }
                }
                self.put(&buf)?;
                at += buf.len() as u64;
            }
        }
        Ok(damage)
    }

    /// The stored parts of a file. Where they cannot be told, the rest is one.
    fn runs(&self, node: &Node) -> Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < node.size {
            let found = match self.files.data(node, at) {
                Ok(Some(run)) if runs.len() < MAX_RUNS => run.start..run.end.min(node.size),
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => at..node.size,
            };
            at = found.end;
            runs.push(found);
        }
        Ok(runs)
    }
}

/// What every header has of a node.
fn header<'a>(node: &Node) -> Header<'a> {
    let is_device = matches!(node.kind, NodeKind::CharDevice | NodeKind::BlockDevice);
    let device = if is_device { (super::major(node.rdev), super::minor(node.rdev)) } else { (0, 0) };
    let Node { uid, gid, mtime, atime, perm: mode, .. } = *node;
    Header { uid, gid, mode, mtime, atime, device, ..Header::default() }
}

/// The records for attributes.
fn records(attributes: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let record = |(name, value): &(Vec<u8>, Vec<u8>)| {
        if let (Some(key), Some(words)) = (acl::key(name), acl::words(value)) {
            return (key.to_vec(), words.into_bytes());
        }
        let mut key = b"SCHILY.xattr.".to_vec();
        for &byte in name {
            match byte {
                // a key ends at the first such sign
                b'=' => key.extend_from_slice(b"%3D"),
                b'%' => key.extend_from_slice(b"%25"),
                _ => key.push(byte),
            }
        }
        (key, value.clone())
    };
    attributes.iter().map(record).collect()
}

/// What is before the data of a sparse file (GNU tar's format 1.0): the number of runs, then offset and length of
/// each.
fn sparse_map(runs: &[Range<u64>], size: u64) -> Vec<u8> {
    let end = runs.last().map_or(0, |run| run.end);
    // the last one says how long the file is
    let end = (end < size).then_some(size..size);
    let mut map = format!("{}\n", runs.len() + usize::from(end.is_some()));
    for run in runs.iter().chain(&end) {
        map += &format!("{}\n{}\n", run.start, run.end - run.start);
    }
    let mut map = map.into_bytes();
    pad(&mut map);
    map
}
