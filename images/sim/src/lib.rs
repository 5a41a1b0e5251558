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

mod chance;
mod media;
mod rng;

pub use chance::{SeededEntropy, SimClock};
pub use media::{Cut, Effect, Fault, Op, SimMedia, is_power_off};
pub use rng::{Rng, SEED_VARIABLE, for_seeds};
