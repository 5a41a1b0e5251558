//! The reader of NTFS against ntfs-3g's mount of the same image.

use crate::image::{FileSource, empty, many, noise, run, sh};
use crate::seen::{Tree, assert_same, through_kernel, through_reader};
use block::ByteOffset;
use mount::guest::{self, Guest, NodeKind};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, setxattr};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const SIZE: u64 = 192 << 20;

/// The mount of ntfs-3g, until dropped.
pub struct Reference(TempDir);

impl Reference {
    pub fn new(image: &Path, options: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let arguments = ["-o".as_ref(), options.as_ref(), image.as_os_str(), dir.path().as_ref()];
        run("ntfs-3g", &arguments);
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        run("umount", &[self.0.path().as_ref()]);
    }
}

pub fn mkfs(dir: &Path, size: u64, arguments: &str) -> PathBuf {
    let image = empty(dir, "image", size);
    sh(&format!("mkntfs -q -F -Q {arguments} {} 2>&1", image.display()));
    image
}

fn open(image: &Path) -> Arc<dyn Guest> {
    guest::open(FileSource::open(image)).unwrap()
}

fn through_ours(image: &Path) -> Tree {
    let source = FileSource::open(image);
    through_reader(&*open(image), &|at, buf| source.read_at(ByteOffset::new(at), buf).unwrap())
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Text that compresses, noise that does not, and holes.
fn mixed(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for i in 0.. {
        match i % 4 {
            0 => bytes.extend(noise(seed + i, 3000)),
            1 => bytes.extend(format!("line {i} of a text that repeats itself\n").repeat(900).into_bytes()),
            2 => bytes.resize(bytes.len() + 70_000, 0),
            _ => bytes.extend(noise(i, 40).repeat(2000)),
        }
        if bytes.len() >= len {
            break;
        }
    }
    bytes.truncate(len);
    bytes
}

pub fn make_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    for (name, len) in [("empty", 0), ("tiny", 5), ("inside", 600), ("page", 4096), ("large", 3_000_001)] {
        fs::write(at(name), noise(len as u64, len)).unwrap();
    }
    let sparse = File::create(at("sparse")).unwrap();
    for offset in [4096, 1 << 20, (20 << 20) + 1234] {
        sparse.write_all_at(&noise(offset, 5000), offset).unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    fs::create_dir_all(at("deep/er/still")).unwrap();
    fs::write(at("deep/er/still/file"), "here").unwrap();
    fs::hard_link(at("large"), at("deep/hard link")).unwrap();
    fs::create_dir(at("empty directory")).unwrap();
    for (name, target) in [("link", "deep/er"), ("long link", &"t".repeat(900))] {
        symlink(target, at(name)).unwrap();
    }
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    fs::create_dir(at("many")).unwrap();
    for i in 0..many(2000) {
        File::create(at(&format!("many/a name that takes some room {i}"))).unwrap();
    }
    for i in (0..many(2000)).step_by(3) {
        fs::remove_file(at(&format!("many/a name that takes some room {i}"))).unwrap();
    }
    fs::create_dir(at("names")).unwrap();
    for name in ["sp ace", "Ünïcödé", "\u{1f980} crab", "...x", &"x".repeat(255), &"\u{6f22}".repeat(85)]
    {
        fs::write(at("names").join(name), name).unwrap();
    }
    attribute(&at("tiny"), "user.color", b"blue");
    attribute(&at("tiny"), "user.a longer stream", &noise(1, 30_000));
    attribute(&at("page"), "user.empty", b"");
    // flagged as compressed, so is what is made in it
    fs::create_dir(at("compressed")).unwrap();
    attribute(&at("compressed"), "system.ntfs_attrib_be", &[0, 0, 8, 0x10]);
    for (name, len) in [("small", 300), ("unit", 65536), ("odd", 200_001), ("large", 2_000_000)] {
        fs::write(at("compressed").join(name), mixed(len as u64, len)).unwrap();
    }
    fs::write(at("compressed/zeros"), vec![0; 500_000]).unwrap();
    // very many fragments, so that the runs need records of their own
    let files: Vec<_> = (0..2).map(|i| File::create(at(&format!("scattered {i}"))).unwrap()).collect();
    for i in 0..1500 {
        for file in &files {
            file.write_all_at(&noise(i, 4096), i * 4096).unwrap();
        }
    }
}

fn compare(arguments: &str) {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), SIZE, arguments);
    let mounted = Reference::new(&image, "streams_interface=xattr,compression");
    make_tree(mounted.path());
    drop(mounted);
    let reference = Reference::new(&image, "ro,streams_interface=xattr");
    let mut theirs = through_kernel(reference.path());
    assert!(theirs.len() > 1360, "{} files", theirs.len());
    let mut ours = through_ours(&image);
    for tree in [&mut ours, &mut theirs] {
        tree.values_mut().for_each(|seen| {
            // ntfs-3g counts the space of small files differently from version to version
            seen.blocks = 0;
            // and gives links and special files what it likes
            if seen.content.is_none() {
                seen.size = 0;
            }
        });
    }
    assert_same(&ours, &theirs);
}

