//! The one gate every deletion in a vault passes.

use block::ByteCount;

use crate::{ManifestId, VaultPoint};

/// What somebody wants to delete.
#[derive(Debug, Clone)]
pub enum Deletion {
    /// A recovery point that can be read.
    Point(Box<VaultPoint>),
    /// A recovery point whose blob is damaged, so that only its id is known.
    DamagedPoint(ManifestId),
    /// Packs that no recovery point, running backup or open image reaches.
    Packs {
        /// How many.
        packs: u64,
        /// Their bytes.
        bytes: ByteCount,
        /// Whether they are removed for good. If not they go into quarantine, from where an undo brings them back.
        is_final: bool,
    },
}

/// Why it may not be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for people.
    pub why: String,
}

/// Retention, holds, locks and approvals are asked here, and nowhere else.
pub trait DeleteGate: Send + Sync {
    /// Whether this may be deleted now. Refuses unless an implementation says otherwise.
    ///
    /// # Errors
    /// [`Refusal`] with the reason.
    fn may_delete(&self, what: &Deletion) -> Result<(), Refusal> {
        let what = match what {
            Deletion::Point(point) => point.manifest.to_string(),
            Deletion::DamagedPoint(id) => id.to_string(),
            Deletion::Packs { packs, bytes, .. } => format!("{packs} packs of {bytes} bytes"),
        };
        Err(Refusal { why: format!("no policy says that {what} may go") })
    }
}

/// The gate of a vault opened without a policy: nothing may be deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefuseAll;

impl DeleteGate for RefuseAll {}
