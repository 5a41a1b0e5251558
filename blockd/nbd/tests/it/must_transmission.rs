//! What the protocol text says a server MUST do in the data phase: a test for each, named after it.

use crate::raw::Raw;
use crate::stage::{Stage, noise};
use block::{BlockDevice, ByteOffset};
use nbd::wire::{self, Errno, ReplyStyle, Request, SimpleReply};
use std::sync::atomic::Ordering;

const SIZE: u64 = 4 << 20;
const STYLES: [ReplyStyle; 3] = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended];

fn request(command: u16, offset: u64, length: u64) -> Request {
    Request { flags: 0, command, cookie: 0x0123_4567_89ab_cdef, offset, length }
}

fn with(flags: u16, request: Request) -> Request {
    Request { flags: flags | request.flags, ..request }
}

/// A write as this style wants it.
fn write(style: ReplyStyle, offset: u64, length: u64) -> Request {
    let payload = if style == ReplyStyle::Extended { wire::CMD_FLAG_PAYLOAD_LEN } else { 0 };
    with(payload, request(wire::CMD_WRITE, offset, length))
}

/// The outcome of a request that is answered by success or failure only.
fn outcome(raw: &mut Raw, style: ReplyStyle, request: Request, payload: &[u8]) -> Errno {
    raw.ask(style, request, payload);
    let is_simple = style == ReplyStyle::Simple
        || style == ReplyStyle::Structured
            && !matches!(request.command, wire::CMD_READ | wire::CMD_BLOCK_STATUS);
    let magic: [u8; 4] = raw.peek();
    if is_simple && magic == wire::SIMPLE_REPLY_MAGIC.to_be_bytes() {
        let reply = raw.simple();
        assert_eq!(reply.cookie, request.cookie);
        return reply.errno;
    }
    let chunk = raw.chunk(style);
    assert!(chunk.is_last && chunk.cookie == request.cookie);
    assert_eq!(chunk.offset, (style == ReplyStyle::Extended).then_some(request.offset));
    if chunk.kind == wire::REPLY_NONE { Errno::NONE } else { chunk.errno() }
}

/// The bytes of a read, whatever its style.
fn read(raw: &mut Raw, style: ReplyStyle, request: Request) -> Vec<u8> {
    raw.ask(style, request, b"");
    let mut bytes = vec![0xee; request.length as usize];
    if style == ReplyStyle::Simple {
        assert_eq!(raw.simple(), SimpleReply { errno: Errno::NONE, cookie: request.cookie });
        std::io::Read::read_exact(&mut raw.0, &mut bytes).unwrap();
        return bytes;
    }
    for chunk in raw.chunks(style) {
        let place =
            |payload: &[u8]| (u64::from_be_bytes(payload[..8].try_into().unwrap()) - request.offset) as usize;
        match chunk.kind {
            wire::REPLY_OFFSET_DATA => {
                let at = place(&chunk.payload);
                bytes[at..at + chunk.payload.len() - 8].copy_from_slice(&chunk.payload[8..]);
            }
            wire::REPLY_OFFSET_HOLE => {
                let count = u32::from_be_bytes(chunk.payload[8..].try_into().unwrap()) as usize;
                bytes[place(&chunk.payload)..][..count].fill(0);
            }
            kind => assert_eq!(kind, wire::REPLY_NONE),
        }
    }
    bytes
}

#[test]
fn without_negotiation_all_replies_must_be_simple() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::connected(&stage, "disk", false);
    for command in
        [wire::CMD_FLUSH, wire::CMD_TRIM, wire::CMD_CACHE, wire::CMD_WRITE_ZEROES, wire::CMD_READ, 99]
    {
        raw.ask(ReplyStyle::Simple, request(command, 0, 0), b"");
        raw.simple();
    }
    raw.is_alive();
}

