//! The reader of ISO 9660 against the tree that genisoimage and xorriso were given.

use crate::image::{FileSource, make_tree, noise, sh};
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

fn names(tree: &Tree) -> Vec<PathBuf> {
    tree.keys().cloned().collect()
}

#[test]
fn rock_ridge() {
    let tree = TempDir::new().unwrap();
    make_tree(tree.path());
    fs::create_dir_all(tree.path().join("1/2/3/4/5/6/7/8/9/10")).unwrap();
    fs::write(tree.path().join("1/2/3/4/5/6/7/8/9/10/deep"), noise(2, 9000)).unwrap();
    // the longest that fits its form, and times in its range
    fs::remove_file(tree.path().join("link huge")).unwrap();
    sh(&format!(
        "touch -h -d '2021-07-04 13:05:06 UTC' {0}/* && touch -d '1999-01-02 03:04:05 UTC' {0}/sixty",
        tree.path().display()
    ));
    // one of the tools takes the mode from the access list, the other the list's mask from the mode
    sh(&format!("setfacl --recursive --remove-all {}", tree.path().display()));
    let theirs = through_kernel(tree.path());
    for (tool, more) in [
        ("genisoimage -quiet -allow-limited-size -input-charset iso8859-1", ""),
        ("xorriso -as mkisofs -quiet", ""),
    ] {
        let dir = TempDir::new().unwrap();
        let image = dir.path().join("image");
        sh(&format!("{tool} -R {more} -o {} {} 2>&1", image.display(), tree.path().display()));
        let ours = through_ours(&image);
        let missing: Vec<_> = names(&theirs).into_iter().filter(|name| !ours.contains_key(name)).collect();
        // sockets are left out by one of the tools
        assert!(missing.iter().all(|name| name.ends_with("socket")), "{tool}: {missing:?}");
        for (path, seen) in &ours {
            let Some(theirs) = theirs.get(path).filter(|_| path != Path::new("")) else {
                // where one of the tools puts directories that are too deep
                assert!(path == Path::new("") || path == Path::new("rr_moved"), "{}", path.display());
                continue;
            };
            let told = |seen: &crate::seen::Seen| {
                (seen.mode, seen.uid, seen.gid, seen.link.clone(), seen.content, seen.rdev)
            };
            assert_eq!(told(seen), told(theirs), "{tool}: {}", path.display());
            if path.components().count() == 1 && seen.content.is_some() {
                assert_eq!(seen.mtime.0, theirs.mtime.0, "{tool}: {}", path.display());
            }
        }
    }
}

#[test]
fn joliet_and_plain_names() {
    let tree = TempDir::new().unwrap();
    fs::create_dir_all(tree.path().join("Directory/below")).unwrap();
    for (name, len) in [("Ünïcödé name.text", 5000), ("Directory/a.txt", 10), ("Directory/below/b", 3000)]
    {
        fs::write(tree.path().join(name), noise(len, len as usize)).unwrap();
    }
    let theirs = through_kernel(tree.path());
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    let make = |arguments: &str| {
        sh(&format!(
            "genisoimage -quiet -input-charset utf-8 {arguments} -o {} {} 2>&1",
            image.display(),
            tree.path().display()
        ));
        through_ours(&image)
    };
    let joliet = make("-J");
    assert_eq!(names(&joliet), names(&theirs));
    for (path, seen) in &joliet {
        assert_eq!(seen.content, theirs[path].content, "{}", path.display());
    }
    let plain = make("-l");
    let expected =
        ["", "directory", "directory/a.txt", "directory/below", "directory/below/b"].map(PathBuf::from);
    assert!(expected.iter().all(|name| plain.contains_key(name)), "{:?}", names(&plain));
    assert_eq!(plain[&expected[4]].content, theirs[Path::new("Directory/below/b")].content);
}
