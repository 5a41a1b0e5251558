//! Copies out of a recovery point, with everything about them that this user may set.
//!
//! The guest chose every name, link and kind, so nothing of it is trusted to stay inside the target: each directory is
//! opened from the one above it without following a link (`target`), and what was opened is what is written to.

mod metadata;
mod target;

pub use target::Target;

use super::walk::{Found, Step};
use super::{Files, Lost, LostKind, Tally};
use crate::guest::{Node, NodeKind};
use crate::{Error, Result};
use metadata::{apply, is_final};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use target::{New, at};

/// What a copy does about names that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It leaves them, and says so.
    Keep,
    /// It replaces them, but never a directory by something else, or the other way round.
    Replace,
}

/// Whoever looks on.
pub trait Watch {
    /// So far so many files and bytes of content.
    fn at(&mut self, files: u64, bytes: u64);

    /// This file could not be copied, or this directory not to its end; the rest goes on.
    fn failed(&mut self, path: &[u8], error: &Error);
}

/// What was copied.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Plain files, each of them once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links and special files, further names of files.
    pub others: u64,
    /// Bytes of content; holes are none.
    pub bytes: u64,
    /// Files and directories that could not be copied, or not whole.
    pub failed: u64,
    /// What could not be kept.
    pub not_kept: Vec<Lost>,
}

/// Copies a file, or a directory with all that is in it, and makes it durable. It appears in `target` as `name`; without
/// one, what is in the directory appears there.
///
/// # Errors
/// `Invalid` if there is no name for something that is no directory; an error of the host that would be met again for
/// every file, such as no space. What concerns one file is told to `watch`.
pub fn copy(
    files: &Files,
    from: &Node,
    target: &Target,
    name: Option<&[u8]>,
    taken: Taken,
    watch: &mut dyn Watch,
) -> Result<Report> {
    if name.is_none() && from.kind != NodeKind::Directory {
        return Err(Error::invalid("a copy of a file", "it needs a name"));
    }
    let mut copier = Copier {
        files,
        target,
        top: name,
        taken,
        open: Vec::new(),
        first: HashMap::new(),
        lost: Tally::default(),
        report: Report::default(),
    };
    let mut walk = files.walk(from);
    while let Some(step) = walk.next() {
        let (path, done) = match step {
            Step::At(found) => {
                let done = copier.meet(&found);
                if done.is_err() {
                    walk.leave_out();
                }
                (found.path, done)
            }
            Step::Left(found) => {
                let done = copier.leave(&found);
                (found.path, done)
            }
            Step::Failed { path, error } => (path, Err(error)),
        };
        match done {
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                copier.report.failed += 1;
                watch.failed(&path, &error);
            }
            Ok(()) => watch.at(copier.report.files, copier.report.bytes),
        }
    }
    target.sync()?;
    copier.report.not_kept = copier.lost.into_vec();
    Ok(copier.report)
}

struct Copier<'a> {
    files: &'a Files,
    target: &'a Target,
    top: Option<&'a [u8]>,
    taken: Taken,
    /// The directories around the file at hand; none is the target itself.
    open: Vec<Option<OwnedFd>>,
    /// Where the first name of a file with several is.
    first: HashMap<u64, Vec<u8>>,
    lost: Tally,
    report: Report,
}

