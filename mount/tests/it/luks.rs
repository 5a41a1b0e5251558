//! Volumes encrypted with LUKS, as qemu-img and cryptsetup write them: the same bytes and files as before they were
//! encrypted, for whoever has a passphrase; and the passphrase is nowhere else.

use crate::image::{KernelMount, SECRET, empty, luks1, luks2, make_tree, mke2fs, noise, run, sh};
use crate::mounted::{Here, OWN, Scene, names, supervisor};
use crate::seen::{assert_same, through_kernel};
use crate::volumes::Disks;
use mount::{Options, Passphrases};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A filesystem with one of everything, and where it is not encrypted.
fn plain(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let image = mke2fs(dir, 64 * MIB, "-t ext4 -b 4096", Some(&tree));
    let plain = dir.join("plain");
    fs::copy(image, &plain).unwrap();
    plain
}

fn with(secrets: &[&str]) -> Passphrases {
    Passphrases::new(secrets.iter().map(|secret| secret.as_bytes().to_vec().into()).collect()).unwrap()
}

/// Mounts an image and compares what is decrypted with what was encrypted: every byte, and every file.
fn same(dir: TempDir, image: PathBuf, plain: &Path) {
    let scene = Scene::over(dir, image);
    let server = scene.server();
    let options =
        Options { passphrases: with(&["another one", SECRET]), ..Options::new(server.uri(), &scene.point) };
    let here = Here::over(options);
    assert_eq!(names(&here.at("partitions")), ["luks-0.raw"]);
    assert_eq!(names(&here.at("files")), ["0.unreadable", "luks-0"]);
    let content = fs::read(here.at("partitions/luks-0.raw")).unwrap();
    let expected = fs::read(plain).unwrap();
    assert!(content[..expected.len()] == expected, "every byte is as it was");
    // pieces of sectors
    let file = File::open(here.at("partitions/luks-0.raw")).unwrap();
    for (at, len) in [(1_u64, 3_usize), (510, 4), (4000, 5000), (7 * MIB + 17, 100_000)] {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == expected[at as usize..at as usize + len], "{len} bytes at {at}");
    }
    let kernel = KernelMount::new(plain, "ro");
    let ours = through_kernel(&here.at("files/luks-0"));
    assert_same(&ours, &through_kernel(kernel.path()));
    assert!(ours.len() > 3030);
    let reason = fs::read_to_string(here.at("files/0.unreadable")).unwrap();
    assert!(reason.contains("decrypted as luks-0") && reason.contains("disk.raw"), "{reason}");
}

#[test]
fn luks1_is_read_in_every_mode() {
    for options in [
        "cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha512",
    ] {
        let dir = TempDir::new().unwrap();
        let (plain, encrypted) = (plain(dir.path()), dir.path().join("encrypted"));
        luks1(&plain, &encrypted, options);
        same(dir, encrypted, &plain);
    }
}

#[test]
fn luks2_is_read_with_either_derivation_and_large_sectors() {
    for options in [
        "--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32768 --pbkdf-parallel 2",
        "--pbkdf argon2i --pbkdf-force-iterations 4 --pbkdf-memory 1024 --sector-size 4096",
        "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --hash sha512 --cipher aes-cbc-essiv:sha256 --key-size 256",
    ] {
        let dir = TempDir::new().unwrap();
        let (plain, encrypted) = (plain(dir.path()), dir.path().join("encrypted"));
        luks2(&plain, &encrypted, options);
        // the first copy of its header is damaged: the second one is as good
        if options.contains("4096") {
            let file = OpenOptions::new().write(true).open(&encrypted).unwrap();
            file.write_all_at(&[0xff; 16], 5000).unwrap();
        }
        same(dir, encrypted, &plain);
    }
}

/// What there is without a passphrase, and with a wrong one: the reason, and the bytes as they are.
#[test]
fn without_its_passphrase_a_volume_says_what_it_needs() {
    let dir = TempDir::new().unwrap();
    let (small, encrypted) = (empty(dir.path(), "small", MIB), dir.path().join("encrypted"));
    luks1(&small, &encrypted, "hash-alg=sha256");
    let image = empty(dir.path(), "disk", 16 * MIB);
    sh(&format!("printf 'label: gpt\\nstart=2048,size=8M\\n' | sfdisk -q {}", image.display()));
    let bytes = fs::read(&encrypted).unwrap();
    OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&bytes, MIB).unwrap();
    let scene = Scene::over(dir, image);
    let server = scene.server();
    for (passphrases, says) in [
        (with(&[]), "it is encrypted with LUKS; --passphrase-file FILE gives"),
        (with(&["wrong", "wrong too"]), "none of the passphrases opens it"),
    ] {
        let here = Here::over(Options { passphrases, ..Options::new(server.uri(), &scene.point) });
        let reason = fs::read_to_string(here.at("files/1.unreadable")).unwrap();
        assert!(reason.contains(says) && reason.contains("partitions/1.raw"), "{reason}");
        assert!(fs::read(here.at("partitions/1.raw")).unwrap().starts_with(&bytes));
        assert_eq!(names(&here.at("partitions")), ["1.raw"]);
    }
}

