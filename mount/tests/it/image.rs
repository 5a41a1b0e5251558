//! Images: made by mke2fs and the partitioning tools, mounted by the kernel.

use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Error, Extent, ExtentKind, Visit, check_range};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, UTIME_NOW, XattrFlags};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A file as a source of blocks.
pub struct FileSource(File, u64);

impl FileSource {
    pub fn open(path: &Path) -> Arc<dyn BlockSource> {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Arc::new(Self(file, size))
    }
}

impl BlockSource for FileSource {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.1)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let failed = |source| Error::host("read", "an image", Some(offset.get()), source);
        self.0.read_exact_at(buf, offset.get()).map_err(failed)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let _stop = visit(Extent { range, kind: ExtentKind::Data });
        Ok(())
    }
}

/// Runs a tool that must succeed; its output.
pub fn run(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell line that must succeed.
pub fn sh(line: &str) -> String {
    run("sh", &["-ec".as_ref(), line.as_ref()])
}

/// The kernel's mount of an image, until dropped.
pub struct KernelMount(TempDir);

impl KernelMount {
    pub fn new(image: &Path, options: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let options = format!("loop,{options}");
        run("mount", &["-o".as_ref(), options.as_ref(), image.as_ref(), dir.path().as_ref()]);
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        // a program that another test is about to start has all our descriptors for a moment
        let is_busy = || {
            let done = Command::new("umount").arg(self.0.path()).output().expect("umount");
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() || said.contains("busy"), "umount {:?}: {said}", self.0.path());
            !done.status.success()
        };
        let tries =
            (0..100).take_while(|_| is_busy()).inspect(|_| std::thread::sleep(Duration::from_millis(100)));
        assert!(tries.count() < 100, "{:?} stays busy", self.0.path());
    }
}

