//! The formats, judged by qemu-img: images it makes are read here, images made here are read by it.

#![expect(clippy::disallowed_methods, reason = "tests remove the images they made")]

mod chains;
mod hostile;
mod oracle;
mod readers;
mod vhdx_log;
mod writers;
