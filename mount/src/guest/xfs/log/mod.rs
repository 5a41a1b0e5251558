//! The log, replayed in memory.
//!
//! A recovery point is taken under a running guest, so its log is full as a rule. Nothing is written: the replay is a
//! table of sectors that are newer than those on the volume. The rules are those of the kernel's recovery: only records
//! from the tail to the last whole one count; a transaction counts only with its commit; a buffer that was given back is
//! left alone; what is on the volume and newer than the transaction stays.

mod items;
mod overlay;
mod ring;
mod transaction;

pub(super) use overlay::Overlay;

use super::superblock::Superblock;
use crate::guest::lines::Lines;
use crate::{Error, Result};
use items::{Cancelled, Replay};
use ring::Ring;
use transaction::Transactions;

/// Reads the log and works out what is newer in it.
pub(super) fn replay(sb: &Superblock, lines: &Lines) -> Result<Overlay> {
    let Some(ring) = Ring::open(sb, lines)? else { return Ok(Overlay::default()) };
    let mut cancelled = Cancelled::default();
    each_transaction(&ring, &mut |transaction| cancelled.note(&transaction.items))?;
    let mut replay = Replay::new(sb, lines, cancelled);
    each_transaction(&ring, &mut |transaction| replay.apply(&transaction))?;
    Ok(replay.overlay)
}

/// Calls `visit` for every committed transaction, in the order of their commits.
fn each_transaction(
    ring: &Ring<'_>,
    visit: &mut dyn FnMut(transaction::Transaction) -> Result<()>,
) -> Result<()> {
    let mut transactions = Transactions::default();
    ring.records(&mut |record| transactions.add(record, visit))
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the XFS log", why)
}
