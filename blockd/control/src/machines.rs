//! What is asked and said of whole machines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/machines`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machines {
    /// Those that are protected, then those that libvirt has besides.
    pub machines: Vec<Machine>,
    /// What could not be looked at, one sentence each.
    pub warnings: Vec<String>,
}

/// `GET /v1/machines` without a protected machine's own: which libvirt to look at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachinesQuery {
    /// The libvirt, `qemu:///system` if not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Its name as an item, `vm/web`; absent if it is not protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What libvirt calls it.
    pub domain: String,
    /// The libvirt that has it.
    pub uri: String,
    /// Its UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What it is doing, in libvirt's words; absent if libvirt does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Its disks.
    pub disks: Vec<MachineDisk>,
    /// What a person should know, one sentence each.
    pub warnings: Vec<String>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineDisk {
    /// What it is called in the machine, `vda`.
    pub target: String,
    /// Its serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Where its bytes are: a file, a device, or the disk of ours.
    pub source: String,
    /// The disk of ours that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Why it is not protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// `POST /v1/definitions/{point}`: what a recovery point of a machine holds of it beside its disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Definition {
    /// The recovery point of the machine's definition.
    pub point: String,
    /// The definition, as libvirt wrote it.
    pub domain_xml: String,
    /// All files that are kept, the definition among them.
    pub files: Vec<String>,
}

/// `PUT /v1/machines/{item}`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectMachine {
    /// What libvirt calls it.
    pub domain: String,
    /// The libvirt that has it, `qemu:///system` if not named. Naming one is for an admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Only these disks, by target or serial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Not these disks, by target or serial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// It stays on its own images: its recovery points are pulled from its qemu.
    #[serde(default)]
    pub attached: bool,
}

/// `POST /v1/machines/attach`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachDisk {
    /// What libvirt calls the machine.
    pub domain: String,
    /// The libvirt that has it, `qemu:///system` if not named. Naming one is for an admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The disk.
    pub disk: String,
    /// What it is called in the machine; the next free one of `vda`, `vdb`, … if not named. A disk that has it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Only from its next start on, although it runs.
    #[serde(default)]
    pub at_next_start: bool,
}

/// A disk that was attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskAttached {
    /// What libvirt calls the machine.
    pub domain: String,
    /// The disk.
    pub disk: String,
    /// What it is called in the machine.
    pub target: String,
    /// Whether libvirt only passes it on to qemu, because it cannot say how to reconnect.
    pub passed_on: bool,
    /// Whether the running machine has it now.
    pub live: bool,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
}

/// `POST /v1/machines/{item}/migrate-in`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateIn {
    /// Only these disks, by target; all that are protected and not here yet if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}

/// `POST /v1/machines/{item}/migrate-out`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateOut {
    /// The directory of the machine's host that the files are made in.
    pub to: String,
    /// Their format: `qcow2` or `raw`.
    pub format: String,
    /// Only these disks, by target; all that are here if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}

/// `POST /v1/machines/restores`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreMachine {
    /// The machine's recovery point, `vm/web@7`.
    pub point: String,
    /// The new machine's name as an item, `vm/web-2`; libvirt calls it by the word.
    pub name: String,
    /// Its disks run from the point at once, and it is started.
    #[serde(default)]
    pub run: bool,
    /// Whether it has the network cards of the machine it is made of, with addresses of their own, or none.
    #[serde(default)]
    pub network: MachineNetwork,
    /// Only these disks, by target; all if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// The libvirt it is defined at; the one the machine was of if not named. Naming one is for an admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Where a libvirt of another host reaches our exports over TLS, `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exports_at: Option<String>,
}

/// The network cards of a restored machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MachineNetwork {
    /// It has none.
    #[default]
    None,
    /// They are on the networks of the machine it is made of.
    Same,
}

/// `POST /v1/machines/{item}/replace`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceMachine {
    /// The machine's recovery point; empty with `undo`.
    #[serde(default)]
    pub point: String,
    /// Put back what was there before the last one.
    #[serde(default)]
    pub undo: bool,
    /// Only these disks, by target; all if none is named. The definition is left as it is then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Read back what was written and compare it with the recovery point.
    #[serde(default)]
    pub verify: bool,
}

/// A machine whose content is being replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineReplaced {
    /// The recovery point that is taking the place of what was there.
    pub point: String,
    /// The recovery point of what was there.
    pub safety_point: String,
    /// One job for each disk.
    pub jobs: Vec<crate::Job>,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
}
