//! Files inside a recovery point.

mod error;
mod fields;
pub mod files;
pub mod guest;
mod log;
pub mod parser;
pub mod partition;
mod run;
mod serve;
mod tree;
mod umount;
pub mod volume;

pub use error::{Error, Result};
pub use run::run;
pub use serve::{Mount, Options};
pub use umount::{Unmounter, mounted_from, umount};

/// Becomes a helper process of a mount if this process was started as one, and then does not return: the parser of a
/// guest's bytes, or the supervisor of a mount in the background. Executables that mount call it first in `main`,
/// before threads start, files open or arguments are looked at.
pub fn child_entry() {
    parser::child_entry();
    run::supervisor_entry();
}
