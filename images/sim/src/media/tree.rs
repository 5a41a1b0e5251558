//! The simulated filesystem's names and files: what is visible, what is durable, and what is pending in between.

use super::content::Content;
use super::pending::FileOp;
use crate::fault::{EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, Op, failed};
use block::Result;
use std::collections::{BTreeMap, BTreeSet};

/// The number of a file or directory. Names point to it, open files hold it.
pub(super) type Ino = u64;

/// The root directory.
pub(super) const ROOT: Ino = 0;

#[derive(Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(Dir),
}

#[derive(Clone, Default)]
pub(super) struct FileNode {
    /// What readers see.
    pub(super) visible: Content,
    /// What no power cut can take.
    pub(super) durable: Content,
    /// What a power cut may take or leave, oldest first.
    pub(super) pending: Vec<FileOp>,
    /// How many open files hold it.
    pub(super) handles: u32,
    /// Whether a visible name leads to it.
    pub(super) linked: bool,
}

#[derive(Clone, Default)]
pub(super) struct Dir {
    pub(super) visible: BTreeMap<String, Ino>,
    pub(super) durable: BTreeMap<String, Ino>,
}

/// One name pointing somewhere else than before, or nowhere.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) dir: Ino,
    pub(super) name: String,
    pub(super) to: Option<Ino>,
}

/// A creation, removal or rename that is not durable yet. It happens whole or not at all.
#[derive(Clone)]
pub(super) struct DirOp {
    pub(super) changes: Vec<Change>,
    /// What a rename moves: a later move of the same file cannot land without this one.
    pub(super) moves: Option<Ino>,
    /// Directories that must be synced before it is durable.
    unsynced: Vec<Ino>,
}

#[derive(Clone)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) pending: Vec<DirOp>,
    next: Ino,
    /// Bytes of pages of files that are linked or open.
    pub(super) used: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]))
    }
}

impl Tree {
    /// A tree in which nothing is pending and nothing is open.
    pub(super) fn new(nodes: BTreeMap<Ino, Node>) -> Self {
        let next = nodes.last_key_value().map_or(0, |(ino, _)| ino + 1);
        let used = nodes.values().map(|node| match node {
            Node::File(file) => file.visible.allocated_bytes(),
            Node::Dir(_) => 0,
        });
        Self { used: used.sum(), nodes, pending: Vec::new(), next }
    }

    /// What a path names.
    pub(super) fn find(&self, op: Op, path: &str) -> Result<Ino> {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        segments.into_iter().try_fold(ROOT, |at, name| {
            let dir = self.dir(op, at, path)?;
            dir.visible.get(name).copied().ok_or_else(|| failed(op, path, ENOENT))
        })
    }

