//! What a client can make the server spend.

use crate::certificates::Certificates;
use crate::raw::Raw;
use crate::stage::{Stage, noise};
use block::{BlockDevice, ByteOffset};
use nbd::Limits;
use nbd::wire::{self, OptionHeader, ReplyStyle, Request};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

/// Bytes of TLS a server takes before it has seen a certificate.
const MAX_TLS_HANDSHAKE: usize = 32 << 10;

/// Bytes of memory this process takes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn clients_nobody_knows_take_less_than_64_kib_each() {
    let limits = Limits { handshakes: 2000, connections: 2000, ..Limits::default() };
    let stage = Stage::with_limits(4096, limits);
    let open = |count: usize| -> Vec<Raw> {
        let half = |_| {
            let mut raw = Raw::haggling(&stage);
            // as much as a client may send without being answered
            raw.send(&OptionHeader { option: wire::OPT_GO, length: 32 << 10 }.encode());
            raw.send(&vec![1; (32 << 10) - 1]);
            raw
        };
        (0..count).map(half).collect()
    };
    // what the allocator and the threads' caches take once
    let first = open(50);
    std::thread::sleep(Duration::from_millis(200));
    let before = resident();
    let more = open(250);
    std::thread::sleep(Duration::from_millis(200));
    let each = resident().saturating_sub(before) / 250;
    // the client's half of the sockets and the thread's stack are in this figure too
    assert!(each < 64 << 10, "{each} bytes each");
    drop((first, more));
}

/// As they come, so much of a greeting of TLS that never ends.
fn endless_greeting(length: usize) -> Vec<u8> {
    // a handshake message of the most its length can say, in records of the most theirs can
    let message = [&[1, 0, 0xff, 0xff][..], &vec![0; length]].concat();
    let record = |bytes: &[u8]| [&[22, 3, 1][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat();
    message.chunks(16 << 10).flat_map(record).collect()
}

fn in_the_middle_of_tls(stage: &Stage, greeting: &[u8]) -> Raw {
    let mut raw = Raw::haggling(stage);
    raw.option(wire::OPT_STARTTLS, b"");
    assert_eq!(raw.reply(), (wire::REP_ACK, Vec::new()));
    raw.send(greeting);
    raw
}

#[test]
fn clients_in_the_middle_of_tls_take_less_than_64_kib_each() {
    let tls = Certificates::new().server();
    let limits = Limits { handshakes: 2000, connections: 2000, ..Limits::default() };
    let stage = Stage::listening(4096, limits, |listener| listener.with_tls(tls));
    // all that is taken, but for a byte
    let greeting = endless_greeting(64 << 10);
    let greeting = &greeting[..MAX_TLS_HANDSHAKE - 1];
    let open = |count: usize| (0..count).map(|_| in_the_middle_of_tls(&stage, greeting)).collect::<Vec<_>>();
    let first = open(50);
    std::thread::sleep(Duration::from_millis(200));
    let before = resident();
    let more = open(250);
    std::thread::sleep(Duration::from_millis(200));
    let each = resident().saturating_sub(before) / 250;
    assert!(each < 64 << 10, "{each} bytes each");
    drop((first, more));
}

#[test]
fn a_greeting_of_tls_without_an_end_ends_the_connection() {
    let tls = Certificates::new().server();
    // longer than this test waits
    let limits = Limits { handshake_time: Duration::from_secs(600), ..Limits::default() };
    let stage = Stage::listening(4096, limits, |listener| listener.with_tls(tls));
    let mut raw = in_the_middle_of_tls(&stage, &endless_greeting(64 << 10)[..MAX_TLS_HANDSHAKE + 1]);
    let mut rest = Vec::new();
    let ended = raw.0.read_to_end(&mut rest);
    let is_closed = ended.as_ref().is_ok_and(|count| *count < 20)
        || ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(is_closed, "{ended:?} {rest:?}");
}

#[test]
fn a_reader_that_never_reads_holds_up_nobody_and_little_memory() {
    let stage = Stage::new(64 << 20);
    stage.disk.write_at(ByteOffset::ZERO, &noise(64 << 20, 1)).unwrap();
    let mut other = Raw::connected(&stage, "disk", false);
    let before = resident();
    let slow: Vec<Raw> = (0..8)
        .map(|number| {
            let style = [ReplyStyle::Simple, ReplyStyle::Structured][number % 2];
            let mut raw = Raw::in_style(&stage, "disk", style, &[]);
            let request =
                Request { flags: 0, command: wire::CMD_READ, cookie: 1, offset: 0, length: 64 << 20 };
            (0..64).for_each(|_| raw.ask(style, request, b""));
            raw
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    (0..100).for_each(|_| other.is_alive());
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 * (4 << 20), "{grown} bytes for 8 connections");
    drop(slow);
}

#[test]
fn a_writer_that_never_finishes_holds_little_memory() {
    let stage = Stage::new(64 << 20);
    let before = resident();
    let slow: Vec<Raw> = (0..16)
        .map(|_| {
            let mut raw = Raw::connected(&stage, "disk@1", false);
            raw.request(wire::CMD_WRITE, 0, 64 << 20, 1);
            raw.0.write_all(&vec![1; 8 << 20]).unwrap();
            raw
        })
        .collect();
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * (1 << 20) + (8 << 20), "{grown} bytes for 16 connections");
    drop(slow);
}
