use super::*;
use block::linux::{LinuxMedia, SystemClock};
use std::path::Path;

fn media(dir: &Path) -> Arc<dyn Media> {
    Arc::new(LinuxMedia::new(dir, dir).expect("media"))
}

/// The audit log in a directory of a test.
pub fn of_a_test(dir: &Path) -> Arc<Audit> {
    Arc::new(open(dir).0)
}

fn open(dir: &Path) -> (Audit, Option<String>) {
    Audit::open(media(dir), Arc::new(SystemClock)).expect("a log")
}

fn said(action: &str) -> Said {
    Said { who: "user 0".to_owned(), action: action.to_owned(), about: About::new() }
}

fn write(audit: &Audit, count: u64) {
    for number in 0..count {
        audit.write(&said(&format!("change {number}")), AuditOutcome::Done, None, None).expect("written");
    }
}

/// The file of a log with one segment.
fn file(dir: &Path) -> std::path::PathBuf {
    dir.join(path(1))
}

/// Its lines, and the zeros behind them.
fn lines(dir: &Path) -> (Vec<Vec<u8>>, usize) {
    let bytes = std::fs::read(file(dir)).expect("a segment");
    let lines: Vec<Vec<u8>> = bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let (zeros, lines) = lines.split_last().expect("zeros");
    (lines.to_vec(), zeros.len())
}

fn put(dir: &Path, lines: &[Vec<u8>], zeros: usize) {
    let mut bytes = lines.concat();
    bytes.resize(bytes.len() + zeros, 0);
    std::fs::write(file(dir), bytes).expect("written");
}

#[test]
fn entries_are_found_again_in_pages_and_the_chain_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    let (audit, damage) = open(dir.path());
    assert_eq!(damage, None);
    write(&audit, 25);
    drop(audit);
    let (audit, damage) = open(dir.path());
    assert_eq!(damage, None);
    write(&audit, 5);
    let verified = audit.verify(None).expect("verified");
    assert_eq!((verified.ok, verified.entries, verified.problems), (true, 30, Vec::new()));
    let page = |after, limit| {
        let query = AuditQuery { after, limit: Some(limit) };
        audit.entries(&query).expect("a page").iter().map(|entry| entry.number).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3), [28, 29, 30]);
    assert_eq!(page(Some(7), 2), [8, 9]);
    assert!(page(Some(30), 2).is_empty());
    let noted = audit.head();
    write(&audit, 1);
    assert!(audit.verify(Some(&noted)).expect("verified").ok);
    let other = noted.replace(":", ":0");
    assert!(!audit.verify(Some(&other)).expect("verified").ok, "a head that never was");
    assert_eq!(audit.verify(Some("x")).err().map(|error| error.kind()), Some(Kind::Invalid));
}

/// Whatever is done to a log that lies still is found when it is opened, and named.
#[test]
fn a_log_that_was_tampered_with_is_told() {
    type Tamper = fn(&mut Vec<Vec<u8>>);
    let tampers: [(&str, Tamper); 8] = [
        ("a flipped byte", |lines| lines[3][90] ^= 1),
        ("a flipped byte of the last", |lines| lines[9][90] ^= 1),
        ("a flipped hash", |lines| lines[3][5] ^= 1),
        ("two in another order", |lines| lines.swap(3, 4)),
        ("one taken out", |lines| drop(lines.remove(3))),
        ("the end cut off", |lines| lines.truncate(8)),
        ("all cut off", |lines| lines.clear()),
        ("one written anew, with its hash", |lines| {
            let mut entry = chain::parse(lines[3].trim_ascii_end()).expect("an entry");
            entry.who = "user 7".to_owned();
            entry.hash.clear();
            lines[3] = chain::line(&entry).expect("a line").0;
        }),
    ];
    for (what, tamper) in tampers {
        let dir = tempfile::tempdir().expect("a directory");
        write(&open(dir.path()).0, 10);
        let (mut changed, zeros) = lines(dir.path());
        tamper(&mut changed);
        put(dir.path(), &changed, zeros);
        let (audit, damage) = open(dir.path());
        assert!(damage.is_some(), "{what}");
        write(&audit, 2);
        let verified = audit.verify(None).expect("verified");
        assert!(!verified.ok && !verified.problems.is_empty(), "{what}: {verified:?}");
        drop(audit);
        let (audit, damage) = open(dir.path());
        assert_eq!(damage, None, "{what}: told once, in an entry");
        let told = audit.entries(&AuditQuery::default()).expect("entries");
        assert!(told.iter().any(|entry| entry.action == "audit log damaged"), "{what}");
        assert!(!audit.verify(None).expect("verified").ok, "{what}: found for ever");
    }
}

