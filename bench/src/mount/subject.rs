//! Who shows the files.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Options;
use super::image::Image;
use crate::appliance::Appliance;
use crate::server::run as call;

/// A way to see the files of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `blockctl mount` of a point that only the vault holds.
    Vault,
    /// `blockctl mount` of a point in the instant tier.
    Instant,
    /// The kernel's mount of the raw image over a loop device.
    Kernel,
    /// e2fsprogs' FUSE program on the raw image.
    Fuse2fs,
    /// The FUSE program for NTFS on the raw image.
    Ntfs3g,
}

impl Subject {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vault => "blockd, vault",
            Self::Instant => "blockd, instant",
            Self::Kernel => "kernel",
            Self::Fuse2fs => "fuse2fs",
            Self::Ntfs3g => "ntfs-3g",
        }
    }
}

/// The files of the image, until dropped.
pub struct Mounted {
    dir: PathBuf,
    path: PathBuf,
}

impl Mounted {
    /// Mounts.
    ///
    /// # Errors
    /// A program is missing or fails.
    pub fn new(subject: Subject, appliance: &Appliance, image: &Image, options: &Options) -> Result<Self> {
        let dir = appliance.place().join("mnt");
        std::fs::create_dir_all(&dir)?;
        let mut path = dir.clone();
        match subject {
            Subject::Vault | Subject::Instant => {
                let point = if subject == Subject::Vault { &image.vaulted } else { &image.instant };
                call(options.setting.blockctl(appliance).arg("mount").arg(point).arg(&dir))?;
                path.push("files/0");
            }
            Subject::Kernel => {
                call(Command::new("mount").args(["-o", "loop,ro"]).arg(&image.raw).arg(&dir))?;
            }
            Subject::Fuse2fs => {
                call(Command::new("fuse2fs").args(["-o", "ro"]).arg(&image.raw).arg(&dir))?;
            }
            Subject::Ntfs3g => {
                call(Command::new("ntfs-3g").args(["-o", "ro"]).arg(&image.raw).arg(&dir))?;
            }
        }
        Ok(Self { dir, path })
    }

    /// The root of the files.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = call(Command::new("umount").arg(&self.dir)) {
            eprintln!("warning: {error:#}");
        }
    }
}