#[test]
fn ntfs_as_made_by_default() {
    compare("");
}

#[test]
fn ntfs_with_small_clusters() {
    compare("-c 512");
}

#[test]
fn ntfs_with_large_clusters_and_sectors() {
    compare("-c 65536 -s 4096");
}

/// Streams, links of Windows, and what cannot be read.
#[test]
fn ntfs_shows_what_windows_keeps_beside() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), 64 << 20, "");
    let mounted = Reference::new(&image, "streams_interface=windows");
    let at = |name: &str| mounted.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "content").unwrap();
    fs::write(at("a/b/file:stream"), noise(4, 200_000)).unwrap();
    fs::write(at("dedup"), "").unwrap();
    fs::create_dir(at("a/b/junction")).unwrap();
    fs::write(at("a/b/far"), "").unwrap();
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let reparse = |tag: u32, numbers: &[u16], flags: &[u8], text: &str| {
        let data =
            [numbers.iter().flat_map(|n| n.to_le_bytes()).collect(), flags.to_vec(), utf16(text)].concat();
        [&tag.to_le_bytes()[..], &(data.len() as u16).to_le_bytes(), &[0; 2], &data].concat()
    };
    let junction = reparse(0xa000_0003, &[0, 22, 24, 4], &[], "\\??\\C:\\a\\bc\0ab\0");
    attribute(&at("a/b/junction"), "system.ntfs_reparse_data", &junction);
    let link = reparse(0xa000_000c, &[0, 10, 0, 10], &1_u32.to_le_bytes(), "..\\xy");
    attribute(&at("a/b/far"), "system.ntfs_reparse_data", &link);
    attribute(&at("dedup"), "system.ntfs_reparse_data", &reparse(0x8000_0013, &[1, 2], &[], "x"));
    drop(mounted);

    let ours = open(&image);
    let find = |path: &[&str]| {
        path.iter().fold(ours.root(), |dir, name| ours.lookup(dir, name.as_bytes()).unwrap().unwrap())
    };
    let file = find(&["a", "b", "file"]);
    assert_eq!(ours.attributes(file).unwrap(), [b"user.stream"]);
    let why = ours.attribute(file, b"user.stream").unwrap_err().to_string();
    assert!(why.contains("200000 bytes; open it as"), "{why}");
    let stream = find(&["a", "b", "file:stream"]);
    let node = ours.node(stream).unwrap();
    assert_eq!((node.kind, node.size), (NodeKind::File, 200_000));
    assert!(ours.lookup(find(&["a", "b"]), b"file:other").unwrap().is_none());
    assert_eq!(ours.link(find(&["a", "b", "junction"])).unwrap(), b"../../a/bc");
    assert_eq!(ours.link(find(&["a", "b", "far"])).unwrap(), b"../xy");
    let why = ours.pieces(find(&["dedup"]), 0, 1).unwrap_err().to_string();
    assert!(why.contains("it is deduplicated"), "{why}");
    assert!(ours.remark().is_none(), "{:?}", ours.remark());
}