#[test]
fn with_structured_replies_read_must_never_be_answered_simply_even_if_it_fails() {
    let stage = Stage::new(SIZE);
    let style = ReplyStyle::Structured;
    let mut raw = Raw::connected(&stage, "disk", true);
    raw.ask(style, with(0x4000, request(wire::CMD_READ, 0, 512)), b"");
    assert_eq!(raw.chunk(style).errno(), Errno::INVALID);
    raw.ask(style, request(wire::CMD_READ, SIZE, 1), b"");
    assert_eq!(raw.chunk(style).errno(), Errno::INVALID);
}

#[test]
fn with_extended_headers_every_reply_must_be_extended_and_repeat_cookie_and_offset() {
    let stage = Stage::new(SIZE);
    let style = ReplyStyle::Extended;
    let mut raw = Raw::in_style(&stage, "disk", style, &[wire::BASE_ALLOCATION]);
    assert_eq!(outcome(&mut raw, style, write(style, 4096, 4), b"data"), Errno::NONE);
    for command in [wire::CMD_TRIM, wire::CMD_CACHE, wire::CMD_WRITE_ZEROES] {
        assert_eq!(outcome(&mut raw, style, request(command, 4096, 4096), b""), Errno::NONE);
    }
    assert_eq!(outcome(&mut raw, style, request(wire::CMD_FLUSH, 0, 0), b""), Errno::NONE);
    assert_eq!(outcome(&mut raw, style, request(99, 7, 7), b""), Errno::INVALID);
    for command in [wire::CMD_READ, wire::CMD_BLOCK_STATUS] {
        raw.ask(style, request(command, 8192, 8192), b"");
        for chunk in raw.chunks(style) {
            assert_eq!((chunk.cookie, chunk.offset), (request(0, 0, 0).cookie, Some(8192)));
        }
    }
}

#[test]
fn data_must_read_back_in_every_style_at_any_offset_and_length() {
    let stage = Stage::new(SIZE);
    let all = noise(SIZE as usize, 3);
    stage.disk.write_at(ByteOffset::ZERO, &all).unwrap();
    for style in STYLES {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for (offset, length) in [(0, 1), (511, 4097), (4095, 65_536), (1, 3 << 20), (SIZE - 1, 1), (0, SIZE)]
        {
            for flags in [0, wire::CMD_FLAG_DF] {
                let flags = if style == ReplyStyle::Simple { 0 } else { flags };
                let found = read(&mut raw, style, with(flags, request(wire::CMD_READ, offset, length)));
                assert!(found == all[offset as usize..][..length as usize], "{style:?} {offset} {length}");
            }
        }
    }
}

#[test]
fn writes_of_every_length_must_arrive_whole() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        let mut model = vec![0; SIZE as usize];
        for (seed, (offset, length)) in
            [(0u64, 1u64), (4095, 2), (1000, 300_000), (262_100, 262_116), (77, 3 << 20), (0, SIZE)]
                .iter()
                .enumerate()
        {
            let bytes = noise(*length as usize, seed as u64);
            assert_eq!(outcome(&mut raw, style, write(style, *offset, *length), &bytes), Errno::NONE);
            model[*offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            assert!(stage.disk.contents() == model, "{style:?} {offset} {length}");
        }
    }
}

#[test]
fn a_read_with_df_must_be_one_content_chunk_with_its_holes_spelled_out() {
    let stage = Stage::new(SIZE);
    stage.disk.write_at(ByteOffset::new(1 << 20), &noise(4096, 1)).unwrap();
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for length in [65_536, SIZE] {
            raw.ask(style, with(wire::CMD_FLAG_DF, request(wire::CMD_READ, 0, length)), b"");
            let chunks = raw.chunks(style);
            let content = chunks.iter().filter(|chunk| chunk.kind != wire::REPLY_NONE);
            let lengths: Vec<_> = content.map(|chunk| (chunk.kind, chunk.payload.len() as u64)).collect();
            assert_eq!(lengths, [(wire::REPLY_OFFSET_DATA, 8 + length)]);
        }
    }
}

