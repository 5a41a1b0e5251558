//! Flush: one sync at a time for all who wait, and a flush joins the next sync that *starts* after it.
//!
//! Order: take the changed map entries, sync the data, append exactly those entries to the journal, sync the journal.
//! An entry taken before the data sync describes bytes that were in the file before it.

use crate::Result;
use crate::active::{Active, Log};
use crate::disk::Disk;
use crate::journal::Entry;
use block::planted;
use block::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// Who waits for which sync.
#[derive(Default)]
pub(crate) struct Flusher {
    turns: Mutex<Turns>,
    finished: Condvar,
}

#[derive(Default)]
struct Turns {
    started: u64,
    finished: u64,
    is_running: bool,
    /// To wake nobody costs a system call too.
    waiting: usize,
    /// The newest turn that failed without poisoning: a full filesystem, until space is freed.
    failed: Option<(u64, String)>,
}

impl Flusher {
    fn wait<'a>(&self, mut turns: MutexGuard<'a, Turns>) -> MutexGuard<'a, Turns> {
        turns.waiting += 1;
        let mut turns = wait(&self.finished, turns);
        turns.waiting -= 1;
        turns
    }
}

impl Disk {
    /// Makes everything acknowledged before this call durable.
    pub(crate) fn flush_all(&self) -> Result<()> {
        self.check()?;
        let mut turns = lock(&self.flusher.turns);
        let mine = turns.started + 1;
        while turns.is_running && turns.finished < mine {
            turns = self.flusher.wait(turns);
        }
        if turns.finished >= mine {
            // somebody else ran the turn; if it failed, this flush runs its own and reports for itself
            let failed = turns.failed.as_ref().is_some_and(|(turn, _)| *turn >= mine);
            drop(turns);
            self.poison.check(self.id)?;
            return if failed { self.flush_all() } else { Ok(()) };
        }
        turns.is_running = true;
        turns.started += 1;
        let turn = turns.started;
        drop(turns);
        let done = self.flush_commit();
        let mut turns = lock(&self.flusher.turns);
        turns.is_running = false;
        turns.finished = turn;
        turns.failed = done.as_ref().err().map(|error| (turn, error.to_string()));
        if turns.waiting > 0 {
            self.flusher.finished.notify_all();
        }
        done
    }

    /// Returns when no flush is under way.
    pub(crate) fn wait_for_flush(&self) {
        let mut turns = lock(&self.flusher.turns);
        while turns.is_running {
            turns = self.flusher.wait(turns);
        }
    }

    /// Commits everything written so far.
    pub(crate) fn flush_commit(&self) -> Result<()> {
        self.poison.check(self.id)?;
        let mut view = self.view.load();
        while view.is_sealing {
            // writes before the seal are durable only with it: whoever seals holds the roots until then
            self.complete_seal(&mut lock(&self.roots))?;
            view = self.view.load();
        }
        if planted!("flush-without-sync") {
            return Ok(());
        }
        self.commit_layer(&view.active)
    }

    pub(crate) fn commit_layer(&self, active: &Active) -> Result<()> {
        let late = planted!("entries-taken-after-the-sync");
        let early = if late { Vec::new() } else { active.map.take_changes() };
        active.file.sync().map_err(|error| self.poisoned(error))?;
        let entries = if late { active.map.take_changes() } else { early };
        if entries.is_empty() {
            return Ok(());
        }
        let mut log = lock(&active.log);
        append(active, &mut log, &entries, &self.env).map_err(|error| self.poisoned(error))
    }
}

impl Disk {
    /// A planted bug: commits map entries whose bytes may not be there after a power cut.
    pub(crate) fn commit_unsynced(&self, active: &Active) -> Result<()> {
        let entries = active.map.take_changes();
        let mut log = lock(&active.log);
        append(active, &mut log, &entries, &self.env).map_err(|error| self.poisoned(error))
    }

    /// Brings everything committed into the committed map, for an orderly close: the journal then says nothing more.
    /// Returns the checksum of the map's top level.
    pub(crate) fn settle_committed(&self, active: &Active) -> Result<u32> {
        let mut log = lock(&active.log);
        let settled = checkpoint(active, &mut log, &self.env).and_then(|()| active.committed.top_crc());
        settled.map_err(|error| self.poisoned(error))
    }
}

/// Appends entries durably; when the journal is full, brings what it holds into the committed map and begins again.
fn append(active: &Active, log: &mut Log, mut entries: &[Entry], env: &crate::Env) -> block::Result<()> {
    while !entries.is_empty() {
        let taken = log.journal.append(entries)?;
        if taken == 0 {
            checkpoint(active, log, env)?;
            continue;
        }
        log.since_checkpoint.extend(&entries[..taken]);
        entries = &entries[taken..];
    }
    if planted!("journal-without-sync") { Ok(()) } else { log.journal.sync() }
}

/// From committed entries only, never from the live map.
fn checkpoint(active: &Active, log: &mut Log, env: &crate::Env) -> block::Result<()> {
    log.journal.sync()?;
    if planted!("checkpoint-from-the-live-map") {
        active.map.mark_everything();
        log.since_checkpoint = active.map.take_changes();
    }
    active.committed.checkpoint(&log.since_checkpoint)?;
    log.since_checkpoint.clear();
    log.journal.restart(&*env.entropy)
}
