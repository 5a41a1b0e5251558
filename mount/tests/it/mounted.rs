//! The whole way: an NBD server, the mount as a process of its own, FUSE, compared with the kernel's mount.

use crate::image::{KernelMount, empty, make_tree, mke2fs, noise, run, sh};
use crate::ntfs;
use crate::seen::{assert_same, through_kernel};
use crate::volumes::Disks;
use block::{Failure, Kind};
use mount::{Mount, Options};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
pub const OWN: &str = env!("CARGO_BIN_EXE_blockd-mount");

/// nbdkit serving a file read-only, until dropped.
pub struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    fn new(dir: &Path, image: &Path) -> Self {
        let socket = dir.join("nbd.sock");
        let process = Command::new("nbdkit")
            .args(["-f", "-r", "--exit-with-parent", "-U"])
            .arg(&socket)
            .arg("file")
            .arg(image)
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdkit is needed by this test");
        // the socket is there a moment before anybody listens at it
        eventually("nbdkit to listen", || UnixStream::connect(&socket).is_ok());
        Self { process, socket }
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for other processes")]
fn eventually(what: &str, happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A mount served by this process, until dropped.
pub struct Here(Option<Mount>, PathBuf);

impl Here {
    pub fn new(uri: &str, dir: &Path) -> Self {
        Self::over(Options::new(uri, dir))
    }

    pub fn over(options: Options) -> Self {
        let options = Options { executable: Some(PathBuf::from(OWN)), foreground: true, ..options };
        Self(Some(Mount::start(&options).unwrap()), options.dir)
    }

    pub fn mount(&self) -> &Mount {
        self.0.as_ref().unwrap()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.1.join(path)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        mount::umount(&self.1).unwrap();
        self.0.take().unwrap().wait().unwrap();
    }
}

pub struct Scene {
    dir: TempDir,
    image: PathBuf,
    pub point: PathBuf,
}

impl Scene {
    /// A disk with a table: partition 1 is the filesystem with one of everything, 2 is empty, 5 is swap.
    fn partitioned() -> Self {
        let dir = TempDir::new().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make_tree(&tree);
        let filesystem = mke2fs(dir.path(), 96 * MIB, "-t ext4 -b 4096", Some(&tree));
        let image = empty(dir.path(), "disk", 160 * MIB);
        let script = "label: dos\\nstart=2048,size=96M\\nsize=4M\\ntype=5\\nsize=8M\\n";
        sh(&format!("printf '{script}' | sfdisk -q {}", image.display()));
        let disk = OpenOptions::new().write(true).open(&image).unwrap();
        let mut at = MIB;
        for part in fs::read(&filesystem).unwrap().chunks(MIB as usize) {
            if part.iter().any(|byte| *byte != 0) {
                disk.write_all_at(part, at).unwrap();
            }
            at += part.len() as u64;
        }
        let swap = empty(dir.path(), "swap", 8 * MIB);
        sh(&format!("mkswap -q {}", swap.display()));
        disk.write_all_at(&fs::read(&swap).unwrap(), 102 * MIB).unwrap();
        Self::over(dir, image)
    }

    pub fn whole(arguments: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), noise(1, 200_000)).unwrap();
        let image = mke2fs(dir.path(), 16 * MIB, arguments, Some(&tree));
        Self::over(dir, image)
    }

    pub fn over(dir: TempDir, image: PathBuf) -> Self {
        let point = dir.path().join("point");
        fs::create_dir(&point).unwrap();
        Self { dir, image, point }
    }

    pub fn server(&self) -> Server {
        Server::new(self.dir.path(), &self.image)
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn shows_what_the_kernel_shows() {
    let scene = Scene::partitioned();
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    assert_eq!(names(&scene.point), ["disk.raw", "files", "partitions"]);
    assert_eq!(names(&here.at("partitions")), ["1.raw", "2.raw", "5.raw"]);
    assert_eq!(names(&here.at("files")), ["1", "2.unreadable", "5.unreadable"]);
    let reason = fs::read_to_string(here.at("files/5.unreadable")).unwrap();
    assert!(reason.contains("swap space") && reason.contains("partitions/5.raw"), "{reason}");
    assert!(fs::symlink_metadata(here.at("files/2")).is_err());

    let kernel = KernelMount::new(&scene.image, &format!("ro,offset={MIB},sizelimit={}", 96 * MIB));
    let ours = through_kernel(&here.at("files/1"));
    assert_same(&ours, &through_kernel(kernel.path()));
    assert!(ours.len() > 3030);
    // again, from what the kernel kept
    assert_same(&through_kernel(&here.at("files/1")), &ours);

    assert!(fs::read(here.at("disk.raw")).unwrap() == fs::read(&scene.image).unwrap());
    let first = fs::read(here.at("partitions/1.raw")).unwrap();
    assert!(first == fs::read(&scene.image).unwrap()[MIB as usize..97 * MIB as usize]);
}

#[test]
fn holes_are_seen_as_holes() {
    let scene = Scene::partitioned();
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    let kernel = KernelMount::new(&scene.image, &format!("ro,offset={MIB},sizelimit={}", 96 * MIB));
    let holes = |path: PathBuf| {
        let file = File::open(path).unwrap();
        let (mut at, mut found) = (0, Vec::new());
        while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
            found.push((start, at));
        }
        found
    };
    for name in ["sparse", "large", "empty", "tiny"] {
        let ours = holes(here.at("files/1").join(name));
        assert_eq!(ours, holes(kernel.path().join(name)), "{name}");
        assert_eq!(
            ours.len(),
            [("sparse", 3), ("large", 1), ("empty", 0), ("tiny", 1)]
                .into_iter()
                .find(|it| it.0 == name)
                .unwrap()
                .1
        );
    }
    // a copy of the disk stays as sparse as nbdkit says it is
    let copy = scene.dir.path().join("copy");
    run("cp", &["--sparse=auto".as_ref(), here.at("disk.raw").as_ref(), copy.as_ref()]);
    assert!(fs::read(&copy).unwrap() == fs::read(&scene.image).unwrap());
}

#[test]
fn nothing_can_be_written() {
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    let file = here.at("files/0/file");
    assert_eq!(fs::read(&file).unwrap(), noise(1, 200_000));
    let read_only = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    };
    read_only(fs::write(&file, "x"));
    read_only(fs::write(here.at("files/0/new"), "x"));
    read_only(fs::remove_file(&file));
    read_only(fs::write(here.at("disk.raw"), "x"));
    read_only(fs::create_dir(here.at("files/0/dir")));
}

