//! A real directory tree: files of this machine, up to a limit.

use crate::failure::{Failure, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where files are taken from, in this order, until there are enough.
const FROM: [&str; 4] = ["/usr/share", "/usr/bin", "/usr/lib", "/usr/include"];

/// More small files than this take longer to build a filesystem of than a demo should.
const MAX_FILES: u64 = 20_000;

/// A file larger than this part of the whole would be the whole story.
const LARGEST_PART: u64 = 4;

/// The file that will be removed is between these sizes: large enough to mean something, small enough to show.
const VICTIM_BYTES: std::ops::Range<u64> = 2_000..64_000;

/// A copied tree.
pub struct Tree {
    /// Where it is.
    pub root: PathBuf,
    /// Regular files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes of them in whole blocks.
    pub block_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// The directories of this machine it was taken from.
    pub from: String,
    /// A text file to remove later: its path in the tree, from the root.
    pub victim: String,
    limit_bytes: u64,
}

impl Tree {
    /// Copies files of this machine below `root` until `limit_bytes` are there.
    pub fn gather(root: &Path, limit_bytes: u64) -> Result<Self> {
        let (files, bytes, block_bytes, entries) = (0, 0, 0, 0);
        let (from, victim) = (String::new(), String::new());
        let mut tree =
            Self { root: root.to_owned(), files, bytes, block_bytes, entries, from, victim, limit_bytes };
        let mut used = Vec::new();
        for dir in FROM.iter().filter(|dir| Path::new(dir).is_dir()) {
            if tree.is_full() {
                break;
            }
            tree.copy_dir(Path::new(dir))?;
            used.push(*dir);
        }
        tree.from = used.join(", ");
        if tree.victim.is_empty() {
            return Err(Failure::new(control::Kind::NotFound, format!("{}: no text file to use", tree.from)));
        }
        Ok(tree)
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.limit_bytes || self.files >= MAX_FILES
    }

    fn copy_dir(&mut self, dir: &Path) -> Result<()> {
        let to = self.place(dir);
        fs::create_dir_all(&to).map_err(|error| Failure::host(to.display(), &error))?;
        self.entries += 1;
        // what cannot be listed or read by this user is not part of the demo
        let Ok(listed) = fs::read_dir(dir) else { return Ok(()) };
        let mut entries: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
        entries.sort();
        for path in entries {
            if self.is_full() {
                return Ok(());
            }
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_dir() {
                self.copy_dir(&path)?;
            } else if meta.is_symlink() {
                self.copy_link(&path)?;
            } else if meta.is_file() && meta.len() <= self.limit_bytes / LARGEST_PART {
                self.copy_file(&path)?;
            }
        }
        Ok(())
    }

    fn copy_link(&mut self, path: &Path) -> Result<()> {
        let to = self.place(path);
        let target = fs::read_link(path).map_err(|error| Failure::host(path.display(), &error))?;
        self.entries += 1;
        std::os::unix::fs::symlink(target, &to).map_err(|error| Failure::host(to.display(), &error))
    }

    fn copy_file(&mut self, path: &Path) -> Result<()> {
        let Ok(content) = fs::read(path) else { return Ok(()) };
        let to = self.place(path);
        fs::write(&to, &content).map_err(|error| Failure::host(to.display(), &error))?;
        let len = content.len() as u64;
        self.files += 1;
        self.entries += 1;
        self.bytes += len;
        self.block_bytes += len.next_multiple_of(4096);
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
        if self.victim.is_empty() && VICTIM_BYTES.contains(&len) && std::str::from_utf8(&content).is_ok() {
            self.victim = path.to_str().filter(|text| plain(text)).unwrap_or_default().to_owned();
        }
        Ok(())
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
