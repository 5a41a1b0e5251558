//! Linux: real files, real memory, the kernel's clock and randomness. The only module of the storage side with
//! `unsafe` code.

mod cachestat;
mod chance;
mod direct;
mod file;
mod foreign;
mod hangup;
mod heap;
mod inherited;
mod media;
mod memory;
mod named;
mod ring;
mod shelf;

pub use chance::{KernelEntropy, SystemClock};
pub use foreign::{ForeignFile, Stamp};
pub use hangup::hold_hangup;
pub use heap::share_heaps;
pub use inherited::inherited_sockets;
pub use media::LinuxMedia;
pub use named::{open_below, open_named};
pub use ring::ReadRing;