#[test]
fn a_dead_parser_is_replaced_under_the_living_mount() {
    let scene = Scene::partitioned();
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    let mut known = here.mount().parsers();
    for i in 0..20 {
        // names never looked up before, so the kernel cannot answer for us
        let path = here.at("files/1").join(format!("many/a name that takes some room {i}"));
        assert_eq!(fs::symlink_metadata(&path).unwrap().len(), 0);
        let parsers = here.mount().parsers();
        assert!(!parsers.is_empty());
        if i > 0 {
            assert_ne!(parsers, known, "the killed one was replaced");
        }
        for parser in &parsers {
            run("kill", &["-KILL".as_ref(), parser.to_string().as_ref()]);
        }
        known = parsers;
    }
    assert_eq!(fs::read(here.at("files/1/deep/er/still/file")).unwrap(), b"here");
}

#[test]
fn a_hanging_parser_is_replaced_within_a_second() {
    let scene = Scene::partitioned();
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    assert_eq!(fs::read(here.at("files/1/deep/er/still/file")).unwrap(), b"here");
    let hanging = here.mount().parsers();
    for parser in &hanging {
        run("kill", &["-STOP".as_ref(), parser.to_string().as_ref()]);
    }
    #[expect(clippy::disallowed_methods, reason = "a test times what it waits for")]
    let start = Instant::now();
    let path = here.at("files/1/many/a name that takes some room 7");
    assert_eq!(fs::symlink_metadata(path).unwrap().len(), 0);
    let waited = start.elapsed();
    // a second, and room for a host that starts processes slowly
    assert!(waited < Duration::from_millis(2500), "{waited:?}");
    assert!(here.mount().parsers().iter().all(|parser| !hanging.contains(parser)));
}

