//! The files of a recovery point without a mount: looked at, copied out ([`copy`]) or packed ([`tar`]) by whoever may read
//! the point. The guest's bytes are interpreted by the same sandboxed parser as under a mount; no FUSE and no root is
//! needed.

pub mod copy;
mod lost;
pub mod tar;
mod walk;

pub use lost::{Lost, LostKind, Tally};
pub use walk::{Found, MAX_DEPTH, Step, Walk};

use crate::guest::{Entry, Node, NodeKind, Piece, Place as Where};
use crate::history::Recorded;
use crate::luks::Passphrases;
use crate::serve::{connect, own_executable};
use crate::tree::{Place, Tree};
use crate::{Error, Result};
use block::{BlockSource, RangeSet};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Links followed on the way to one file, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Pieces of one file that are compared; more take more memory than a guest may make us use.
const MAX_PIECES: usize = 1 << 20;
/// Content is moved in parts of this many bytes.
const PART: usize = 1 << 20;

/// The files of one recovery point. Nodes handed out have the numbers of the mounted tree (`docs/tree.md`).
pub struct Files {
    tree: Tree,
    /// What the parser read, where that is of interest.
    recorded: Option<Arc<Recorded>>,
}

/// A partition, a disk without a table, or a volume put together of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its number in the mounted tree.
    pub number: u32,
    /// What `files/NAME` of a mount is called: the number, or a name such as `vg0-root`.
    pub name: String,
    /// What it holds, or why it cannot be read.
    pub content: Result<String, String>,
}

/// A name in a directory, and what it names or why that cannot be told.
pub struct Child {
    /// The name, bytes without slash or zero.
    pub name: Vec<u8>,
    /// What it names.
    pub node: Result<Node>,
}

/// Extended attributes: names with their prefixes, and values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

impl Files {
    /// Opens a recovery point by its NBD URI, and what the passphrases open in it.
    ///
    /// # Errors
    /// [`Error::Connect`] if it cannot be opened, [`Error::Sandbox`] if guests' bytes cannot be read safely.
    pub fn open(uri: &str, passphrases: &Passphrases) -> Result<Self> {
        Self::over(connect(uri)?, None, passphrases)
    }

    /// Looks into a source that is at hand. `executable` is as in [`Options`](crate::Options).
    ///
    /// # Errors
    /// [`Error::Sandbox`] if guests' bytes cannot be read safely.
    pub fn over(
        source: Arc<dyn BlockSource>,
        executable: Option<&Path>,
        passphrases: &Passphrases,
    ) -> Result<Self> {
        let own = own_executable();
        let tree = Tree::start(vec![(String::new(), source)], executable.unwrap_or(&own), passphrases)?;
        Ok(Self { tree, recorded: None })
    }

    /// As [`over`](Self::over), and remembers what is read.
    pub(crate) fn recorded(
        source: Arc<dyn BlockSource>,
        executable: &Path,
        passphrases: &Passphrases,
    ) -> Result<Self> {
        let recorded = Arc::new(Recorded::new(source));
        let disk = Arc::clone(&recorded) as Arc<dyn BlockSource>;
        let tree = Tree::start(vec![(String::new(), disk)], executable, passphrases)?;
        Ok(Self { tree, recorded: Some(recorded) })
    }

