//! `blockctl files`: files of points, without a mount.

use crate::fixture::Stage;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// A daemon with the point `web@1` of a disk that is one ext4 filesystem.
fn stage() -> Stage {
    let stage = Stage::set();
    let tree = stage.path("tree");
    let at = |name: &str| Path::new(&tree).join(name);
    fs::create_dir_all(at("etc/conf.d")).expect("a tree");
    fs::write(at("etc/hosts"), "127.0.0.1 localhost\n").expect("a file");
    fs::write(at("etc/conf.d/a.conf"), vec![7; 70_000]).expect("a file");
    fs::write(at("etc/conf.d/\x1b[31mred"), "").expect("a file");
    symlink("etc/hosts", at("link")).expect("a link");
    make_image(&stage, "web.raw", &tree);
    stage.text(&["disk", "create", "web", "--from", &stage.path("web.raw")]);
    stage.text(&["snapshot", "web"]);
    stage
}

fn make_image(stage: &Stage, name: &str, tree: &str) {
    let image = stage.path(name);
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image");
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d", tree, &image]).status();
    assert!(made.expect("mke2fs").success());
}

#[test]
fn files_of_a_point_are_read_without_a_mount() {
    let stage = stage();
    // ls
    let volumes = stage.json(&["files", "ls", "web@1"]);
    assert_eq!(
        volumes,
        serde_json::json!([{ "number": 0, "name": "0", "readable": true, "content": "ext4" }])
    );
    let listed = stage.json(&["files", "ls", "web@latest:0:/"]);
    let mut names: Vec<_> =
        listed.as_array().expect("an array").iter().filter_map(|it| it["path"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["etc", "link", "lost+found"]);
    let link = stage.json(&["files", "ls", "web@1:0:/link"]);
    assert_eq!((&link[0]["kind"], &link[0]["target"]), (&"link".into(), &"etc/hosts".into()));
    let text = stage.text(&["files", "ls", "web@1:0:/etc/conf.d"]);
    assert!(text.contains("\\u{1b}[31mred") && !text.contains('\x1b'), "{text}");
    assert!(text.contains("-rw-r--r--") && text.contains("70000"), "{text}");
    // cat follows links
    assert_eq!(
        stage.text(&["files", "cat", "web@1:0:/link", "web@1:0:/etc/hosts"]),
        "127.0.0.1 localhost\n".repeat(2)
    );
    // find
    assert_eq!(stage.text(&["files", "find", "web@1:0:/etc", "--name", "*.conf"]), "/etc/conf.d/a.conf\n");
    assert_eq!(stage.text(&["files", "find", "web@1:0:/", "--larger", "64K", "-0"]), "/etc/conf.d/a.conf\0");
    let found = stage.json(&["files", "find", "web@1:0:/", "--kind", "directory", "--depth", "1"]);
    assert_eq!(found.as_array().map(Vec::len), Some(3), "{found}");
    assert_eq!(stage.json(&["files", "find", "web@1:0:/", "--newer", "2200-01-01"]), serde_json::json!([]));
    // cp
    let to = stage.path("to");
    fs::create_dir(&to).expect("a directory");
    let copied = stage.json(&["files", "cp", "web@1:0:/etc", "web@1:0:/link", &to]);
    assert_eq!(
        (&copied["files"], &copied["directories"], &copied["others"]),
        (&3.into(), &2.into(), &1.into())
    );
    assert_eq!(fs::read(format!("{to}/etc/conf.d/a.conf")).expect("a copy"), vec![7; 70_000]);
    assert_eq!(fs::read_link(format!("{to}/link")).expect("a link"), Path::new("etc/hosts"));
    let (code, said) = stage.failure(&["files", "cp", "web@1:0:/link", &to]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the name is taken") && said.contains("help:"), "{said}");
    stage.text(&["files", "cp", "web@1:0:/link", &to, "--replace"]);
    let new = stage.path("new name");
    stage.text(&["files", "cp", "web@1:0:/etc/hosts", &new]);
    assert_eq!(fs::read_to_string(&new).expect("a copy"), "127.0.0.1 localhost\n");
    // tar, to a pipe and to a file
    let archive = stage.command(&["files", "tar", "web@1:0:/etc"]).output().expect("an archive").stdout;
    let mut tar = Command::new("tar")
        .args(["-tf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar");
    tar.stdin.take().expect("its input").write_all(&archive).expect("taken");
    let listed = tar.wait_with_output().expect("its end");
    assert!(listed.status.success());
    assert!(String::from_utf8_lossy(&listed.stdout).contains("etc/conf.d/a.conf"));
    let file = stage.path("a.tar");
    assert_eq!(stage.json(&["files", "tar", "web@1:0:/", "--output", &file])["files"], 3);
}

#[test]
fn what_cannot_be_is_said() {
    let stage = stage();
    let fails = |arguments: &[&str], code, part: &str| {
        let (its, said) = stage.failure(arguments);
        assert_eq!(its, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    };
    fails(&["files", "ls", "web@1:0:/none"], 3, "none does not exist");
    fails(&["files", "ls", "web@1:3:/"], 3, "partitions and volumes of web@1 are 0");
    fails(&["files", "ls", "web"], 2, "web@latest");
    fails(&["files", "cat", "web@1:0:etc"], 2, "POINT:N:/path");
    fails(&["files", "cat", "web@1:0:/etc"], 2, "it is a directory");
    fails(&["files", "cat", "web@9:0:/etc"], 3, "web@9");
    fails(&["files", "cp", "web@1:0:/", &stage.path("nowhere")], 3, "mkdir");
    fails(&["files", "find", "web@1:0:/", "--newer", "soon"], 2, "2026-11-21");
    stage.text(&["disk", "create", "empty", "--size", "1M"]);
    stage.text(&["snapshot", "empty"]);
    fails(&["files", "ls", "empty@1:0:/"], 2, "begins with zeros");
}
