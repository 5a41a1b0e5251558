//! The reader of ext2, ext3 and ext4 against the kernel's mount of the same image.

use crate::image::{FileSource, KernelMount, make_tree, mke2fs, noise, run, sh};
use crate::seen::{Tree, assert_same, through_kernel, through_reader};
use block::ByteOffset;
use mount::guest;
use mount::guest::ext4::Ext4;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn through_ours(image: &Path) -> Tree {
    let source = FileSource::open(image);
    let fs = Ext4::open(source.clone()).unwrap();
    through_reader(&fs, &|at, buf| source.read_at(ByteOffset::new(at), buf).unwrap())
}

/// Makes a filesystem of one of everything with these arguments and compares all of it.
fn compare(arguments: &str) {
    static TREE: LazyLock<TempDir> = LazyLock::new(|| {
        let tree = TempDir::new().unwrap();
        make_tree(tree.path());
        tree
    });
    let dir = TempDir::new().unwrap();
    let image = mke2fs(dir.path(), 160 * MIB, arguments, Some(TREE.path()));
    let kernel = KernelMount::new(&image, "ro");
    let seen = through_kernel(kernel.path());
    assert!(seen.len() > 3030, "{} files", seen.len());
    assert_same(&through_ours(&image), &seen);
}

#[test]
fn ext4_as_made_by_default() {
    compare("-t ext4");
}

#[test]
fn ext4_without_journal_and_64bit() {
    compare("-t ext4 -O ^has_journal,^64bit,^metadata_csum");
}

#[test]
fn ext4_with_inline_data() {
    compare("-t ext4 -O inline_data -I 512");
}

#[test]
fn ext4_with_small_blocks() {
    compare("-t ext4 -b 1024");
}

#[test]
fn ext4_with_clusters() {
    compare("-t ext4 -O bigalloc -C 16384");
}

#[test]
fn ext4_with_scattered_descriptors() {
    compare("-t ext4 -b 1024 -O meta_bg,^resize_inode,metadata_csum_seed,large_dir,ea_inode");
}

#[test]
fn ext3() {
    compare("-t ext3");
}

#[test]
fn ext2_with_small_blocks_and_inodes() {
    compare("-t ext2 -b 1024 -I 128 -O ^filetype,^dir_index");
}

/// Grows a tree under the kernel's mount, takes it apart, and copies the image while its journal is full: what a
/// recovery point of a running guest looks like.
fn compare_dirty(arguments: &str, options: &str) {
    let dir = TempDir::new().unwrap();
    let image = mke2fs(dir.path(), 160 * MIB, arguments, None);
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let mounted = KernelMount::new(&image, options);
    make_tree(mounted.path());
    sync(mounted.path());
    disturb(mounted.path());
    sync(mounted.path());
    fs::write(mounted.path().join("never synced"), noise(9, 50_000)).unwrap();
    for copy in [&ours, &theirs] {
        run("cp", &["--sparse=always".as_ref(), image.as_ref(), copy.as_ref()]);
    }
    drop(mounted);
    let features = sh(&format!("dumpe2fs -h {} 2>/dev/null", ours.display()));
    assert!(features.contains("needs_recovery"), "{features}");
    // writable, since the kernel replays a journal only where it may write
    let kernel = KernelMount::new(&theirs, "rw,noatime");
    let seen = through_kernel(kernel.path());
    assert!(seen.len() > 2500, "{} files", seen.len());
    assert_same(&through_ours(&ours), &seen);
}

pub fn sync(dir: &Path) {
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
}

/// Changes of every kind; directories removed and their blocks used again for content make revoke records.
pub fn disturb(root: &Path) {
    let at = |name: &str| root.join(name);
    for i in (0..3000).step_by(7) {
        fs::remove_file(at(&format!("many/a name that takes some room {i}"))).unwrap();
    }
    for i in 0..200 {
        fs::create_dir(at(&format!("many/new directory {i}"))).unwrap();
    }
    sync(root);
    for i in 0..150 {
        fs::remove_dir(at(&format!("many/new directory {i}"))).unwrap();
    }
    fs::remove_dir_all(at("deep/er/still")).unwrap();
    // looks like a block of the journal, so the journal must disguise it
    let mut magic = noise(3, 4096);
    magic[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    fs::write(at("like a journal"), magic.repeat(64)).unwrap();
    let large = OpenOptions::new().write(true).open(at("large")).unwrap();
    large.write_all_at(&noise(77, 100_000), 1_000_000).unwrap();
    large.set_len(2_000_000).unwrap();
    fs::rename(at("tiny"), at("deep/moved")).unwrap();
}

#[test]
fn dirty_ext4() {
    compare_dirty("-t ext4 -b 4096", "rw");
}

#[test]
fn dirty_ext4_with_small_blocks() {
    compare_dirty("-t ext4 -b 1024", "rw");
}

#[test]
fn dirty_ext4_with_content_in_the_journal() {
    compare_dirty("-t ext4 -b 4096 -O ^metadata_csum,^64bit", "rw,data=journal");
}

#[test]
fn dirty_ext3() {
    compare_dirty("-t ext3 -b 1024", "rw");
}

/// Names in encrypted directories and content of encrypted files cannot be told without the guest's keys; all others can.
#[test]
fn encrypted_directories_of_ext4_are_said_to_be_so() {
    let (dir, tree) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(tree.path().join("secret")).unwrap();
    fs::write(tree.path().join("secret/inside"), "inside").unwrap();
    fs::write(tree.path().join("plain"), "plain").unwrap();
    let image = mke2fs(dir.path(), 32 << 20, "-t ext4 -O encrypt", Some(tree.path()));
    // the flags as the kernel sets them: extents and encrypted
    for (path, flags) in [("/secret", 0x8_0800), ("/secret/inside", 0x8_0800)] {
        sh(&format!("debugfs -w -R 'set_inode_field {path} flags {flags}' {} 2>&1", image.display()));
    }
    let fs = guest::open(FileSource::open(&image)).unwrap();
    let find = |name: &[u8]| fs.lookup(fs.root(), name).unwrap().unwrap();
    let secret = find(b"secret");
    assert_eq!(fs.node(secret).unwrap().kind, guest::NodeKind::Directory);
    for error in
        [fs.list(secret, 0).map(|_| ()).unwrap_err(), fs.lookup(secret, b"inside").map(|_| ()).unwrap_err()]
    {
        assert_eq!(error.kind(), block::Kind::Unsupported);
        assert!(error.to_string().contains("its names are encrypted"), "{error}");
    }
    let told = sh(&format!("debugfs -R 'stat /secret/inside' {} 2>/dev/null", image.display()));
    let inside = told.split_whitespace().nth(1).unwrap().parse().unwrap();
    let error = fs.pieces(inside, 0, 6).unwrap_err();
    assert!(error.to_string().contains("its content is encrypted"), "{error}");
    assert!(fs.pieces(find(b"plain"), 0, 5).is_ok());
}