#[test]
fn a_failure_in_a_chunk_already_begun_must_pad_it_and_send_an_error_chunk() {
    let stage = Stage::new(SIZE);
    stage.disk.write_at(ByteOffset::ZERO, &[7; SIZE as usize]).unwrap();
    stage.disk.damage(2 << 20, (2 << 20) + 1);
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        raw.ask(style, with(wire::CMD_FLAG_DF, request(wire::CMD_READ, 0, SIZE)), b"");
        let chunks = raw.chunks(style);
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[0].payload.len() as u64, 8 + SIZE);
        assert_eq!((chunks[0].payload[8], chunks[0].payload[8 + SIZE as usize - 1]), (7, 0));
        assert_eq!(chunks[1].errno(), Errno::IO);
        assert!(chunks[1].text().contains("layer 3"), "{}", chunks[1].text());
        assert_eq!(read(&mut raw, style, request(wire::CMD_READ, 0, 512)), [7; 512]);
    }
}

#[test]
fn a_failure_after_a_simple_reply_has_begun_must_disconnect_at_once() {
    let stage = Stage::new(SIZE);
    stage.disk.write_at(ByteOffset::ZERO, &[7; SIZE as usize]).unwrap();
    stage.disk.damage(2 << 20, (2 << 20) + 1);
    let mut raw = Raw::connected(&stage, "disk", false);
    // one that fails at its start is told
    raw.request(wire::CMD_READ, 2 << 20, 2 << 20, 1);
    assert_eq!(raw.simple().errno, Errno::IO);
    raw.request(wire::CMD_READ, 0, SIZE, 2);
    assert_eq!(raw.simple().errno, Errno::NONE);
    let mut rest = Vec::new();
    let ended = std::io::Read::read_to_end(&mut raw.0, &mut rest);
    assert!(ended.is_ok() && rest.len() < SIZE as usize, "{} bytes", rest.len());
}

#[test]
fn flush_must_not_be_answered_before_the_device_has_flushed() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        assert_eq!(outcome(&mut raw, style, write(style, 0, 4), b"data"), Errno::NONE);
        assert_eq!(stage.disk.flushes.load(Ordering::SeqCst), 0);
        assert_eq!(outcome(&mut raw, style, request(wire::CMD_FLUSH, 0, 0), b""), Errno::NONE);
        assert_eq!(stage.disk.flushes.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn fua_must_be_accepted_on_every_command_and_persist_before_the_reply() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        let fua = wire::CMD_FLAG_FUA;
        let flushes = || stage.disk.flushes.load(Ordering::SeqCst);
        for (count, length) in [(1, 4096), (2, 300_000)] {
            let bytes = noise(length, 1);
            assert_eq!(
                outcome(&mut raw, style, with(fua, write(style, 0, length as u64)), &bytes),
                Errno::NONE
            );
            assert_eq!(flushes(), count);
        }
        for command in [wire::CMD_TRIM, wire::CMD_WRITE_ZEROES, wire::CMD_CACHE] {
            assert_eq!(outcome(&mut raw, style, with(fua, request(command, 0, 4096)), b""), Errno::NONE);
        }
        assert_eq!(flushes(), 4);
        assert_eq!(outcome(&mut raw, style, with(fua, request(wire::CMD_FLUSH, 0, 0)), b""), Errno::NONE);
        assert_eq!(read(&mut raw, style, with(fua, request(wire::CMD_READ, 0, 512))), [0; 512]);
    }
}

