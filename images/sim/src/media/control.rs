//! What a test does to a simulated machine from outside: faults, cuts, capacity, damage.

use super::tree::{Ino, Node, ROOT, Tree};
use super::{SimMedia, content};
use crate::fault::{Cut, Fault, Op};
use block::sync::lock;

impl SimMedia {
    /// Adds a fault to the plan. Of several that fit a call, the one added first hits it.
    pub fn inject(&self, fault: Fault) {
        lock(&self.machine.state).plan.inject(fault);
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) {
        lock(&self.machine.state).plan.clear();
    }

    /// How many calls were hit by a fault, so that a test can prove that its fault happened.
    pub fn faults_fired(&self) -> u64 {
        lock(&self.machine.state).plan.fired()
    }

    /// How many mutating calls were made, see [`Op::is_mutating`].
    pub fn calls(&self) -> u64 {
        lock(&self.machine.state).plan.calls()
    }

    /// Lets so many further mutating calls pass; the power goes off at the next one, before or after its effect.
    /// That call and every later one fail, see [`is_power_off`](crate::is_power_off).
    pub fn crash_after(&self, calls: u64, cut: Cut) {
        lock(&self.machine.state).plan.cut_after(calls, cut);
    }

    /// Whether this machine is off: by a cut, or because another came up in its place.
    pub fn is_off(&self) -> bool {
        lock(&self.machine.state).plan.off
    }

    /// Sets the size of the filesystem. It may be less than what is used already.
    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.machine.state).capacity = bytes;
    }

    /// Bytes of allocated pages, of files that have a name or are open.
    pub fn used(&self) -> u64 {
        lock(&self.machine.state).tree.used
    }

    /// Every file with its length, ascending by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = lock(&self.machine.state);
        let mut found = Vec::new();
        collect(&state.tree, ROOT, "", &mut found);
        found.sort();
        found
    }

    /// Bit rot: one bit of a file turns over, durably and without any sync.
    ///
    /// # Panics
    /// If there is no such file, or it ends before.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) {
        self.damage(path, |content| {
            assert!(offset < content.len() && bit < 8, "{path} has no bit {bit} at {offset}");
            let mut byte = [0];
            content.read(offset, &mut byte);
            content.write(offset, &[byte[0] ^ (1 << bit)]);
        });
    }

    /// Damage: bytes of a file are others, durably and without any sync.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) {
        self.damage(path, |content| content.write(offset, bytes));
    }

    /// Damage: a file is shorter (or longer), durably and without any sync.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, path: &str, len: u64) {
        self.damage(path, |content| content.set_len(len));
    }

    fn damage(&self, path: &str, mut damage: impl FnMut(&mut content::Content)) {
        let mut state = lock(&self.machine.state);
        let ino = state.tree.find(Op::Open, path).unwrap_or_else(|error| panic!("{error}"));
        let damaged = state.tree.account(ino, |file| {
            damage(&mut file.durable);
            damage(&mut file.visible);
        });
        assert!(damaged.is_some(), "{path} is no file");
    }
}

fn collect(tree: &Tree, dir: Ino, path: &str, found: &mut Vec<(String, u64)>) {
    let Some(Node::Dir(dir)) = tree.nodes.get(&dir) else { return };
    for (name, ino) in &dir.visible {
        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        match tree.nodes.get(ino) {
            Some(Node::File(file)) => found.push((path, file.visible.len())),
            _ => collect(tree, *ino, &path, found),
        }
    }
}