    /// The directory a path lies in, and the last segment.
    pub(super) fn parent<'a>(&self, op: Op, path: &'a str) -> Result<(Ino, &'a str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(failed(op, path, EINVAL));
        }
        let dir = self.find(op, dir)?;
        self.dir(op, dir, path)?;
        Ok((dir, name))
    }

    pub(super) fn dir(&self, op: Op, ino: Ino, path: &str) -> Result<&Dir> {
        match self.nodes.get(&ino) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(failed(op, path, ENOTDIR)),
            None => Err(failed(op, path, ENOENT)),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> Option<&mut Dir> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn file(&mut self, op: Op, ino: Ino, path: &str) -> Result<&mut FileNode> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(failed(op, path, EISDIR)),
            None => Err(failed(op, path, ENOENT)),
        }
    }

    /// Adds a file or directory under a free name.
    pub(super) fn add(&mut self, dir: Ino, name: &str, node: Node) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        let change = Change { dir, name: name.to_owned(), to: Some(ino) };
        self.change(vec![change], None);
        ino
    }

    /// Removes a file or an empty directory.
    pub(super) fn remove(&mut self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(Op::Remove, path)?;
        let ino = self.find(Op::Remove, path)?;
        self.check_empty(Op::Remove, ino, path)?;
        self.change(vec![Change { dir, name: name.to_owned(), to: None }], None);
        Ok(())
    }

    /// Renames, replacing a file or an empty directory of the same kind.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let op = Op::Rename;
        let ino = self.find(op, from)?;
        let (from_dir, from_name) = self.parent(op, from)?;
        let (to_dir, to_name) = self.parent(op, to)?;
        let is_dir = matches!(self.nodes.get(&ino), Some(Node::Dir(_)));
        if is_dir && format!("{to}/").starts_with(&format!("{from}/")) && from != to {
            return Err(failed(op, from, EINVAL));
        }
        if let Some(&target) = self.dir(op, to_dir, to)?.visible.get(to_name) {
            if target == ino {
                return Ok(());
            }
            match (is_dir, matches!(self.nodes.get(&target), Some(Node::Dir(_)))) {
                (true, false) => return Err(failed(op, to, ENOTDIR)),
                (false, true) => return Err(failed(op, to, EISDIR)),
                _ => self.check_empty(op, target, to)?,
            }
        }
        let gone = Change { dir: from_dir, name: from_name.to_owned(), to: None };
        let new = Change { dir: to_dir, name: to_name.to_owned(), to: Some(ino) };
        self.change(vec![gone, new], Some(ino));
        Ok(())
    }

    fn check_empty(&self, op: Op, ino: Ino, path: &str) -> Result<()> {
        match self.nodes.get(&ino) {
            Some(Node::Dir(dir)) if !dir.visible.is_empty() => Err(failed(op, path, ENOTEMPTY)),
            _ => Ok(()),
        }
    }

    /// Makes changes visible at once and durable later.
    fn change(&mut self, changes: Vec<Change>, moves: Option<Ino>) {
        let mut unsynced: Vec<Ino> = changes.iter().map(|change| change.dir).collect();
        unsynced.dedup();
        for change in &changes {
            let Some(dir) = self.dir_mut(change.dir) else { continue };
            let old = match change.to {
                Some(ino) => dir.visible.insert(change.name.clone(), ino),
                None => dir.visible.remove(&change.name),
            };
            if let Some(old) = old {
                self.link(old, false);
            }
        }
        for ino in changes.iter().filter_map(|change| change.to) {
            self.link(ino, true);
        }
        self.pending.push(DirOp { changes, moves, unsynced });
    }

    fn link(&mut self, ino: Ino, linked: bool) {
        self.account(ino, |file| file.linked = linked);
    }

    /// An open file begins or ends.
    pub(super) fn hold(&mut self, ino: Ino, begins: bool) {
        self.account(ino, |file| {
            file.handles = if begins { file.handles + 1 } else { file.handles.saturating_sub(1) };
        });
    }

    /// Changes a file and keeps `used` true.
    pub(super) fn account<T>(&mut self, ino: Ino, change: impl FnOnce(&mut FileNode) -> T) -> Option<T> {
        let Some(Node::File(file)) = self.nodes.get_mut(&ino) else { return None };
        let weigh = |file: &FileNode| {
            if file.linked || file.handles > 0 { file.visible.allocated_bytes() } else { 0 }
        };
        let before = weigh(file);
        let result = change(file);
        self.used = self.used - before + weigh(file);
        Some(result)
    }

    /// Makes the pending changes of a directory durable.
    pub(super) fn commit(&mut self, dir: Ino) {
        let mut at = 0;
        while at < self.pending.len() {
            self.pending[at].unsynced.retain(|&unsynced| unsynced != dir);
            if !self.pending[at].unsynced.is_empty() {
                at += 1;
                continue;
            }
            let op = self.pending.remove(at);
            // an older change of the same name can no longer land on top of this one
            for older in &mut self.pending[..at] {
                older
                    .changes
                    .retain(|old| !op.changes.iter().any(|new| new.dir == old.dir && new.name == old.name));
            }
            self.land(&op);
        }
        self.pending.retain(|op| !op.changes.is_empty());
        self.forget_unreachable();
    }

    /// Gives up the pending changes of a directory: they stay visible, and nothing makes them durable.
    pub(super) fn give_up(&mut self, dir: Ino) {
        self.pending.retain(|op| !op.unsynced.contains(&dir));
    }

    /// One pending change becomes durable.
    pub(super) fn land(&mut self, op: &DirOp) {
        for change in &op.changes {
            let Some(dir) = self.dir_mut(change.dir) else { continue };
            match change.to {
                Some(ino) => dir.durable.insert(change.name.clone(), ino),
                None => dir.durable.remove(&change.name),
            };
        }
    }

    /// Every open file ends; what only they held is gone.
    pub(super) fn close_all(&mut self) {
        let files: Vec<Ino> = self.nodes.keys().copied().collect();
        for ino in files {
            self.account(ino, |file| file.handles = 0);
        }
        self.forget_unreachable();
    }

    /// Drops files and directories that nothing can lead to any more.
    fn forget_unreachable(&mut self) {
        let mut wanted = BTreeSet::from([ROOT]);
        for (ino, node) in &self.nodes {
            match node {
                Node::Dir(dir) => wanted.extend(dir.visible.values().chain(dir.durable.values())),
                Node::File(file) if file.handles > 0 => {
                    wanted.insert(*ino);
                }
                Node::File(_) => {}
            }
        }
        wanted.extend(self.pending.iter().flat_map(|op| &op.changes).filter_map(|change| change.to));
        self.nodes.retain(|ino, _| wanted.contains(ino));
    }
}
