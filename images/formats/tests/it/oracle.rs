//! qemu's tools, and the disk that all images of these tests hold.

use block::{BlockSource, ByteOffset, ByteRange, ExtentKind};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Not a multiple of any cluster, block or grain.
pub const SIZE: u64 = (20 << 20) + 3 * 512;

/// Runs a program that must succeed; gives what it prints.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// `qemu-img`.
pub fn qemu_img(arguments: &[&str]) -> String {
    run("qemu-img", arguments)
}

/// `qemu-io`, one command after the other.
pub fn qemu_io(format: &str, file: &str, commands: &[&str]) {
    let commands: Vec<&str> = commands.iter().flat_map(|command| ["-c", command]).collect();
    let said = run("qemu-io", &[&["-f", format], &commands[..], &[file]].concat());
    assert!(!said.contains("failed"), "{said}");
}

/// A folder of its own.
pub struct Stage {
    dir: TempDir,
}

impl Stage {
    pub fn set() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The bytes of [`content`] in a sparse raw file.
    pub fn raw(&self) -> String {
        let path = self.text("raw.raw");
        if !Path::new(&path).exists() {
            fs::write(&path, content()).expect("written");
            run("fallocate", &["--dig-holes", &path]);
        }
        path
    }

    /// An image of [`content`], made by qemu.
    pub fn made(&self, name: &str, format: &str, options: &[&str]) -> PathBuf {
        let path = self.text(name);
        qemu_img(&[&["convert", "-f", "raw", "-O", format], options, &[&self.raw(), &path]].concat());
        self.path(name)
    }
}

/// A disk with text, noise, zeros inside of data, holes, and data at its very end.
pub fn content() -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8
    };
    for at in [0, 300 << 10, (5 << 20) + 4096, (19 << 20) + 512, bytes.len() - 70_000] {
        bytes[at..at + 70_000].iter_mut().for_each(|byte| *byte = noise());
    }
    for at in [(1 << 20) + 65_536, 9 << 20] {
        let text = b"the same line of text again and again\n".iter().cycle();
        bytes[at..at + 200_000].iter_mut().zip(text).for_each(|(byte, &text)| *byte = text);
    }
    bytes[330 << 10..340 << 10].fill(0);
    bytes
}

/// The bytes a source reads as.
pub fn bytes_of(source: &dyn BlockSource) -> Vec<u8> {
    let mut bytes = vec![0; source.size().get() as usize];
    source.read_at(ByteOffset::ZERO, &mut bytes).expect("read");
    bytes
}

/// Bytes that a source calls data.
pub fn data_bytes(source: &dyn BlockSource) -> u64 {
    let mut data = 0;
    let walked = source.extents(ByteRange::whole(source.size()), &mut |extent| {
        if extent.kind == ExtentKind::Data {
            data += extent.range.count().get();
        }
        ControlFlow::Continue(())
    });
    walked.expect("walked");
    data
}