#[test]
fn a_read_only_export_must_refuse_every_write_with_eperm() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk@1", style, &[]);
        let long = noise(300_000, 1);
        assert_eq!(outcome(&mut raw, style, write(style, 0, 4), b"data"), Errno::PERMISSION);
        assert_eq!(outcome(&mut raw, style, write(style, 0, 300_000), &long), Errno::PERMISSION);
        for command in [wire::CMD_TRIM, wire::CMD_WRITE_ZEROES] {
            assert_eq!(outcome(&mut raw, style, request(command, 0, 4096), b""), Errno::PERMISSION);
        }
        assert_eq!(outcome(&mut raw, style, request(wire::CMD_FLUSH, 0, 0), b""), Errno::NONE);
        assert!(stage.disk.contents().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn unknown_commands_and_flags_must_be_refused_and_the_stream_kept() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for command in [8, 99, u16::MAX] {
            assert_eq!(outcome(&mut raw, style, request(command, 0, 4096), b""), Errno::INVALID);
        }
        for flag in [wire::CMD_FLAG_DF, wire::CMD_FLAG_REQ_ONE, wire::CMD_FLAG_FAST_ZERO, 1 << 6, 1 << 15] {
            assert_eq!(outcome(&mut raw, style, with(flag, write(style, 0, 4)), b"data"), Errno::INVALID);
            assert_eq!(
                outcome(&mut raw, style, with(flag, request(wire::CMD_TRIM, 0, 4096)), b""),
                Errno::INVALID
            );
        }
        assert_eq!(
            outcome(&mut raw, style, with(wire::CMD_FLAG_DF, request(wire::CMD_WRITE_ZEROES, 0, 1)), b""),
            Errno::INVALID
        );
        assert_eq!(read(&mut raw, style, request(wire::CMD_READ, 0, 4)), [0; 4]);
    }
}

#[test]
fn requests_past_the_end_must_fail_as_the_text_says_whatever_the_overflow() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (1 << 63, 1), (u64::MAX, 1), (u64::MAX, 4096)] {
            assert_eq!(
                outcome(&mut raw, style, write(style, offset, length), &noise(length as usize, 1)),
                Errno::NO_SPACE
            );
            assert_eq!(
                outcome(&mut raw, style, request(wire::CMD_WRITE_ZEROES, offset, length), b""),
                Errno::NO_SPACE
            );
            for command in [wire::CMD_READ, wire::CMD_TRIM, wire::CMD_CACHE] {
                assert_eq!(outcome(&mut raw, style, request(command, offset, length), b""), Errno::INVALID);
            }
        }
        let long = noise(300_000, 1);
        assert_eq!(outcome(&mut raw, style, write(style, SIZE - 1, 300_000), &long), Errno::NO_SPACE);
        assert_eq!(read(&mut raw, style, request(wire::CMD_READ, 0, 4)), [0; 4]);
    }
}

#[test]
fn write_zeroes_must_read_back_as_zeroes_and_no_hole_must_be_supported() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        stage.disk.write_at(ByteOffset::ZERO, &[7; SIZE as usize]).unwrap();
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for (flags, offset) in
            [(0, 1), (wire::CMD_FLAG_NO_HOLE, 100_001), (wire::CMD_FLAG_FAST_ZERO, 200_001)]
        {
            let zero = with(flags, request(wire::CMD_WRITE_ZEROES, offset, 70_000));
            assert_eq!(outcome(&mut raw, style, zero, b""), Errno::NONE);
            assert_eq!(
                read(&mut raw, style, request(wire::CMD_READ, offset - 1, 70_002))[1..70_001],
                [0; 70_000]
            );
        }
    }
}

#[test]
fn fast_zero_must_fail_quickly_with_enotsup_unless_it_is_fast_and_change_nothing() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        stage.disk.write_at(ByteOffset::ZERO, &[7; 4096]).unwrap();
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        let flags = wire::CMD_FLAG_FAST_ZERO | wire::CMD_FLAG_NO_HOLE;
        let zero = with(flags, request(wire::CMD_WRITE_ZEROES, 0, 4096));
        assert_eq!(outcome(&mut raw, style, zero, b""), Errno::NOT_FAST);
        assert_eq!(stage.disk.contents()[..4096], [7; 4096]);
        // and without the flag it must not fail so
        let zero = with(wire::CMD_FLAG_NO_HOLE, request(wire::CMD_WRITE_ZEROES, 0, 4096));
        assert_eq!(outcome(&mut raw, style, zero, b""), Errno::NONE);
    }
}

