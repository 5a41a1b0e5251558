//! Files of a point without a mount: copied out and packed, held against the kernel's mount of the same image.

use crate::image::{FileSource, KernelMount, make_tree, mke2fs, noise, run, sh};
use crate::seen::{Seen, Tree, through_kernel};
use mount::Error;
use mount::files::copy::{Report, Taken, Target, Watch, copy};
use mount::files::tar::tar;
use mount::files::{Files, LostKind, Step};
use mount::guest::NodeKind;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const OWN: &str = env!("CARGO_BIN_EXE_blockd-mount");

/// Remembers what failed.
#[derive(Default)]
struct Seer(Vec<(String, String)>);

impl Watch for Seer {
    fn at(&mut self, _files: u64, _bytes: u64) {}

    fn failed(&mut self, path: &[u8], error: &Error) {
        self.0.push((String::from_utf8_lossy(path).into_owned(), error.with_causes()));
    }
}

struct Scene {
    dir: TempDir,
    image: PathBuf,
    files: Files,
}

impl Scene {
    /// A filesystem with one of everything.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make_tree(&tree);
        let image = mke2fs(dir.path(), 96 * MIB, "-t ext4 -b 4096", Some(&tree));
        let files =
            Files::over(FileSource::open(&image), Some(Path::new(OWN)), &mount::Passphrases::default())
                .unwrap();
        Self { dir, image, files }
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn copy(&self, path: &str, to: &Path, name: Option<&str>, taken: Taken) -> (Report, Seer) {
        let from = self.files.find(0, path.as_bytes(), false).unwrap();
        let (target, mut seer) = (Target::open(to).unwrap(), Seer::default());
        let name = name.map(str::as_bytes);
        (copy(&self.files, &from, &target, name, taken, &mut seer).unwrap(), seer)
    }

    fn kernel(&self) -> Tree {
        comparable(through_kernel(KernelMount::new(&self.image, "ro").path()))
    }
}

/// Without what belongs to a filesystem and not to a file: blocks, times of the inode, sizes and links of directories.
fn comparable(tree: Tree) -> Tree {
    let without = |seen: Seen| {
        let directory = seen.mode & 0o170_000 == 0o040_000;
        let (size, nlink) = if directory { (0, 0) } else { (seen.size, seen.nlink) };
        Seen { blocks: 0, ctime: (0, 0), size, nlink, ..seen }
    };
    let tree = tree.into_iter().map(|(path, seen)| (path, without(seen)));
    // of the top only what is in it was copied
    tree.filter(|(path, _)| path != Path::new("")).collect()
}

fn assert_equal(left: &Tree, right: &Tree) {
    for (path, seen) in left {
        assert_eq!(right.get(path), Some(seen), "{}", path.display());
    }
    assert_eq!(left.len(), right.len());
}

fn assert_linked_and_sparse(dir: &Path) {
    let ino = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().ino();
    assert_eq!(ino("large"), ino("deep/hard link"));
    let sparse = fs::metadata(dir.join("sparse")).unwrap();
    assert_eq!(sparse.size(), 40 << 20);
    assert!(sparse.blocks() * 512 < MIB, "{} blocks", sparse.blocks());
}

#[test]
fn root_copies_everything_as_it_is() {
    let scene = Scene::new();
    let to = scene.make("to");
    let (report, seer) = scene.copy("/", &to, None, Taken::Keep);
    assert!(seer.0.is_empty(), "{:?}", seer.0);
    assert_eq!((report.failed, report.not_kept), (0, vec![]));
    let kernel = scene.kernel();
    assert_equal(&comparable(through_kernel(&to)), &kernel);
    assert!(report.files > 3000 && report.directories > 8, "{} {}", report.files, report.directories);
    assert_linked_and_sparse(&to);

    // again: every name is taken, and nothing is touched
    let before = fs::metadata(to.join("tiny")).unwrap().ctime_nsec();
    let (report, seer) = scene.copy("/tiny", &to, Some("tiny"), Taken::Keep);
    assert_eq!((report.failed, seer.0[0].1.as_str()), (1, "tiny: the name is taken"));
    assert_eq!(fs::metadata(to.join("tiny")).unwrap().ctime_nsec(), before);
    // or replaced, hard links and all
    fs::write(to.join("tiny"), "somebody's").unwrap();
    let (report, seer) = scene.copy("/", &to, None, Taken::Replace);
    assert_eq!((report.failed, seer.0), (0, vec![]));
    assert_equal(&comparable(through_kernel(&to)), &kernel);
    assert_linked_and_sparse(&to);
}

/// Whatever lies in the target, copies do not leave it.
#[test]
fn no_link_leads_out_of_the_target() {
    let scene = Scene::new();
    let (to, outside) = (scene.make("to"), scene.make("outside"));
    fs::write(outside.join("victim"), "untouched").unwrap();
    symlink(&outside, to.join("deep")).unwrap();
    symlink(outside.join("victim"), to.join("tiny")).unwrap();
    symlink(outside.join("new"), to.join("page")).unwrap();
    symlink(&outside, to.join("null")).unwrap();
    let unchanged = || {
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    };
    let (report, seer) = scene.copy("/", &to, None, Taken::Keep);
    let mut failed: Vec<_> = seer.0.iter().map(|(path, _)| path.as_str()).collect();
    failed.sort_unstable();
    assert_eq!((report.failed, failed), (4, vec!["deep", "null", "page", "tiny"]));
    unchanged();
    // links are replaced themselves, and a directory never by one
    let (report, seer) = scene.copy("/", &to, None, Taken::Replace);
    assert_eq!((report.failed, seer.0[0].0.as_str()), (1, "deep"));
    unchanged();
    assert!(fs::symlink_metadata(to.join("tiny")).unwrap().is_file());
    assert_eq!(fs::read_link(to.join("deep")).unwrap(), outside);
}

