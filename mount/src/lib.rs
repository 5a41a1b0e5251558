//! Files inside a recovery point.

mod error;
mod fields;
pub mod guest;
pub mod partition;

pub use error::{Error, Result};