#[test]
fn in_the_background_and_gone_on_umount() {
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let own = |arguments: &[&str]| {
        let output = Command::new(OWN).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let dir = scene.point.to_str().unwrap();
    assert_eq!(own(&[&server.uri(), dir]), (Some(0), String::new()));
    assert_eq!(fs::read(scene.point.join("files/0/file")).unwrap(), noise(1, 200_000));
    let pid = supervisor(&scene.point);
    // who inherits the process may be slow to bury it
    let lives = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    };
    assert!(lives());

    let (code, message) = own(&[&server.uri(), dir]);
    assert_eq!(code, Some(1));
    assert!(message.contains("is not empty"), "{message}");
    let open = File::open(scene.point.join("files/0/file")).unwrap();
    let (code, message) = own(&["--umount", dir]);
    assert_eq!(code, Some(1));
    assert!(message.contains("in use"), "{message}");
    drop(open);
    assert_eq!(own(&["--umount", dir]), (Some(0), String::new()));
    assert!(!lives(), "the process that served ends before umount returns");
    assert_eq!(names(&scene.point), [""; 0]);
    let (code, message) = own(&["--umount", dir]);
    assert_eq!(code, Some(1));
    assert!(message.contains("no recovery point is mounted there"), "{message}");
}

/// Without root, through fusermount3: whoever mounts looks in, and nobody else, root included.
#[test]
fn any_user_mounts_for_itself_alone() {
    // nobody: fusermount3 wants a user with a name
    const USER: u32 = 65534;
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let open_to_all = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    open_to_all(scene.dir.path());
    open_to_all(&server.socket);
    std::os::unix::fs::chown(&scene.point, Some(USER), Some(USER)).unwrap();
    // this folder may be closed to others
    let own = scene.dir.path().join("blockd-mount");
    fs::copy(OWN, &own).unwrap();
    let as_user = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).uid(USER).gid(USER).env_remove("XDG_RUNTIME_DIR").current_dir("/");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let dir = scene.point.to_str().unwrap();
    as_user(&own, &[&server.uri(), dir]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(dir)).unwrap();
    let has = |option: &str| line.split([',', ' ']).any(|word| word == option);
    assert!(has("ro") && has("nosuid") && has("nodev") && has("user_id=65534"), "{line}");
    assert!(!has("allow_other"), "{line}");
    let refused = fs::read_dir(&scene.point).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    let read = as_user(Path::new("/bin/cat"), &[scene.point.join("files/0/file").to_str().unwrap()]);
    assert_eq!(read, noise(1, 200_000));
    as_user(&own, &["--umount", dir]);
    assert_eq!(names(&scene.point), [""; 0]);
}