/// An empty image file of this size.
pub fn empty(dir: &Path, name: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// An image made by mke2fs with these arguments, holding a copy of `tree`.
pub fn mke2fs(dir: &Path, size: u64, arguments: &str, tree: Option<&Path>) -> PathBuf {
    // a group has so many clusters, and only so many inodes
    let room = if arguments.contains("bigalloc") { 4 * size } else { size };
    let image = empty(dir, "image", if size > 64 << 20 { roomy(room) } else { size });
    let mut all: Vec<&OsStr> = vec!["-q".as_ref(), "-F".as_ref()];
    all.extend(arguments.split_whitespace().map(OsStr::new));
    // the long form has more files than mke2fs expects, and than it fills in with in a time that can be waited for
    let is_long = size > 64 << 20 && many(0) > 0;
    if is_long {
        all.extend([OsStr::new("-N"), OsStr::new("70000")]);
    } else if let Some(tree) = tree {
        all.extend([OsStr::new("-d"), tree.as_ref()]);
    }
    all.push(image.as_ref());
    run("mke2fs", &all);
    if let (true, Some(tree)) = (is_long, tree) {
        let mounted = KernelMount::new(&image, "rw");
        sh(&format!("cp -a {}/. {}/", tree.display(), mounted.path().display()));
    }
    image
}

/// A size in which the long form of a test fits as well.
pub fn roomy(size: u64) -> u64 {
    if many(0) > 0 { 4 * size } else { size }
}

/// Opens what these make.
pub const SECRET: &str = "a passphrase nobody guesses";

/// A copy of an image in LUKS1, by qemu-img.
pub fn luks1(plain: &Path, encrypted: &Path, options: &str) {
    sh(&format!(
        "qemu-img convert -f raw -O luks --object secret,id=s,data='{SECRET}' -o key-secret=s,iter-time=10,{options} {} {}",
        plain.display(),
        encrypted.display()
    ));
}

/// A copy of an image in LUKS2, by cryptsetup, which needs room for its header behind it.
pub fn luks2(plain: &Path, encrypted: &Path, options: &str) {
    fs::copy(plain, encrypted).unwrap();
    let file = OpenOptions::new().write(true).open(encrypted).unwrap();
    file.set_len(fs::metadata(plain).unwrap().len() + (16 << 20)).unwrap();
    sh(&format!(
        "printf '{SECRET}' | cryptsetup reencrypt --encrypt --force-offline-reencrypt --type luks2 --reduce-device-size 16M \
         --key-file - --batch-mode {options} {} 2>&1",
        encrypted.display()
    ));
}

/// Bytes that look random and repeat exactly.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// So many files in the long form of a test, or as many as the short one has.
pub fn many(short: usize) -> usize {
    if std::env::var_os("BLOCKD_SOAK").is_some() { 50_000 } else { short }
}

/// Fills `dir` with one of everything a directory tree can hold.
pub fn make_tree(dir: &Path) {
    let at = |name: &str| dir.join(name);
    for (name, len) in
        [("empty", 0), ("tiny", 5), ("sixty", 60), ("hundred", 130), ("page", 4096), ("large", 3_000_001)]
    {
        fs::write(at(name), noise(len as u64, len)).unwrap();
    }
    let sparse = OpenOptions::new().create_new(true).write(true).open(at("sparse")).unwrap();
    for offset in [4096, 1 << 20, (20 << 20) + 1234] {
        sparse.write_all_at(&noise(offset, 5000), offset).unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    fs::create_dir_all(at("deep/er/still")).unwrap();
    fs::write(at("deep/er/still/file"), "here").unwrap();
    fs::hard_link(at("large"), at("deep/hard link")).unwrap();
    fs::create_dir(at("empty directory")).unwrap();
    for (name, len) in
        [("short", 7), ("fifty-nine", 59), ("sixty", 60), ("sixty-one", 61), ("long", 200), ("huge", 1000)]
    {
        symlink("t".repeat(len), at(&format!("link {name}"))).unwrap();
    }
    symlink("deep/er", at("link to directory")).unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..many(3000) {
        one_of_many(&at("many"), i);
    }
    for count in [30, 90, 300] {
        fs::create_dir(at(&format!("some {count}"))).unwrap();
        for i in 0..count {
            File::create(at(&format!("some {count}/a name that takes some more room than others {i}")))
                .unwrap();
        }
    }
    fs::create_dir(at("names")).unwrap();
    let odd = [
        &b"sp ace"[..],
        b"new\nline",
        b"\xff\xfe not utf-8",
        "\u{1f980} crab".as_bytes(),
        b"-rf",
        b"...",
        &[b'x'; 255],
    ];
    for name in odd {
        fs::write(at("names").join(OsStr::from_bytes(name)), name).unwrap();
    }
    special(dir);
    metadata(dir);
}

/// The first are empty files; of those only the long form has, each is of some kind.
fn one_of_many(dir: &Path, number: usize) {
    let name = format!("a name that takes some room {number}");
    let path = dir.join(&name);
    let odd = dir.join(OsStr::from_bytes(&[name.as_bytes(), b" \xff\xfe"].concat()));
    match number % 8 {
        _ if number < 3000 => drop(File::create(path).unwrap()),
        0 => symlink(format!("a target {number}"), path).unwrap(),
        1 => fs::create_dir(path).unwrap(),
        2 => fs::write(path, noise(number as u64, 5000 + number % 3000)).unwrap(),
        3 => fs::hard_link(dir.join("a name that takes some room 3000"), path)
            .or_else(|_| fs::write(dir.join(&name), noise(3, 100)))
            .unwrap(),
        4 => fs::write(odd, noise(number as u64, 60)).unwrap(),
        5 => {
            fs::write(&path, noise(number as u64, 40)).unwrap();
            rustix::fs::setxattr(&path, "user.number", name.as_bytes(), XattrFlags::empty()).unwrap();
        }
        _ => fs::write(path, noise(number as u64, number % 300)).unwrap(),
    }
}

fn special(dir: &Path) {
    let node = |name: &str, kind, device| {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, dir.join(name), kind, mode, device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("wide device", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
}

fn metadata(dir: &Path) {
    for (name, mode) in [("tiny", 0o4755), ("page", 0o000), ("hundred", 0o2640), ("deep", 0o1777)] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, owner) in [("tiny", 1000), ("sixty", 70_000), ("deep/er", 4_000_000_000)] {
        std::os::unix::fs::chown(dir.join(name), Some(owner), Some(owner - 1)).unwrap();
    }
    for (name, seconds) in [("tiny", 1), ("sixty", 5_000_000_000), ("page", -86_400), ("deep", 1_600_000_000)]
    {
        let atime = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps {
            last_access: atime,
            last_modification: Timespec { tv_sec: seconds, tv_nsec: 123_456_789 },
        };
        rustix::fs::utimensat(CWD, dir.join(name), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::setxattr(dir.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("tiny", "user.color", b"blue");
    set("tiny", "trusted.note", &noise(1, 900));
    set("hundred", "user.empty", b"");
    set("deep", "security.thing", &noise(2, 40));
    // user::rwx user:1000:r-x group::r-- mask::r-x other::---
    let acl: Vec<u8> = [(1, 7, !0), (2, 5, 1000), (4, 4, !0), (16, 5, !0), (32, 0, !0_u32)]
        .into_iter()
        .flat_map(|(tag, perm, id): (u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
        })
        .collect();
    set("large", "system.posix_acl_access", &[&2_u32.to_le_bytes()[..], &acl].concat());
}

/// Joins a path of raw bytes.
pub fn raw(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}
