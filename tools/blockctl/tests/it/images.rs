//! Foreign images in and out, judged by qemu-img.

use crate::fixture::{Stage, image};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&said));
}

/// What an image is made with, its file's name, and what is written of it with which options.
const ROUNDS: [(&[&str], &str, &[&str]); 6] = [
    (&["-O", "raw"], "in.raw", &["--format", "raw"]),
    (&["-O", "qcow2", "-c", "-o", "compression_type=zstd"], "in.qcow2", &["--format", "qcow2"]),
    (&["-O", "qcow2", "-o", "extended_l2=on"], "in.qcow2", &["--format", "qcow2", "--compress"]),
    (&["-O", "vpc", "-o", "force_size=on"], "in.vhd", &["--format", "vhd", "--fixed"]),
    (&["-O", "vhdx"], "in.vhdx", &["--format", "vhdx"]),
    (&["-O", "vmdk", "-o", "subformat=streamOptimized"], "in.vmdk", &["--format", "vmdk"]),
];

#[test]
fn every_format_goes_in_and_comes_out() {
    let stage = Stage::set();
    let raw = stage.path("source.raw");
    image(&raw, 3_000_001, (64 << 20) + 512);
    for (number, (made_with, file, written_with)) in ROUNDS.into_iter().enumerate() {
        let (name, path) = (format!("disk{number}"), stage.path(file));
        qemu_img(&[&["convert", "-f", "raw"], made_with, &[&raw, &path]].concat());
        let disk = stage.json(&["disk", "create", &name, "--from", &path]);
        assert_eq!((&disk["size"], &disk["state"]), (&((64 << 20) + 512).into(), &"ready".into()), "{file}");
        let point = stage.text(&["snapshot", &name]);
        let qemu_format = if written_with[1] == "vhd" { "vpc" } else { written_with[1] };
        for verb in [&["disk", "export", name.as_str()][..], &["restore", "disk", point.trim(), "--output"]] {
            let out = stage.path(&format!("out.{}", written_with[1]));
            let written = stage.json(&[verb, &[&out, "--yes"], written_with].concat());
            assert_eq!((&written["format"], &written["size"]), (&written_with[1].into(), &disk["size"]));
            qemu_img(&["compare", "-f", "raw", "-F", qemu_format, &raw, &out]);
            assert!(fs::metadata(&out).expect("a file").blocks() * 512 < 8 << 20, "{verb:?} is sparse");
        }
    }
    // over NBD a format is read as well, but never guessed
    let uri = stage.text(&["disk", "uri", "disk1"]);
    assert_eq!(stage.json(&["disk", "create", "copy", "--from", uri.trim()])["size"], (64 << 20) + 512);
    let (exit, said) = stage.failure(&["disk", "create", "no", "--from", uri.trim(), "--format", "qcow2"]);
    assert!(exit == Some(6) && said.contains("magic"), "{exit:?} {said}");
}

#[test]
fn what_an_image_is_and_may_read_is_never_guessed_from_its_bytes_alone() {
    let stage = Stage::set();
    let guest = stage.path("guest.raw");
    fs::create_dir(stage.path("inner")).expect("made");
    fs::write(stage.path("secret"), vec![7; 65536]).expect("written");
    let image = stage.path("inner/guest.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "../secret", "-F", "raw", &image]);
    fs::copy(&image, &guest).expect("copied");
    let (exit, said) = stage.failure(&["disk", "create", "a", "--from", &guest]);
    assert!(exit == Some(2) && said.contains("--format raw, or --format qcow2"), "{exit:?} {said}");
    let (exit, said) = stage.failure(&["disk", "create", "a", "--from", &image]);
    assert!(exit == Some(2) && said.contains("secret") && said.contains("--follow"), "{exit:?} {said}");
    let raw = stage.json(&["disk", "create", "a", "--from", &guest, "--format", "raw"]);
    assert_eq!(raw["size"], fs::metadata(&guest).expect("a file").len());
    let trusted = stage.json(&["disk", "create", "b", "--from", &image, "--follow"]);
    assert_eq!(trusted["size"], 65536);
    assert_eq!(stage.json(&["disk", "list"]).as_array().map(Vec::len), Some(2), "nothing half made is left");
}

#[test]
fn a_disk_that_is_being_filled_is_no_disk_yet() {
    let stage = Stage::set();
    let raw = stage.path("source.raw");
    image(&raw, 48 << 20, 48 << 20);
    // slow enough to be met half way
    let mut source = Command::new("nbdkit")
        .args([
            "-f",
            "--exit-with-parent",
            "-U",
            &stage.path("slow.sock"),
            "--filter=delay",
            "file",
            &raw,
            "rdelay=200ms",
        ])
        .spawn()
        .expect("nbdkit");
    let uri = format!("nbd+unix:///?socket={}", stage.path("slow.sock"));
    until(|| fs::exists(stage.path("slow.sock")).expect("looked"));
    let mut filling = Command::new(env!("CARGO_BIN_EXE_blockctl"))
        .env("BLOCKD_STATE", stage.path("state"))
        .args(["disk", "create", "web", "--from", &uri])
        .stdout(Stdio::null())
        .spawn()
        .expect("a command");
    let state = || stage.json(&["disk", "list"])[0]["state"].clone();
    until(|| !state().is_null());
    assert_eq!(state(), "filling");
    for verb in [&["snapshot", "web"][..], &["backup", "web"], &["disk", "resize", "web", "64M", "--yes"]] {
        let (exit, said) = stage.failure(verb);
        assert!(exit == Some(7) && said.contains("being filled"), "{verb:?}: {exit:?} {said}");
    }
    // as a power cut or an impatient person ends it
    filling.kill().expect("killed");
    filling.wait().expect("ended");
    source.kill().expect("killed");
    source.wait().expect("ended");
    assert_eq!(state(), "filling");
    let (exit, said) = stage.failure(&["snapshot", "web"]);
    assert!(exit == Some(7) && said.contains("disk delete web"), "{exit:?} {said}");
    stage.text(&["disk", "delete", "web", "--yes"]);
    assert_eq!(stage.json(&["disk", "list"]).as_array().map(Vec::len), Some(0));
}

/// Waits for something that must come true soon.
fn until(is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come true");
}
