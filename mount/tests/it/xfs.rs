//! The reader of XFS against the kernel's mount of the same image.

use crate::ext4::{disturb, sync};
use crate::image::{FileSource, KernelMount, empty, make_tree, noise, roomy, run, sh};
use crate::seen::{Tree, assert_same, through_kernel, through_reader};
use block::ByteOffset;
use mount::guest;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SIZE: u64 = 320 << 20;

fn mkfs(dir: &Path, arguments: &str) -> PathBuf {
    let image = empty(dir, "image", roomy(SIZE));
    sh(&format!("mkfs.xfs -q {arguments} {}", image.display()));
    image
}

fn through_ours(image: &Path) -> Tree {
    let source = FileSource::open(image);
    let fs = guest::open(source.clone()).unwrap();
    through_reader(&*fs, &|at, buf| source.read_at(ByteOffset::new(at), buf).unwrap())
}

/// What the kernel shows, without the names under which access lists are stored: they are shown as access lists.
fn through_xfs(root: &Path) -> Tree {
    let mut tree = through_kernel(root);
    for seen in tree.values_mut() {
        seen.attributes.retain(|name, _| !name.starts_with(b"trusted.SGI_ACL"));
    }
    tree
}

/// What needs trees of extents, attributes in blocks, and shared blocks.
fn more(root: &Path, reflink: bool) {
    let scattered = File::create(root.join("scattered")).unwrap();
    for i in 0..3000 {
        scattered.write_all_at(&noise(i, 4096), i * 8192).unwrap();
        if i % 100 == 0 {
            scattered.sync_all().unwrap();
        }
    }
    rustix::fs::fallocate(&scattered, rustix::fs::FallocateFlags::empty(), 3000 * 8192, 1 << 20).unwrap();
    let set = |file: &str, name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join(file), name, value, flags).unwrap();
    };
    fs::write(root.join("attributes"), "many").unwrap();
    for i in 0..400 {
        set("attributes", &format!("user.attribute number {i}"), &noise(i, 50 + i as usize));
    }
    set("attributes", "user.large", &noise(7, 60_000));
    set("attributes", "trusted.large", &noise(8, 5_000));
    fs::create_dir(root.join("default")).unwrap();
    sh(&format!("setfacl -d -m u:1000:rwx,g:2000:r-x {}", root.join("default").display()));
    fs::write(root.join("default/inherits"), "").unwrap();
    if reflink {
        sh(&format!("cd {} && cp --reflink=always large shared", root.display()));
        let shared = File::options().write(true).open(root.join("shared")).unwrap();
        shared.write_all_at(&noise(5, 8192), 1 << 20).unwrap();
    }
}

/// Makes a filesystem of one of everything with these arguments and compares all of it.
fn compare(arguments: &str) {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), arguments);
    let mounted = KernelMount::new(&image, "rw");
    make_tree(mounted.path());
    more(mounted.path(), !arguments.contains("reflink=0"));
    drop(mounted);
    let kernel = KernelMount::new(&image, "ro");
    let seen = through_xfs(kernel.path());
    assert!(seen.len() > 3030, "{} files", seen.len());
    assert_same(&through_ours(&image), &seen);
}

#[test]
fn xfs_as_made_by_default() {
    compare("");
}

#[test]
fn xfs_with_wide_counters_and_big_times() {
    compare("-i nrext64=1 -m bigtime=1");
}

#[test]
fn xfs_with_small_blocks_and_large_directory_blocks() {
    compare("-b size=1024 -n size=16384 -i size=512 -m bigtime=0");
}

#[test]
fn xfs_without_reflink_or_sparse_inodes() {
    compare("-m reflink=0,rmapbt=0,finobt=0,bigtime=0 -i sparse=0");
}

/// Grows a tree under the kernel's mount, takes it apart, and copies the image while its log is full.
fn compare_dirty(arguments: &str, shutdown: Option<&str>) {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), arguments);
    compare_in_use(dir.path(), &image, 0, shutdown);
}

/// Before that, so many times a part of the tree comes and goes, which goes round the log.
fn compare_in_use(dir: &Path, image: &Path, rounds: usize, shutdown: Option<&str>) {
    let (ours, theirs) = (dir.join("ours"), dir.join("theirs"));
    let mounted = KernelMount::new(image, "rw");
    for round in 0..rounds {
        fs::create_dir(mounted.path().join("passing")).unwrap();
        for i in 0..2000 {
            let path = mounted.path().join(format!("passing/{round} a name that takes some room {i}"));
            fs::write(path, "x").unwrap();
        }
        sync(mounted.path());
        fs::remove_dir_all(mounted.path().join("passing")).unwrap();
        sync(mounted.path());
    }
    make_tree(mounted.path());
    more(mounted.path(), true);
    sync(mounted.path());
    disturb(mounted.path());
    sync(mounted.path());
    fs::write(mounted.path().join("never synced"), noise(9, 50_000)).unwrap();
    if let Some(how) = shutdown {
        sh(&format!("xfs_io -x -c 'shutdown {how}' {}", mounted.path().display()));
    }
    for copy in [&ours, &theirs] {
        run("cp", &["--sparse=always".as_ref(), image.as_ref(), copy.as_ref()]);
    }
    drop(mounted);
    let log = sh(&format!("xfs_logprint -t {} 2>&1 || true", ours.display()));
    assert!(log.contains("<DIRTY>"), "{log}");
    // writable, since the kernel replays a log only where it may write
    let kernel = KernelMount::new(&theirs, "rw,noatime");
    let seen = through_xfs(kernel.path());
    assert!(seen.len() > 2500, "{} files", seen.len());
    assert_same(&through_ours(&ours), &seen);
}

