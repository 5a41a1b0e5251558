//! Files inside a recovery point.

mod error;
mod fields;
pub mod files;
pub mod guest;
pub mod history;
mod log;
pub mod luks;
pub mod parser;
pub mod partition;
mod points;
mod run;
mod serve;
mod tree;
mod umount;
pub mod volume;

pub use error::{Error, Result};
pub use luks::Passphrases;
pub use points::{Point, Points, PointsFrom};
pub use run::run;
pub use serve::{Item, Mount, Options};
pub use umount::{Unmounter, mounted_from, umount};

/// Becomes a helper process of a mount if this process was started as one, and then does not return: the parser of a
/// guest's bytes, or the supervisor of a mount in the background. Executables that mount call it first in `main`,
/// before threads start, files open or arguments are looked at. `points` is for executables that mount items.
pub fn child_entry(points: Option<PointsFrom>) {
    parser::child_entry();
    run::supervisor_entry(points);
}
