//! A filesystem image of a tree, made and changed by e2fsprogs.

use crate::demo::tree::Tree;
use crate::failure::{Failure, Result};
use block::linux::open_named;
use control::Kind;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs the demo needs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 4] =
    [("mkfs.ext4", "e2fsprogs"), ("debugfs", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("fusermount3", "fuse3")];

/// A file the change adds.
pub const ADDED: &str = "added-by-the-demo-1";

/// Files the change adds, and their size: about what a quiet day brings.
const ADDED_FILES: usize = 4;
const ADDED_BYTES: usize = 1 << 20;

/// A file that will be gone.
pub struct Victim {
    /// Its path on the filesystem, from the root.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// An image file.
pub struct Image {
    path: PathBuf,
    victim: Victim,
}

/// Fails unless everything the demo needs is installed, naming what is missing.
pub fn check_programs() -> Result<()> {
    let missing: Vec<&(&str, &str)> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Err(Failure::new(Kind::Unavailable, format!("demo: {} not found", programs.join(", ")))
        .with_help(format!("apt-get install {}", packages.join(" "))))
}

/// Programs for administrators are not always in a user's PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

impl Image {
    /// Makes an ext4 filesystem of the tree.
    pub fn make(tree: Tree, path: &Path) -> Result<Self> {
        let original = tree.root.join(tree.victim.trim_start_matches('/'));
        let content = fs::read(&original).map_err(|error| Failure::host(original.display(), &error))?;
        // room for directories, the journal and what the change adds
        let mebibytes = ((tree.block_bytes / 100 * 115) >> 20) + 96;
        let inodes = tree.entries + tree.entries / 5 + 1000;
        run(
            "mkfs.ext4",
            &["-q", "-F", "-b", "4096", "-N", &inodes.to_string(), "-E", "root_owner=0:0", "-d"],
            &[&tree.root, path],
            &[&format!("{mebibytes}M")],
        )?;
        fs::remove_dir_all(&tree.root).map_err(|error| Failure::host(tree.root.display(), &error))?;
        Ok(Self { path: path.to_owned(), victim: Victim { path: tree.victim, content } })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64> {
        Ok(open_named(&self.path)?.size()?)
    }

    /// The file the change removes.
    pub fn victim(&self) -> &Victim {
        &self.victim
    }

    /// Removes a file and adds others, and has the filesystem checked. Gives the number added.
    pub fn change(&self) -> Result<usize> {
        let mut script = format!("rm {}\n", self.victim.path);
        for number in 1..=ADDED_FILES {
            let content = self.path.with_file_name(format!("new-{number}"));
            let line = format!("file {number}, line after line\n");
            let text: String = line.repeat(ADDED_BYTES / line.len());
            fs::write(&content, text).map_err(|error| Failure::host(content.display(), &error))?;
            let added = ADDED.trim_end_matches('1');
            script.push_str(&format!("write {} {added}{number}\n", content.display()));
        }
        let commands = self.path.with_file_name("changes");
        fs::write(&commands, script).map_err(|error| Failure::host(commands.display(), &error))?;
        run("debugfs", &["-w", "-f"], &[&commands, &self.path], &[])?;
        run("e2fsck", &["-f", "-n"], &[&self.path], &[])?;
        Ok(ADDED_FILES)
    }

    /// Removes the file; the disk has it all.
    #[expect(clippy::disallowed_methods, reason = "a temporary file of the demo")]
    pub fn discard(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Failure::host(self.path.display(), &error))
    }
}

fn run(program: &str, options: &[&str], files: &[&Path], last: &[&str]) -> Result<()> {
    let done = Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)))
        .args(options)
        .args(files)
        .args(last)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::host(format!("start {program}"), &error))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned();
    Err(Failure::new(Kind::Io, format!("{program} failed ({}): {said}", done.status)))
}