/// Context, lengths and flags of every status chunk of a reply.
fn status(raw: &mut Raw, style: ReplyStyle, request: Request, payload: &[u8]) -> Vec<(u32, Vec<(u64, u64)>)> {
    raw.ask(style, request, payload);
    let words = |bytes: &[u8]| {
        bytes.chunks(4).map(|b| u64::from(u32::from_be_bytes(b.try_into().unwrap()))).collect::<Vec<_>>()
    };
    let chunks = raw.chunks(style);
    let parsed = chunks.iter().map(|chunk| {
        let numbers = words(&chunk.payload);
        if style == ReplyStyle::Extended {
            assert_eq!(chunk.kind, wire::REPLY_BLOCK_STATUS_EXT);
            assert_eq!(numbers[1] as usize * 16 + 8, chunk.payload.len(), "descriptor count");
            let wide = numbers[2..].chunks(4).map(|w| (w[0] << 32 | w[1], w[2] << 32 | w[3]));
            return (numbers[0] as u32, wide.collect());
        }
        assert_eq!(chunk.kind, wire::REPLY_BLOCK_STATUS);
        (numbers[0] as u32, numbers[1..].chunks(2).map(|w| (w[0], w[1])).collect())
    });
    parsed.collect()
}

#[test]
fn block_status_must_answer_each_selected_context_in_exactly_one_chunk() {
    let stage = Stage::new(SIZE);
    stage.disk.write_at(ByteOffset::new(4096), &[7; 4096]).unwrap();
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "parity", style, &["x-stage:parity", wire::BASE_ALLOCATION]);
        let found = status(&mut raw, style, request(wire::CMD_BLOCK_STATUS, 0, SIZE), b"");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].1, [(4096, 3), (4096, 0), (SIZE - 8192, 3)]);
        assert_eq!(found[0].1[..2], [(4096, 0), (4096, 1)]);
        let total: u64 = found[0].1.iter().map(|(length, _)| length).sum();
        assert_eq!(total, SIZE);
    }
}

#[test]
fn req_one_must_be_answered_by_one_extent_no_longer_than_asked() {
    let stage = Stage::new(SIZE);
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "parity", style, &["x-stage:parity", wire::BASE_ALLOCATION]);
        let one = with(wire::CMD_FLAG_REQ_ONE, request(wire::CMD_BLOCK_STATUS, 512, 10_000));
        let found = status(&mut raw, style, one, b"");
        assert_eq!((found[0].1.as_slice(), found[1].1.as_slice()), (&[(3584, 0)][..], &[(10_000, 3)][..]));
    }
}

#[test]
fn block_status_must_be_refused_without_contexts_and_past_the_end() {
    let stage = Stage::new(SIZE);
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        assert_eq!(outcome(&mut raw, style, request(wire::CMD_BLOCK_STATUS, 0, 512), b""), Errno::INVALID);
        let mut raw = Raw::in_style(&stage, "disk", style, &[wire::BASE_ALLOCATION]);
        assert_eq!(outcome(&mut raw, style, request(wire::CMD_BLOCK_STATUS, 1, SIZE), b""), Errno::INVALID);
        assert_eq!(outcome(&mut raw, style, request(wire::CMD_BLOCK_STATUS, 0, 0), b""), Errno::NONE);
    }
}

