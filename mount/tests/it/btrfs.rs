//! The reader of btrfs against the kernel's mount of the same image.

use crate::ext4::{disturb, sync};
use crate::image::{FileSource, KernelMount, empty, make_tree, many, noise, roomy, run, sh};
use crate::seen::{Tree, assert_same, through_kernel, through_reader};
use block::ByteOffset;
use mount::guest;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
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

/// Where the superblock has the address of the log's first tree.
const LOG_AT: u64 = (64 << 10) + 0x60;

fn log_root(image: &Path) -> u64 {
    let mut bytes = [0; 8];
    File::open(image).unwrap().read_exact_at(&mut bytes, LOG_AT).unwrap();
    u64::from_le_bytes(bytes)
}

fn copy(image: &Path, to: &Path) {
    run("cp", &["--sparse=always".as_ref(), image.as_ref(), to.as_ref()]);
}

/// A copy of an image that is mounted, as a guest that is killed leaves it: ours is what the kernel makes of it, which mounts
/// it once to be written to, and so replays its log.
fn compare_killed(image: &Path, mounted: KernelMount, dir: &Path, what: &str) -> Tree {
    let [ours, theirs] = ["ours", "theirs"].map(|name| dir.join(name));
    copy(image, &ours);
    // the kernel tells filesystems apart by their identifiers, which the copy has as well
    drop(mounted);
    copy(&ours, &theirs);
    assert!(guest::open(FileSource::open(&ours)).unwrap().remark().is_none(), "{what}");
    let seen = through_ours(&ours);
    let copied = fs::metadata(&theirs).unwrap();
    let copied = (copied.mtime(), copied.mtime_nsec());
    drop(KernelMount::new(&theirs, "rw,noatime"));
    let kernel = KernelMount::new(&theirs, "ro");
    let mut replayed = through_kernel(kernel.path());
    // an inode whose name the kernel's replay moves gets the time of the mount; ours keeps what the guest gave it
    for (path, its) in replayed.iter_mut().filter(|(_, its)| its.ctime > copied) {
        its.ctime = seen.get(path).map_or(its.ctime, |ours| ours.ctime);
    }
    if let Err(panic) = std::panic::catch_unwind(|| assert_same(&seen, &replayed)) {
        eprintln!("{what}");
        std::panic::resume_unwind(panic);
    }
    seen
}

