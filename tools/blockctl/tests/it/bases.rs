//! Disks on files and points, with qemu's programs on the other side.

use crate::fixture::{Stage, image};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// 16 MiB and a bit that no block divides.
const SIZE: u64 = (16 << 20) + 512;

fn qemu(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn qemu_img(arguments: &[&str]) {
    let output = qemu("qemu-img", arguments);
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&said));
}

/// A raw file of this size with a megabyte in it.
fn raw(stage: &Stage, name: &str) -> String {
    let path = stage.path(name);
    image(&path, 1 << 20, SIZE);
    path
}

/// Writes a pattern to a disk as a guest would.
fn write(stage: &Stage, disk: &str, pattern: u8, at: u64, count: u64) {
    let uri = stage.text(&["disk", "uri", disk]);
    let command = format!("write -P {pattern} {at} {count}");
    let output = qemu("qemu-io", &["-f", "raw", uri.trim(), "-c", &command, "-c", "flush"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The whole content of a disk or a point.
fn content(stage: &Stage, name: &str) -> Vec<u8> {
    let out = stage.path("content.raw");
    stage.text(&["disk", "export", name, &out, "--yes"]);
    fs::read(out).expect("its bytes")
}

/// Kills the daemon and starts another.
fn kill(stage: &mut Stage) {
    stage.signal(Signal::KILL);
    stage.start_again();
}

/// A qemu-nbd that has a file open, for writing unless it is told otherwise; it ends with this value.
struct QemuNbd(Child);

impl QemuNbd {
    fn start(stage: &Stage, file: &str, more: &[&str]) -> Self {
        let (socket, pid) = (stage.path("qemu.sock"), stage.path("qemu.pid"));
        // the file appears when it serves
        let child = Command::new("qemu-nbd")
            .args(["-f", "raw", "-t", "-k", &socket, "--pid-file", &pid])
            .args(more)
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("qemu-nbd");
        let mut server = Self(child);
        for _ in 0..3000 {
            if Path::new(&pid).exists() {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let mut said = String::new();
        let stderr = server.0.stderr.take().expect("its output");
        BufReader::new(stderr).read_line(&mut said).expect("a line");
        panic!("qemu-nbd does not serve: {said}");
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        self.0.kill().expect("its end");
        self.0.wait().expect("its end");
    }
}

#[test]
fn an_adopted_file_is_a_disk_in_place_and_is_never_written() {
    let mut stage = Stage::set();
    let file = raw(&stage, "old.raw");
    let before = fs::read(&file).expect("its bytes");
    let disk = stage.json(&["disk", "adopt", "web", &file]);
    assert_eq!((&disk["size"], &disk["base"]["kind"]), (&SIZE.into(), &"adopted".into()));
    assert_eq!(disk["base"]["name"], fs::canonicalize(&file).expect("there").to_str().expect("text"));
    assert!(disk["stored"].as_u64().expect("bytes") < 2 << 20, "nothing is copied: {disk}");
    assert!(stage.text(&["disk", "show", "web"]).contains("adopted "), "shown to people");
    assert_eq!(content(&stage, "web"), before);
    let mut now = before.clone();
    let first = stage.text(&["snapshot", "web"]);
    write(&stage, "web", 0x11, 4000, 10_000);
    now[4000..14_000].fill(0x11);
    kill(&mut stage);
    assert_eq!(content(&stage, "web"), now);
    let dir = format!("{}/disks/{}", stage.path("state"), disk["id"].as_str().expect("an id"));
    let inspected = stage.json(&["inspect", "disk", &dir, "--check"]);
    assert_eq!((&inspected["base"]["size"], &inspected["problems"]), (&SIZE.into(), &serde_json::json!([])));
    // a full backup holds the file too, an increment only what was written
    let full = stage.json(&["backup", "web"]);
    let changed = full["bytes_changed"].as_u64().expect("bytes");
    assert!((1 << 20..2 << 20).contains(&changed), "the file's data, not its hole: {full}");
    write(&stage, "web", 0x22, 5 << 20, 4096);
    now[5 << 20..(5 << 20) + 4096].fill(0x22);
    let increment = stage.json(&["backup", "web"]);
    assert_eq!((&increment["kind"], &increment["bytes_changed"]), (&"incremental".into(), &4096.into()));
    stage.text(&["restore", "disk", "web@latest", "--to", "copy"]);
    assert_eq!(content(&stage, "copy"), now);
    assert_eq!(content(&stage, first.trim()), before);
    assert_eq!(fs::read(&file).expect("its bytes"), before, "never written");
    let said = stage.text(&["disk", "delete", "web", "--yes"]);
    assert!(said.contains("stays"), "{said}");
    assert_eq!(fs::read(&file).expect("kept"), before);
    // out of a vault's point the base comes back as well
    let out = stage.path("restored.raw");
    stage.text(&["restore", "disk", "web@latest", "--output", &out]);
    assert_eq!(fs::read(out).expect("its bytes"), now);
}

#[test]
fn qemu_and_the_daemon_keep_off_what_the_other_uses() {
    let stage = Stage::set();
    let file = raw(&stage, "old.raw");
    let writer = QemuNbd::start(&stage, &file, &[]);
    let (exit, said) = stage.failure(&["disk", "adopt", "web", &file]);
    assert!(exit == Some(4) && said.contains("open for writing") && said.contains(&file), "{exit:?} {said}");
    drop(writer);
    stage.text(&["disk", "adopt", "web", &file]);
    let refused = qemu("qemu-io", &["-f", "raw", &file, "-c", "write 0 4096"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("lock"), "{said}");
    let refused = qemu("qemu-img", &["resize", "-f", "raw", &file, "32M"]);
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
    qemu_img(&["convert", "-f", "raw", "-O", "raw", &file, &stage.path("read.raw")]);
    let _reader = QemuNbd::start(&stage, &file, &["-r"]);
    stage.text(&["disk", "delete", "web", "--yes"]);
    stage.text(&["disk", "create", "again", "--base", &file, "--format", "raw"]);
    // a program that knows nothing of such locks
    let other = raw(&stage, "other.raw");
    let open = fs::OpenOptions::new().write(true).open(&other).expect("opened");
    let (exit, said) = stage.failure(&["disk", "adopt", "no", &other]);
    assert!(exit == Some(4) && said.contains("open for writing"), "{exit:?} {said}");
    drop(open);
    stage.text(&["disk", "adopt", "yes", &other]);
}

#[test]
fn a_file_that_changed_behind_us_is_refused_loudly_and_the_disk_comes_back_with_it() {
    let mut stage = Stage::set();
    let file = raw(&stage, "old.raw");
    stage.text(&["disk", "adopt", "web", &file]);
    write(&stage, "web", 0x11, 0, 4096);
    stage.text(&["backup", "web"]);
    let kept = stage.path("kept.raw");
    stage.signal(Signal::TERM);
    // moved away: the very same file comes back later
    fs::rename(&file, &kept).expect("moved");
    stage.start_again();
    let disk = stage.json(&["disk", "show", "web"]);
    let message = disk["error"]["message"].as_str().expect("an error");
    assert!(disk["state"] == "failed" && message.contains("old.raw"), "{disk}");
    let open = fs::OpenOptions::new().write(true).open(&kept).expect("opened");
    open.write_all_at(b"x", 77).expect("written");
    drop(open);
    fs::rename(&kept, &file).expect("moved back");
    let (exit, said) = stage.failure(&["disk", "recover", "web"]);
    assert!(
        exit == Some(4) && said.contains("old.raw") && said.contains("written to since"),
        "{exit:?} {said}"
    );
    assert!(said.contains("help:"), "{said}");
    // nothing of the disk is lost by the refusal, and other disks serve
    stage.text(&["disk", "create", "other", "--size", "1M"]);
    let longer = fs::OpenOptions::new().write(true).open(&file).expect("opened");
    longer.set_len(SIZE + 1).expect("longer");
    drop(longer);
    let (_, said) = stage.failure(&["disk", "recover", "web"]);
    assert!(said.contains(&format!("had {SIZE} bytes and has {}", SIZE + 1)), "{said}");
    // shorter it is no base at all; as long as it was it is one, if a person says so
    let open = fs::OpenOptions::new().write(true).open(&file).expect("opened");
    open.set_len(SIZE - 1).expect("shorter");
    let (exit, said) = stage.failure(&["disk", "recover", "web", "--accept-base"]);
    assert!(exit == Some(4) && said.contains("open for writing"), "{exit:?} {said}");
    drop(open);
    let (exit, said) = stage.failure(&["disk", "recover", "web", "--accept-base"]);
    assert!(exit == Some(4) && said.contains(&format!("has {} bytes now", SIZE - 1)), "{exit:?} {said}");
    let open = fs::OpenOptions::new().write(true).open(&file).expect("opened");
    open.set_len(SIZE).expect("as it was");
    drop(open);
    stage.text(&["disk", "recover", "web", "--accept-base"]);
    let mut expected = fs::read(&file).expect("its bytes");
    expected[..4096].fill(0x11);
    assert!(content(&stage, "web") == expected);
    kill(&mut stage);
    assert!(content(&stage, "web") == expected);
    let next = stage.json(&["backup", "web"]);
    assert!(next["kind"] == "full" && next.get("note").is_some(), "{next}");
    stage.text(&["restore", "disk", "web@latest", "--to", "copy"]);
    assert!(content(&stage, "copy") == expected);
    let (exit, said) = stage.failure(&["disk", "recover", "web", "--accept-base"]);
    assert!(exit == Some(4) && said.contains("serves"), "{exit:?} {said}");
    stage.text(&["disk", "delete", "web", "--yes"]);
    assert!(Path::new(&file).exists());
}

#[test]
fn a_write_behind_us_while_the_disk_serves_is_warned_of_and_not_backed_up() {
    let stage = Stage::set();
    let file = raw(&stage, "old.raw");
    stage.text(&["disk", "adopt", "web", &file]);
    stage.text(&["backup", "web"]);
    let moved = stage.path("moved.raw");
    fs::rename(&file, &moved).expect("moved");
    let warned = || stage.json(&["status"])["warnings"].to_string();
    assert!(warned().contains("will not be opened again"), "{}", warned());
    stage.text(&["backup", "web"]);
    let open = fs::OpenOptions::new().write(true).open(&moved).expect("opened");
    open.write_all_at(b"x", 77).expect("written");
    let (exit, said) = stage.failure(&["backup", "web"]);
    assert!(
        exit == Some(4) && said.contains("old.raw") && said.contains("written to since"),
        "{exit:?} {said}"
    );
}

#[test]
fn a_delete_takes_the_adopted_file_only_if_it_is_told_to() {
    let stage = Stage::set();
    let file = raw(&stage, "old.raw");
    stage.text(&["disk", "create", "plain", "--size", "1M"]);
    let (exit, said) = stage.failure(&["disk", "delete", "plain", "--adopted-file", "--yes"]);
    assert!(exit == Some(2) && said.contains("adopted none"), "{exit:?} {said}");
    stage.text(&["disk", "adopt", "web", &file]);
    stage.text(&["disk", "create", "also", "--base", &file]);
    let (exit, said) = stage.failure(&["disk", "delete", "web", "--adopted-file", "--yes"]);
    assert!(exit == Some(4) && said.contains("also"), "{exit:?} {said}");
    stage.text(&["disk", "delete", "also", "--yes"]);
    stage.text(&["disk", "delete", "web", "--adopted-file", "--yes"]);
    assert!(!Path::new(&file).exists());
    let ours = format!("{}/disks", stage.path("state"));
    let inside = fs::read_dir(ours).expect("a directory").next().expect("a disk").expect("an entry").path();
    let own = if inside.is_dir() { inside.join("chain") } else { inside };
    let (exit, said) = stage.failure(&["disk", "adopt", "own", own.to_str().expect("text")]);
    assert!(exit == Some(2) && said.contains("this daemon"), "{exit:?} {said}");
}

#[test]
fn leave_hands_back_one_file_and_forgets_the_disk_only_then() {
    let mut stage = Stage::set();
    let (file, out) = (raw(&stage, "old.raw"), stage.path("new.raw"));
    stage.text(&["disk", "adopt", "web", &file]);
    stage.text(&["snapshot", "web"]);
    write(&stage, "web", 0x33, 1 << 20, 5 << 20);
    write(&stage, "web", 0, 512, 8192);
    kill(&mut stage);
    let expected = content(&stage, "web");
    fs::write(stage.path("expected.raw"), &expected).expect("written");
    let (exit, said) = stage.failure(&["disk", "leave", "web", &file, "--yes"]);
    assert!(exit == Some(4) && said.contains("stands on this file"), "{exit:?} {said}");
    let (exit, said) = stage.failure(&["disk", "leave", "web", &stage.path("no/such/dir"), "--yes"]);
    assert!(exit == Some(3) && said.contains("is still there"), "{exit:?} {said}");
    let left = stage.json(&["disk", "leave", "web", &out, "--yes"]);
    assert_eq!((&left["size"], &left["format"]), (&SIZE.into(), &"raw".into()));
    qemu_img(&["compare", "-f", "raw", "-F", "raw", &stage.path("expected.raw"), &out]);
    assert!(fs::read(&out).expect("its bytes") == expected);
    assert_eq!(stage.failure(&["disk", "show", "web"]).0, Some(3), "forgotten");
    kill(&mut stage);
    assert_eq!(stage.failure(&["disk", "show", "web"]).0, Some(3));
    // what was left is adopted again, and left again
    stage.text(&["disk", "adopt", "web", &out]);
    stage.text(&["disk", "leave", "web", &stage.path("third.raw"), "--yes"]);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", &out, &stage.path("third.raw")]);
}

/// Killed at any moment, `leave` has lost neither the disk nor the file; the same command again ends it.
#[test]
fn a_leave_cut_short_loses_nothing() {
    let mut stage = Stage::set();
    let file = raw(&stage, "old.raw");
    stage.text(&["disk", "adopt", "web", &file]);
    write(&stage, "web", 0x33, 1 << 20, 8 << 20);
    let expected = content(&stage, "web");
    let mut outcomes = [0; 2];
    for round in 0..24 {
        let out = stage.path(&format!("out{round}.raw"));
        let mut leave = stage.command(&["disk", "leave", "web", &out, "--yes"]).spawn().expect("a process");
        // any moment will do: what must hold holds at all of them
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        leave.kill().expect("its end");
        leave.wait().expect("its end");
        if round % 3 == 0 {
            kill(&mut stage);
        }
        let is_there = stage.run(&["disk", "show", "web"]).status.success();
        outcomes[usize::from(is_there)] += 1;
        if is_there {
            assert!(content(&stage, "web") == expected, "round {round}");
            stage.text(&["disk", "leave", "web", &out, "--yes"]);
        }
        assert!(fs::read(&out).expect("the file") == expected, "round {round}");
        stage.text(&["disk", "adopt", "web", &out]);
    }
    assert!(outcomes[1] > 0, "it was never cut short: {outcomes:?}");
}

#[test]
fn images_of_every_format_are_bases_without_importing() {
    let mut stage = Stage::set();
    let source = raw(&stage, "source.raw");
    for (format, qemu_format, options) in [
        ("raw", "raw", None),
        ("qcow2", "qcow2", Some("compression_type=zstd")),
        ("vhd", "vpc", Some("force_size=on")),
        ("vhdx", "vhdx", None),
        ("vmdk", "vmdk", Some("subformat=twoGbMaxExtentSparse")),
    ] {
        let path = stage.path(&format!("in.{format}"));
        let mut arguments = vec!["convert", "-f", "raw", "-O", qemu_format];
        arguments.extend(options.iter().flat_map(|options| ["-o", *options]));
        arguments.extend([source.as_str(), path.as_str()]);
        qemu_img(&arguments);
        let was = fs::read(&path).expect("its bytes");
        let disk = stage.json(&["disk", "create", format, "--base", &path, "--format", format]);
        assert_eq!((&disk["base"]["kind"], &disk["base"]["format"]), (&"image".into(), &format.into()));
        let mut expected = fs::read(&source).expect("its bytes");
        expected.resize(disk["size"].as_u64().expect("bytes") as usize, 0);
        assert_eq!(content(&stage, format), expected, "{format}");
        write(&stage, format, 0x44, 300_000, 70_000);
        kill(&mut stage);
        expected[300_000..370_000].fill(0x44);
        assert_eq!(content(&stage, format), expected, "{format} after a kill");
        assert!(fs::read(&path).expect("its bytes") == was, "{format} is not written");
    }
}

#[test]
fn every_file_of_a_chain_of_qcow2_is_held_and_watched() {
    let mut stage = Stage::set();
    let (bottom, middle, top) = (raw(&stage, "a.raw"), stage.path("b.qcow2"), stage.path("c.qcow2"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", &middle]);
    assert!(qemu("qemu-io", &["-f", "qcow2", &middle, "-c", "write -P 5 2M 1M"]).status.success());
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", &top]);
    assert!(qemu("qemu-io", &["-f", "qcow2", &top, "-c", "write -P 6 4M 1M"]).status.success());
    let flat = stage.path("flat.raw");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &top, &flat]);
    let disk = stage.json(&["disk", "create", "web", "--base", &top, "--size", "20M"]);
    assert_eq!(disk["base"]["files"].as_array().map(Vec::len), Some(3), "{disk}");
    let mut expected = fs::read(&flat).expect("its bytes");
    expected.resize(20 << 20, 0);
    assert_eq!(content(&stage, "web"), expected);
    for file in [&bottom, &middle, &top] {
        let format = if *file == bottom { "raw" } else { "qcow2" };
        let refused = qemu("qemu-io", &["-f", format, file, "-c", "write 0 512"]);
        assert!(!refused.status.success(), "{file}");
    }
    stage.text(&["backup", "web"]);
    stage.text(&["restore", "disk", "web@latest", "--to", "copy"]);
    assert_eq!(content(&stage, "copy"), expected);
    stage.signal(Signal::TERM);
    // in the middle of the chain, with the time set back
    let times = fs::metadata(&middle).and_then(|meta| meta.modified()).expect("a time");
    let open = fs::OpenOptions::new().write(true).open(&middle).expect("opened");
    open.write_all_at(&[9; 10], 1 << 20).expect("written");
    open.set_modified(times).expect("set back");
    drop(open);
    stage.start_again();
    let disk = stage.json(&["disk", "show", "web"]);
    let message = disk["error"]["message"].as_str().expect("an error");
    assert!(message.contains("b.qcow2") && message.contains("set back"), "{message}");
}

/// Waits until so many layers of a disk are left to fold.
fn folded(stage: &Stage, disk: &str, left: u64) {
    let layers = || stage.json(&["disk", "show", disk])["consolidation"]["layers"].as_u64().unwrap_or(0);
    for _ in 0..3000 {
        if layers() == left {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} layers are left, not {left}", layers());
}

#[test]
fn children_of_a_point_outlive_it_and_keep_their_parent() {
    let mut stage = Stage::set();
    let file = raw(&stage, "old.raw");
    stage.text(&["disk", "adopt", "web", &file]);
    for (number, pattern) in [(1, 0x51), (2, 0x52), (3, 0x53)] {
        write(&stage, "web", pattern, number << 20, 2 << 20);
        stage.text(&["snapshot", "web"]);
    }
    let point = content(&stage, "web@2");
    for child in ["left", "right"] {
        let disk = stage.json(&["disk", "create", child, "--base", "web@2"]);
        assert_eq!((&disk["base"]["kind"], &disk["base"]["name"]), (&"point".into(), &"web@2".into()));
    }
    write(&stage, "left", 0x77, 0, 4096);
    stage.text(&["snapshot", "left"]);
    stage.text(&["disk", "create", "third", "--base", "left@1", "--size", "32M"]);
    assert_eq!(stage.json(&["disk", "show", "web"])["children"], serde_json::json!(["left", "right"]));
    let (exit, said) = stage.failure(&["disk", "delete", "web", "--yes"]);
    assert!(exit == Some(4) && said.contains("left, right"), "{exit:?} {said}");
    for number in 1..=3 {
        stage.text(&["point", "delete", &format!("web@{number}"), "--yes"]);
    }
    let mut left = point.clone();
    left[..4096].fill(0x77);
    for _ in 0..2 {
        // what lies under a layer that is stood on waits for that to end
        folded(&stage, "web", 1);
        let mut third = left.clone();
        third.resize(32 << 20, 0);
        for (name, expected) in [("left", &left), ("right", &point), ("third", &third)] {
            assert!(content(&stage, name) == *expected, "{name}");
        }
        kill(&mut stage);
    }
    let full = stage.json(&["backup", "third"]);
    assert!(full["bytes_changed"].as_u64().expect("bytes") >= 4 << 20, "the bases are in it: {full}");
    stage.text(&["disk", "delete", "third", "--yes"]);
    stage.text(&["restore", "disk", "third@1", "--to", "copy"]);
    assert!(content(&stage, "copy")[..point.len()] == left);
    stage.text(&["disk", "delete", "left", "--yes"]);
    assert!(content(&stage, "right") == point);
    stage.text(&["disk", "delete", "right", "--yes"]);
    folded(&stage, "web", 0);
    stage.text(&["disk", "delete", "web", "--yes"]);
    stage.text(&["disk", "create", "again", "--base", "third@1"]);
    assert!(content(&stage, "again")[..point.len()] == left, "a vault's point");
}

#[test]
fn a_file_is_adopted_once() {
    let stage = Stage::set();
    let file = raw(&stage, "old.raw");
    stage.text(&["disk", "adopt", "web", &file]);
    let link = stage.path("link.raw");
    fs::hard_link(&file, &link).expect("another name");
    for path in [&file, &link] {
        let (exit, said) = stage.failure(&["disk", "adopt", "again", path]);
        assert!(exit == Some(4) && said.contains("disk web") && said.contains("--base"), "{exit:?} {said}");
    }
    assert_eq!(stage.json(&["disk", "list"]).as_array().map(Vec::len), Some(1));
    stage.text(&["disk", "create", "other", "--base", &file]);
    stage.text(&["disk", "delete", "other", "--yes"]);
    stage.text(&["disk", "delete", "web", "--yes"]);
    stage.text(&["disk", "adopt", "again", &file]);
}
