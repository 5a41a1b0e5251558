//! Foreign disk images: raw, qcow2, VHD, VHDX and VMDK, read as sources of blocks and written from them.
//!
//! What is read, refused and written stands in `docs/`, a document for each format. This crate knows no disk and no
//! vault; it reaches files through [`block`].
//!
//! ```
//! use block::linux::{KernelEntropy, LinuxMedia};
//! use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Media, MemoryDisk, OpenHow};
//! use formats::{Format, Output, Reach};
//!
//! let disk = MemoryDisk::new(ByteCount::new(1 << 20));
//! disk.write_at(ByteOffset::new(4096), b"hello")?;
//! let dir = tempfile::tempdir().expect("a directory");
//! let file = LinuxMedia::new(dir.path(), dir.path())?.open("disk.qcow2", OpenHow::Create)?;
//! let output = Output::plain(Format::Qcow2);
//! formats::write(&disk, &*file, output, "disk.qcow2", &KernelEntropy, &mut |_| Ok(()))?;
//!
//! let opened = formats::open(&dir.path().join("disk.qcow2"), None, Reach::Below)?;
//! let mut back = [0; 5];
//! opened.disk.read_at(ByteOffset::new(4096), &mut back)?;
//! assert_eq!((&back, opened.format), (b"hello", Format::Qcow2));
//! # Ok::<(), formats::Error>(())
//! ```

mod codec;
mod error;
mod format;
mod image;
mod limits;
mod open;
mod pages;
mod qcow2;
mod vhd;
mod vhdx;
mod vmdk;
mod writer;

pub use error::{Error, Result};
pub use format::Format;
pub use open::{Opened, Reach, open, read};
pub use writer::{Output, write};
