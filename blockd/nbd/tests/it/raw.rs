//! A client made of bytes: what well-behaved libraries cannot say.

use crate::stage::Stage;
use nbd::wire::{
    self, ChunkHeader, Errno, ExtendedHeader, GREETING_LEN, GoRequest, Greeting, MetaRequest, OptionHeader,
    OptionReplyHeader, ReplyStyle, Request, SimpleReply,
};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connection as bytes. Nothing waits longer than half a minute.
pub struct Raw(pub UnixStream);

/// A chunk of a structured or extended reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    pub is_last: bool,
    pub kind: u16,
    pub cookie: u64,
    /// Of extended replies: what they repeat of the request.
    pub offset: Option<u64>,
    pub payload: Vec<u8>,
}

impl Chunk {
    /// The number of the error it tells of.
    pub fn errno(&self) -> Errno {
        assert_eq!(self.kind, wire::REPLY_ERROR, "{self:?}");
        Errno(u32::from_be_bytes(self.payload[..4].try_into().unwrap()))
    }

    /// What it says to people.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload[6..]).unwrap()
    }
}

impl Raw {
    /// Connects and reads the greeting.
    pub fn greeted(stage: &Stage) -> Self {
        let stream = UnixStream::connect(stage.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut raw = Self(stream);
        assert_eq!(Greeting::decode(&raw.read::<GREETING_LEN>()), Ok(Greeting::OURS));
        raw
    }

    /// As [`greeted`](Self::greeted), and the server knows what this client knows.
    pub fn haggling(stage: &Stage) -> Self {
        let mut raw = Self::greeted(stage);
        raw.send(&3u32.to_be_bytes());
        raw
    }

    /// In the data phase of an export.
    pub fn connected(stage: &Stage, export: &str, structured: bool) -> Self {
        let style = if structured { ReplyStyle::Structured } else { ReplyStyle::Simple };
        Self::in_style(stage, export, style, &[])
    }

    /// In the data phase, with these contexts selected.
    pub fn in_style(stage: &Stage, export: &str, style: ReplyStyle, contexts: &[&str]) -> Self {
        let mut raw = Self::haggling(stage);
        let option = match style {
            ReplyStyle::Simple => None,
            ReplyStyle::Structured => Some(wire::OPT_STRUCTURED_REPLY),
            ReplyStyle::Extended => Some(wire::OPT_EXTENDED_HEADERS),
        };
        if let Some(option) = option {
            raw.option(option, &[]);
            assert_eq!(raw.reply().0, wire::REP_ACK);
        }
        if !contexts.is_empty() {
            let replies = raw.meta(wire::OPT_SET_META_CONTEXT, export, contexts);
            assert_eq!(replies.len(), contexts.len() + 1, "{replies:?}");
        }
        raw.go(wire::OPT_GO, export);
        assert_eq!(raw.reply().0, wire::REP_INFO);
        assert_eq!(raw.reply().0, wire::REP_ACK);
        raw
    }

    /// Asks for an export with INFO or GO and no fact beside the necessary one.
    pub fn go(&mut self, option: u32, export: &str) {
        let mut go = Vec::new();
        GoRequest { name: export, wants_name: false, wants_description: false, wants_block_size: false }
            .put(&mut go, option);
        self.send(&go);
    }

    /// Asks about contexts; all replies, the last one included.
    pub fn meta(&mut self, option: u32, export: &str, queries: &[&str]) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        MetaRequest { name: export, queries: queries.to_vec() }.put(&mut bytes, option);
        self.send(&bytes);
        let mut replies = vec![self.reply()];
        while replies.last().is_some_and(|(reply, _)| *reply == wire::REP_META_CONTEXT) {
            replies.push(self.reply());
        }
        replies
    }

    /// Sends a request of this style.
    pub fn ask(&mut self, style: ReplyStyle, request: Request, payload: &[u8]) {
        match style {
            ReplyStyle::Extended => self.send(&request.encode_extended()),
            _ => self.send(&request.encode()),
        }
        self.send(payload);
    }

