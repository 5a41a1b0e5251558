//! What somebody sees of a tree: through a mounted directory, or through a reader of this crate.

use crate::image::raw;
use mount::guest::{Guest, Node, NodeKind, Place};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything about one file that must be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
    pub blocks: u64,
    pub rdev: u64,
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
    pub link: Option<Vec<u8>>,
    /// blake3 would do, but equality of a fast checksum over the same lengths is as telling for bytes nobody forges.
    pub content: Option<(u32, u32)>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree, by path.
pub type Tree = BTreeMap<PathBuf, Seen>;

/// Two checksums of different kinds.
fn digest(bytes: &[u8]) -> (u32, u32) {
    let weak = bytes.iter().fold(1u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    (crc32fast::hash(bytes), weak)
}

/// The tree below a directory, as the operating system shows it.
pub fn through_kernel(root: &Path) -> Tree {
    let mut tree = Tree::new();
    visit_kernel(root, Path::new(""), &mut tree);
    tree
}

fn visit_kernel(root: &Path, path: &Path, tree: &mut Tree) {
    let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
    let meta = fs::symlink_metadata(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
    let kind = meta.file_type();
    let seen = Seen {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink(),
        size: meta.size(),
        blocks: meta.blocks(),
        rdev: meta.rdev(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        link: kind.is_symlink().then(|| fs::read_link(&full).unwrap().into_os_string().as_bytes().to_vec()),
        content: kind
            .is_file()
            .then(|| digest(&fs::read(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display())))),
        attributes: attributes(&full),
    };
    tree.insert(path.to_owned(), seen);
    if kind.is_dir() {
        for entry in fs::read_dir(&full).unwrap() {
            let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", full.display()));
            visit_kernel(root, &path.join(entry.file_name()), tree);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let len = match rustix::fs::llistxattr(path, &mut names) {
        Ok(len) => len,
        // a filesystem without attributes
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    names.truncate(len);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// The tree a reader shows; `read` fetches bytes of the volume.
pub fn through_reader(guest: &dyn Guest, read: &dyn Fn(u64, &mut [u8])) -> Tree {
    let mut tree = Tree::new();
    visit_reader(guest, read, guest.root(), Path::new(""), &mut tree);
    tree
}

fn visit_reader(guest: &dyn Guest, read: &dyn Fn(u64, &mut [u8]), ino: u64, path: &Path, tree: &mut Tree) {
    let node = guest.node(ino).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names = guest.attributes(ino).unwrap();
    let seen = Seen {
        mode: mode(&node),
        uid: node.uid,
        gid: node.gid,
        nlink: u64::from(node.nlink),
        size: node.size,
        blocks: node.blocks,
        rdev: device(node.rdev),
        mtime: (node.mtime.seconds, i64::from(node.mtime.nanos)),
        ctime: (node.ctime.seconds, i64::from(node.ctime.nanos)),
        link: (node.kind == NodeKind::Symlink).then(|| guest.link(ino).unwrap()),
        content: (node.kind == NodeKind::File).then(|| digest(&content(guest, read, &node))),
        attributes: names
            .into_iter()
            .map(|name| (name.clone(), guest.attribute(ino, &name).unwrap()))
            .collect(),
    };
    tree.insert(path.to_owned(), seen);
    if node.kind == NodeKind::Directory {
        let (mut cookie, mut count) = (Some(0), 0);
        while let Some(from) = cookie {
            let page = guest.list(ino, from).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for entry in page.entries {
                count += 1;
                // readers that look through all names take long for all of many
                if count < 5000 || count % 500 == 0 {
                    assert_eq!(guest.lookup(ino, &entry.name).unwrap(), Some(entry.ino));
                }
                if let Some(kind) = entry.kind {
                    assert_eq!(guest.node(entry.ino).unwrap().kind, kind);
                }
                visit_reader(guest, read, entry.ino, &path.join(raw(entry.name)), tree);
            }
            cookie = page.next;
        }
    }
}

/// The bytes of a file, put together from its pieces.
fn content(guest: &dyn Guest, read: &dyn Fn(u64, &mut [u8]), node: &Node) -> Vec<u8> {
    let mut content = vec![0; node.size as usize];
    let mut at = 0;
    while at < node.size {
        let pieces = guest.pieces(node.ino, at, node.size).unwrap();
        assert!(pieces.first().is_some_and(|piece| piece.at <= at), "pieces begin at {at}");
        for piece in pieces {
            assert!(piece.at <= at && piece.at + piece.len > at, "pieces tile the file");
            let target = &mut content[piece.at as usize..(piece.at + piece.len) as usize];
            match &piece.place {
                Place::Volume(offset) => read(*offset, target),
                Place::Zero => target.fill(0),
                Place::Bytes(bytes) => target.copy_from_slice(bytes),
                Place::Coded => decode(guest, node.ino, piece.at, target),
            }
            at = piece.at + piece.len;
        }
    }
    content
}

fn decode(guest: &dyn Guest, ino: u64, mut at: u64, mut target: &mut [u8]) {
    while !target.is_empty() {
        let bytes = guest.content(ino, at, target.len()).unwrap();
        assert!(!bytes.is_empty());
        let (now, rest) = target.split_at_mut(bytes.len());
        now.copy_from_slice(&bytes);
        (target, at) = (rest, at + bytes.len() as u64);
    }
}

fn mode(node: &Node) -> u32 {
    let kind = match node.kind {
        NodeKind::Fifo => 0o010_000,
        NodeKind::CharDevice => 0o020_000,
        NodeKind::Directory => 0o040_000,
        NodeKind::BlockDevice => 0o060_000,
        NodeKind::File => 0o100_000,
        NodeKind::Symlink => 0o120_000,
        NodeKind::Socket => 0o140_000,
    };
    kind | u32::from(node.perm)
}

fn device(rdev: u32) -> u64 {
    rustix::fs::makedev(rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xfff00)
}

/// Compares two trees, naming the first differences.
pub fn assert_same(ours: &Tree, kernel: &Tree) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    for path in names(kernel) {
        assert!(ours.contains_key(&path), "{} is missing", path.display());
    }
    for (path, seen) in ours {
        assert_eq!(Some(seen), kernel.get(path), "{}", path.display());
    }
}
