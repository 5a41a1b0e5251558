//! Requests about what is far away, beside others of the same connection.

use crate::raw::Raw;
use crate::stage::{Stage, noise, run};
use block::{BlockDevice, ByteOffset};
use nbd::wire::{self, Errno, ReplyStyle, Request, SimpleReply};
use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;

/// A disk of noise whose blocks from 16 to 31 are far away, and its content.
fn stage() -> (Stage, Vec<u8>) {
    let stage = Stage::new(BLOCKS * BLOCK);
    let content = noise((BLOCKS * BLOCK) as usize, 5);
    stage.disk.write_at(ByteOffset::ZERO, &content).unwrap();
    stage.disk.move_away(16 * BLOCK, 32 * BLOCK);
    (stage, content)
}

fn request(command: u16, cookie: u64, offset: u64, length: u64) -> Request {
    Request { flags: 0, command, cookie, offset, length }
}

/// Writes take a flag where headers are extended.
fn write(raw: &mut Raw, style: ReplyStyle, cookie: u64, offset: u64, bytes: &[u8]) {
    let flags = if style == ReplyStyle::Extended { wire::CMD_FLAG_PAYLOAD_LEN } else { 0 };
    let request = request(wire::CMD_WRITE, cookie, offset, bytes.len() as u64);
    raw.ask(style, Request { flags, ..request }, bytes);
}

fn wait_until(what: impl Fn() -> bool) {
    let tries = (0..10_000).take_while(|_| !what()).inspect(|_| std::thread::sleep(Duration::from_millis(2)));
    assert!(tries.count() < 10_000, "it does not happen");
}

/// A whole reply of a read or of a command without data: cookie, error or none, data.
fn reply(raw: &mut Raw, style: ReplyStyle, lengths: &[u64]) -> (u64, Errno, Vec<u8>) {
    let magic = SimpleReply { errno: Errno::NONE, cookie: 0 }.encode();
    if raw.peek::<4>() == magic[..4] {
        let SimpleReply { errno, cookie } = raw.simple();
        let has_data = style == ReplyStyle::Simple && errno == Errno::NONE;
        let mut data = vec![0; if has_data { lengths[cookie as usize] as usize } else { 0 }];
        raw.0.read_exact(&mut data).unwrap();
        return (cookie, errno, data);
    }
    let (mut data, mut errno) = (Vec::new(), Errno::NONE);
    loop {
        let chunk = raw.chunk(style);
        match chunk.kind {
            wire::REPLY_OFFSET_DATA => data.extend_from_slice(&chunk.payload[8..]),
            wire::REPLY_NONE => {}
            _ => errno = chunk.errno(),
        }
        if chunk.is_last {
            return (chunk.cookie, errno, data);
        }
    }
}

#[test]
fn what_is_far_away_holds_up_nothing_else_of_its_connection() {
    for style in [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended] {
        let (stage, mut content) = stage();
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        // by cookie
        let lengths = [40 * BLOCK, BLOCK, 0, BLOCK, 0, 0, 3 * BLOCK];
        raw.ask(style, request(wire::CMD_READ, 0, 8 * BLOCK, lengths[0]), &[]);
        raw.ask(style, request(wire::CMD_READ, 1, 20 * BLOCK, BLOCK), &[]);
        // a part of a block that is far away
        write(&mut raw, style, 2, 24 * BLOCK + 7, b"fives");
        wait_until(|| stage.disk.far_reads.load(Ordering::SeqCst) == 3);
        // all of these are answered meanwhile
        raw.ask(style, request(wire::CMD_READ, 3, 40 * BLOCK, BLOCK), &[]);
        write(&mut raw, style, 4, 17 * BLOCK, &[9; BLOCK as usize]);
        raw.ask(style, request(wire::CMD_FLUSH, 5, 0, 0), &[]);
        raw.ask(style, request(wire::CMD_READ, 6, 0, lengths[6]), &[]);
        for cookie in [3, 4, 5, 6] {
            let (found, errno, data) = reply(&mut raw, style, &lengths);
            assert_eq!((found, errno), (cookie, Errno::NONE), "{style:?}");
            let at = [40 * BLOCK, 0, 0, 0][cookie as usize - 3] as usize;
            assert!(data[..] == content[at..at + lengths[cookie as usize] as usize]);
        }
        stage.disk.come_back(false);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (cookie, errno, mut data) = reply(&mut raw, style, &lengths);
            assert_eq!(errno, Errno::NONE);
            if cookie == 0 {
                // what was written while it waited may show or not
                let written = (9 * BLOCK) as usize..(10 * BLOCK) as usize;
                data[written.clone()].copy_from_slice(&content[(17 * BLOCK) as usize..][..BLOCK as usize]);
                let fives = (16 * BLOCK + 7) as usize;
                data[fives..fives + 5].copy_from_slice(&content[(24 * BLOCK + 7) as usize..][..5]);
                assert!(data[..] == content[(8 * BLOCK) as usize..(48 * BLOCK) as usize]);
            } else if cookie == 1 {
                assert!(data[..] == content[(20 * BLOCK) as usize..(21 * BLOCK) as usize]);
            }
            seen.push(cookie);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        content[(17 * BLOCK) as usize..(18 * BLOCK) as usize].fill(9);
        content[(24 * BLOCK + 7) as usize..][..5].copy_from_slice(b"fives");
        assert!(stage.disk.contents() == content);
    }
}

