//! Parsers that lie, die or hang: shell scripts in the place of the real one. The supervisor must outlive them all.

use block::{ByteCount, ByteRange, Kind, MemoryDisk};
use mount::Error;
use mount::parser::Parser;
use mount::parser::wire::{Question, Request};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

const SIZE: u64 = 1 << 20;
/// Says hello, then notes down the question it is asked (31 bytes with its length).
const POLITE: &str =
    r"printf '\005\000\000\000\201\003\000\000\000'; head -c 30 >/dev/null; echo asked >> NOTES;";

struct Liar {
    _dir: TempDir,
    notes: PathBuf,
    started: Result<Parser, Error>,
}

impl Liar {
    fn new(script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let (notes, executable) = (dir.path().join("notes"), dir.path().join("parser"));
        let script = script.replace("NOTES", notes.to_str().unwrap());
        fs::write(&executable, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o700)).unwrap();
        let started = Parser::start(Arc::new(MemoryDisk::new(ByteCount::new(SIZE))), &executable);
        Self { _dir: dir, notes, started }
    }

    fn ask(&self, ino: u64) -> Error {
        let volume = ByteRange::between(0, SIZE);
        let request = Request { volume, question: Question::Node { ino } };
        let parser = self.started.as_ref().unwrap_or_else(|error| panic!("{error}"));
        parser.ask(&request).unwrap_err()
    }

    fn times_asked(&self) -> usize {
        fs::read_to_string(&self.notes).map_or(0, |notes| notes.lines().count())
    }
}

#[test]
fn a_question_that_ends_two_parsers_is_not_asked_a_third_time() {
    let liar = Liar::new(POLITE);
    for _ in 0..3 {
        let error = liar.ask(2);
        assert!(matches!(error, Error::ParserLost { .. }), "{error}");
        assert_eq!((error.kind(), liar.times_asked()), (Kind::Io, 2));
    }
    // another question may fare better
    liar.ask(3);
    assert_eq!(liar.times_asked(), 4);
}

#[test]
fn what_breaks_the_protocol_is_asked_once() {
    let lies = [
        // a frame longer than any
        r"printf '\377\377\377\377'; sleep 60",
        // a message of no type
        r"printf '\001\000\000\000\001'; sleep 60",
        // a read longer than allowed, and one of nothing
        r"printf '\015\000\000\000\203\000\000\000\000\000\000\000\000\001\000\004\000'; sleep 60",
        r"printf '\015\000\000\000\203\000\000\000\000\000\000\000\000\000\000\000\000'; sleep 60",
        // an answer to another question
        r"printf '\003\000\000\000\204\004\000'; sleep 60",
        // hello again
        r"printf '\005\000\000\000\201\003\000\000\000'; sleep 60",
    ];
    for lie in lies {
        let liar = Liar::new(&format!("{POLITE} {lie}"));
        for _ in 0..2 {
            let error = liar.ask(2);
            assert!(matches!(error, Error::ParserLost { .. }), "{lie}: {error}");
            assert_eq!(liar.times_asked(), 1, "{lie}");
        }
    }
}

#[test]
fn a_read_outside_the_disk_is_refused_and_no_more() {
    // at 2^62; then a failure of the parser's own, kind 7 (corrupt), text "x"
    let liar = Liar::new(&format!(
        r"{POLITE} printf '\015\000\000\000\203\000\000\000\000\000\000\000\100\001\000\000\000'; head -c 5 >/dev/null
        printf '\005\000\000\000\205\007\001\000x'; sleep 60"
    ));
    let error = liar.ask(2);
    assert_eq!((error.kind(), error.to_string()), (Kind::Corrupt, "x".to_owned()));
}

#[test]
fn a_parser_that_thinks_for_ever_is_ended() {
    let liar = Liar::new(&format!("{POLITE} sleep 600"));
    let error = liar.ask(2);
    assert!(error.to_string().contains("took too long"), "{error}");
    // one that hangs is replaced, and the second may think for long
    assert_eq!(liar.times_asked(), 2);
}

#[test]
fn a_parser_that_does_not_start_is_not_used() {
    let cases = [
        (r"printf '\005\000\000\000\201\001\000\000\000'; sleep 60", "another version"),
        (r"printf '\004\000\000\000\202\001\000x'; sleep 60", "cannot be sandboxed: x"),
        ("exit 1", "died"),
    ];
    for (script, told) in cases {
        let Err(error) = Liar::new(script).started else { panic!("{script}") };
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(error.kind(), Kind::Unavailable);
    }
}
