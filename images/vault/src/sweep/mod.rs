//! Deleting what no recovery point reaches. Specified in `docs/sweep.md`.
//!
//! A run marks what every point, running backup and open image reaches, puts the packs nothing reaches into
//! quarantine, and deletes what an earlier run put there, if still nothing reaches it. What is needed of packs that are mostly dead it
//! writes anew first, and puts them into quarantine too. Nothing may rely on a
//! pack in quarantine, so a later run finds it as unreached as the earlier did.

#[cfg(test)]
mod model;
mod pins;
mod quarantine;
mod run;

pub(crate) use pins::{Pinned, Pins, RootPin};
pub use quarantine::fuzz_decode as fuzz_quarantine;
pub(crate) use quarantine::{Quarantine, Quarantined};
pub(crate) use run::{run, undo};

use block::{ByteCount, Time};

use crate::SweepId;

/// What a sweep did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// The run, if it put anything into quarantine; its packs come back with [`Vault::undo_sweep`](crate::Vault::undo_sweep).
    pub run: Option<SweepId>,
    /// Packs it put into quarantine, and why each: nothing reaches them.
    pub quarantined: Vec<String>,
    /// Packs it put into quarantine because much of them was reached by nothing; the rest was written anew.
    pub rewritten: Vec<String>,
    /// Bytes that were stored for that rest.
    pub bytes_rewritten: ByteCount,
    /// Bytes of all packs it put into quarantine.
    pub quarantined_bytes: ByteCount,
    /// Packs of earlier runs it deleted.
    pub deleted: Vec<String>,
    /// Bytes of these.
    pub deleted_bytes: ByteCount,
    /// Packs of earlier runs that something reaches: they are in use again, and an earlier mark missed it.
    pub released: Vec<String>,
}

/// An earlier run whose packs are in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepRun {
    /// The run.
    pub run: SweepId,
    /// When it was.
    pub made: Time,
    /// Its packs.
    pub packs: u64,
    /// Bytes of these.
    pub bytes: ByteCount,
}
