//! Who serves a machine's disks as they are at one instant: the qemu that runs it, or for a machine that is shut off a `qemu-nbd` for each.

use crate::error::{Doing, Error, Result};
use control::Kind;
use machines::{DomainDisk, Virsh};
use nbd::Uri;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What begins the names of directories of sockets.
pub const DIRECTORY: &str = "blockd-pull-";
/// How long a `qemu-nbd` may take until it serves.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(10);

/// A directory that is gone when it is dropped.
pub struct Directory(PathBuf);

impl Directory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} stays: {error}", self.0.display());
        }
    }
}

/// A directory in which the user of a running machine's qemu can make a socket and files: libvirt gives images to that user.
///
/// # Errors
/// What the host reports.
pub fn directory(image: Option<&Path>) -> Result<Directory> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("{DIRECTORY}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let failed = |error| Error::host(format!("make {}", path.display()), error);
    DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
    let dir = Directory(path.clone());
    if let Some(image) = image {
        let owner = std::fs::metadata(image)
            .map_err(|error| Error::host(format!("look at {}", image.display()), error))?;
        chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
    }
    Ok(dir)
}

/// Exports by the targets of disks.
pub enum Server {
    /// The machine's own qemu.
    Machine {
        /// Its libvirt.
        virsh: Virsh,
        /// Its name there.
        domain: String,
        /// The directory of its socket.
        dir: Directory,
    },
    /// Others.
    Images {
        /// The directory of their sockets.
        dir: Directory,
        /// They.
        children: Vec<Child>,
    },
}

impl Server {
    /// The qemu of a machine in which a pull has begun.
    pub fn of_machine(virsh: Virsh, domain: String, dir: Directory) -> Self {
        Self::Machine { virsh, domain, dir }
    }

    /// Images of a machine that is shut off. Their locks keep it from being started meanwhile.
    ///
    /// # Errors
    /// `qemu-nbd` is not there, or does not take an image.
    pub fn of_images<'a>(disks: impl Iterator<Item = (&'a str, &'a DomainDisk)>) -> Result<Self> {
        let dir = directory(None)?;
        let mut children = Vec::new();
        for (target, disk) in disks {
            let Some(image) = disk.path() else { continue };
            let socket = dir.path().join(target);
            let format = disk.format.as_deref().unwrap_or("raw");
            let child = Command::new("qemu-nbd")
                .args(["--read-only", "--persistent", "--shared=8", "--export-name", target])
                .args(["--format", format, "--socket"])
                .args([socket.as_path(), image])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .process_group(0)
                .spawn()
                .map_err(|error| Error::host(format!("serve {} with qemu-nbd", image.display()), error))?;
            children.push(child);
            let server = children.last_mut();
            if let Some(child) = server
                && let Err(error) = wait_for(child, &socket, image)
            {
                drop(Self::Images { dir, children }.end());
                return Err(error);
            }
        }
        Ok(Self::Images { dir, children })
    }

    /// The export of a disk.
    pub fn uri(&self, target: &str) -> Uri {
        match self {
            Self::Machine { dir, .. } => Uri::unix(dir.path().join("nbd"), target),
            Self::Images { dir, .. } => Uri::unix(dir.path().join(target), target),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn end(self) -> Result<()> {
        match self {
            Self::Machine { virsh, domain, dir } => {
                let ended = virsh.end_pull(&domain).doing(|| format!("end the backup of machine {domain}"));
                drop(dir);
                ended
            }
            Self::Images { dir, children } => {
                for mut child in children {
                    // one that has ended already is what is wanted
                    child.kill().ok();
                    child.wait().ok();
                }
                drop(dir);
                Ok(())
            }
        }
    }
}

fn wait_for(child: &mut Child, socket: &Path, image: &Path) -> Result<()> {
    let what = || format!("serve {} with qemu-nbd", image.display());
    let mut waited = Duration::ZERO;
    while !socket.exists() {
        if let Some(status) = child.try_wait().map_err(|error| Error::host(what(), error))? {
            return Err(Error::said(
                Kind::Unavailable,
                what(),
                format!("it ended: {status}; the daemon's log has its words"),
            ));
        }
        if waited >= PATIENCE {
            return Err(Error::said(Kind::Unavailable, what(), "it does not begin to serve"));
        }
        std::thread::sleep(STEP);
        waited += STEP;
    }
    Ok(())
}
