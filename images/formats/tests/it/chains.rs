//! Images that stand on others, and which files an image may name.

use crate::oracle::{SIZE, Stage, bytes_of, content, qemu_img, qemu_io};
use block::{Failure, Kind};
use formats::{Format, Reach, open};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn kind(path: &Path, format: Option<Format>, reach: Reach) -> Option<Kind> {
    open(path, format, reach).err().map(|error| error.kind())
}

/// What qemu reads from an image, through its whole chain.
fn by_qemu(stage: &Stage, path: &str, format: &str) -> Vec<u8> {
    let flat = stage.text("flat.raw");
    qemu_img(&["convert", "-f", format, "-O", "raw", path, &flat]);
    fs::read(flat).expect("read")
}

#[test]
fn a_chain_reads_through_all_its_layers() {
    for options in ["cluster_size=64k", "extended_l2=on", "compat=0.10", "cluster_size=512"] {
        let stage = Stage::set();
        let (low, high) = (stage.text("low.qcow2"), stage.text("high.qcow2"));
        stage.raw();
        let create = |base: &str, format: &str, path: &str, size: u64| {
            let size = size.to_string();
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, "-b", base, "-F", format, path, &size]);
        };
        // longer than its base, whose end must not show through
        create("raw.raw", "raw", &low, SIZE + (3 << 20));
        qemu_io(
            "qcow2",
            &low,
            &["write -P 1 0 4k", "write -P 2 301k 9k", "write -P 3 21M 128k", "discard 9M 64k"],
        );
        create("low.qcow2", "qcow2", &high, SIZE + (1 << 20));
        qemu_io("qcow2", &high, &["write -P 4 2k 1k", "write -z 5M 128k", "write -P 5 9M 512"]);
        let opened = open(high.as_ref(), None, Reach::Below).expect("opened");
        let names: Vec<_> = opened.files.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["high.qcow2", "low.qcow2", "raw.raw"]);
        let wanted = by_qemu(&stage, &high, "qcow2");
        assert_ne!(wanted[..SIZE as usize], content());
        sim::conformance::block_source(&*opened.disk, &wanted);
    }
}

#[test]
fn a_vmdk_stands_on_the_parent_it_was_made_on_and_no_other() {
    let stage = Stage::set();
    stage.made("base.vmdk", "vmdk", &[]);
    let child = stage.text("child.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", &child]);
    qemu_io("vmdk", &child, &["write -P 4 2k 1k", "write -P 5 9M 512", "write -P 6 13M 70k"]);
    let disk = open(child.as_ref(), None, Reach::Below).expect("opened").disk;
    let mut wanted = content();
    wanted[2048..3072].fill(4);
    wanted[9 << 20..(9 << 20) + 512].fill(5);
    wanted[13 << 20..(13 << 20) + 70 * 1024].fill(6);
    sim::conformance::block_source(&*disk, &wanted);
    // written to since, which changes the parent's content id
    qemu_io("vmdk", &stage.text("base.vmdk"), &["write -P 1 0 512"]);
    assert_eq!(kind(child.as_ref(), None, Reach::Below), Some(Kind::Corrupt));
}

#[test]
fn an_image_names_files_of_its_own_folder_only_unless_it_is_trusted() {
    let stage = Stage::set();
    let inner = stage.path("inner");
    fs::create_dir(&inner).expect("made");
    fs::write(stage.path("secret.raw"), vec![7; 65536]).expect("written");
    symlink("../secret.raw", inner.join("link.raw")).expect("linked");
    let image = inner.join("top.qcow2");
    let path = image.display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &path, "64k"]);
    let secret = stage.text("secret.raw");
    for base in ["../secret.raw", "link.raw", &secret, "sub/../../secret.raw"] {
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", &path]);
        let error = open(&image, None, Reach::Below).err().expect("refused");
        assert_eq!(error.kind(), Kind::Invalid, "{base}: {error}");
        if !base.starts_with("sub") {
            let disk = open(&image, None, Reach::Anywhere).expect("trusted").disk;
            assert_eq!(bytes_of(&*disk), vec![7; 65536]);
        }
    }
    // an absolute name of a file that is in the folder is as good as a relative one
    fs::write(inner.join("near.raw"), vec![8; 65536]).expect("written");
    let near = fs::canonicalize(&inner).expect("a folder").join("near.raw").display().to_string();
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", &near, "-F", "raw", &path]);
    assert_eq!(bytes_of(&*open(&image, None, Reach::Below).expect("near").disk), vec![8; 65536]);
    for base in ["nbd://localhost/disk", "json:{\"driver\":\"null-co\"}"] {
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", &path]);
        assert_eq!(kind(&image, None, Reach::Anywhere), Some(Kind::Unsupported), "{base}");
    }
}

