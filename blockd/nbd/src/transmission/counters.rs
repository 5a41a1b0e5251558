//! What a connection did, counted in cells only its thread writes and anyone reads.

use super::latency::{Latency, LatencyCells};
use crate::wire::COMMANDS;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one connection.
#[derive(Default)]
pub struct Cells {
    commands: [Command; COMMANDS],
    unknown: AtomicU64,
}

#[derive(Default)]
struct Command {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    latency: LatencyCells,
}

impl Cells {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request of this command.
    pub(super) fn count(&self, command: u16, bytes: u64) {
        match self.commands.get(usize::from(command)) {
            Some(cells) => {
                add(&cells.requests, 1);
                add(&cells.bytes, bytes);
            }
            None => add(&self.unknown, 1),
        }
    }

    /// Counts a request that failed.
    pub(super) fn count_error(&self, command: u16) {
        if let Some(cells) = self.commands.get(usize::from(command)) {
            add(&cells.errors, 1);
        }
    }

    /// Counts how long replies to this command took, each.
    pub(crate) fn took(&self, command: u16, replies: u32, ns: u64) {
        if let Some(cells) = self.commands.get(usize::from(command)) {
            cells.latency.took(replies, ns);
        }
    }

    /// The counters now. They move on while they are read.
    pub fn counts(&self) -> Counts {
        let read = |cells: &Command| CommandCount {
            requests: cells.requests.load(Ordering::Relaxed),
            bytes: cells.bytes.load(Ordering::Relaxed),
            errors: cells.errors.load(Ordering::Relaxed),
            latency: cells.latency.read(),
        };
        let mut counts = Counts { unknown: self.unknown.load(Ordering::Relaxed), ..Counts::default() };
        counts.commands.iter_mut().zip(&self.commands).for_each(|(count, cells)| *count = read(cells));
        counts
    }
}

/// One writer, so an addition need not be atomic as a whole.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// How often something was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandCount {
    /// Requests, failed ones too.
    pub requests: u64,
    /// Bytes they asked for.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// How long replies took: from the batch that brought the request to the batch that took the reply away.
    pub latency: Latency,
}

/// The counters of a connection or an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    // indexed by command number
    commands: [CommandCount; COMMANDS],
    /// Requests with a command nobody knows.
    pub unknown: u64,
}

impl Counts {
    /// The counters of one command, such as [`CMD_READ`](crate::wire::CMD_READ).
    pub fn of(&self, command: u16) -> CommandCount {
        self.commands.get(usize::from(command)).copied().unwrap_or_default()
    }

    /// Adds the counters of another connection.
    pub fn add(&mut self, other: &Self) {
        self.unknown += other.unknown;
        for (sum, count) in self.commands.iter_mut().zip(&other.commands) {
            sum.requests += count.requests;
            sum.bytes += count.bytes;
            sum.errors += count.errors;
            sum.latency.add(&count.latency);
        }
    }
}