#[test]
fn what_is_far_away_and_lost_fails_what_needs_it_and_no_more() {
    let (stage, content) = stage();
    let style = ReplyStyle::Structured;
    let mut raw = Raw::connected(&stage, "disk", true);
    let lengths = [BLOCK; 3];
    raw.ask(style, request(wire::CMD_READ, 0, 20 * BLOCK, BLOCK), &[]);
    write(&mut raw, style, 1, 24 * BLOCK + 7, b"fives");
    wait_until(|| stage.disk.far_reads.load(Ordering::SeqCst) == 2);
    stage.disk.come_back(true);
    let mut failed: Vec<u64> = (0..2)
        .map(|_| {
            let (cookie, errno, _) = reply(&mut raw, style, &lengths);
            assert_eq!(errno, Errno::IO);
            cookie
        })
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, [0, 1]);
    raw.ask(style, request(wire::CMD_READ, 2, 0, BLOCK), &[]);
    assert!(reply(&mut raw, style, &lengths).2[..] == content[..BLOCK as usize]);
    assert!(stage.disk.contents() == content, "nothing of the write that failed is there");
}

/// As many as any client has in flight wait; one more is not looked at, and nothing is lost when all come.
#[test]
fn what_waits_is_bounded_and_all_of_it_is_answered() {
    let (stage, content) = stage();
    let style = ReplyStyle::Structured;
    let mut raw = Raw::connected(&stage, "disk", true);
    let count = 400;
    for cookie in 0..count {
        raw.ask(style, request(wire::CMD_READ, cookie, (16 + cookie % 16) * BLOCK, BLOCK), &[]);
    }
    wait_until(|| stage.disk.far_reads.load(Ordering::SeqCst) > 0);
    stage.disk.come_back(false);
    let mut seen = vec![false; count as usize];
    for _ in 0..count {
        let (cookie, errno, data) = reply(&mut raw, style, &[]);
        let at = ((16 + cookie % 16) * BLOCK) as usize;
        assert!(errno == Errno::NONE && data[..] == content[at..at + BLOCK as usize]);
        assert!(!std::mem::replace(&mut seen[cookie as usize], true));
    }
}

/// libnbd as the judge: two reads on one connection, the one that is far away answered after the other.
#[test]
fn a_client_of_others_goes_on_too() {
    let (stage, _) = stage();
    let script = format!(
        "h.connect_uri({:?})
far = nbd.Buffer(4096); near = nbd.Buffer(4096)
a = h.aio_pread(far, 20 * 4096)
b = h.aio_pread(near, 0)
while not h.aio_command_completed(b): h.poll(-1)
assert not h.aio_command_completed(a)
print('near first')
h.aio_disconnect(0)
while h.aio_in_flight() > 1: h.poll(10)
",
        stage.uri("disk").to_string()
    );
    let disk = stage.disk.clone();
    let back = std::thread::spawn(move || {
        wait_until(|| disk.far_reads.load(Ordering::SeqCst) == 1);
        std::thread::sleep(Duration::from_millis(300));
        disk.come_back(false);
    });
    assert!(run("nbdsh", &["-c", &script]).contains("near first"));
    back.join().unwrap();
}
