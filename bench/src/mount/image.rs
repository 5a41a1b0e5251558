//! What is mounted: a filesystem with a tree of small files and a large one.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Format, Options};
use crate::appliance::Appliance;
use crate::server::run as call;

/// Files of one directory of the tree.
const A_DIRECTORY: u32 = 100;

/// An image and the points made of it.
pub struct Image {
    /// The raw file.
    pub raw: PathBuf,
    /// A point in the instant tier.
    pub instant: String,
    /// A point of the same content that only the vault holds.
    pub vaulted: String,
}

impl Image {
    /// The tree and the large file.
    ///
    /// # Errors
    /// mke2fs fails, or the daemon.
    pub fn make(appliance: &Appliance, options: &Options) -> Result<Self> {
        let tree = appliance.place().join("content");
        fs::create_dir_all(tree.join("tree"))?;
        let mut noise = Noise(1);
        for number in 0..options.files {
            let dir = tree.join("tree").join(format!("{:03}", number / A_DIRECTORY));
            if number % A_DIRECTORY == 0 {
                fs::create_dir(&dir)?;
            }
            fs::write(dir.join(format!("file {number}")), noise.text(size(number)))?;
        }
        let large = fs::File::create(tree.join("large"))?;
        for _ in 0..options.large_mib {
            std::io::Write::write_all(&mut &large, &noise.text(1 << 20))?;
        }
        let raw = appliance.place().join("image.raw");
        let bytes = (options.large_mib << 20) + u64::from(options.files) * (24 << 10) + (64 << 20);
        fs::File::create(&raw)?.set_len(bytes)?;
        match options.format {
            Format::Ext4 => {
                let inodes = (options.files + 4096).to_string();
                let made = ["-q", "-F", "-t", "ext4", "-N", &inodes, "-d"];
                call(Command::new("mke2fs").args(made).arg(&tree).arg(&raw))?;
            }
            Format::Ntfs => {
                call(Command::new("mkntfs").args(["-q", "-F", "-Q"]).arg(&raw))?;
                let dir = appliance.place().join("filled");
                fs::create_dir(&dir)?;
                call(Command::new("ntfs-3g").arg(&raw).arg(&dir))?;
                let filled = call(Command::new("cp").arg("-r").arg(tree.join(".")).arg(&dir));
                call(Command::new("umount").arg(&dir))?;
                filled?;
            }
        }
        fs::remove_dir_all(&tree)?;
        Self::into_points(appliance, options, "tree", raw)
    }

    /// An empty filesystem on a disk as large as they come.
    ///
    /// # Errors
    /// As [`make`](Self::make).
    pub fn sparse(appliance: &Appliance, options: &Options) -> Result<Self> {
        let raw = appliance.place().join("sparse.raw");
        fs::File::create(&raw)?.set_len(options.disk_gib << 30)?;
        call(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&raw))?;
        Self::into_points(appliance, options, "sparse", raw)
    }

    fn into_points(appliance: &Appliance, options: &Options, disk: &str, raw: PathBuf) -> Result<Self> {
        let blockctl = |arguments: &[&str]| {
            let mut command = options.setting.blockctl(appliance);
            call(command.args(arguments))
        };
        blockctl(&["disk", "create", disk, "--from", path(&raw)?])?;
        let instant = appliance.snapshot(disk)?.name;
        blockctl(&["backup", disk])?;
        let points = appliance.client().points(Some(disk))?.points;
        let vaulted = points.last().context("no point was made")?.name.clone();
        blockctl(&["point", "delete", &vaulted, "--tier", "instant", "--yes"])?;
        appliance.wait_until_folded(disk)?;
        appliance.settle()?;
        Ok(Self { raw, instant, vaulted })
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// As in a root filesystem: most files are small, a few are not.
fn size(number: u32) -> usize {
    match number % 50 {
        0 => 200_000,
        1..10 => 20_000,
        _ => 500 + (number as usize * 37) % 6000,
    }
}

/// Bytes that compress to about a half and repeat nowhere.
struct Noise(u64);

impl Noise {
    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes().map(|byte| b' ' + byte % 16));
        }
        bytes.truncate(len);
        bytes
    }
}
