//! Which files differ between two points of a disk. Only metadata is read, of both; a file whose inode is equal in both
//! differs exactly if a changed byte lies in its extents.

use super::History;
use super::look::same_node;
use crate::files::Files;
use crate::guest::{Node, NodeKind};
use crate::points::Point;
use crate::{Error, Result};
use block::RangeSet;
use std::collections::{BTreeMap, HashSet};

/// How a file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the newer point has it.
    Added,
    /// Only the older point has it.
    Removed,
    /// Both have it.
    Changed {
        /// Its bytes, its target or its device.
        content: bool,
        /// Owner, mode, times or attributes.
        metadata: bool,
    },
}

/// A path with what is there, how it differs, and the number of its partition.
pub type Told<'a> = dyn FnMut(u32, &[u8], &Node, Difference) -> Result<()> + 'a;

/// Tells every difference between two points of a disk, a directory before what is in it. What cannot be read in one of
/// them is told to `failed`, and the rest goes on.
///
/// # Errors
/// A point cannot be opened, or what `tell` gives.
pub fn differences(
    history: &History,
    older: &Point,
    newer: &Point,
    tell: &mut Told<'_>,
    failed: &mut dyn FnMut(u32, &[u8], &Error),
) -> Result<()> {
    let changed = history.changes(older, newer)?;
    if changed.as_ref().as_ref().is_some_and(RangeSet::is_empty) {
        return Ok(());
    }
    let (before, after) = (history.files(older)?, history.files(newer)?);
    let volumes = |files: &Files| -> BTreeMap<u32, bool> {
        files.volumes().into_iter().map(|volume| (volume.number, volume.content.is_ok())).collect()
    };
    let (old, new) = (volumes(&before), volumes(&after));
    let numbers: std::collections::BTreeSet<u32> = old.keys().chain(new.keys()).copied().collect();
    for volume in numbers {
        let is_readable = |volumes: &BTreeMap<u32, bool>| volumes.get(&volume) == Some(&true);
        let mut diff = Diff {
            before: &before,
            after: &after,
            changed: changed.as_ref().as_ref(),
            volume,
            seen: HashSet::new(),
            tell: &mut *tell,
            failed: &mut *failed,
        };
        let root = |files: &Files, readable| if readable { files.root(volume).map(Some) } else { Ok(None) };
        let roots = root(&before, is_readable(&old)).and_then(|a| Ok((a, root(&after, is_readable(&new))?)));
        match roots {
            Ok((a, b)) => diff.pair(Vec::new(), a.as_ref(), b.as_ref())?,
            Err(error) => (diff.failed)(volume, b"", &error),
        }
    }
    Ok(())
}

struct Diff<'a, 'b> {
    before: &'a Files,
    after: &'a Files,
    changed: Option<&'a RangeSet>,
    volume: u32,
    /// Directories of the newer point that were entered: none is entered twice.
    seen: HashSet<u64>,
    tell: &'a mut Told<'b>,
    failed: &'a mut dyn FnMut(u32, &[u8], &Error),
}

type Names = BTreeMap<Vec<u8>, Node>;

impl Diff<'_, '_> {
    /// Compares two trees, without recursion: a guest says how deep they are.
    fn pair(&mut self, path: Vec<u8>, before: Option<&Node>, after: Option<&Node>) -> Result<()> {
        let mut ahead = vec![(path, before.cloned(), after.cloned())];
        while let Some((path, before, after)) = ahead.pop() {
            match (&before, &after) {
                (Some(a), Some(b)) if a.kind == b.kind => self.both(&path, a, b)?,
                (a, b) => {
                    if let Some(a) = a {
                        (self.tell)(self.volume, &path, a, Difference::Removed)?;
                    }
                    if let Some(b) = b {
                        (self.tell)(self.volume, &path, b, Difference::Added)?;
                    }
                }
            }
            let left = self.names(self.before, &path, before.as_ref());
            let mut right = match after.as_ref().filter(|node| node.kind == NodeKind::Directory) {
                Some(dir) if !self.seen.insert(dir.ino) => continue,
                _ => self.names(self.after, &path, after.as_ref()),
            };
            let join = |name: &[u8]| match path.as_slice() {
                [] => name.to_vec(),
                above => [above, b"/", name].concat(),
            };
            let mut inside = Vec::new();
            for (name, a) in left {
                let b = right.remove(&name);
                inside.push((join(&name), Some(a), b));
            }
            inside.extend(right.into_iter().map(|(name, b)| (join(&name), None, Some(b))));
            inside.sort_by(|a, b| b.0.cmp(&a.0));
            ahead.extend(inside);
        }
        Ok(())
    }

    /// What is in a directory; nothing in anything else.
    fn names(&mut self, files: &Files, path: &[u8], dir: Option<&Node>) -> Names {
        let Some(dir) = dir.filter(|node| node.kind == NodeKind::Directory) else { return Names::new() };
        let mut names = Names::new();
        let children = match files.list(dir) {
            Ok(children) => children,
            Err(error) => {
                (self.failed)(self.volume, path, &error);
                return names;
            }
        };
        for child in children {
            match child.and_then(|child| Ok((child.name, child.node?))) {
                Ok((name, node)) => drop(names.insert(name, node)),
                Err(error) => (self.failed)(self.volume, path, &error),
            }
        }
        names
    }

    fn both(&mut self, path: &[u8], a: &Node, b: &Node) -> Result<()> {
        let metadata = !same_node(a, b);
        let content = match a.kind {
            NodeKind::File => match self.content(a, b) {
                Ok(differs) => differs,
                Err(error) => {
                    (self.failed)(self.volume, path, &error);
                    return Ok(());
                }
            },
            NodeKind::Symlink if metadata => match (self.before.link(a), self.after.link(b)) {
                (Ok(a), Ok(b)) => a != b,
                _ => true,
            },
            NodeKind::CharDevice | NodeKind::BlockDevice => a.rdev != b.rdev,
            _ => false,
        };
        if metadata || content {
            (self.tell)(self.volume, path, b, Difference::Changed { content, metadata })?;
        }
        Ok(())
    }

    /// Whether the bytes of a file differ, or may.
    fn content(&self, a: &Node, b: &Node) -> Result<bool> {
        if a.size != b.size {
            return Ok(true);
        }
        if a.size == 0 {
            return Ok(false);
        }
        let ((before, _), (after, data)) = (self.before.pieces(a)?, self.after.pieces(b)?);
        let touched = match self.changed {
            Some(changed) => data.iter().any(|range| changed.touches(range)),
            None => !data.is_empty(),
        };
        if before != after || touched {
            return Ok(true);
        }
        Ok(self.before.coded(a, &before)? != self.after.coded(b, &after)?)
    }
}