pub fn supervisor(dir: &Path) -> String {
    let mut value = [0; 32];
    let len = rustix::fs::getxattr(dir, "user.blockd.supervisor", &mut value).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

#[test]
fn a_mount_whose_process_was_killed_can_be_removed() {
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let options = Options { executable: Some(OWN.into()), ..Options::new(server.uri(), &scene.point) };
    mount::run(&options).unwrap();
    let pid = supervisor(&scene.point);
    run("kill", &["-KILL".as_ref(), pid.as_ref()]);
    eventually("the mount to die", || fs::read_dir(&scene.point).is_err());
    let error = mount::run(&options).unwrap_err();
    assert!(error.to_string().contains("an earlier mount died here"), "{error}");
    mount::umount(&scene.point).unwrap();
    assert_eq!(names(&scene.point), [""; 0]);
    mount::run(&options).unwrap();
    mount::umount(&scene.point).unwrap();
}

#[test]
fn a_signal_unmounts() {
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let options = Options { executable: Some(OWN.into()), ..Options::new(server.uri(), &scene.point) };
    mount::run(&options).unwrap();
    let pid = supervisor(&scene.point);
    let in_use = File::open(scene.point.join("partitions")).unwrap();
    run("kill", &["-TERM".as_ref(), pid.as_ref()]);
    // some tries find it in use
    std::thread::sleep(Duration::from_millis(300));
    drop(in_use);
    // between the unmount and the end of the session the directory may answer that nobody is connected
    eventually("the mount to end", || {
        fs::read_dir(&scene.point).is_ok_and(|mut entries| entries.next().is_none())
    });
}

#[test]
fn failures_of_the_start_name_what_is_wrong() {
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let fails = |uri: &str, dir: &Path| {
        let options = Options { executable: Some(OWN.into()), ..Options::new(uri, dir) };
        let error = mount::run(&options).unwrap_err();
        (Failure::kind(&error), error.to_string())
    };
    let missing = scene.dir.path().join("missing");
    let (kind, text) = fails(&server.uri(), &missing);
    assert_eq!((kind, text), (Kind::NotFound, format!("the directory {} does not exist", missing.display())));
    let (kind, text) = fails(&server.uri(), &scene.image);
    assert_eq!(kind, Kind::Conflict);
    assert!(text.contains("not a directory"), "{text}");
    let (kind, text) = fails(&server.uri(), scene.dir.path());
    assert_eq!(kind, Kind::Conflict);
    assert!(text.contains("not empty"), "{text}");
    let (_, text) = fails("nbd+unix:///x?socket=/nowhere/at/all", &scene.point);
    assert!(text.contains("/nowhere/at/all"), "{text}");
    let (_, text) = fails("http://x", &scene.point);
    assert!(text.contains("http://x"), "{text}");
    assert_eq!(names(&scene.point), [""; 0]);
}

/// Damage stays where it is: a broken directory block, a broken inode, a broken superblock.
#[test]
fn damage_is_shown_where_it_is() {
    let scene = Scene::partitioned();
    let block = |path: &str| -> u64 {
        let partition = scene.dir.path().join("image");
        let told = run("debugfs", &["-R".as_ref(), format!("bmap {path} 0").as_ref(), partition.as_ref()]);
        told.trim().parse().unwrap()
    };
    let (names_block, damage) = (block("/names"), [0xff; 64]);
    let disk = OpenOptions::new().write(true).open(&scene.image).unwrap();
    disk.write_all_at(&damage, MIB + names_block * 4096 + 24).unwrap();
    let server = scene.server();
    // in the background the reason is in a file, and only if there is one
    let options = Options { executable: Some(OWN.into()), ..Options::new(server.uri(), &scene.point) };
    for (look, says) in [("files/1/deep", None), ("files/1/names", Some("cannot list"))] {
        let log = mount::run(&options).unwrap().expect("a log");
        assert_eq!(fs::read_dir(scene.point.join(look)).unwrap().last().unwrap().is_err(), says.is_some());
        mount::umount(&scene.point).unwrap();
        match says {
            None => assert!(!log.exists(), "nothing was wrong"),
            Some(says) => {
                let said = fs::read_to_string(&log).unwrap();
                assert!(said.contains("damaged") && said.contains(says), "{said}");
                fs::remove_file(log).unwrap();
            }
        }
    }
    let here = Here::new(&server.uri(), &scene.point);
    assert_eq!(fs::read(here.at("files/1/deep/er/still/file")).unwrap(), b"here");
    let error = fs::read_dir(here.at("files/1/names")).unwrap().last().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert_eq!(fs::read_dir(here.at("files/1/many")).unwrap().count(), 3000);
    drop(here);
    disk.write_all_at(&damage[..8], MIB + 1024).unwrap();
    let here = Here::new(&server.uri(), &scene.point);
    assert_eq!(names(&here.at("files")), ["1.unreadable", "2.unreadable", "5.unreadable"]);
    let reason = fs::read_to_string(here.at("files/1.unreadable")).unwrap();
    assert!(reason.contains("superblock is damaged"), "{reason}");
    assert_eq!(fs::metadata(here.at("partitions/1.raw")).unwrap().len(), 96 * MIB);
}

/// Compressed content is decoded in the parser; names are longer than those of Linux.
#[test]
fn shows_what_ntfs_3g_shows() {
    let dir = TempDir::new().unwrap();
    let image = ntfs::mkfs(dir.path(), 192 * MIB, "");
    let mounted = ntfs::Reference::new(&image, "streams_interface=xattr,compression");
    ntfs::make_tree(mounted.path());
    drop(mounted);
    let scene = Scene::over(dir, image);
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    let reference = ntfs::Reference::new(&scene.image, "ro,streams_interface=xattr");
    let content = |tree: crate::seen::Tree| {
        let told = tree.into_iter().map(|(path, seen)| (path, (seen.content, seen.attributes, seen.link)));
        told.collect::<std::collections::BTreeMap<_, _>>()
    };
    let ours = content(through_kernel(&here.at("files/0")));
    assert!(ours.len() > 1360 && ours == content(through_kernel(reference.path())));
    // any part of it, in any order
    let path = Path::new("compressed/large");
    let whole = fs::read(reference.path().join(path)).unwrap();
    let file = File::open(here.at("files/0").join(path)).unwrap();
    for (at, len) in [(1_999_000, 1000), (65_500, 100), (0, 10), (131_072, 300_000), (777_777, 1)] {
        let mut part = vec![0; len];
        file.read_exact_at(&mut part, at as u64).unwrap();
        assert!(part == whole[at..at + len], "{len} at {at}");
    }
}

#[test]
fn volumes_of_two_disks_are_put_together() {
    let disks = Disks::new(64 * MIB);
    disks.lvm("vgcreate", &format!("vg0 {}", disks.devices()));
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n root -l 20 vg0");
    let tree = TempDir::new().unwrap();
    fs::write(tree.path().join("file"), noise(3, 40_000_000)).unwrap();
    let filesystem = mke2fs(tree.path(), 80 * MIB, "-t ext4 -m 0", None);
    sh(&format!("debugfs -w -R 'write {0}/file file' {1} 2>&1", tree.path().display(), filesystem.display()));
    disks.write("vg0/root", &fs::read(&filesystem).unwrap());
    let bytes = fs::read(&disks.image).unwrap();
    let (dir, point) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = |name: &str, bytes: &[u8]| {
        let own = dir.path().join(name);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("disk"), bytes).unwrap();
        Server::new(&own, &own.join("disk"))
    };
    let (first, second) = bytes.split_at(64 * MIB as usize);
    let servers = [server("vda", first), server("vdb", second)];
    let here = Here::over(Options {
        name: "vda".to_owned(),
        beside: vec![("vdb".to_owned(), servers[1].uri())],
        ..Options::new(servers[0].uri(), point.path())
    });
    assert_eq!(names(point.path()), ["files", "partitions", "vda.raw", "vdb.raw"]);
    assert_eq!(names(&here.at("files")), ["vda.unreadable", "vdb.unreadable", "vg0-root"]);
    assert_eq!(names(&here.at("partitions")), ["vg0-root.raw"]);
    let reason = fs::read_to_string(here.at("files/vdb.unreadable")).unwrap();
    assert!(reason.contains("LVM group vg0: vg0-root") && reason.contains("vdb.raw"), "{reason}");
    assert!(fs::read(here.at("files/vg0-root/file")).unwrap() == noise(3, 40_000_000));
    assert!(fs::read(here.at("partitions/vg0-root.raw")).unwrap() == fs::read(&filesystem).unwrap());
    assert!(fs::read(here.at("vdb.raw")).unwrap() == second);
    drop(here);

    // one of them alone says what is missing
    let here = Here::new(&servers[0].uri(), point.path());
    let why = fs::read_to_string(here.at("files/vg0-root.unreadable")).unwrap();
    assert!(why.contains("is not among those looked at"), "{why}");
    assert_eq!(names(&here.at("partitions")), [""; 0]);
}
