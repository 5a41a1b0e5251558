//! Packs whose content was written anew elsewhere, because much of it was dead or some of it was damaged. Trees go on naming the old
//! places; a list says where their content is. Specified in `docs/moved.md`.

mod list;
mod read;
mod write;

pub(crate) use list::Moved;
pub use list::fuzz_decode as fuzz_moved;
pub(crate) use read::{KEPT_MOVES, MAX_MOVES};
pub(crate) use write::{Needed, Rewrite};
