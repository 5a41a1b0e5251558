//! A tree of files as FUSE asks for it: everything by number. Two trees are shown: of one recovery point, and of all
//! points of an item.

use super::Tree;
use super::number::Place;
use crate::guest::{Node, NodeKind, Space};
use crate::{Error, Result};
use std::time::Duration;

/// Takes (number, offset of the next, kind, name, node) and says whether there was no more room for it.
pub(crate) type Add<'a> = dyn FnMut(u64, u64, NodeKind, &[u8], Option<&Node>) -> bool + 'a;

/// How long the kernel may keep what never changes: for as long as it likes.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A tree of files. Number 1 is its top directory.
pub(crate) trait Shown: Send + Sync {
    /// The file of this number.
    fn node(&self, ino: u64) -> Result<Node>;

    /// The file a directory names so, or `None`.
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<Node>>;

    /// Adds what is in a directory from `from` on, 0 at its start, until `add` says that there is no more room.
    fn list(&self, dir: u64, from: u64, add: &mut Add<'_>) -> Result<()>;

    /// The target of a symbolic link.
    fn link(&self, ino: u64) -> Result<Vec<u8>>;

    /// Reads up to `buf.len()` bytes of a file; fewer only at its end. The number read.
    fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// The next data, or the next hole, at or after `offset`; `None` means there is none.
    fn seek(&self, ino: u64, offset: u64, data: bool) -> Result<Option<u64>>;

    /// Names of the extended attributes.
    fn attribute_names(&self, ino: u64) -> Result<Vec<Vec<u8>>>;

    /// An extended attribute.
    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>>;

    /// Sizes for `statfs`.
    fn space(&self, ino: u64) -> Result<Space>;

    /// How long the kernel may keep what it is told of this file, and of the names in this directory.
    fn keep(&self, _ino: u64) -> Duration {
        FOREVER
    }

    /// The kernel holds this number once more.
    fn remember(&self, _ino: u64) {}

    /// The kernel holds this number so many times less.
    fn forget(&self, _ino: u64, _times: u64) {}
}

fn place(ino: u64) -> Result<Place> {
    Place::of(ino).ok_or_else(|| Error::not_found(format!("inode {ino}")))
}

impl Shown for Tree {
    fn node(&self, ino: u64) -> Result<Node> {
        Tree::node(self, place(ino)?)
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<Node>> {
        Tree::lookup(self, place(dir)?, name)
    }

    fn list(&self, dir: u64, from: u64, add: &mut Add<'_>) -> Result<()> {
        let place = place(dir)?;
        if let Place::Guest(volume, dir) = place {
            return self.list_all(volume, dir, from, add);
        }
        for (at, (name, place)) in (1..).zip(self.names(place)?).skip(from as usize) {
            let node = Tree::node(self, place)?;
            if add(place.number(), at, node.kind, name.as_bytes(), Some(&node)) {
                break;
            }
        }
        Ok(())
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        Tree::link(self, place(ino)?)
    }

    fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Tree::read(self, place(ino)?, offset, buf)
    }

    fn seek(&self, ino: u64, offset: u64, data: bool) -> Result<Option<u64>> {
        Tree::seek(self, place(ino)?, offset, data)
    }

    fn attribute_names(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        Tree::attribute_names(self, place(ino)?)
    }

    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        Tree::attribute(self, place(ino)?, name)
    }

    fn space(&self, ino: u64) -> Result<Space> {
        Tree::space(self, place(ino)?)
    }
}

impl Tree {
    fn list_all(&self, volume: u32, dir: u64, mut cookie: u64, add: &mut Add<'_>) -> Result<()> {
        let mut any = false;
        loop {
            let (page, first) = match self.page(volume, dir, cookie) {
                Ok(page) => page,
                // names already given are better than none; the error comes with the next call
                Err(_) if any => return Ok(()),
                Err(error) => return Err(error),
            };
            for (entry, node) in page.entries.get(first..).unwrap_or_default() {
                let kind = node.as_ref().map(|node| node.kind).or(entry.kind).unwrap_or(NodeKind::File);
                if add(entry.ino, entry.next, kind, &entry.name, node.as_ref()) {
                    return Ok(());
                }
                any = true;
            }
            match page.next {
                Some(next) => cookie = next,
                None => return Ok(()),
            }
        }
    }
}
