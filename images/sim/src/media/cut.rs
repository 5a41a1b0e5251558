//! The two crashes: the process ends, or the power goes off.

use super::content::Content;
use super::tree::{DirOp, FileNode, Ino, Node, ROOT, Tree};
use super::{SimMedia, State};
use crate::Rng;
use crate::rng::mix;
use block::Session;
use block::sync::{Arc, lock};
use std::collections::{BTreeMap, BTreeSet};

/// How likely a pending change survives, in quarters: cuts that leave nearly nothing and nearly everything find as
/// many mistakes as those that leave half.
const KEEP: [u64; 5] = [0, 1, 2, 3, 4];

impl SimMedia {
    /// The power goes off: this machine is dead, and the one returned has come up again. It holds what was durable
    /// and an arbitrary part of what was pending, writes torn at 8 bytes. Volatile memories and locks are gone, and
    /// so are faults and the planned cut; the session is another one.
    ///
    /// May be called again and again, also on a machine already off, to see other outcomes of one history.
    pub fn power_cut(&self, rng: &mut Rng) -> SimMedia {
        self.lose_power(&mut Drawn { keep: *rng.pick(&KEEP), rng })
    }

    /// The power goes off, once for every subset of what was pending; each change lands whole or not at all.
    ///
    /// # Panics
    /// If there are more than `limit` subsets; see [`pending_ops`](Self::pending_ops).
    pub fn power_cut_all(&self, limit: u64) -> impl Iterator<Item = SimMedia> + '_ {
        let ops = self.pending_ops();
        let subsets = 1u64.checked_shl(ops as u32).filter(|&count| count <= limit);
        let subsets =
            subsets.unwrap_or_else(|| panic!("{ops} pending changes have more than {limit} subsets"));
        (0..subsets).map(|subset| self.lose_power(&mut Chosen { subset }))
    }

    /// The process ends and another one starts on the same running machine: this handle is dead, the one returned
    /// sees everything that was visible and every volatile memory. Locks are free; faults and the planned cut are
    /// gone. What was pending stays pending.
    ///
    /// # Panics
    /// If a word of volatile memory was used that nobody reserved.
    pub fn process_crash(&self) -> SimMedia {
        lock(&self.machine.state).plan.off = true;
        self.fork()
    }

    /// A machine of its own in the same state, without open files, locks, faults or planned cut, while this one
    /// goes on: for looking at every outcome of a crash in the middle of a history.
    ///
    /// # Panics
    /// If a word of volatile memory was used that nobody reserved.
    pub fn fork(&self) -> SimMedia {
        let old = lock(&self.machine.state);
        let mut state = State::new(old.tree.clone(), old.capacity, old.session);
        state.tree.close_all();
        state.cuts = old.cuts;
        let copies = old.memories.iter().map(|(name, words)| (name.clone(), Arc::new(words.copy(name))));
        state.memories = copies.collect();
        SimMedia::of(state)
    }

    /// How many changes are pending: of files that can still be reached after some power cut, and of directories.
    pub fn pending_ops(&self) -> usize {
        let state = lock(&self.machine.state);
        let in_files: usize = reachable(&state.tree).iter().map(|file| file.pending.len()).sum();
        state.tree.pending.len() + in_files
    }

    fn lose_power(&self, fate: &mut dyn Fate) -> SimMedia {
        let mut state = lock(&self.machine.state);
        state.plan.off = true;
        state.cuts += 1;
        let tree = after_power_cut(&state.tree, fate);
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&mix(u64::from_le_bytes(first_half(&state.session))).to_le_bytes());
        boot[8..].copy_from_slice(&state.cuts.to_le_bytes());
        let session = Session { boot, mount: state.session.mount + 1 };
        SimMedia::of(State::new(tree, state.capacity, session))
    }
}

/// The part of a boot id that every further cut scrambles.
fn first_half(session: &Session) -> [u8; 8] {
    std::array::from_fn(|at| session.boot[at] ^ session.boot[at + 8].rotate_left(3))
}

