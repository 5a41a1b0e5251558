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
}