/// What a user may not set is told in one line each, and set-id bits do not change hands.
#[test]
fn a_user_keeps_what_the_kernel_lets() {
    let scene = Scene::new();
    let to = scene.make("to");
    let user = rustix::fs::Uid::from_raw(4242);
    std::os::unix::fs::chown(&to, Some(4242), Some(4242)).unwrap();
    // the parser runs already; only this thread becomes somebody else
    let report = std::thread::scope(|scope| {
        let copied = scope.spawn(|| {
            let group = rustix::fs::Gid::from_raw(4242);
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(group, group, group).unwrap();
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            scene.copy("/", &to, None, Taken::Keep)
        });
        copied.join().unwrap()
    });
    let (report, seer) = report;
    assert_eq!((report.failed, seer.0), (0, vec![]));
    let kinds: Vec<_> = report.not_kept.iter().map(|lost| lost.kind).collect();
    assert_eq!(
        kinds,
        [LostKind::Owner, LostKind::SetId, LostKind::OtherAttributes, LostKind::Devices],
        "{:?}",
        report.not_kept
    );
    let tiny = fs::symlink_metadata(to.join("tiny")).unwrap();
    assert_eq!((tiny.mode() & 0o7777, tiny.uid()), (0o755, 4242));
    let ours = comparable(through_kernel(&to));
    let mut kernel = scene.kernel();
    let devices = [Path::new("null"), Path::new("wide device")];
    kernel.retain(|path, _| !devices.contains(&path.as_path()));
    for (path, theirs) in &kernel {
        let mine = &ours[path];
        let same = |seen: &Seen| (seen.mode & 0o1777, seen.size, seen.mtime, seen.link.clone(), seen.content);
        assert_eq!(same(mine), same(theirs), "{}", path.display());
        let kept = |name: &[u8]| name.starts_with(b"user.") || name.starts_with(b"system.");
        let theirs: Vec<_> = theirs.attributes.iter().filter(|(name, _)| kept(name)).collect();
        assert_eq!(mine.attributes.iter().collect::<Vec<_>>(), theirs, "{}", path.display());
    }
    assert_linked_and_sparse(&to);
}

#[test]
fn gnu_tar_unpacks_everything() {
    let scene = Scene::new();
    let archive = scene.dir.path().join("archive.tar");
    let root = scene.files.root(0).unwrap();
    let mut seer = Seer::default();
    let mut out = BufWriter::new(File::create(&archive).unwrap());
    let report = tar(&scene.files, &root, b".", &mut out, &mut seer).unwrap();
    drop(out);
    assert_eq!((report.failed, seer.0), (0, vec![]));
    let lost: Vec<_> = report.not_kept.iter().map(|lost| (lost.kind, lost.count)).collect();
    assert_eq!(lost, [(LostKind::Sockets, 1)]);
    assert!(fs::metadata(&archive).unwrap().len() < 16 * MIB, "holes take no room");
    let to = scene.make("to");
    let line = format!(
        "tar --extract --warning=no-timestamp --xattrs --xattrs-include='*' --acls --same-owner --preserve-permissions -f {} -C {} 2>&1",
        archive.display(),
        to.display()
    );
    assert_eq!(sh(&line), "");
    let mut kernel = scene.kernel();
    kernel.remove(Path::new("socket")).unwrap();
    assert_equal(&comparable(through_kernel(&to)), &kernel);
    assert_linked_and_sparse(&to);
    // a second reader of the same format
    let listed = run("python3", &["-m".as_ref(), "tarfile".as_ref(), "-l".as_ref(), archive.as_ref()]);
    assert!(listed.contains("./deep/er/still/file"));
}

#[test]
fn paths_lead_where_they_would_for_the_guest() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("usr/bin")).unwrap();
    fs::write(tree.join("usr/bin/tool"), noise(1, 100)).unwrap();
    for (target, name) in [
        ("usr/bin", "bin"),
        ("/usr/bin/tool", "usr/abs"),
        ("../../../../usr", "usr/bin/up"),
        ("loop", "loop"),
    ] {
        symlink(target, tree.join(name)).unwrap();
    }
    let image = mke2fs(dir.path(), 16 * MIB, "-t ext4", Some(&tree));
    let files =
        Files::over(FileSource::open(&image), Some(Path::new(OWN)), &mount::Passphrases::default()).unwrap();
    let find = |path: &str, follow| files.find(0, path.as_bytes(), follow);
    let tool = find("/usr/bin/tool", false).unwrap().ino;
    for path in ["/bin/tool", "//bin/./tool", "/usr/../bin/tool", "/../bin/tool", "/bin/up/bin/tool"] {
        assert_eq!(find(path, false).unwrap().ino, tool, "{path}");
    }
    assert_eq!(find("/usr/abs", true).unwrap().ino, tool);
    assert_eq!(find("/usr/abs", false).unwrap().kind, NodeKind::Symlink);
    assert_eq!(find("/bin/", false).unwrap().kind, NodeKind::Directory);
    assert_eq!(find("/", false).unwrap().kind, NodeKind::Directory);
    let fails = |path: &str| find(path, true).unwrap_err().to_string();
    assert_eq!(fails("/bin/none"), "none does not exist");
    assert_eq!(fails("/bin/tool/x"), "x: what the path has before it is not a directory");
    assert!(fails("/loop").contains("40 links"));
    assert!(files.find(7, b"/", false).unwrap_err().to_string().contains("partition 7"));
    let met = files.walk(&files.root(0).unwrap()).filter(|step| matches!(step, Step::At(_))).count();
    // lost+found and the root are among them
    assert_eq!(met, 9);
}