#[test]
fn dirty_xfs() {
    compare_dirty("", None);
}

/// A small log that has been gone round, of a filesystem that was given another identifier.
#[test]
fn dirty_xfs_whose_log_went_round() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), "--unsupported -l size=12m");
    sh(&format!("xfs_admin -U generate {} 2>&1", image.display()));
    let before = cycle(&image);
    compare_in_use(dir.path(), &image, 12, None);
    assert!(cycle(&dir.path().join("ours")) > before, "the log was gone round");
}

/// How often the log has been gone round, as its first sector says.
fn cycle(image: &Path) -> u32 {
    let db = |command: &str| sh(&format!("xfs_db -r -c 'sb 0' -c '{command}' {} 2>&1", image.display()));
    let start = db("p logstart");
    let start = db(&format!("convert fsblock {} daddr", start.split_whitespace().last().unwrap()));
    let start: u64 = start.split(['(', ')']).nth(1).unwrap().parse().unwrap();
    let mut bytes = [0; 8];
    File::open(image).unwrap().read_exact_at(&mut bytes, start * 512).unwrap();
    let [first, second] = [0, 4].map(|at| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()));
    if first == 0xfeed_babe { second } else { first }
}

#[test]
fn dirty_xfs_with_small_blocks() {
    compare_dirty("-b size=1024 -n size=8192 -i nrext64=1", None);
}

#[test]
fn xfs_cut_off_in_the_middle() {
    compare_dirty("", Some(""));
}

#[test]
fn xfs_cut_off_after_its_log_was_written() {
    compare_dirty("-m bigtime=0", Some("-f"));
}

/// Version 4, which newer kernels do not mount: made by mkfs from a description, judged by it and by xfs_db.
#[test]
fn xfs_of_version_4() {
    let dir = TempDir::new().unwrap();
    let (prototype, content) = (dir.path().join("prototype"), dir.path().join("content"));
    fs::write(&content, noise(1, 300_000)).unwrap();
    let mut lines =
        format!("/\n0 0\nd--755 0 0\nfile -u-640 7 8 {}\ndir d--755 1000 2000\n", content.display());
    for i in 0..2000 {
        lines += &format!("a_name_that_takes_some_room_{i} ---644 0 0 /dev/null\n");
    }
    lines += "$\nlink l--777 0 0 somewhere/else\nnull c--666 0 0 1 3\n$\n";
    fs::write(&prototype, lines).unwrap();
    for arguments in ["-m crc=0", "-m crc=0 -n ftype=0 -b size=1024"] {
        let image = mkfs(dir.path(), &format!("{arguments} -p {}", prototype.display()));
        let tree = through_ours(&image);
        assert_eq!(tree.len(), 2005);
        let file = &tree[Path::new("file")];
        assert_eq!((file.mode, file.uid, file.gid, file.size), (0o104_640, 7, 8, 300_000));
        let plain = FileSource::open(&image);
        let reader = guest::open(plain.clone()).unwrap();
        let ino = reader.lookup(reader.root(), b"file").unwrap().unwrap();
        let pieces = reader.pieces(ino, 0, u64::MAX).unwrap();
        assert!(pieces.iter().all(|piece| matches!(piece.place, mount::guest::Place::Volume(_))));
        let mut bytes = vec![0; 300_000];
        for piece in pieces {
            let mount::guest::Place::Volume(at) = piece.place else { continue };
            let target = &mut bytes[piece.at as usize..(piece.at + piece.len) as usize];
            plain.read_at(ByteOffset::new(at), target).unwrap();
        }
        assert!(bytes == noise(1, 300_000));
        let link = tree[Path::new("link")].link.as_deref();
        assert_eq!(link, Some(&b"somewhere/else"[..]));
        assert_eq!(tree[Path::new("null")].rdev, rustix::fs::makedev(1, 3));
        let db =
            sh(&format!("xfs_db -c 'inode {ino}' -c 'p core.mtime.sec core.nblocks' {}", image.display()));
        assert!(
            db.contains(&format!("core.nblocks = {}", file.blocks * 512 / block_size(arguments))),
            "{db}"
        );
        fs::remove_file(&image).unwrap();
    }
}

fn block_size(arguments: &str) -> u64 {
    if arguments.contains("size=1024") { 1024 } else { 4096 }
}