/// Files that some power cut can leave a name for.
fn reachable(tree: &Tree) -> Vec<&FileNode> {
    let durable = tree.nodes.values().filter_map(|node| match node {
        Node::Dir(dir) => Some(dir.durable.values()),
        Node::File(_) => None,
    });
    let pending = tree.pending.iter().flat_map(|op| &op.changes).filter_map(|change| change.to.as_ref());
    let names: BTreeSet<&Ino> = durable.flatten().chain(pending).collect();
    let files = names.into_iter().filter_map(|ino| match tree.nodes.get(ino) {
        Some(Node::File(file)) => Some(file),
        _ => None,
    });
    files.collect()
}

/// Decides what survives. Asked in a fixed order: directory changes newest first, then each file's changes.
trait Fate {
    /// Whether this change of names lands.
    fn lands(&mut self) -> bool;
    /// The content of a file of which this is pending.
    fn content(&mut self, file: &FileNode) -> Content;
}

/// Chance decides.
struct Drawn<'a> {
    rng: &'a mut Rng,
    keep: u64,
}

impl Fate for Drawn<'_> {
    fn lands(&mut self) -> bool {
        self.rng.chance(self.keep, 4)
    }

    fn content(&mut self, file: &FileNode) -> Content {
        let mut content = file.durable.clone();
        // files fare alike in most cuts, and one fares differently in some
        let keep = if self.rng.chance(1, 4) { *self.rng.pick(&KEEP) } else { self.keep };
        for op in &file.pending {
            if self.rng.chance(1, 4) {
                op.apply_torn(&mut content, self.rng);
            } else if self.rng.chance(keep, 4) {
                op.apply(&mut content);
            }
        }
        content
    }
}

/// The bits of a number decide, the lowest first.
struct Chosen {
    subset: u64,
}

impl Fate for Chosen {
    fn lands(&mut self) -> bool {
        let lands = self.subset & 1 == 1;
        self.subset >>= 1;
        lands
    }

    fn content(&mut self, file: &FileNode) -> Content {
        let mut content = file.durable.clone();
        for op in &file.pending {
            if self.lands() {
                op.apply(&mut content);
            }
        }
        content
    }
}

/// The tree as it comes up again.
fn after_power_cut(old: &Tree, fate: &mut dyn Fate) -> Tree {
    let dirs = old.nodes.iter().filter(|(_, node)| matches!(node, Node::Dir(_)));
    let mut names = Tree::new(dirs.map(|(ino, node)| (*ino, node.clone())).collect());
    for op in surviving(&old.pending, fate) {
        names.land(op);
    }
    let mut nodes = BTreeMap::new();
    come_up(&names, old, ROOT, fate, &mut nodes);
    Tree::new(nodes)
}

/// The changes of names that land, oldest first.
fn surviving<'a>(pending: &'a [DirOp], fate: &mut dyn Fate) -> Vec<&'a DirOp> {
    let mut moved = BTreeSet::new();
    let mut chosen = Vec::new();
    for op in pending.iter().rev() {
        // a file moved twice cannot have made only the second move: it would be in two places
        let forced = op.moves.is_some_and(|ino| moved.contains(&ino));
        if fate.lands() || forced {
            moved.extend(op.moves);
            chosen.push(op);
        }
    }
    chosen.reverse();
    chosen
}

/// Takes over a directory and everything below it.
fn come_up(names: &Tree, old: &Tree, ino: Ino, fate: &mut dyn Fate, nodes: &mut BTreeMap<Ino, Node>) {
    let Some(Node::Dir(dir)) = names.nodes.get(&ino) else { return };
    let mut dir = dir.clone();
    dir.visible = dir.durable.clone();
    let entries: Vec<Ino> = dir.durable.values().copied().collect();
    nodes.insert(ino, Node::Dir(dir));
    for entry in entries {
        if nodes.contains_key(&entry) {
            continue;
        }
        match old.nodes.get(&entry) {
            Some(Node::File(file)) => {
                let durable = fate.content(file);
                let file = FileNode { visible: durable.clone(), durable, linked: true, ..Default::default() };
                nodes.insert(entry, Node::File(file));
            }
            Some(Node::Dir(_)) => come_up(names, old, entry, fate, nodes),
            None => {}
        }
    }
}
