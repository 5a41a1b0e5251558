//! The parser's sandbox: nothing gets out of it, and the real parser is in it.

use crate::mounted::{Here, Scene};
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const REDTEAM: &str = env!("CARGO_BIN_EXE_blockd-mount-redteam");

/// What an attempt said before its end, and the signal that ended it.
fn attempt(walls: &str, name: &str) -> (String, Option<i32>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let end = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut command = Command::new(REDTEAM);
    command.args([walls, name]).stdin(end()).stdout(end()).stderr(end());
    let mut child = command.spawn().unwrap();
    drop(command);
    drop(theirs);
    let status = child.wait().unwrap();
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    (said, status.signal())
}

#[test]
fn no_attempt_to_get_out_succeeds() {
    let listed = Command::new(REDTEAM).output().unwrap().stdout;
    let attempts: Vec<_> = std::str::from_utf8(&listed).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(attempts.len(), 21);
    for name in &attempts {
        let (said, signal) = attempt("all", name);
        match name.as_str() {
            // the sandbox itself works, and what it leaves works
            "nothing" => assert_eq!((said.as_str(), signal), ("done", None)),
            // asked for politely, more memory is refused; nobody is killed for asking
            "take all memory" => assert_eq!((said.as_str(), signal), ("denied", None)),
            _ => assert_eq!((said.as_str(), signal), ("", Some(libc_sigsys())), "{name}"),
        }
    }
}

/// Without walls every attempt succeeds: what the test above sees is the walls, and not attempts that fail anyway.
#[test]
fn every_attempt_succeeds_without_the_sandbox() {
    let listed = Command::new(REDTEAM).output().unwrap().stdout;
    for name in std::str::from_utf8(&listed).unwrap().lines() {
        let (said, signal) = attempt("none", name);
        // one of them writes to the same socket
        assert!(said.ends_with("done") && signal.is_none(), "{name}: {said}, {signal:?}");
    }
    assert!(fs::remove_file("/tmp/redteam").is_ok(), "one of them wrote a file");
}

fn libc_sigsys() -> i32 {
    rustix::process::Signal::SYS.as_raw()
}

/// The wall behind the list of calls holds by itself.
#[test]
fn landlock_alone_denies_files() {
    assert_eq!(attempt("landlock", "nothing"), ("done".to_owned(), None));
    for name in ["read a file", "write a file", "list a directory", "look at itself", "run a program"] {
        assert_eq!(attempt("landlock", name), ("denied".to_owned(), None), "{name}");
    }
}

#[test]
fn the_parser_of_a_mount_is_inside() {
    let scene = Scene::whole("-t ext4");
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    assert!(fs::metadata(here.at("files/0/file")).unwrap().is_file());
    let parsers = here.mount().parsers();
    assert!(!parsers.is_empty());
    for parser in parsers {
        let status = fs::read_to_string(format!("/proc/{parser}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
            line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
        };
        assert_eq!(field("Seccomp"), "2");
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Threads"), "1");
        let limits = fs::read_to_string(format!("/proc/{parser}/limits")).unwrap();
        let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(limit("Max address space").contains(" 268435456 "), "{limits}");
        assert!(limit("Max processes").contains(" 0 "), "{limits}");
        let descriptors = fs::read_dir(format!("/proc/{parser}/fd")).unwrap();
        let targets: Vec<_> =
            descriptors.map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect();
        assert_eq!(targets.len(), 3);
        assert!(targets.iter().all(|target| target.to_str().unwrap().starts_with("socket:")), "{targets:?}");
        assert!(targets.windows(2).all(|pair| pair[0] == pair[1]), "one socket: {targets:?}");
        let environment = fs::read(format!("/proc/{parser}/environ")).unwrap();
        assert!(environment.is_empty(), "{environment:?}");
    }
}
