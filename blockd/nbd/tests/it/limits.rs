//! What a client can make the server spend.

use crate::raw::Raw;
use crate::stage::{Stage, noise};
use block::{BlockDevice, ByteOffset};
use nbd::Limits;
use nbd::wire::{self, OptionHeader, ReplyStyle, Request};
use std::io::Write;
use std::time::Duration;

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