#[test]
fn an_extent_that_cannot_be_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.vmdk");
    for (extent, says) in [
        (
            "RW 18446744073709551615 FLAT \"x.raw\" 0",
            "18446744073709551615 sectors as its size, more than any",
        ),
        ("RW 8 FLAT \"x.raw\" 18446744073709551615", "sectors as its offset, more than any"),
        ("RW many FLAT \"x.raw\" 0", "no number as its size"),
        ("RW 8 FLAT", "names no file"),
        ("RW 8", "is not an access"),
    ] {
        let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n";
        fs::write(&path, format!("{head}createType=\"monolithicFlat\"\n\n{extent}\n")).expect("written");
        let error = formats::open(&path, None, Reach::Below).err().expect("it cannot be").to_string();
        assert!(error.contains(says), "{extent}: {error}");
    }
}

#[test]
fn extents_of_a_descriptor_are_as_bounded_as_bases() {
    let stage = Stage::set();
    fs::create_dir(stage.path("inner")).expect("made");
    fs::write(stage.path("secret.raw"), vec![7; 65536]).expect("written");
    let path = stage.path("inner/disk.vmdk");
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n\nRW 128 FLAT \"../secret.raw\" 0\n";
    fs::write(&path, descriptor).expect("written");
    assert_eq!(kind(&path, None, Reach::Below), Some(Kind::Invalid));
    assert_eq!(bytes_of(&*open(&path, None, Reach::Anywhere).expect("trusted").disk), vec![7; 65536]);
    fs::write(&path, descriptor.replace("128", "129")).expect("written");
    assert_eq!(kind(&path, None, Reach::Anywhere), Some(Kind::Corrupt));
}

#[test]
fn loops_end() {
    let stage = Stage::set();
    let (a, b) = (stage.text("a.qcow2"), stage.text("b.qcow2"));
    qemu_img(&["create", "-q", "-f", "qcow2", &a, "1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", &b]);
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", &a]);
    let error = open(a.as_ref(), None, Reach::Below).err().expect("refused");
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("itself"), "{error}");
}

#[test]
fn a_format_is_guessed_only_where_name_and_bytes_agree() {
    let stage = Stage::set();
    let made = |name: &str, format: &str| stage.made(name, format, &[]);
    // a guest wrote the beginning of an image onto its raw disk
    for (name, format) in
        [("a.img", "qcow2"), ("b", "vhdx"), ("c.raw", "vmdk"), ("d.bin", "vpc"), ("e.vmdk", "qcow2")]
    {
        let error = open(&made(name, format), None, Reach::Below).err().expect("refused");
        assert_eq!(error.kind(), Kind::Invalid, "{name}: {error}");
        assert!(error.help().is_some_and(|help| help.contains("--format raw")), "{name}");
        let raw = open(&stage.path(name), Some(Format::Raw), Reach::Below).expect("raw");
        assert_eq!(raw.disk.size().get(), fs::metadata(stage.path(name)).expect("a file").len());
    }
    assert_eq!(kind(&made("f.qcow2", "raw"), None, Reach::Below), Some(Kind::Invalid));
    assert_eq!(kind(&stage.path("f.qcow2"), Some(Format::Qcow2), Reach::Below), Some(Kind::Corrupt));
    let opened = open(&made("g.img", "qcow2"), Some(Format::Qcow2), Reach::Below).expect("as said");
    assert_eq!((opened.format, bytes_of(&*opened.disk)), (Format::Qcow2, content()));
    // a base without a format is guessed by the same rule
    let top = stage.text("top.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &top, "64k"]);
    for (base, allowed) in [("g.img", false), ("raw.raw", true)] {
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", &top]);
        forget_backing_format(&top);
        assert_eq!(open(top.as_ref(), None, Reach::Below).is_ok(), allowed, "{base}");
    }
}

/// Turns the extension that names the backing file's format into one that nobody knows.
fn forget_backing_format(path: &str) {
    let mut bytes = fs::read(path).expect("read");
    let at = bytes.windows(4).position(|four| four == 0xe279_2acau32.to_be_bytes()).expect("an extension");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("written");
}
