//! Linux: real files, real memory, the kernel's clock and randomness. The only module of the storage side with
//! `unsafe` code.

mod chance;
mod file;
mod media;
mod memory;

pub use chance::{KernelEntropy, SystemClock};
pub use media::LinuxMedia;