    /// The next chunk of a reply of this style.
    pub fn chunk(&mut self, style: ReplyStyle) -> Chunk {
        let (flags, kind, cookie, offset, length) = if style == ReplyStyle::Extended {
            let header = ExtendedHeader::decode(&self.read()).unwrap();
            (header.flags, header.kind, header.cookie, Some(header.offset), header.length)
        } else {
            let header = ChunkHeader::decode(&self.read()).unwrap();
            (header.flags, header.kind, header.cookie, None, header.length.into())
        };
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).unwrap();
        assert_eq!(flags & !wire::REPLY_FLAG_DONE, 0, "flags nobody negotiated");
        Chunk { is_last: flags & wire::REPLY_FLAG_DONE != 0, kind, cookie, offset, payload }
    }

    /// All chunks of a reply.
    pub fn chunks(&mut self, style: ReplyStyle) -> Vec<Chunk> {
        let mut chunks = vec![self.chunk(style)];
        while chunks.last().is_some_and(|chunk| !chunk.is_last) {
            chunks.push(self.chunk(style));
        }
        chunks
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next bytes, left where they are.
    pub fn peek<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::WAITALL;
        let (_, count) = rustix::net::recv(&self.0, &mut bytes, flags).unwrap();
        assert_eq!(count, N);
        bytes
    }

    pub fn option(&mut self, option: u32, data: &[u8]) {
        self.send(&OptionHeader { option, length: data.len() as u32 }.encode());
        self.send(data);
    }

    /// Type and data of the next reply to an option.
    pub fn reply(&mut self) -> (u32, Vec<u8>) {
        let header = OptionReplyHeader::decode(&self.read()).unwrap();
        let mut data = vec![0; header.length as usize];
        self.0.read_exact(&mut data).unwrap();
        (header.reply, data)
    }

    pub fn request(&mut self, command: u16, offset: u64, length: u64, cookie: u64) {
        self.send(&Request { flags: 0, command, cookie, offset, length }.encode());
    }

    pub fn simple(&mut self) -> SimpleReply {
        SimpleReply::decode(&self.read()).unwrap()
    }

    /// Nothing more comes, and the connection is closed.
    pub fn expect_end(mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{rest:?} before the end"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }

    /// A read proves that the stream is in step.
    pub fn is_alive(&mut self) {
        self.request(wire::CMD_READ, 0, 512, 0xa11e);
        assert_eq!(self.simple(), SimpleReply { errno: Errno::NONE, cookie: 0xa11e });
        self.read::<512>();
    }
}

#[test]
fn an_unknown_client_flag_closes_the_connection() {
    let stage = Stage::new(4096);
    let mut raw = Raw::greeted(&stage);
    raw.send(&0x8000_0003u32.to_be_bytes());
    raw.expect_end();
}

#[test]
fn garbage_closes_the_connection_and_hurts_nobody_else() {
    let stage = Stage::new(1 << 20);
    let mut other = Raw::connected(&stage, "disk", false);
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 100],
        &[0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9],
    ] {
        let mut raw = Raw::greeted(&stage);
        raw.send(garbage);
        raw.expect_end();
    }
    let mut raw = Raw::connected(&stage, "disk", true);
    raw.send(&[0x55; 28]);
    raw.expect_end();
    other.is_alive();
}

#[test]
fn an_option_too_long_and_one_too_many_close_the_connection() {
    let stage = Stage::new(4096);
    let mut raw = Raw::greeted(&stage);
    raw.send(&3u32.to_be_bytes());
    raw.send(&OptionHeader { option: wire::OPT_GO, length: u32::MAX }.encode());
    raw.expect_end();

    let mut raw = Raw::greeted(&stage);
    raw.send(&3u32.to_be_bytes());
    for _ in 0..4096 {
        raw.option(12345, b"what is this");
        assert_eq!(raw.reply().0, wire::REP_ERROR + 1);
    }
    raw.option(12345, b"");
    raw.expect_end();
}

#[test]
fn starttls_without_certificates_is_an_unknown_option() {
    let stage = Stage::new(4096);
    let mut raw = Raw::greeted(&stage);
    raw.send(&3u32.to_be_bytes());
    for option in [wire::OPT_STARTTLS, 12, 4] {
        raw.option(option, b"");
        assert_eq!(raw.reply().0, wire::REP_ERROR + 1);
    }
    raw.option(wire::OPT_ABORT, b"");
    assert_eq!(raw.reply().0, wire::REP_ACK);
    raw.expect_end();
}

#[test]
fn abort_by_a_client_that_does_not_wait_for_the_answer() {
    let stage = Stage::new(4096);
    for _ in 0..20 {
        let mut raw = Raw::greeted(&stage);
        raw.send(&3u32.to_be_bytes());
        raw.option(wire::OPT_ABORT, b"");
    }
    Raw::connected(&stage, "disk", false).is_alive();
}