impl Copier<'_> {
    /// Copies a file, or opens a directory for what follows.
    fn meet(&mut self, found: &Found) -> Result<()> {
        let name = match (found.path.is_empty(), self.top) {
            (true, None) => {
                self.open.push(None);
                return Ok(());
            }
            (true, Some(top)) => top,
            (false, _) => found.name(),
        };
        let above = self.open.pop().flatten();
        let dir = above.as_ref().map_or_else(|| self.target.as_fd(), AsFd::as_fd);
        let made = match found.node.kind {
            NodeKind::Directory => target::directory(dir, name).map(Some),
            _ => self.make(dir, name, found).map(|()| None),
        };
        // the copy of the start has no directory around it
        if !found.path.is_empty() {
            self.open.push(above);
        }
        if let Some(directory) = made? {
            self.report.directories += 1;
            self.open.push(Some(directory));
        }
        Ok(())
    }

    /// Gives a directory what belongs to it, now that nothing is made in it any more.
    fn leave(&mut self, found: &Found) -> Result<()> {
        let Some(directory) = self.open.pop().flatten() else { return Ok(()) };
        let attributes = self.files.attributes(&found.node);
        let known = attributes.as_ref().map_or(&[][..], Vec::as_slice);
        apply(directory.as_fd(), &found.node, known, &found.path, &mut self.lost);
        attributes.map(|_| ())
    }

    fn make(&mut self, dir: BorrowedFd<'_>, name: &[u8], found: &Found) -> Result<()> {
        let node = &found.node;
        if node.nlink > 1 && self.link(dir, name, found)? {
            self.report.others += 1;
            return Ok(());
        }
        // content without its attributes is better than neither
        let attributes = self.files.attributes(node);
        let known = attributes.as_ref().map_or(&[][..], Vec::as_slice);
        let new = match node.kind {
            NodeKind::File => New::make(dir, name, self.taken, |name| target::open_new(dir, name))?,
            _ => match self.special(dir, name, node) {
                Err(Error::Host { source, .. })
                    if is_device(node) && source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    self.lost.add(LostKind::Devices, &found.path, source);
                    return Ok(());
                }
                made => made?,
            },
        };
        if node.kind == NodeKind::File {
            self.report.bytes += self.fill(new.as_fd(), name, node)?;
            self.report.files += 1;
        } else {
            self.report.others += 1;
        }
        apply(new.as_fd(), node, known, &found.path, &mut self.lost);
        new.keep()?;
        if node.nlink > 1 {
            self.first.insert(node.ino, self.path(found));
        }
        attributes.map(|_| ())
    }

    /// Where a file is below the target.
    fn path(&self, found: &Found) -> Vec<u8> {
        match (self.top, found.path.as_slice()) {
            (None, path) => path.to_vec(),
            (Some(top), []) => top.to_vec(),
            (Some(top), path) => [top, b"/", path].concat(),
        }
    }

    /// Makes a further name of a file that was copied under another. False if it has to be copied.
    fn link(&mut self, dir: BorrowedFd<'_>, name: &[u8], found: &Found) -> Result<bool> {
        let Some(first) = self.first.get(&found.node.ino) else { return Ok(false) };
        let place = first.iter().rposition(|byte| *byte == b'/');
        let (around, old) = match place {
            Some(place) => (&first[..place], &first[place + 1..]),
            None => (&[][..], first.as_slice()),
        };
        let kind = file_type(found.node.kind);
        let linked = self.target.below(around).and_then(|around| {
            New::make(dir, name, self.taken, |name| {
                rustix::fs::linkat(&around, old, dir, name, AtFlags::empty())?;
                target::hold(dir, name, kind)
            })
        });
        match linked {
            Ok(new) => new.keep().map(|()| true),
            Err(error @ Error::Conflict { .. }) => Err(error),
            Err(error) if is_final(&error) => Err(error),
            Err(error) => {
                self.lost.add(LostKind::HardLinks, &found.path, error.with_causes());
                Ok(false)
            }
        }
    }

    fn special<'b>(&self, dir: BorrowedFd<'b>, name: &'b [u8], node: &Node) -> Result<New<'b>> {
        let kind = file_type(node.kind);
        let target = match node.kind {
            NodeKind::Symlink => self.files.link(node)?,
            _ => Vec::new(),
        };
        New::make(dir, name, self.taken, |name| {
            match node.kind {
                NodeKind::Symlink => rustix::fs::symlinkat(&target, dir, name)?,
                _ => rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device(node.rdev))?,
            }
            target::hold(dir, name, kind)
        })
    }

    /// Writes the content, holes left out. The bytes written.
    fn fill(&self, to: BorrowedFd<'_>, name: &[u8], node: &Node) -> Result<u64> {
        let failed = |errno: Errno| at("write", name, errno);
        rustix::fs::ftruncate(to, node.size).map_err(failed)?;
        let file =
            File::from(to.try_clone_to_owned().map_err(|error| Error::host("write", "a file", error))?);
        let mut bytes = 0;
        self.files.content(node, &mut |offset, part| {
            file.write_all_at(part, offset)
                .map_err(|error| Error::host("write", std::path::PathBuf::from(super::lossy(name)), error))?;
            bytes += part.len() as u64;
            Ok(())
        })?;
        Ok(bytes)
    }
}

fn is_device(node: &Node) -> bool {
    matches!(node.kind, NodeKind::CharDevice | NodeKind::BlockDevice)
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharacterDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

/// A node's device number as the host's calls take it.
fn device(rdev: u32) -> rustix::fs::Dev {
    rustix::fs::makedev(super::major(rdev), super::minor(rdev))
}
