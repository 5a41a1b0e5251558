//! What a machine was at its last recovery point: `machines/NAME.last` in the state directory.

use crate::error::{Doing, Error, Result};
use crate::machines::DIR;
use crate::names::machine_word;
use block::Media;
use control::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A thousand disks.
const LIMIT_BYTES: u64 = 1 << 20;

/// The checkpoint that began at its last point, and what our disks were then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    /// The checkpoint.
    pub checkpoint: String,
    /// Our disks, by target: those whose images keep the checkpoint.
    #[serde(default)]
    pub disks: BTreeMap<String, LastDisk>,
}

/// A disk of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastDisk {
    /// Its id.
    pub disk: String,
    /// Its state at the point.
    pub state: String,
}

fn path(machine: &str) -> String {
    format!("{DIR}/{}.last", machine_word(machine))
}

impl Last {
    /// Reads it. One that is not there or is damaged knows nothing: then all is compared.
    ///
    /// # Errors
    /// What the host reports.
    pub fn read(media: &dyn Media, machine: &str) -> Result<Self> {
        let path = path(machine);
        match media.read_whole(&path, LIMIT_BYTES) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(toml::from_str(&text).unwrap_or_else(|error: toml::de::Error| {
                    tracing::warn!(machine, "{path} is damaged: {}", error.message());
                    Self::default()
                }))
            }
            Err(error) if error.kind() == block::Kind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::below(format!("read {path}"), error)),
        }
    }

    /// Writes it. It is durable when this returns.
    ///
    /// # Errors
    /// What the host reports.
    pub fn write(&self, media: &dyn Media, machine: &str) -> Result<()> {
        let path = path(machine);
        let text = toml::to_string(self)
            .map_err(|error| Error::said(Kind::Io, format!("write {path}"), error.to_string()))?;
        media.replace(&path, text.as_bytes()).doing(|| format!("write {path}"))
    }
}