/// One of everything that is synced and waits in the log.
fn sync_one_of_each(root: &Path) {
    let at = |name: &str| root.join(name);
    let synced = |file: &File| file.sync_all().unwrap();
    let sync_path = |name: &str| synced(&File::open(at(name)).unwrap());
    let late = File::create(at("late")).unwrap();
    late.write_all_at(&noise(9, 50_000), 0).unwrap();
    synced(&late);
    let large = File::options().write(true).open(at("large")).unwrap();
    large.write_all_at(&noise(10, 10_000), 1_000_001).unwrap();
    synced(&large);
    let cut = File::options().write(true).open(at("sparse")).unwrap();
    cut.set_len(5000).unwrap();
    cut.set_len(9_000_000).unwrap();
    synced(&cut);
    let punched = File::options().write(true).open(at("text")).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&punched, punch, 8192, 300_000).unwrap();
    synced(&punched);
    fs::set_permissions(at("page"), fs::Permissions::from_mode(0o1751)).unwrap();
    std::os::unix::fs::chown(at("page"), Some(77), Some(78)).unwrap();
    sync_path("page");
    rustix::fs::setxattr(at("short text"), "user.later", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::removexattr(at("short text"), "user.attribute number 7").unwrap();
    sync_path("short text");
    fs::hard_link(at("hundred"), at("deep/another name")).unwrap();
    sync_path("hundred");
    fs::remove_file(at("many/a name that takes some room 8")).unwrap();
    fs::remove_file(at("many/a name that takes some room 9")).unwrap();
    sync_path("many");
    fs::create_dir(at("made")).unwrap();
    fs::write(at("made/inside"), "inside").unwrap();
    std::os::unix::fs::symlink("inside", at("made/link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("made/fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    sync_path("made/inside");
    sync_path("made");
    fs::rename(at("sixty"), at("some 30/renamed")).unwrap();
    sync_path("some 30/renamed");
    fs::write(at("not synced"), "and so not there").unwrap();
}

#[test]
fn dirty_btrfs() {
    for arguments in ["", "-O ^no-holes"] {
        let dir = TempDir::new().unwrap();
        let image = mkfs(dir.path(), arguments);
        let mounted = KernelMount::new(&image, "rw,commit=300");
        make_tree(mounted.path());
        more(mounted.path());
        sync(mounted.path());
        disturb(mounted.path());
        sync(mounted.path());
        sync_one_of_each(mounted.path());
        assert_ne!(log_root(&image), 0, "the kernel made a commit instead");
        let seen = compare_killed(&image, mounted, dir.path(), arguments);
        for path in ["late", "deep/another name", "made/link", "some 30/renamed"] {
            assert!(seen.contains_key(Path::new(path)), "{path}");
        }
        for path in ["sixty", "many/a name that takes some room 8", "not synced"] {
            assert!(!seen.contains_key(Path::new(path)), "{path}");
        }
    }
}

/// Programs that write, rename, link, remove and sync as chance has it, killed time and again.
#[test]
fn btrfs_killed_at_any_moment() {
    let (rounds, mut with_log) = (if many(0) > 0 { 200 } else { 10 }, 0);
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), "");
    let mounted = KernelMount::new(&image, "rw,commit=300");
    sh(&format!("btrfs subvolume create {}/sub", mounted.path().display()));
    for name in ["a", "b", "sub/c"] {
        fs::create_dir(mounted.path().join(name)).unwrap();
    }
    drop(mounted);
    let mut random = Random(many(7) as u64);
    for round in 0..rounds {
        let mut done = Vec::new();
        let mounted = KernelMount::new(&image, "rw,commit=300");
        for _ in 0..5 + random.below(25) {
            done.push(change_by_chance(mounted.path(), &mut random));
        }
        with_log += usize::from(log_root(&image) != 0);
        compare_killed(&image, mounted, dir.path(), &format!("round {round}:\n{}", done.join("\n")));
    }
    assert!(with_log * 2 > rounds, "only {with_log} of {rounds} had a log");
    println!("{with_log} of {rounds} images had a log");
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Does something that may fail, as of a name that is not there, and tells what.
fn change_by_chance(root: &Path, random: &mut Random) -> String {
    let dirs = ["", "a/", "b/", "sub/", "sub/c/", "a/made/"];
    let mut name = || {
        let dir = dirs[random.below(6) as usize];
        format!("{dir}{}", ["x", "y", "z", "made", "long name of a file"][random.below(5) as usize])
    };
    let (one, other) = (name(), name());
    let (from, len) = (random.below(300_000), random.below(100_000));
    let (path, to) = (root.join(&one), root.join(&other));
    let write = || File::options().create(true).write(true).truncate(false).open(&path);
    let synced = || write()?.sync_all();
    let (what, result) = match random.below(14) {
        0 | 1 => (
            "write and sync",
            write()
                .and_then(|f| f.write_all_at(&noise(from, len as usize), from).and_then(|()| f.sync_all())),
        ),
        2 => ("write", write().and_then(|f| f.write_all_at(&noise(len, len as usize), from))),
        3 => ("cut and sync", write().and_then(|f| f.set_len(from).and_then(|()| f.sync_all()))),
        4 => ("rename to", fs::rename(&path, &to)),
        5 => ("rename and sync to", fs::rename(&path, &to).and_then(|()| File::open(&to)?.sync_all())),
        6 => ("link", fs::hard_link(&path, &to)),
        7 => ("remove", fs::remove_file(&path)),
        8 => ("make directory", fs::create_dir(&path)),
        9 => ("remove directory", fs::remove_dir(&path)),
        10 => ("sync directory of", File::open(path.parent().unwrap()).and_then(|dir| dir.sync_all())),
        11 => (
            "attribute and sync",
            rustix::fs::setxattr(
                &path,
                format!("user.{}", len % 3),
                &noise(len, 20),
                rustix::fs::XattrFlags::empty(),
            )
            .map_err(Into::into)
            .and_then(|()| synced()),
        ),
        12 => ("link and sync", fs::hard_link(&path, &to).and_then(|()| File::open(&to)?.sync_all())),
        _ => (
            "symbolic link and sync of its directory",
            std::os::unix::fs::symlink("target", &path)
                .and_then(|()| File::open(path.parent().unwrap())?.sync_all()),
        ),
    };
    format!("{what} {one} ({other}, {from}, {len}): {result:?}")
}

/// A log that is damaged is told of, and everything is as of the last commit, which is what the kernel shows without the log.
#[test]
fn a_damaged_log_of_btrfs_is_told_of() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), "-m single");
    let mounted = KernelMount::new(&image, "rw,commit=300");
    make_tree(mounted.path());
    sync(mounted.path());
    let late = File::create(mounted.path().join("late")).unwrap();
    late.write_all_at(&noise(9, 50_000), 0).unwrap();
    late.sync_all().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| dir.path().join(name));
    copy(&image, &ours);
    drop((late, mounted));
    // metadata has the addresses that the first chunks give it; the place of a block is found by the address in it
    let root = log_root(&ours);
    let mut bytes = fs::read(&ours).unwrap();
    let damaged = bytes.chunks_exact_mut(4096).filter(|block| block[48..56] == root.to_le_bytes());
    let count = damaged.map(|block| block[200] ^= 1).count();
    assert!(count > 0);
    fs::write(&ours, &bytes).unwrap();
    copy(&ours, &theirs);
    let kernel = KernelMount::new(&theirs, "ro,rescue=nologreplay");
    assert_same(&through_ours(&ours), &through_kernel(kernel.path()));
    let remark = guest::open(FileSource::open(&ours)).unwrap().remark().unwrap();
    assert!(remark.contains("waits in its log and is not shown") && remark.contains("checksum"), "{remark}");
}
