//! What disks stand on: recovery points of other disks, and images that are not ours. What is recorded of it is in
//! `docs/bases.md`; how a disk reads it, in `images/layers/docs/base.md`.

mod image;
mod record;
mod spare;
mod standing;
mod stored;

pub use image::{Asked, HeldImage};
pub use record::{BaseRecord, ImageRecord, On};
pub use spare::{Spare, Spared};
pub use standing::Standing;
pub use stored::{Patience, StoredPoint};