/// A group of LVM over two encrypted disks, and an encrypted volume in it.
#[test]
fn encrypted_disks_hold_volumes_and_volumes_are_encrypted() {
    let dir = TempDir::new().unwrap();
    let disks = Disks::new(64 * MIB);
    disks.lvm("vgcreate", &format!("vg0 {}", disks.devices()));
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n open -i 2 -I 64k -l 10 vg0");
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n shut -l 8 vg0");
    let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
    for (dir, text) in [(&tree, "in a volume"), (&other, "in an encrypted volume")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), text).unwrap();
    }
    let image = mke2fs(dir.path(), 40 * MIB, "-t ext4", Some(&tree));
    disks.write("vg0/open", &fs::read(image).unwrap());
    let (image, encrypted) =
        (mke2fs(dir.path(), 16 * MIB, "-t ext4", Some(&other)), dir.path().join("encrypted"));
    luks1(&image, &encrypted, "hash-alg=sha256");
    disks.write("vg0/shut", &fs::read(&encrypted).unwrap());

    let bytes = fs::read(&disks.image).unwrap();
    let half = dir.path().join("half");
    let mut joined = Vec::new();
    for (number, part) in bytes.chunks(bytes.len() / 2).enumerate() {
        fs::write(&half, part).unwrap();
        let one = dir.path().join(format!("one{number}"));
        luks1(&half, &one, "hash-alg=sha256");
        joined.push(one);
    }
    let [first, second] = [0, 1].map(|place: usize| {
        let dir = TempDir::new().unwrap();
        let image = dir.path().join("image");
        fs::copy(&joined[place], &image).unwrap();
        Scene::over(dir, image)
    });
    let servers = [first.server(), second.server()];
    let here = Here::over(Options {
        name: "vda".to_owned(),
        beside: vec![("vdb".to_owned(), servers[1].uri())],
        passphrases: with(&[SECRET]),
        ..Options::new(servers[0].uri(), &first.point)
    });
    assert_eq!(
        names(&here.at("files")),
        [
            "luks-vda.unreadable",
            "luks-vdb.unreadable",
            "luks-vg0-shut",
            "vda.unreadable",
            "vdb.unreadable",
            "vg0-open",
            "vg0-shut.unreadable"
        ]
    );
    assert_eq!(fs::read_to_string(here.at("files/vg0-open/file")).unwrap(), "in a volume");
    assert_eq!(fs::read_to_string(here.at("files/luks-vg0-shut/file")).unwrap(), "in an encrypted volume");
    let reason = fs::read_to_string(here.at("files/luks-vda.unreadable")).unwrap();
    assert!(reason.contains("LVM group vg0") && reason.contains("partitions/luks-vda.raw"), "{reason}");
}

/// Whether a process has these bytes in its memory.
fn remembers(process: &str, wanted: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut looked = 0;
    let found = maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        looked += bytes.len();
        // some of what is mapped cannot be read by anybody
        memory.read_exact_at(&mut bytes, start).is_ok()
            && bytes.windows(wanted.len()).any(|part| part == wanted)
    });
    assert!(found || looked > 100_000, "{looked} bytes were looked at");
    found
}

/// The parser sees files, and neither passphrase nor key; of the process that serves nobody sees them from outside.
#[test]
fn passphrases_and_keys_do_not_leave_the_process_that_serves() {
    let dir = TempDir::new().unwrap();
    let (tree, encrypted) = (dir.path().join("tree"), dir.path().join("encrypted"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), noise(1, 300_000)).unwrap();
    let image = mke2fs(dir.path(), 16 * MIB, "-t ext4", Some(&tree));
    luks2(&image, &encrypted, "--pbkdf pbkdf2 --pbkdf-force-iterations 1000");
    let file = dir.path().join("passphrase");
    fs::write(&file, format!("{SECRET}\nnot this line")).unwrap();
    let dumped = sh(&format!(
        "printf '{SECRET}' | cryptsetup luksDump --dump-volume-key --batch-mode --key-file - {} 2>&1",
        encrypted.display()
    ));
    let hex = dumped.split_once("MK dump:").expect("a key").1.split_whitespace();
    let key: Vec<u8> = hex.take(64).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let scene = Scene::over(dir, encrypted);
    let server = scene.server();
    let (uri, point) = (server.uri(), scene.point.to_str().unwrap());
    run(OWN, &[uri.as_ref(), point.as_ref(), "--passphrase-file".as_ref(), file.as_ref()]);
    assert_eq!(fs::read(scene.point.join("files/luks-0/file")).unwrap(), noise(1, 300_000));

    let serving = supervisor(&scene.point);
    let children = fs::read_to_string(format!("/proc/{serving}/task/{serving}/children")).unwrap();
    // the main thread may not be the one that started it
    let tasks = fs::read_dir(format!("/proc/{serving}/task")).unwrap();
    let children = tasks.fold(children, |all, task| {
        all + " " + &fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    });
    assert!(children.split_whitespace().count() > 0);
    for parser in children.split_whitespace() {
        for wanted in [SECRET.as_bytes(), &key[..32], &key[32..]] {
            assert!(!remembers(parser, wanted), "the parser has what it must not have");
        }
    }
    // what is looked for is there to be found: whoever serves has it
    assert!(remembers(&serving, SECRET.as_bytes()) && remembers(&serving, &key));
    for what in ["cmdline", "environ"] {
        let seen = fs::read(format!("/proc/{serving}/{what}")).unwrap();
        assert!(!seen.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{what}");
    }
    mount::umount(&scene.point).unwrap();
}
