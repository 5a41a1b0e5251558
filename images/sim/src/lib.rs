//! Tools for testing against the seams of `block`: media that lose power, faults, a clock, reference models and the
//! conformance suites. Only ever a dev-dependency.
//!
//! ```
//! use block::{Media, OpenHow};
//! use sim::{Rng, SimMedia};
//! let media = SimMedia::new();
//! let file = media.open("a", OpenHow::Create)?;
//! file.write_at(0, b"kept")?;
//! file.sync()?;
//! media.sync_dir("")?;
//! file.write_at(0, b"gone")?;
//! let after: Vec<_> = media.power_cut_all(2).map(|media| {
//!     let media: &dyn Media = &media;
//!     media.read_whole("a", 4)
//! }).collect::<Result<_, _>>()?;
//! assert_eq!(after, [b"kept", b"gone"]);
//! assert!(file.write_at(0, b"dead").is_err());
//! # Ok::<(), block::Error>(())
//! ```

mod action;
mod blobs;
mod chance;
pub mod conformance;
mod fault;
pub mod filesystem;
mod media;
mod model;
mod op;
mod rng;
pub mod server;

pub use action::Action;
pub use blobs::SimBlobStore;
pub use chance::{SeededEntropy, SimClock};
pub use fault::{Cut, Effect, Fault, Op, is_power_off};
pub use media::SimMedia;
pub use model::{Agreement, Mismatch, ModelDisk};
pub use rng::{Rng, SEED_VARIABLE, for_seeds};
