//! Files in memory that lose power: the simulated [`Media`].
//!
//! What was written and not synced is kept as a list of changes on top of what is durable. A power cut leaves any
//! part of that list; see `README.md` for the exact rules. Not for speed measurements: every call takes one lock.

mod content;
mod control;
mod cut;
mod file;
mod memory;
mod pending;
mod tree;

use crate::fault::{EEXIST, EINVAL, EISDIR, ENOSPC, Effect, Op, Plan, Turn, failed};
use block::sync::{Arc, Mutex, lock};
use block::{DirEntry, Lock, Media, MediaFile, Memory, OpenHow, Result, Session, Space, check_path};
use file::SimFile;
use memory::{SimMemory, Words};
use pending::FileOp;
use std::collections::{BTreeMap, BTreeSet};
use tree::{Dir, FileNode, Ino, Node, Tree};

/// Room of a new media, in bytes (64 GiB): more than any test fills.
const CAPACITY: u64 = 64 << 30;

/// A machine with one filesystem, in memory. Clones are handles on the same machine.
#[derive(Clone)]
pub struct SimMedia {
    machine: Arc<Machine>,
}

struct Machine {
    state: Mutex<State>,
}

struct State {
    plan: Plan,
    tree: Tree,
    memories: BTreeMap<String, Arc<Words>>,
    locks: BTreeSet<Ino>,
    capacity: u64,
    session: Session,
    cuts: u64,
}

impl State {
    fn new(tree: Tree, capacity: u64, session: Session) -> Self {
        let (memories, locks) = (BTreeMap::new(), BTreeSet::new());
        Self { plan: Plan::default(), tree, memories, locks, capacity, session, cuts: 0 }
    }
}

impl State {
    /// The process ends here: what its code still does to its memories on the way out of the failed call is not what
    /// another process finds.
    fn part_from_memories(&mut self) {
        for (name, words) in &mut self.memories {
            *words = Arc::new(words.copy(name));
        }
    }
}

impl Machine {
    /// One call: refused when the power is off, counted, hit by faults, and perhaps the last one.
    fn call<T>(&self, op: Op, path: &str, act: impl FnOnce(&mut State, &Turn) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state);
        let was_off = state.plan.off;
        let result = state.plan.begin(op, path).and_then(|turn| {
            let result = act(&mut state, &turn);
            state.plan.end(&turn, path, result)
        });
        if state.plan.off && !was_off {
            state.part_from_memories();
        }
        result
    }
}

impl Default for SimMedia {
    fn default() -> Self {
        Self::new()
    }
}

impl SimMedia {
    /// A machine that has just come up, with an empty filesystem of 64 GiB.
    pub fn new() -> Self {
        Self::of(State::new(Tree::default(), CAPACITY, Session { boot: [1; 16], mount: 1 }))
    }

    fn of(state: State) -> Self {
        Self { machine: Arc::new(Machine { state: Mutex::new(state) }) }
    }

    fn call<T>(&self, op: Op, path: &str, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        check_path(path)?;
        self.machine.call(op, path, |state, turn| match turn.error(path) {
            Some(error) => Err(error),
            None => act(state),
        })
    }
}

/// Finds or makes the file of an `open`.
fn open(state: &mut State, op: Op, path: &str, how: OpenHow) -> Result<Ino> {
    let (dir, name) = state.tree.parent(op, path)?;
    let found = state.tree.dir(op, dir, path)?.visible.get(name).copied();
    let ino = match (found, how) {
        (Some(_), OpenHow::Create) => return Err(failed(op, path, EEXIST)),
        (Some(ino), _) => ino,
        (None, OpenHow::Create | OpenHow::Truncate) => {
            state.tree.add(dir, name, Node::File(FileNode::default()))
        }
        (None, _) => state.tree.find(op, path)?,
    };
    state.tree.file(op, ino, path)?;
    if how == OpenHow::Truncate && found.is_some() {
        state.tree.account(ino, |file| {
            file.visible.set_len(0);
            file.pending.push(FileOp::SetLen(0));
        });
    }
    state.tree.hold(ino, true);
    Ok(ino)
}

impl Media for SimMedia {
    fn open(&self, path: &str, how: OpenHow) -> Result<Arc<dyn MediaFile>> {
        let op = if matches!(how, OpenHow::Create | OpenHow::Truncate) { Op::Create } else { Op::Open };
        // made outside the lock: dropping it takes the lock
        let ino = self.call(op, path, |state| open(state, op, path, how));
        let file = |ino| SimFile {
            machine: self.machine.clone(),
            ino,
            path: path.to_owned(),
            writable: how != OpenHow::Read,
        };
        Ok(Arc::new(file(ino?)))
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.call(Op::CreateDir, path, |state| {
            let (dir, name) = state.tree.parent(Op::CreateDir, path)?;
            match state.tree.dir(Op::CreateDir, dir, path)?.visible.get(name).copied() {
                Some(ino) => state.tree.dir(Op::CreateDir, ino, path).map(|_| ()),
                None => {
                    state.tree.add(dir, name, Node::Dir(Dir::default()));
                    Ok(())
                }
            }
        })
    }