/// Content that Windows encrypted with a user's key.
#[test]
fn encrypted_files_of_ntfs_are_said_to_be_so() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), 64 << 20, "");
    let mounted = Reference::new(&image, "");
    fs::write(mounted.path().join("secret"), "to be encrypted").unwrap();
    fs::write(mounted.path().join("plain"), "plain").unwrap();
    drop(mounted);
    let mut bytes = fs::read(&image).unwrap();
    let content = b"to be encrypted";
    let at = bytes.windows(content.len()).position(|window| window == content).unwrap();
    // the header of the attribute that holds it lies 24 bytes before, its flags 12 bytes into that
    assert_eq!(bytes[at - 24], 0x80, "the content of a file");
    bytes[at - 12 + 1] |= 0x40;
    fs::write(&image, bytes).unwrap();
    let ours = open(&image);
    let find = |name: &[u8]| ours.lookup(ours.root(), name).unwrap().unwrap();
    let error = ours.pieces(find(b"secret"), 0, 1).unwrap_err();
    assert!(error.to_string().contains("its content is encrypted (EFS)"), "{error}");
    assert!(ours.pieces(find(b"plain"), 0, 1).is_ok());
    assert_eq!(ours.node(find(b"secret")).unwrap().size, 15);
}

/// Whatever was being done: ours is what ntfs-3g shows of what it left when it was killed.
#[test]
fn ntfs_killed_at_any_moment() {
    use std::process::{Command, Stdio};
    let rounds = if many(0) > 0 { 30 } else { 3 };
    for round in 0..rounds {
        let (dir, at) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let image = mkfs(dir.path(), 64 << 20, "");
        let arguments = ["-o", "no_detach"].map(AsRef::<std::ffi::OsStr>::as_ref);
        let mut server = Command::new("ntfs-3g")
            .args(arguments)
            .args([image.as_os_str(), at.path().as_os_str()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let path = at.path().display();
        sh(&format!("until mountpoint -q {path}; do sleep 0.02; done"));
        let line = format!(
            "cd {path} && for i in $(seq 1 5000); do mkdir -p d$((i % 7)) && head -c $((i * 37 % 9000)) /dev/urandom > d$((i % 7))/file$i \
             && [ $((i % 3)) -ne 0 ] || rm -f d$(((i - 3) % 7))/file$((i - 3)); done"
        );
        let mut writer = Command::new("sh").args(["-c", &line]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(400 + round * 90));
        server.kill().unwrap();
        server.wait().unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();
        run("umount", &["-l".as_ref(), at.path().as_ref()]);
        let reference = Reference::new(&image, "ro,streams_interface=xattr");
        let mut theirs = through_kernel(reference.path());
        let mut ours = through_ours(&image);
        for seen in ours.values_mut().chain(theirs.values_mut()) {
            seen.blocks = 0;
        }
        assert!(theirs.len() > 20, "{} files", theirs.len());
        assert_same(&ours, &theirs);
    }
}

/// An image taken while it was mounted says so.
#[test]
fn ntfs_in_use_is_told_of() {
    let dir = TempDir::new().unwrap();
    let image = mkfs(dir.path(), 64 << 20, "");
    let log = File::options().write(true).open(&image).unwrap();
    let told = sh(&format!("ntfsinfo -i 2 -v {} 2>&1", image.display()));
    // the first run: its place in the file, its cluster, its length
    let run = told.lines().find(|line| line.trim().starts_with("0x0\t")).unwrap_or_else(|| panic!("{told}"));
    let lcn = run.split_whitespace().nth(1).unwrap().trim_start_matches("0x");
    let lcn = u64::from_str_radix(lcn, 16).unwrap();
    // a restart page of a client at work, as Windows leaves it
    for page in 0..2 {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(b"RSTR");
        bytes[4..8].copy_from_slice(&[30, 0, 9, 0]);
        bytes[24..26].copy_from_slice(&[48, 0]);
        bytes[48] = 1;
        for sector in 1..=8 {
            bytes[sector * 512 - 2..sector * 512].copy_from_slice(&[0, 0]);
        }
        log.write_all_at(&bytes, lcn * 4096 + page * 4096).unwrap();
    }
    let remark = open(&image).remark().unwrap();
    assert!(remark.contains("Windows had not unmounted it"), "{remark}");
}
