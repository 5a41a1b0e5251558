//! Small filesystems to change bytes of. Shared by the tests and by the fuzz targets.

use crate::image::{mke2fs, noise, sh};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

/// Small filesystems of every way of storing things, one with a journal to replay.
pub static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let kinds = [
        ("-t ext4 -b 1024 -N 64 -O ^metadata_csum,^has_journal,inline_data -I 256", 512 << 10),
        ("-t ext4 -b 1024 -N 64 -O ^has_journal,^resize_inode,meta_bg -I 256", 512 << 10),
        ("-t ext2 -b 1024 -N 64 -I 128 -O ^resize_inode", 512 << 10),
        ("-t ext3 -b 1024 -N 64 -I 128 -J size=1 -O ^resize_inode", 3 << 20),
    ];
    kinds.into_iter().map(|(arguments, size)| Base::new(arguments, size)).collect()
});

/// Place, offset there, value, its length.
pub type Patch = (u16, u8, u64, u8);

pub struct Base {
    pub bytes: Vec<u8>,
    /// Where it is not all zeros, in steps of 16 bytes.
    used: Vec<usize>,
}

impl Base {
    fn new(arguments: &str, size: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let tree = dir.path().join("tree");
        small_tree(&tree);
        let image = mke2fs(dir.path(), size, arguments, Some(&tree));
        if arguments.contains("ext3") {
            // a transaction that puts a new version over two blocks and takes back a third
            let block = dir.path().join("block");
            fs::write(&block, noise(5, 2048)).unwrap();
            let script = format!("jo\njw -b 900,901 {}\njw -r 902\njc\n", block.display());
            sh(&format!("printf '{script}' | debugfs -w -f - {} 2>&1", image.display()));
            assert!(sh(&format!("dumpe2fs -h {} 2>&1", image.display())).contains("needs_recovery"));
        }
        let bytes = fs::read(&image).unwrap();
        let used =
            (0..bytes.len()).step_by(16).filter(|at| bytes[*at..*at + 16].iter().any(|b| *b != 0)).collect();
        Self { bytes, used }
    }

    /// A copy with some bytes changed, each where the original is not all zeros.
    pub fn patched(&self, patches: impl IntoIterator<Item = Patch>) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (place, into, value, len) in patches {
            let at = self.used[usize::from(place) % self.used.len()] + usize::from(into % 16);
            let value = value.to_le_bytes();
            let len = usize::from(len % 8 + 1).min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&value[..len]);
        }
        bytes
    }
}

fn small_tree(tree: &Path) {
    fs::create_dir_all(tree.join("dir/below")).unwrap();
    fs::write(tree.join("dir/file"), noise(1, 30_000)).unwrap();
    fs::write(tree.join("dir/below/tiny"), "tiny").unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    for i in 0..12 {
        sparse.write_all_at(&noise(i, 1000), i * 40_000).unwrap();
    }
    symlink("t".repeat(100), tree.join("link")).unwrap();
    for i in 0..30 {
        fs::write(tree.join(format!("dir/a long enough name to fill some blocks {i}")), "").unwrap();
    }
    rustix::fs::setxattr(tree.join("dir/file"), "user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
}
