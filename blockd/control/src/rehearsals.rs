//! Rehearsals: a recovery point started as a machine of its own, to see whether it would.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/rehearsals`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RehearseRequest {
    /// The recovery point, of a disk or of a machine.
    pub point: String,
    /// What shows that the machine is up: `agent`, its guest agent answers, or `console:TEXT`, its serial console shows this.
    /// `agent` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// How long that may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// A command of a shell that the guest agent runs in the guest then, and that has to end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// The machine's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// The id of its job.
    pub id: String,
    /// The point, as it was called then.
    pub point: String,
    /// What the point is one of.
    pub item: String,
    /// The ids of the states of its disks.
    pub states: Vec<String>,
    /// When it began.
    pub time: String,
    /// Whether the machine was up in time, the probe ended well, and every filesystem could be read.
    pub passed: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was waited for.
    pub waited_for: String,
    /// From the beginning until its disks were there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks_ms: Option<u64>,
    /// From the beginning until the machine was up: the recovery time that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_ms: Option<u64>,
    /// What the probe did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// The filesystems of the point, read through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<CheckedVolume>,
    /// What its serial console showed: a file on the appliance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// What its screen showed: a file on the appliance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screenshot: Option<String>,
}

/// How a command in a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// The command.
    pub command: String,
    /// Its exit code; none if a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// The end of what it printed.
    pub output: String,
}

/// A volume of a recovery point whose files were read through, names and attributes alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CheckedVolume {
    /// The point of a disk.
    pub point: String,
    /// The partition or volume.
    pub volume: String,
    /// What is in it.
    pub content: String,
    /// Whether it has files that can be read at all.
    pub readable: bool,
    /// Files, directories and whatever else has a name.
    pub entries: u64,
    /// What could not be read: the first few.
    pub damage: Vec<String>,
    /// And how many in all.
    pub damaged: u64,
}