#[test]
fn a_block_status_payload_must_choose_among_the_contexts_and_bad_ones_be_consumed() {
    let stage = Stage::new(SIZE);
    let style = ReplyStyle::Extended;
    let mut raw = Raw::in_style(&stage, "parity", style, &[wire::BASE_ALLOCATION, "x-stage:parity"]);
    let all = status(&mut raw, style, request(wire::CMD_BLOCK_STATUS, 0, 4096), b"");
    let ids = [all[0].0, all[1].0];
    let payload = |length: u64, ids: &[u32]| {
        let ids = ids.iter().flat_map(|id| id.to_be_bytes());
        length.to_be_bytes().into_iter().chain(ids).collect::<Vec<u8>>()
    };
    let ask = |payload: &[u8]| {
        with(wire::CMD_FLAG_PAYLOAD_LEN, request(wire::CMD_BLOCK_STATUS, 0, payload.len() as u64))
    };
    for wanted in [vec![ids[1]], vec![ids[1], ids[0]]] {
        let payload = payload(8192, &wanted);
        let found = status(&mut raw, style, ask(&payload), &payload);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), wanted);
        let sum = |extents: &[(u64, u64)]| extents.iter().map(|(length, _)| length).sum::<u64>();
        assert_eq!(sum(&found[0].1), 8192);
    }
    let bad = [
        payload(8192, &[]),
        payload(8192, &[ids[0], ids[0]]),
        payload(8192, &[ids[0], 4711]),
        payload(SIZE + 1, &[ids[0]]),
        payload(8192, &[ids[0]])[..11].to_vec(),
        vec![1; 5],
        vec![0; 300_000],
    ];
    for bad in bad {
        assert_eq!(outcome(&mut raw, style, ask(&bad), &bad), Errno::INVALID, "{} bytes", bad.len());
    }
    assert_eq!(read(&mut raw, style, request(wire::CMD_READ, 0, 4)), [0; 4]);
}

#[test]
fn payloads_of_commands_that_take_none_are_consumed_and_refused() {
    let stage = Stage::new(SIZE);
    let style = ReplyStyle::Extended;
    let mut raw = Raw::in_style(&stage, "disk", style, &[]);
    // the text makes a client flag the payload of a write; qemu does not
    assert_eq!(outcome(&mut raw, style, request(wire::CMD_WRITE, 0, 4), b"qemu"), Errno::NONE);
    assert_eq!(stage.disk.contents()[..4], *b"qemu");
    for command in [wire::CMD_READ, wire::CMD_TRIM, wire::CMD_FLUSH, wire::CMD_CACHE, 99] {
        let request = with(wire::CMD_FLAG_PAYLOAD_LEN, request(command, 0, 4096));
        assert_eq!(outcome(&mut raw, style, request, &[9; 4096]), Errno::INVALID, "{command}");
    }
    assert_eq!(read(&mut raw, style, request(wire::CMD_READ, 0, 4)), b"qemu");
}

#[test]
fn extended_requests_are_served_beyond_32_bits() {
    let stage = Stage::new(9 << 30);
    let style = ReplyStyle::Extended;
    let mut raw = Raw::in_style(&stage, "disk@1", style, &[wire::BASE_ALLOCATION]);
    let found = status(&mut raw, style, request(wire::CMD_BLOCK_STATUS, 0, 9 << 30), b"");
    assert_eq!(found[0].1, [(9 << 30, 3)]);
}

#[test]
fn a_payload_larger_than_any_taken_ends_the_connection() {
    let stage = Stage::new(SIZE);
    for style in STYLES {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        raw.ask(style, write(style, 0, (64 << 20) + 1), b"");
        raw.expect_end();
    }
}

#[test]
fn disc_must_be_followed_by_the_end_after_what_came_before_it_was_answered() {
    for style in STYLES {
        let stage = Stage::new(SIZE);
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        raw.ask(style, write(style, 0, 4), b"data");
        raw.ask(style, request(wire::CMD_DISC, 0, 0), b"");
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut raw.0, &mut rest).unwrap();
        assert_eq!(rest.len(), if style == ReplyStyle::Extended { 32 } else { 16 });
        assert_eq!(stage.disk.contents()[..4], *b"data");
    }
}