    fn list(&self, dir: &str) -> Result<Vec<DirEntry>> {
        self.call(Op::List, dir, |state| {
            let ino = state.tree.find(Op::List, dir)?;
            let is_dir = |ino| matches!(state.tree.nodes.get(ino), Some(Node::Dir(_)));
            let entries = state.tree.dir(Op::List, ino, dir)?.visible.iter();
            Ok(entries.map(|(name, ino)| DirEntry { name: name.clone(), is_dir: is_dir(ino) }).collect())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_path(from)?;
        check_path(to)?;
        let path = format!("{from} {to}");
        self.machine.call(Op::Rename, &path, |state, turn| match turn.error(from) {
            Some(error) => Err(error),
            None => state.tree.rename(from, to),
        })
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.call(Op::Remove, path, |state| state.tree.remove(path))
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        check_path(dir)?;
        self.machine.call(Op::SyncDir, dir, |state, turn| {
            let ino = state.tree.find(Op::SyncDir, dir)?;
            state.tree.dir(Op::SyncDir, ino, dir)?;
            if turn.effect == Some(Effect::Lie) {
                return Ok(());
            }
            if let Some(error) = turn.error(dir) {
                state.tree.give_up(ino);
                return Err(error);
            }
            state.tree.commit(ino);
            Ok(())
        })
    }

    fn lock(&self, path: &str) -> Result<Box<dyn Lock>> {
        let ino = self.call(Op::Lock, path, |state| {
            let (dir, name) = state.tree.parent(Op::Lock, path)?;
            let ino = match state.tree.dir(Op::Lock, dir, path)?.visible.get(name).copied() {
                Some(ino) => ino,
                None => state.tree.add(dir, name, Node::File(FileNode::default())),
            };
            state.tree.file(Op::Lock, ino, path).map_err(|_| failed(Op::Lock, path, EISDIR))?;
            if !state.locks.insert(ino) {
                let why = "another process holds this lock".to_owned();
                return Err(block::Error::Conflict { what: path.to_owned(), why });
            }
            state.tree.hold(ino, true);
            Ok(ino)
        })?;
        Ok(Box::new(SimLock { machine: self.machine.clone(), ino }))
    }

    fn space(&self) -> Result<Space> {
        self.call(Op::Space, "", |state| {
            let available = state.capacity.saturating_sub(state.tree.used);
            Ok(Space { total: state.capacity, available })
        })
    }

    fn volatile(&self, name: &str, words: usize) -> Result<Arc<dyn Memory>> {
        check_volatile(name)?;
        let words = self.call(Op::Volatile, name, |state| {
            if let Some(found) = state.memories.get(name).filter(|found| found.len() == words) {
                return Ok(found.clone());
            }
            let fresh = Words::new(words).ok_or_else(|| failed(Op::Volatile, name, ENOSPC))?;
            let fresh = Arc::new(fresh);
            state.memories.insert(name.to_owned(), fresh.clone());
            Ok(fresh)
        })?;
        Ok(Arc::new(SimMemory { words, name: name.to_owned(), machine: self.machine.clone() }))
    }

    fn list_volatile(&self) -> Result<Vec<String>> {
        self.call(Op::ListVolatile, "", |state| Ok(state.memories.keys().cloned().collect()))
    }

    fn remove_volatile(&self, name: &str) -> Result<()> {
        check_volatile(name)?;
        self.call(Op::RemoveVolatile, name, |state| {
            state.memories.remove(name);
            Ok(())
        })
    }

    fn scratch(&self, words: usize) -> Result<Arc<dyn Memory>> {
        let words =
            self.call(Op::Scratch, "", |_| Words::new(words).ok_or_else(|| failed(Op::Scratch, "", ENOSPC)))?;
        let words = Arc::new(words);
        Ok(Arc::new(SimMemory { words, name: String::new(), machine: self.machine.clone() }))
    }

    fn session(&self) -> Result<Session> {
        self.call(Op::Session, "", |state| Ok(state.session))
    }
}

fn check_volatile(name: &str) -> Result<()> {
    check_path(name)?;
    if name.is_empty() || name.contains('/') {
        return Err(failed(Op::Volatile, name, EINVAL));
    }
    Ok(())
}

struct SimLock {
    machine: Arc<Machine>,
    ino: Ino,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = lock(&self.machine.state);
        state.locks.remove(&self.ino);
        state.tree.hold(self.ino, false);
    }
}
