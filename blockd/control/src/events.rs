//! What happened that somebody may want to know at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A job failed.
    JobFailed,
    /// A check of a vault or a scrub of a disk found damage.
    ScrubFailed,
    /// The newest good point of an item is older than its policy allows.
    RpoBreach,
    /// It is not any more.
    RpoMet,
    /// The instant tier has less left than is to be.
    LowSpace,
    /// It has enough again.
    SpaceEnough,
    /// The host's clock jumped, and nothing is deleted.
    ClockJump,
    /// A request waits for a guard.
    ApprovalWanted,
    /// A recovery point is far smaller or far more changed than its past.
    SuspectPoint,
    /// An audit found a block that change tracking had missed.
    TrackingMiss,
}

impl EventKind {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JobFailed => "job-failed",
            Self::ScrubFailed => "scrub-failed",
            Self::RpoBreach => "rpo-breach",
            Self::RpoMet => "rpo-met",
            Self::LowSpace => "low-space",
            Self::SpaceEnough => "space-enough",
            Self::ClockJump => "clock-jump",
            Self::ApprovalWanted => "approval-wanted",
            Self::SuspectPoint => "suspect-point",
            Self::TrackingMiss => "tracking-miss",
        }
    }
}

/// Something that happened: an element of `GET /v1/events/recent`, and the data of an event of `GET /v1/events`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number since the daemon started, from 1.
    pub number: u64,
    /// When, by the appliance's clock.
    pub time: String,
    /// What kind of thing.
    pub kind: EventKind,
    /// What it is about: an item, a vault, a job.
    pub about: String,
    /// What happened, in a sentence.
    pub message: String,
}