#[test]
fn flush_on_one_connection_must_cover_writes_answered_on_another() {
    let stage = Stage::new(SIZE);
    let style = ReplyStyle::Simple;
    let (mut writer, mut flusher) =
        (Raw::connected(&stage, "disk", false), Raw::connected(&stage, "disk", false));
    assert_eq!(outcome(&mut writer, style, write(style, 0, 4), b"data"), Errno::NONE);
    assert_eq!(outcome(&mut flusher, style, request(wire::CMD_FLUSH, 0, 0), b""), Errno::NONE);
    // one device serves both, so its flush covers what either wrote
    assert_eq!(stage.disk.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(read(&mut flusher, style, request(wire::CMD_READ, 0, 4)), b"data");
}

/// What the text says of the chunks of a read: content within the request, none of it twice, none larger than advertised,
/// each at least a byte, all of it covered, DONE on the last alone.
#[test]
fn chunks_of_a_read_must_tile_it_and_none_must_pass_the_advertised_payload() {
    let size = 72 << 20;
    let stage = Stage::new(size);
    let middle = noise(40 << 20, 9);
    stage.disk.write_at(ByteOffset::new(12345), &middle).unwrap();
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for (offset, length) in [(0, 64 << 20), (12_345, 40 << 20), (4095, 1 << 20), (size - 1, 1)] {
            raw.ask(style, request(wire::CMD_READ, offset, length), b"");
            let mut covered = vec![false; length as usize];
            for chunk in raw.chunks(style) {
                let at = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().unwrap());
                let (start, count) = match chunk.kind {
                    wire::REPLY_OFFSET_DATA => (at(&chunk.payload), chunk.payload.len() - 8),
                    wire::REPLY_OFFSET_HOLE => {
                        let count = u32::from_be_bytes(chunk.payload[8..12].try_into().unwrap());
                        (at(&chunk.payload), count as usize)
                    }
                    kind => {
                        assert!(kind == wire::REPLY_NONE && chunk.payload.is_empty() && chunk.is_last);
                        continue;
                    }
                };
                assert!(count > 0 && chunk.payload.len() <= (32 << 20) + 8);
                let start = start.checked_sub(offset).expect("not before the request") as usize;
                let part = &mut covered[start..start + count];
                assert!(part.iter().all(|seen| !seen), "bytes told twice");
                part.fill(true);
            }
            assert!(covered.iter().all(|seen| *seen), "{style:?}: gaps in {offset}+{length}");
        }
    }
}

#[test]
fn write_zeroes_without_fast_zero_must_not_fail_with_enotsup() {
    let stage = Stage::new(SIZE);
    for style in STYLES {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for flags in [0, wire::CMD_FLAG_NO_HOLE, wire::CMD_FLAG_FUA] {
            for (offset, length) in [(0, SIZE), (1, 4095), (4096, 8192)] {
                let zero = with(flags, request(wire::CMD_WRITE_ZEROES, offset, length));
                assert_eq!(outcome(&mut raw, style, zero, b""), Errno::NONE);
            }
        }
    }
}

#[test]
fn error_chunks_must_carry_a_number_and_a_text_within_the_bounds() {
    let stage = Stage::new(SIZE);
    stage.disk.damage(0, 4096);
    for style in [ReplyStyle::Structured, ReplyStyle::Extended] {
        let mut raw = Raw::in_style(&stage, "disk", style, &[]);
        for bad in [
            request(wire::CMD_READ, 0, 4096),
            request(wire::CMD_READ, SIZE, 1),
            with(1 << 12, request(wire::CMD_READ, 0, 1)),
            request(wire::CMD_BLOCK_STATUS, 0, 1),
        ] {
            raw.ask(style, bad, b"");
            let chunk = raw.chunks(style).pop().unwrap();
            assert_ne!(chunk.errno(), Errno::NONE);
            let told = u16::from_be_bytes(chunk.payload[4..6].try_into().unwrap());
            assert_eq!(usize::from(told), chunk.text().len());
            assert!((1..=4096).contains(&told), "{told}");
        }
    }
}

#[test]
fn cache_must_change_nothing() {
    let stage = Stage::new(SIZE);
    let all = noise(SIZE as usize, 4);
    stage.disk.write_at(ByteOffset::ZERO, &all).unwrap();
    let mut raw = Raw::connected(&stage, "disk", true);
    assert_eq!(
        outcome(&mut raw, ReplyStyle::Structured, request(wire::CMD_CACHE, 1, SIZE - 1), b""),
        Errno::NONE
    );
    assert!(stage.disk.contents() == all);
}
