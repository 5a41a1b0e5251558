//! Real filesystems of a test's own, whose power can be cut. As root, with the packages tests need.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|said| panic!("{program} {arguments:?}: {said}"))
}

fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, of the packages tests need: {error}"));
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Tries until it succeeds: other programs of this host may look into any mount for a moment.
fn run_in_time(program: &str, arguments: &[&str]) {
    for _ in 0..100 {
        if try_run(program, arguments).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    run(program, arguments);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A filesystem of its own, on a loop device.
pub struct Filesystem {
    kind: &'static str,
    device: String,
    mounted: AtomicBool,
    dir: TempDir,
}

impl Filesystem {
    /// Makes one of this kind, `ext4` or `xfs`, not mounted yet.
    ///
    /// # Panics
    /// A program is missing or fails, as in every other function here.
    pub fn make(kind: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("image");
        run("truncate", &["-s", "400M", text(&image)]);
        let quiet: &[&str] = if kind == "xfs" { &["-q", "-f"] } else { &["-q", "-F"] };
        run(&format!("mkfs.{kind}"), &[quiet, &[text(&image)]].concat());
        let device = run("losetup", &["-f", "--show", text(&image)]);
        run("mkdir", &[text(&dir.path().join("root"))]);
        Self { kind, device, mounted: AtomicBool::new(false), dir }
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Mounts it.
    pub fn mount(&self) {
        run_in_time("mount", &[&self.device, text(&self.root())]);
        self.mounted.store(true, Ordering::SeqCst);
    }

    /// Stops the filesystem without writing its log out: flag 2 of the ioctl, which is what xfs_io sends.
    pub fn cut(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.root())]);
    }

    /// Returns when the kernel has forgotten the filesystem: a namespace made meanwhile may keep it for a moment, and a
    /// mount would find the one that was stopped.
    pub fn unmount(&self) {
        run_in_time("umount", &[text(&self.root())]);
        self.mounted.store(false, Ordering::SeqCst);
        let name = self.device.rsplit('/').next().unwrap_or_default();
        let living = PathBuf::from(format!("/sys/fs/{}/{name}", self.kind));
        let gone = (0..400).any(|_| {
            let is_gone = !living.exists();
            if !is_gone {
                std::thread::sleep(Duration::from_millis(50));
            }
            is_gone
        });
        assert!(gone, "{} is still mounted somewhere", self.device);
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        if self.mounted.load(Ordering::SeqCst) {
            run("umount", &["-l", text(&self.root())]);
        }
        run("losetup", &["-d", &self.device]);
    }
}

/// A place for live maps.
///
/// # Panics
/// Shared memory cannot be written.
pub fn volatile() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("shared memory")
}
