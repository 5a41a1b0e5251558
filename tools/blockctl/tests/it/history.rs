//! All points of a disk at once: `mount` of an item, `files history`, `point diff --files`.

use crate::fixture::Stage;
use block::{BLOCK_SIZE, BlockDevice, BlockSource, ByteOffset};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem that is changed through the kernel's mount and then written to the disk, changed blocks alone.
struct Guest<'a> {
    stage: &'a Stage,
    image: String,
    disk: &'static str,
}

fn sh(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

impl<'a> Guest<'a> {
    fn new(stage: &'a Stage, disk: &'static str) -> Self {
        let image = stage.path(&disk.replace('/', "-"));
        sh(&format!("truncate -s 32M {image} && mke2fs -q -F -t ext4 -b 4096 {image}"));
        stage.text(&["disk", "create", disk, "--size", "32M"]);
        Self { stage, image, disk }
    }

    fn change(&self, line: &str) {
        let dir = self.stage.path("kernel");
        fs::create_dir_all(&dir).expect("a directory");
        sh(&format!("mount -o loop,noatime {} {dir}", self.image));
        sh(&format!("cd {dir} && {line}"));
        sh(&format!("umount {dir}"));
        let uri = self.stage.text(&["disk", "uri", self.disk]);
        let client = nbd::Client::connect(&uri.trim().parse().expect("a URI"), 1).expect("a disk");
        let new = fs::read(&self.image).expect("an image");
        let mut old = vec![0; new.len()];
        client.read_at(ByteOffset::new(0), &mut old).expect("read");
        let blocks = new.chunks(BLOCK_SIZE as usize).zip(old.chunks(BLOCK_SIZE as usize)).enumerate();
        for (index, (new, _)) in blocks.filter(|(_, (new, old))| new != old) {
            client.write_at(ByteOffset::new(index as u64 * BLOCK_SIZE), new).expect("written");
        }
        client.flush().expect("flushed");
    }

    /// Four points: `a` changes in the third, `dir/c` goes in the fourth, where `d` comes.
    fn live(&self, item: &str) {
        for line in [
            "mkdir dir && echo one > a && echo b > b && echo c > dir/c && ln -s a link",
            "echo other > b",
            "echo two > a",
            "rm dir/c && echo d > d && chmod 600 b",
        ] {
            self.change(line);
            self.stage.text(&["snapshot", item]);
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

/// A mount, until dropped.
struct Mounted<'a>(&'a Stage, PathBuf);

impl<'a> Mounted<'a> {
    fn new(stage: &'a Stage, item: &str) -> Self {
        let dir = PathBuf::from(stage.path("mnt"));
        fs::create_dir_all(&dir).expect("a directory");
        stage.text(&["mount", item, dir.to_str().expect("text")]);
        Self(stage, dir)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.1.join(path)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.0.text(&["umount", self.1.to_str().expect("text")]);
    }
}

#[test]
fn an_item_shows_its_points_and_every_version_of_a_file() {
    let stage = Stage::set();
    Guest::new(&stage, "web").live("web");
    // deleted points leave no gap, and a point that only a vault holds is one like others
    let listed = stage.json(&["files", "history", "web:0:/a"]);
    let points = |of: &serde_json::Value| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let versions = of.as_array().expect("an array").iter();
        versions.map(|it| (text(&it["point"]), text(&it["since"]))).collect()
    };
    let is = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(points(&listed), is(&[("web@4", "web@3"), ("web@2", "web@1")]));
    let gone = stage.json(&["files", "history", "web:0:/dir/c"]);
    assert_eq!(points(&gone), is(&[("web@3", "web@1")]));
    let (code, said) = stage.failure(&["files", "history", "web:0:/never"]);
    assert_eq!(code, Some(3), "{said}");

    let mounted = Mounted::new(&stage, "web");
    assert_eq!(names(&mounted.1), ["by-file", "by-time"]);
    let times = names(&mounted.at("by-time"));
    assert_eq!(times.len(), 4);
    let read =
        |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let first = mounted.at("by-time").join(&times[0]);
    assert!(times[0].ends_with("@1"), "{times:?}");
    assert_eq!(names(&first), ["disk.raw", "files", "partitions"]);
    assert_eq!(read(first.join("files/0/a")), "one\n");
    assert_eq!(read(mounted.at("by-time").join(&times[3]).join("files/0/a")), "two\n");
    assert_eq!(names(&mounted.at("by-file")), ["0"]);
    assert_eq!(names(&mounted.at("by-file/0")), ["a", "b", "d", "dir", "link", "lost+found"]);
    let versions = |path: &str| -> Vec<String> {
        let dir = mounted.at("by-file/0").join(path);
        names(&dir).into_iter().map(|name| read(dir.join(name))).collect()
    };
    assert_eq!(versions("a"), ["one\n", "two\n"]);
    assert_eq!(versions("b"), ["b\n", "other\n", "other\n"], "a mode makes a version too");
    assert_eq!(versions("dir/c"), ["c\n"], "also of what the newest point has no more");
    assert_eq!(versions("d"), ["d\n"]);
    let links = names(&mounted.at("by-file/0/link"));
    assert_eq!(fs::read_link(mounted.at("by-file/0/link").join(&links[0])).expect("a link"), Path::new("a"));
    assert!(fs::metadata(mounted.at("by-file/0/never")).is_err());
    // a point made under the living mount appears in it
    stage.text(&["snapshot", "web"]);
    std::thread::sleep(std::time::Duration::from_millis(2200));
    assert_eq!(names(&mounted.at("by-time")).len(), 5);
}

#[test]
fn a_machine_shows_its_disks_apart() {
    let stage = Stage::set();
    Guest::new(&stage, "vm/web/vda").change("echo system > a");
    Guest::new(&stage, "vm/web/vdb").change("echo data > a");
    stage.text(&["snapshot", "vm/web"]);
    let mounted = Mounted::new(&stage, "vm/web");
    assert_eq!(names(&mounted.at("by-time")), ["vda", "vdb"]);
    for (disk, says) in [("vda", "system\n"), ("vdb", "data\n")] {
        let points = mounted.at("by-time").join(disk);
        let point = points.join(&names(&points)[0]);
        assert_eq!(fs::read_to_string(point.join("files/0/a")).expect("a file"), says);
        let versions = mounted.at("by-file").join(disk).join("0/a");
        assert_eq!(names(&versions).len(), 1);
    }
}

#[test]
fn files_that_differ_between_two_points() {
    let stage = Stage::set();
    Guest::new(&stage, "web").live("web");
    let lines = |a: &str, b: &str| {
        let text = stage.text(&["point", "diff", a, b, "--files"]);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines("web@1", "web@2"), ["* 0:/b"]);
    assert_eq!(lines("web@2", "web@3"), ["* 0:/a"]);
    // the other way round is the same question
    assert_eq!(lines("web@4", "web@2"), ["~ 0:/", "* 0:/a", "~ 0:/b", "+ 0:/d", "~ 0:/dir", "- 0:/dir/c"]);
    assert_eq!(lines("web@4", "web@4"), [""; 0]);
    let found = stage.json(&["point", "diff", "web@2", "web@3", "--files"]);
    let file = &found[0];
    assert_eq!((&file["change"], &file["content"]), (&"changed".into(), &true.into()));
    assert_eq!((&file["path"], &file["partition"], &file["kind"]), (&"/a".into(), &0.into(), &"file".into()));
}