/// No single bit of a log can be changed unseen, the zeros behind it included.
#[test]
fn no_flipped_bit_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    write(&open(dir.path()).0, 3);
    let bytes = std::fs::read(file(dir.path())).expect("a segment");
    let whole = chain::walk(&bytes, Link::default(), &mut |_| {});
    assert_eq!((whole.last.number, whole.stop), (3, None));
    for at in 0..whole.length + 20 {
        for bit in 0..8 {
            let mut changed = bytes[..whole.length + 20].to_vec();
            changed[at] ^= 1 << bit;
            let walked = chain::walk(&changed, Link::default(), &mut |_| {});
            assert!(walked.stop.is_some(), "bit {bit} of byte {at}");
        }
    }
}

/// Also behind the back of a daemon that writes on.
#[test]
fn a_log_that_is_tampered_with_while_it_is_open_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (audit, _) = open(dir.path());
    write(&audit, 10);
    let (mut changed, zeros) = lines(dir.path());
    changed.truncate(6);
    put(dir.path(), &changed, zeros);
    let verified = audit.verify(None).expect("verified");
    assert!(verified.problems.iter().any(|problem| problem.contains("entry 10")), "{verified:?}");
}

#[test]
fn an_entry_that_a_power_cut_left_half_is_not_missed() {
    for kept in [0, 1, 70, 100] {
        let dir = tempfile::tempdir().expect("a directory");
        write(&open(dir.path()).0, 5);
        let (mut left, zeros) = lines(dir.path());
        // a sixth that was written and not synced, so that neither it nor the note of it is there
        let half: Vec<u8> =
            left[4].iter().map(|byte| byte ^ 3).filter(|&byte| byte != b'\n').take(kept).collect();
        left.push(half);
        put(dir.path(), &left, zeros);
        let (audit, damage) = open(dir.path());
        assert_eq!(damage, None, "{kept}");
        write(&audit, 1);
        let verified = audit.verify(None).expect("verified");
        assert_eq!((verified.ok, verified.entries), (true, 6), "{kept}: {verified:?}");
    }
}

#[test]
fn a_full_segment_is_followed_by_another_and_a_lost_one_is_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (audit, _) = open(dir.path());
    let big = "x".repeat(7000);
    let about = About::from([("body".to_owned(), Value::from(big))]);
    let entry = Said { about, ..said("large") };
    while segments(&*audit.media).expect("listed").len() < 3 {
        let mut end = lock(&audit.end);
        let number = end.last.number + 1;
        let sealed = AuditEntry {
            number,
            time: String::new(),
            who: entry.who.clone(),
            action: entry.action.clone(),
            outcome: AuditOutcome::Done,
            of: None,
            about: entry.about.clone(),
            error: None,
            previous: end.last.hash.clone(),
            hash: String::new(),
        };
        let (line, hash) = chain::line(&sealed).expect("a line");
        audit.append(&mut end, &line, Link { number, hash }).expect("written");
    }
    let verified = audit.verify(None).expect("verified");
    assert!(verified.ok, "{:?}", verified.problems);
    let firsts = segments(&*audit.media).expect("listed");
    let query = AuditQuery { after: Some(firsts[1] - 2), limit: Some(3) };
    let across: Vec<u64> = audit.entries(&query).expect("a page").iter().map(|entry| entry.number).collect();
    assert_eq!(across, [firsts[1] - 1, firsts[1], firsts[1] + 1]);
    audit.media.remove(&path(firsts[1])).expect("removed");
    let verified = audit.verify(None).expect("verified");
    assert!(verified.problems[0].contains("are missing"), "{verified:?}");
}

#[test]
fn what_is_too_long_is_told_by_its_hash() {
    let dir = tempfile::tempdir().expect("a directory");
    let (audit, _) = open(dir.path());
    let long = Value::from("x".repeat(100_000));
    let about = About::from([("body".to_owned(), long.clone()), ("disk".to_owned(), Value::from("web"))]);
    let error = "é".repeat(5000);
    audit.write(&Said { about, ..said("long") }, AuditOutcome::Failed, None, Some(&error)).expect("written");
    let entry = audit.entries(&AuditQuery::default()).expect("one").remove(0);
    assert_eq!(entry.about["disk"], "web");
    assert_eq!(entry.about["body"]["sha256"], hash(long.to_string().as_bytes()));
    assert!(entry.error.is_some_and(|error| error.len() < 2010 && error.ends_with('…')));
}
