//! The reader of btrfs against the kernel's mount of the same image.

use crate::ext4::{disturb, sync};
use crate::image::{FileSource, KernelMount, empty, make_tree, noise, roomy, run, sh};
use crate::seen::{Tree, assert_same, through_kernel, through_reader};
use block::ByteOffset;
use mount::guest;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SIZE: u64 = 256 << 20;

fn mkfs(dir: &Path, arguments: &str) -> PathBuf {
    let image = empty(dir, "image", roomy(SIZE));
    sh(&format!("mkfs.btrfs -q {arguments} {}", image.display()));
    image
}

fn through_ours(image: &Path) -> Tree {
    let source = FileSource::open(image);
    let fs = guest::open(source.clone()).unwrap();
    through_reader(&*fs, &|at, buf| source.read_at(ByteOffset::new(at), buf).unwrap())
}

/// Content that compresses in part, changed in the middle, shared and cut.
fn more(root: &Path) {
    let text = (0..40_000).map(|i| format!("line {i} of a long text\n")).collect::<String>();
    fs::write(root.join("text"), &text).unwrap();
    fs::write(root.join("short text"), &text[..1500]).unwrap();
    fs::write(root.join("mixed"), [noise(1, 200_000), text.clone().into_bytes(), vec![0; 300_000]].concat())
        .unwrap();
    sync(root);
    let file = File::options().write(true).open(root.join("text")).unwrap();
    for i in 0..20 {
        file.write_all_at(&noise(i, 5000), i * 40_001).unwrap();
        sync(root);
    }
    sh(&format!("cd {} && cp --reflink=always text shared && truncate -s 333333 shared", root.display()));
    let reserved = File::create(root.join("reserved")).unwrap();
    rustix::fs::fallocate(&reserved, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    reserved.write_all_at(b"in the middle", 500_000).unwrap();
    for i in 0..100 {
        let flags = rustix::fs::XattrFlags::empty();
        let name = format!("user.attribute number {i}");
        rustix::fs::setxattr(root.join("short text"), name, &noise(i, 30), flags).unwrap();
    }
}

/// Makes a filesystem of one of everything and compares all of it.
fn compare(mkfs_arguments: &str, options: &str) {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), mkfs_arguments);
    let mounted = KernelMount::new(&image, &format!("rw,{options}"));
    make_tree(mounted.path());
    more(mounted.path());
    drop(mounted);
    compare_with_kernel(&image, 3030);
}

fn compare_with_kernel(image: &Path, least: usize) {
    let kernel = KernelMount::new(image, "ro,subvolid=5");
    let mut seen = through_kernel(kernel.path());
    assert!(seen.len() > least, "{} files", seen.len());
    let mut ours = through_ours(image);
    for tree in [&mut seen, &mut ours] {
        // the kernel makes up the times of a name that leads nowhere
        let nowhere = tree.iter_mut().filter(|(path, _)| path.ends_with("snapshot/below"));
        nowhere.for_each(|(_, seen)| (seen.mtime, seen.ctime) = ((0, 0), (0, 0)));
    }
    assert_same(&ours, &seen);
}

#[test]
fn btrfs_as_made_by_default() {
    compare("", "compress=no");
}

#[test]
fn btrfs_compressed_with_zstd() {
    compare("", "compress-force=zstd");
}

#[test]
fn btrfs_compressed_with_zlib() {
    compare("-O ^no-holes", "compress-force=zlib");
}

#[test]
fn btrfs_compressed_with_lzo_in_mixed_groups() {
    compare("--mixed -n 4096", "compress-force=lzo,max_inline=3000");
}

#[test]
fn btrfs_subvolumes() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), "-d single -m dup");
    let mounted = KernelMount::new(&image, "rw");
    let at = mounted.path();
    let path = at.display();
    sh(&format!("btrfs subvolume create {path}/sub && btrfs subvolume create {path}/sub/below"));
    make_tree(&at.join("sub"));
    fs::write(at.join("sub/below/file"), "below").unwrap();
    sh(&format!(
        "btrfs subvolume snapshot {path}/sub {path}/snapshot && btrfs subvolume create {path}/gone && \
         btrfs subvolume snapshot -r {path}/sub/below {path}/read-only && btrfs subvolume delete {path}/gone && \
         btrfs subvolume set-default {path}/sub"
    ));
    fs::remove_file(at.join("sub/page")).unwrap();
    fs::write(at.join("snapshot/new"), "new").unwrap();
    drop(mounted);
    compare_with_kernel(&image, 6000);
}

/// In use: the kernel without its log shows what we show, and we say that there is a log.
#[test]
fn dirty_btrfs() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), "");
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let mounted = KernelMount::new(&image, "rw,commit=300");
    make_tree(mounted.path());
    sync(mounted.path());
    disturb(mounted.path());
    sync(mounted.path());
    let late = File::create(mounted.path().join("late")).unwrap();
    late.write_all_at(&noise(9, 50_000), 0).unwrap();
    late.sync_all().unwrap();
    drop(late);
    for copy in [&ours, &theirs] {
        run("cp", &["--sparse=always".as_ref(), image.as_ref(), copy.as_ref()]);
    }
    drop(mounted);
    let kernel = KernelMount::new(&theirs, "ro,rescue=nologreplay");
    let seen = through_kernel(kernel.path());
    assert!(seen.len() > 2500, "{} files", seen.len());
    assert_same(&through_ours(&ours), &seen);
    let remark = guest::open(FileSource::open(&ours)).unwrap().remark().unwrap();
    assert!(remark.contains("waits in its log"), "{remark}");
}
