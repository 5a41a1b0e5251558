//! `blockctl files`: files of points, without a mount.

use crate::fixture::Stage;
use block::{BlockDevice, ByteOffset};
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

/// An encrypted disk: what it needs is said, and with its passphrase every verb reads it, also where the two points were
/// encrypted with different keys.
#[test]
fn encrypted_volumes_are_read_with_their_passphrase() {
    let stage = Stage::set();
    let tree = stage.path("tree");
    fs::create_dir(&tree).expect("a tree");
    fs::write(Path::new(&tree).join("secret"), "one").expect("a file");
    let encrypted = |name: &str| {
        make_image(&stage, "plain", &tree);
        let done = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "luks", "--object", "secret,id=s,data=open sesame"])
            .args(["-o", "key-secret=s,iter-time=10", &stage.path("plain"), &stage.path(name)])
            .status();
        assert!(done.expect("qemu-img").success());
        fs::read(stage.path(name)).expect("an image")
    };
    let first = encrypted("first");
    fs::write(Path::new(&tree).join("secret"), "two").expect("a file");
    let second = encrypted("second");
    stage.text(&["disk", "create", "web", "--from", &stage.path("first")]);
    stage.text(&["snapshot", "web"]);
    let uri = stage.text(&["disk", "uri", "web"]);
    let client = nbd::Client::connect(&uri.trim().parse().expect("a URI"), 1).expect("a disk");
    assert_eq!(first.len(), second.len());
    client.write_at(ByteOffset::new(0), &second).expect("written");
    client.flush().expect("flushed");
    stage.text(&["snapshot", "web"]);

    let told = stage.json(&["files", "ls", "web@1"]);
    assert_eq!(told[0]["readable"], false);
    assert!(told[0]["content"].as_str().expect("a reason").contains("--passphrase-file"), "{told}");
    let (right, wrong) = (stage.path("right"), stage.path("wrong"));
    fs::write(&right, "open sesame\n").expect("a passphrase");
    fs::write(&wrong, "open barley\n").expect("a passphrase");
    let (code, said) = stage.failure(&["files", "cat", "web@1:0:/secret", "--passphrase-file", &wrong]);
    assert!(code == Some(2) && said.contains("none of the passphrases opens it"), "{code:?} {said}");
    let with = |arguments: &[&str]| {
        // one that does not fit is no obstacle
        stage.text(&[arguments, &["--passphrase-file", &wrong, "--passphrase-file", &right]].concat())
    };
    assert_eq!(with(&["files", "cat", "web@1:luks-0:/secret"]), "one");
    assert_eq!(with(&["files", "cat", "web@2:luks-0:/secret"]), "two");
    assert_eq!(with(&["files", "find", "web@1:luks-0:/", "--name", "s*"]), "/secret\n");
    let to = stage.path("copy");
    with(&["files", "cp", "web@2:luks-0:/secret", &to]);
    assert_eq!(fs::read_to_string(&to).expect("a copy"), "two");
    assert!(
        with(&["point", "diff", "web@1", "web@2", "--files"]).lines().any(|line| line.contains("secret"))
    );
    let history = with(&["files", "history", "web:luks-0:/secret"]);
    assert!(history.contains("web@1") && history.contains("web@2"), "{history}");
    let at = stage.path("at");
    fs::create_dir(&at).expect("a directory");
    with(&["mount", "web", &at]);
    let points: Vec<_> = fs::read_dir(Path::new(&at).join("by-time")).expect("points").collect();
    assert_eq!(points.len(), 2);
    for point in points {
        let secret = point.expect("a point").path().join("files/luks-0/secret");
        assert!(["one", "two"].contains(&fs::read_to_string(secret).expect("a file").as_str()));
    }
    stage.text(&["umount", &at]);
}