    /// What was read since it was opened by [`recorded`](Self::recorded): all that any answer of the parser depends on,
    /// and content that somebody looked at.
    pub(crate) fn read_so_far(&self) -> RangeSet {
        self.recorded.as_ref().map(|recorded| recorded.so_far()).unwrap_or_default()
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The partitions and what is put together of them, each with what it holds or why it cannot be read.
    pub fn volumes(&self) -> Vec<Volume> {
        self.tree.contents()
    }

    /// The number of the volume that `files/NAME` of a mount is: a partition's number, or the name of a volume put together
    /// of others, such as `vg0-root`.
    pub fn volume_named(&self, name: &str) -> Option<u32> {
        self.tree.named(name)
    }

    /// The root directory of a partition.
    ///
    /// # Errors
    /// `NotFound` if there is no such partition, `Unsupported` or `Corrupt` if it cannot be read as files.
    pub fn root(&self, volume: u32) -> Result<Node> {
        self.tree.root(volume)
    }

    /// The file at a path of a partition. Links on the way lead on within the partition, as they would for a process
    /// whose root it is; one at the end is followed if `follow` says so, or a slash behind it does.
    ///
    /// # Errors
    /// `NotFound` naming the part of the path that is not there; `Invalid` where a file stands in the way.
    pub fn find(&self, volume: u32, path: &[u8], follow: bool) -> Result<Node> {
        let follow = follow || path.ends_with(b"/");
        let root = self.root(volume)?;
        let (mut here, mut above) = (root.clone(), Vec::new());
        let mut ahead = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                here = above.pop().unwrap_or_else(|| root.clone());
                continue;
            }
            let found = self.child(&here, &name)?;
            if found.kind != NodeKind::Symlink || (ahead.is_empty() && !follow) {
                above.push(std::mem::replace(&mut here, found));
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::invalid(lossy(path), "more than 40 links lead to one another"));
            }
            let target = self.link(&found)?;
            if target.starts_with(b"/") {
                (here, above) = (root.clone(), Vec::new());
            }
            ahead.extend(names(&target));
        }
        Ok(here)
    }

    fn child(&self, dir: &Node, name: &[u8]) -> Result<Node> {
        if dir.kind != NodeKind::Directory {
            return Err(Error::invalid(lossy(name), "what the path has before it is not a directory"));
        }
        self.tree.lookup(place(dir)?, name)?.ok_or_else(|| Error::not_found(lossy(name)))
    }

    /// Everything in a directory, in the guest's order. Ends at the first page that cannot be read, after what came
    /// before it.
    ///
    /// # Errors
    /// `Invalid` if it is no directory, `Corrupt` if its first page cannot be read.
    pub fn list(&self, dir: &Node) -> Result<Vec<Result<Child>>> {
        let mut children = Vec::new();
        let mut cookie = Some(0);
        while let Some(at) = cookie {
            match self.page(dir, at) {
                Ok((page, next)) => {
                    children.extend(page.into_iter().map(Ok));
                    cookie = next;
                }
                Err(error) if !children.is_empty() => {
                    children.push(Err(error));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    /// A page of a directory from `cookie` on, and where the next begins.
    fn page(&self, dir: &Node, cookie: u64) -> Result<(Vec<Child>, Option<u64>)> {
        let (entries, next) = self.tree.list(place(dir)?, cookie)?.into_entries();
        let child = |(entry, node): (Entry, Option<Node>)| Child {
            // a node that could not be listed gives its reason when it is asked for
            node: node.map_or_else(|| self.tree.node(Place::of(entry.ino).ok_or_else(unknown)?), Ok),
            name: entry.name,
        };
        Ok((entries.into_iter().map(child).collect(), next))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` if it is none.
    pub fn link(&self, link: &Node) -> Result<Vec<u8>> {
        self.tree.link(place(link)?)
    }

    /// Reads a file from `offset` on; fewer bytes than `buf` has only at its end. The number read.
    ///
    /// # Errors
    /// Where its bytes are cannot be told, or they cannot be read.
    pub fn read(&self, file: &Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.tree.read(place(file)?, offset, buf)
    }

    /// The first run of stored bytes at or after `from`; between runs, and after the last, a file has zeros.
    ///
    /// # Errors
    /// Where its bytes are cannot be told.
    pub fn data(&self, file: &Node, from: u64) -> Result<Option<Range<u64>>> {
        let place = place(file)?;
        let Some(start) = self.tree.seek(place, from, true)? else { return Ok(None) };
        let end = self.tree.seek(place, start, false)?.unwrap_or(file.size);
        Ok(Some(start..end))
    }

    /// Where all of a file's bytes are within its partition, and which bytes of the disk these are.
    pub(crate) fn pieces(&self, file: &Node) -> Result<(Vec<Piece>, RangeSet)> {
        self.tree.pieces(place(file)?, file.size, MAX_PIECES)
    }

    /// What stands for the bytes of a file where they are coded, so that nobody can tell from where they lie which of them
    /// changed; nothing where they are not.
    pub(crate) fn coded(&self, file: &Node, pieces: &[Piece]) -> Result<Option<u64>> {
        if pieces.iter().all(|piece| piece.place != Where::Coded) {
            return Ok(None);
        }
        let mut hasher = std::hash::DefaultHasher::new();
        self.content(file, &mut |at, bytes| {
            (at, bytes).hash(&mut hasher);
            Ok(())
        })?;
        Ok(Some(hasher.finish()))
    }

    /// Calls `take` with every stored part of a file, in order, and its offset.
    ///
    /// # Errors
    /// What reading gives, or `take`.
    pub fn content(&self, file: &Node, take: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut buf = Vec::new();
        let mut at = 0;
        while let Some(run) = self.data(file, at)? {
            at = run.start;
            while at < run.end {
                let count = usize::try_from(run.end - at).unwrap_or(PART).min(PART);
                buf.resize(count, 0);
                let read = self.read(file, at, &mut buf)?;
                if read == 0 {
                    return Err(Error::corrupt(format!("inode {}", file.ino), "it ends before its size"));
                }
                take(at, &buf[..read])?;
                at += read as u64;
            }
        }
        Ok(())
    }

    /// All extended attributes of a file, access lists among them.
    ///
    /// # Errors
    /// `Corrupt` if one of them cannot be read.
    pub fn attributes(&self, node: &Node) -> Result<Attributes> {
        let place = place(node)?;
        let names = self.tree.attribute_names(place)?;
        names.into_iter().map(|name| Ok((name.clone(), self.tree.attribute(place, &name)?))).collect()
    }

    /// Everything at and below a file.
    pub fn walk(&self, start: &Node) -> Walk<'_> {
        Walk::new(self, start)
    }
}

/// What a node's number stands for.
fn place(node: &Node) -> Result<Place> {
    Place::of(node.ino).ok_or_else(unknown)
}

fn unknown() -> Error {
    Error::invalid("a number", "no file of this point has it")
}

/// The names of a path, the first one last.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').rev();
    names.filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect()
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

/// The parts of a node's device number, which is in the kernel's 32-bit form.
fn major(rdev: u32) -> u32 {
    rdev >> 8 & 0xfff
}

fn minor(rdev: u32) -> u32 {
    rdev & 0xff | rdev >> 12 & 0xfff00
}