#[test]
fn a_locked_export_says_why() {
    let stage = Stage::new(4096);
    let mut raw = Raw::greeted(&stage);
    raw.send(&3u32.to_be_bytes());
    let mut go = Vec::new();
    GoRequest { name: "locked", wants_name: false, wants_description: false, wants_block_size: false }
        .put(&mut go, wire::OPT_GO);
    raw.send(&go);
    assert_eq!(raw.reply(), (wire::REP_ERROR + 2, b"export locked: its vault is locked".to_vec()));
}

#[test]
fn an_unknown_command_is_refused_and_the_stream_stays_in_step() {
    let stage = Stage::new(4096);
    let mut raw = Raw::connected(&stage, "disk", false);
    for command in [8, 9, 0x7fff, 0xffff] {
        raw.request(command, 0, 4096, 7);
        assert_eq!(raw.simple(), SimpleReply { errno: Errno::INVALID, cookie: 7 });
        raw.is_alive();
    }
    raw.request(wire::CMD_FLUSH, 0, 1, 8);
    assert_eq!(raw.simple().errno, Errno::INVALID);
    raw.is_alive();
    raw.request(wire::CMD_DISC, 0, 0, 9);
    raw.expect_end();
}

#[test]
fn a_write_too_large_to_swallow_ends_the_connection_after_the_earlier_replies() {
    let stage = Stage::new(4096);
    let mut raw = Raw::connected(&stage, "disk", false);
    raw.request(wire::CMD_FLUSH, 0, 0, 1);
    raw.request(wire::CMD_WRITE, 0, (64 << 20) + 1, 2);
    assert_eq!(raw.simple(), SimpleReply { errno: Errno::NONE, cookie: 1 });
    raw.expect_end();
}

#[test]
fn many_requests_in_one_send_are_answered_in_order() {
    let stage = Stage::new(1 << 20);
    let mut raw = Raw::connected(&stage, "disk", true);
    let mut bytes = Vec::new();
    for cookie in 0..1000u64 {
        let request =
            Request { flags: 0, command: wire::CMD_WRITE, cookie, offset: cookie * 512, length: 512 };
        bytes.extend_from_slice(&request.encode());
        bytes.extend_from_slice(&[cookie as u8; 512]);
    }
    raw.send(&bytes);
    for cookie in 0..1000 {
        assert_eq!(raw.simple(), SimpleReply { errno: Errno::NONE, cookie });
    }
    let contents = stage.disk.contents();
    assert!((0..1000).all(|n| contents[n * 512..(n + 1) * 512] == [n as u8; 512]));
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_a_request() {
    let stage = Stage::new(4096);
    let mut raw = Raw::connected(&stage, "disk", false);
    let mut bytes =
        Request { flags: 0, command: wire::CMD_WRITE, cookie: 5, offset: 9, length: 4 }.encode().to_vec();
    bytes.extend_from_slice(b"slow");
    bytes.iter().for_each(|byte| raw.send(&[*byte]));
    assert_eq!(raw.simple(), SimpleReply { errno: Errno::NONE, cookie: 5 });
    assert_eq!(stage.disk.contents()[9..13], *b"slow");
}

#[test]
fn a_client_that_dies_inside_a_write_writes_nothing() {
    let stage = Stage::new(1 << 20);
    let mut raw = Raw::connected(&stage, "disk", false);
    raw.request(wire::CMD_WRITE, 0, 4096, 1);
    raw.send(&[0xff; 4000]);
    drop(raw);
    // the server has seen the end once the connection is gone from its list
    while stage.server.stats().iter().any(|export| !export.connections.is_empty()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(stage.disk.contents().iter().all(|&byte| byte == 0));
}

#[test]
fn errors_of_structured_replies_carry_a_text() {
    let stage = Stage::new(1 << 20);
    stage.disk.damage(8192, 8193);
    let mut raw = Raw::connected(&stage, "disk", true);
    raw.request(wire::CMD_READ, 8192, 4096, 3);
    let chunk = ChunkHeader::decode(&raw.read()).unwrap();
    assert_eq!((chunk.kind, chunk.flags, chunk.cookie), (wire::REPLY_ERROR, wire::REPLY_FLAG_DONE, 3));
    let mut payload = vec![0; chunk.length as usize];
    raw.0.read_exact(&mut payload).unwrap();
    assert_eq!(payload[..4], 5u32.to_be_bytes());
    let text = "read of 4096 bytes at offset 8192: layer 3 is damaged at offset 8192: the checksum disagrees";
    assert_eq!(&payload[6..], text.as_bytes());
}
