//! Policies: when items are backed up and which of their recovery points stay. What is said here is decided without touching
//! anything; `docs/policy.md` has the rules.

mod file;
mod retention;
mod schedule;
mod windows;

pub use file::{days_of_week, parse, time_of_day};
pub use retention::{Candidate, Kept, Reason, Retention, judge};
pub use schedule::Schedule;
pub use windows::Days;

use control::{Consistency, RehearseRequest};
use std::time::Duration;

/// What is said of when and how long.
#[derive(Debug, Clone)]
pub struct Policy {
    /// As it was written.
    pub text: String,
    /// When backups are made.
    pub schedule: Schedule,
    /// Which points stay in the vault.
    pub retention: Retention,
    /// How long copies stay in the instant tier that a vault holds too.
    pub instant_days: u32,
    /// How many of them at the most.
    pub instant_points: Option<usize>,
    /// How old the newest good point may be.
    pub rpo: Option<Duration>,
    /// How long a restore may take.
    pub rto: Option<Duration>,
    /// What no backup may be less consistent than.
    pub consistency: Option<Consistency>,
    /// When and how the newest point is rehearsed.
    pub rehearsal: Option<RehearsalRule>,
    /// Which points go to an archive.
    pub archive: Option<ArchiveRule>,
}

/// How often the newest point of an item is rehearsed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RehearsalRule {
    /// Days between two.
    pub every_days: u32,
    /// What is asked for; the point is not named.
    pub request: RehearseRequest,
}

/// Which points leave the vault for an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveRule {
    /// The archive.
    pub to: String,
    /// How old they are.
    pub after_days: u32,
    /// Which classes alone keep them.
    pub classes: Vec<Reason>,
}

/// The policy every vault is born with.
pub const DEFAULT: &str = "\
[schedule]
at = [\"02:00\"]
jitter-minutes = 30

[retention]
daily = 30
monthly = { count = 12, day = 1 }
";

#[cfg(test)]
mod model;
