//! The plan of what goes wrong: faults at chosen calls, and the power going off at a chosen step.

pub use crate::op::Op;

use block::{Error, Kind, Result};
use std::io;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It fails with EIO and does nothing. A failed sync also gives up what it should have made durable: readers
    /// still see it, no later sync saves it.
    Eio,
    /// It fails with ENOSPC; for a sync as above.
    Enospc,
    /// It is done, and fails with EIO all the same: the answer was lost.
    Unheard,
    /// It fails because the blob store is out of reach, and does nothing.
    Unreachable,
    /// A sync returns success and makes nothing durable; a later honest sync does.
    Lie,
    /// A write or put returns success and changes nothing.
    Lose,
    /// A write returns success and lands at this offset of the same file instead.
    Misdirect {
        /// Where it lands.
        to: u64,
    },
    /// A read returns the content as of the last sync.
    Stale,
}

impl Effect {
    fn fits(self, op: Op) -> bool {
        match self {
            Self::Eio | Self::Enospc => true,
            Self::Unheard => op.is_mutating(),
            Self::Unreachable => {
                matches!(op, Op::Put | Op::Get | Op::BlobSize | Op::ListBlobs | Op::Delete)
            }
            Self::Lie => matches!(op, Op::Sync | Op::SyncDir),
            Self::Lose => matches!(op, Op::Write | Op::Put),
            Self::Misdirect { .. } => op == Op::Write,
            Self::Stale => op == Op::Read,
        }
    }
}

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENOTDIR: i32 = 20;
pub(crate) const EISDIR: i32 = 21;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const ENOTEMPTY: i32 = 39;

/// An error as the host would report it.
pub(crate) fn failed(op: Op, path: &str, errno: i32) -> Error {
    Error::host(op.verb(), path, None, io::Error::from_raw_os_error(errno))
}

/// One thing that goes wrong: by default the first call of this kind, once.
#[derive(Debug, Clone)]
pub struct Fault {
    op: Op,
    effect: Effect,
    path: String,
    skip: u64,
    forever: bool,
}

impl Fault {
    /// The next call of this kind goes wrong like this.
    ///
    /// # Panics
    /// If the effect makes no sense for such a call: lies are for syncs, stale content for reads, losing and
    /// misdirecting for writes, unreachability for blob stores, unheard success for calls that change something.
    pub fn new(op: Op, effect: Effect) -> Self {
        assert!(effect.fits(op), "{effect:?} cannot happen to {op:?}");
        Self { op, effect, path: String::new(), skip: 0, forever: false }
    }

    /// Only calls whose path contains this.
    pub fn on(mut self, path_part: impl Into<String>) -> Self {
        self.path = path_part.into();
        self
    }

    /// Only after so many matching calls went well.
    pub fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// And every matching call from then on.
    pub fn forever(mut self) -> Self {
        self.forever = true;
        self
    }
}

/// What the step at which the power goes off still does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    BeforeEffect,
    /// Everything, but nobody hears of it.
    AfterEffect,
}

/// Why every call to a machine that is off fails.
#[derive(Debug, thiserror::Error)]
#[error("the power is off")]
struct PowerIsOff;

/// Whether this error, or one it was caused by, says that the simulated power is off.
pub fn is_power_off(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<PowerIsOff>()) {
            return true;
        }
        at = error.source();
    }
    false
}

/// The plan and how far it has come.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) off: bool,
    calls: u64,
    cut: Option<(u64, Cut)>,
    faults: Vec<Fault>,
    fired: u64,
}

/// What the plan says about one call.
pub(crate) struct Turn {
    op: Op,
    pub(crate) effect: Option<Effect>,
    last: bool,
}

impl Turn {
    /// The error this call has to fail with, if any.
    pub(crate) fn error(&self, path: &str) -> Option<Error> {
        match self.effect? {
            Effect::Eio => Some(failed(self.op, path, EIO)),
            Effect::Enospc => Some(failed(self.op, path, ENOSPC)),
            Effect::Unreachable => Some(Error::refused(Kind::Unavailable, path, "the store is out of reach")),
            _ => None,
        }
    }
}

impl Plan {
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    pub(crate) fn fired(&self) -> u64 {
        self.fired
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.faults.clear();
    }

    pub(crate) fn cut_after(&mut self, calls: u64, cut: Cut) {
        self.cut = Some((self.calls.saturating_add(calls), cut));
    }

    /// A call begins.
    pub(crate) fn begin(&mut self, op: Op, path: &str) -> Result<Turn> {
        if self.off {
            return Err(power_off(op, path));
        }
        let mut turn = Turn { op, effect: None, last: false };
        if op.is_mutating() {
            match self.cut {
                Some((at, Cut::BeforeEffect)) if self.calls >= at => {
                    self.off = true;
                    return Err(power_off(op, path));
                }
                Some((at, Cut::AfterEffect)) if self.calls >= at => turn.last = true,
                _ => {}
            }
            self.calls += 1;
        }
        turn.effect = self.fault(op, path);
        Ok(turn)
    }

    /// A call ends.
    pub(crate) fn end<T>(&mut self, turn: &Turn, path: &str, result: Result<T>) -> Result<T> {
        if turn.last {
            self.off = true;
            return Err(power_off(turn.op, path));
        }
        match turn.effect {
            Some(Effect::Unheard) => result.and(Err(failed(turn.op, path, EIO))),
            _ => result,
        }
    }

    fn fault(&mut self, op: Op, path: &str) -> Option<Effect> {
        let matches = |fault: &Fault| fault.op == op && path.contains(&fault.path);
        let mut hit = None;
        for (at, fault) in self.faults.iter_mut().enumerate().filter(|(_, fault)| matches(fault)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if hit.is_none() {
                hit = Some((at, fault.effect, fault.forever));
            }
        }
        let (at, effect, forever) = hit?;
        self.fired += 1;
        if !forever {
            self.faults.remove(at);
        }
        Some(effect)
    }
}

fn power_off(op: Op, path: &str) -> Error {
    Error::host(op.verb(), path, None, io::Error::other(PowerIsOff))
}
