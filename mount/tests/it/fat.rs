//! The readers of FAT and exFAT against what mtools and the exFAT driver of FUSE put there.

use crate::image::{FileSource, empty, many, noise, run, sh};
use crate::seen::{Tree, through_kernel, through_reader};
use block::ByteOffset;
use mount::guest;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn through_ours(image: &Path) -> Tree {
    let source = FileSource::open(image);
    let fs = guest::open(source.clone()).unwrap();
    through_reader(&*fs, &|at, buf| source.read_at(ByteOffset::new(at), buf).unwrap())
}

/// Times to the two seconds of FAT, of this century's summers and winters.
fn make_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    for (name, len) in
        [("empty", 0), ("TINY.TXT", 5), ("lower.txt", 600), ("Page.Mixed", 4096), ("large", 3_000_001)]
    {
        fs::write(at(name), noise(len as u64, len)).unwrap();
    }
    fs::create_dir_all(at("deep/er/still")).unwrap();
    fs::write(at("deep/er/still/file"), "here").unwrap();
    fs::create_dir(at("empty directory")).unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..600 {
        fs::write(at(&format!("many/a name that takes some room {i}")), format!("{i}")).unwrap();
    }
    // a directory of FAT has at most 65,536 records; names that begin alike cost mtools hours, which looks for a short one that is
    // free among all there are
    for i in 600..many(600) {
        let dir = format!("many/{}", i / 1000);
        fs::create_dir_all(at(&dir)).unwrap();
        fs::write(at(&format!("{dir}/{i} is a name that takes room")), "").unwrap();
    }
    fs::create_dir(at("names")).unwrap();
    for name in ["sp ace", "a.b.c.d", "exactly13char", "Ünïcödé", &"x".repeat(200)] {
        fs::write(at("names").join(name), name).unwrap();
    }
    sh(&format!("find {} -exec touch -d '2021-07-04 13:05:06 UTC' {{}} +", root.display()));
    sh(&format!("touch -d '2044-02-29 23:59:58 UTC' {}", at("large").display()));
}

/// Names, contents and times of both, which is all that such a filesystem has.
fn assert_alike(ours: &Tree, theirs: &Tree) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<PathBuf>>();
    assert_eq!(names(ours), names(theirs));
    for (path, seen) in theirs {
        let mine = &ours[path];
        assert_eq!(mine.content, seen.content, "{}", path.display());
        if seen.content.is_some() {
            assert_eq!((mine.size, mine.mtime), (seen.size, seen.mtime), "{}", path.display());
        }
    }
}

fn compare_fat(size: u64, arguments: &str) {
    let (dir, tree) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    make_tree(tree.path());
    let image = empty(dir.path(), "image", size);
    sh(&format!("mkfs.fat {arguments} {} >/dev/null", image.display()));
    // fragments: what is between the files goes again
    sh(&format!(
        "export MTOOLS_SKIP_CHECK=1 TZ=UTC LC_ALL=C.UTF-8; for i in 1 2 3 4 5 6; do \
         mcopy -i {image} {tree}/TINY.TXT ::gap$i; mcopy -i {image} {tree}/lower.txt ::keep$i; done; \
         for i in 1 2 3 4 5 6; do mdel -i {image} ::gap$i; done; \
         mcopy -s -m -i {image} {tree}/* ::; mdel -i {image} '::keep?'",
        image = image.display(),
        tree = tree.path().display()
    ));
    let ours = through_ours(&image);
    assert!(ours.len() > 600, "{} files", ours.len());
    assert_alike(&ours, &through_kernel(tree.path()));
    let checked = sh(&format!("fsck.fat -n {} 2>&1 || true", image.display()));
    assert!(checked.contains("files,"), "{checked}");
}

#[test]
fn fat12() {
    compare_fat(15 << 20, "-F 12 -s 8");
}

#[test]
fn fat16() {
    compare_fat(64 << 20, "-F 16 -s 4");
}

#[test]
fn fat32() {
    compare_fat(96 << 20, "-F 32 -s 1");
}

#[test]
fn exfat() {
    for arguments in ["-c 4096", "-c 32768"] {
        let (dir, tree, at) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        make_tree(tree.path());
        let image = empty(dir.path(), "image", 96 << 20);
        sh(&format!("mkfs.exfat {arguments} {} >/dev/null", image.display()));
        let device = sh(&format!("losetup -f --show {}", image.display()));
        let (device, path) = (device.trim(), at.path().display().to_string());
        run("mount.exfat-fuse", &[device.as_ref(), at.path().as_ref(), "-o".as_ref(), "noatime".as_ref()]);
        sh(&format!(
            "cp -r --preserve=timestamps {}/. {path}/ && cd {path} && \
             head -c 100000 /dev/zero >> many/'a name that takes some room 7' && \
             truncate -s 700000 many/'a name that takes some room 8' && \
             for i in 1 2 3 4 5; do echo x >> 'empty directory'/a; head -c 5000 large >> 'empty directory'/b; done",
            tree.path().display()
        ));
        sh(&format!("umount {path} && mount.exfat-fuse -o ro {device} {path} >/dev/null"));
        let theirs = through_kernel(at.path());
        sh(&format!("umount {path} && losetup -d {device}"));
        let ours = through_ours(&image);
        assert!(ours.len() > 600, "{} files", ours.len());
        assert_alike(&ours, &theirs);
    }
}

/// A table that links a file's clusters in a ring.
#[test]
fn rings_of_clusters_end() {
    use std::os::unix::fs::FileExt;
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "image", 64 << 20);
    sh(&format!("mkfs.fat -F 16 -s 4 {} >/dev/null", image.display()));
    fs::write(dir.path().join("file"), noise(1, 50_000)).unwrap();
    sh(&format!(
        "MTOOLS_SKIP_CHECK=1 mcopy -i {} {} ::file",
        image.display(),
        dir.path().join("file").display()
    ));
    let file = fs::File::options().read(true).write(true).open(&image).unwrap();
    let mut reserved = [0; 2];
    file.read_exact_at(&mut reserved, 14).unwrap();
    let table = u64::from(u16::from_le_bytes(reserved)) * 512;
    // cluster 4 leads back to 2
    file.write_all_at(&[2, 0], table + 8).unwrap();
    let fs = guest::open(FileSource::open(&image)).unwrap();
    let ino = fs.lookup(fs.root(), b"FILE").unwrap().or(fs.lookup(fs.root(), b"file").unwrap()).unwrap();
    // what its size says can be read, the ring is left after it
    assert!(fs.pieces(ino, 0, u64::MAX).is_ok());
    file.write_all_at(&[2, 0], table + 4).unwrap();
    assert!(guest::open(FileSource::open(&image)).unwrap().pieces(ino, 0, u64::MAX).is_ok());
}
