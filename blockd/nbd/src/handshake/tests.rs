//! Rules of the protocol text, each told to the state machine by a client.

use super::*;
use crate::export::ExportInfo;
use crate::wire::{GoRequest, MetaRequest, OptionReplyHeader};
use block::{ByteCount, Error, Kind, MemoryDisk};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
struct Two {
    opens: AtomicUsize,
}

impl Exports for Two {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        let info = |name: &str| ExportInfo { name: name.into(), description: format!("export {name}") };
        vec![info("rw"), info("ro")]
    }

    fn open(&self, name: &str, _peer: &Peer) -> Result<Export, Error> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        let disk = Arc::new(MemoryDisk::new(ByteCount::new(1000)));
        let access = match name {
            "rw" => Access::ReadWrite(disk),
            "ro" => Access::ReadOnly(disk),
            "locked" => {
                return Err(Error::refused(Kind::Unavailable, "export locked", "its vault is locked"));
            }
            _ => return Err(Error::NotFound { what: format!("export {name:?}") }),
        };
        Ok(Export::new(access, "a disk"))
    }
}

const PEER: Peer = Peer::Unix { uid: 0, gid: 0, pid: 1 };

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OptionHeader { option, length: data.len() as u32 }.encode().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

fn go(option: u32, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    GoRequest { name, wants_name: true, wants_description: true, wants_block_size: true }
        .put(&mut bytes, option);
    bytes
}

fn meta(option: u32, name: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    MetaRequest { name, queries: queries.to_vec() }.put(&mut bytes, option);
    bytes
}

/// Reply types (and data) of everything in `out`.
fn replies(mut out: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while let Some((header, rest)) = out.split_first_chunk() {
        let header = OptionReplyHeader::decode(header).expect("a reply");
        let (data, rest) = rest.split_at(header.length as usize);
        replies.push((header.reply, data.to_vec()));
        out = rest;
    }
    assert!(out.is_empty());
    replies
}

struct Client<'a> {
    handshake: Handshake<'a>,
}

impl<'a> Client<'a> {
    fn new(exports: &'a dyn Exports, flags: u32) -> Self {
        let mut handshake = Handshake::new(exports, &PEER, Tls::Unsupported);
        let (used, step) = handshake.advance(&flags.to_be_bytes(), &mut Vec::new());
        assert!(used == 4 && matches!(step, Step::Input(16)));
        Self { handshake }
    }

    /// Sends an option byte by byte; the replies and the last step.
    fn send(&mut self, bytes: &[u8]) -> (Vec<u8>, Step) {
        let (mut pending, mut out) = (Vec::new(), Vec::new());
        let mut last = Step::Input(1);
        for &byte in bytes {
            pending.push(byte);
            let (used, step) = self.handshake.advance(&pending, &mut out);
            pending.drain(..used);
            last = step;
        }
        (out, last)
    }

    fn reply_types(&mut self, bytes: &[u8]) -> Vec<u32> {
        replies(&self.send(bytes).0).into_iter().map(|(reply, _)| reply).collect()
    }
}

#[test]
fn an_unknown_client_flag_drops_the_connection() {
    let exports = Two::default();
    let mut handshake = Handshake::new(&exports, &PEER, Tls::Unsupported);
    let step = handshake.advance(&0x8000_0003u32.to_be_bytes(), &mut Vec::new()).1;
    assert!(matches!(step, Step::Close(End::Broken(_))));
}

#[test]
fn export_name_gets_its_zeros_unless_declined() {
    for (flags, length) in [(1, 134), (3, 10)] {
        let exports = Two::default();
        let (out, step) = Client::new(&exports, flags).send(&option(wire::OPT_EXPORT_NAME, b"rw"));
        assert_eq!(out.len(), length);
        assert_eq!(out[..8], 1000u64.to_be_bytes());
        assert!(matches!(step, Step::Transmission(n) if n.style == ReplyStyle::Simple && n.name == "rw"));
    }
    let exports = Two::default();
    let (out, step) = Client::new(&exports, 3).send(&option(wire::OPT_EXPORT_NAME, b"nothing"));
    assert!(out.is_empty() && matches!(step, Step::Close(End::Refused(_))));
}

#[test]
fn info_then_go_gives_the_same_answer_and_opens_once() {
    let exports = Two::default();
    let mut client = Client::new(&exports, 3);
    let (info, step) = client.send(&go(wire::OPT_INFO, "ro"));
    assert!(matches!(step, Step::Input(16)));
    let (go, step) = client.send(&go(wire::OPT_GO, "ro"));
    assert_eq!(replies(&info), replies(&go));
    assert_eq!(replies(&go).len(), 5);
    assert!(matches!(step, Step::Transmission(n) if n.facts.flags & wire::SEND_READ_ONLY != 0));
    assert_eq!(exports.opens.load(Ordering::Relaxed), 1);
}

#[test]
fn list_names_every_export_and_has_no_data() {
    let exports = Two::default();
    let mut client = Client::new(&exports, 3);
    let replies = replies(&client.send(&option(wire::OPT_LIST, b"")).0);
    assert_eq!(replies[0], (wire::REP_SERVER, b"\0\0\0\x02rwexport rw".to_vec()));
    assert_eq!(replies.len(), 3);
    assert_eq!(client.reply_types(&option(wire::OPT_LIST, b"x")), [Refusal::Invalid.reply()]);
}

#[test]
fn unknown_options_are_drained_and_the_stream_stays_in_step() {
    let exports = Two::default();
    let mut client = Client::new(&exports, 3);
    let mut bytes = option(77, &[9; 30_000]);
    bytes.extend(option(wire::OPT_STARTTLS, b""));
    bytes.extend(option(12, b""));
    bytes.extend(option(wire::OPT_ABORT, b"ignored"));
    let unsupported = Refusal::Unsupported.reply();
    let mut out = Vec::new();
    let (used, step) = client.handshake.advance(&bytes, &mut out);
    let types: Vec<u32> = replies(&out).into_iter().map(|(reply, _)| reply).collect();
    assert_eq!(types, [unsupported, unsupported, unsupported, wire::REP_ACK]);
    assert!(used == bytes.len() && matches!(step, Step::Close(End::Aborted)));
}

#[test]
fn an_option_too_long_or_one_too_many_ends_the_session() {
    let exports = Two::default();
    let header = OptionHeader { option: 77, length: MAX_OPTION_LEN + 1 }.encode();
    let step = Client::new(&exports, 3).send(&header).1;
    assert!(matches!(step, Step::Close(End::Broken(_))));
    let mut client = Client::new(&exports, 3);
    for _ in 0..MAX_OPTIONS {
        assert_eq!(client.reply_types(&option(77, b"")), [Refusal::Unsupported.reply()]);
    }
    assert!(matches!(client.send(&option(77, b"")).1, Step::Close(End::Broken(_))));
}

#[test]
fn refused_exports_say_why_and_the_client_may_go_on() {
    let exports = Two::default();
    let mut client = Client::new(&exports, 3);
    assert_eq!(client.reply_types(&go(wire::OPT_GO, "nothing")), [Refusal::Unknown.reply()]);
    let (out, _) = client.send(&go(wire::OPT_GO, "locked"));
    assert_eq!(replies(&out)[0], (Refusal::Policy.reply(), b"export locked: its vault is locked".to_vec()));
    assert_eq!(client.reply_types(&option(wire::OPT_GO, b"\0\0\0\x09rw")), [Refusal::Invalid.reply()]);
    assert!(matches!(client.send(&go(wire::OPT_GO, "rw")).1, Step::Transmission(_)));
}

#[test]
fn contexts_need_structured_replies_and_belong_to_their_export() {
    let set = |name: &str| meta(wire::OPT_SET_META_CONTEXT, name, &[wire::BASE_ALLOCATION, "x-none:"]);
    let exports = Two::default();
    let mut client = Client::new(&exports, 3);
    assert_eq!(client.reply_types(&set("rw")), [Refusal::Invalid.reply()]);
    assert_eq!(client.reply_types(&option(wire::OPT_STRUCTURED_REPLY, b"x")), [Refusal::Invalid.reply()]);
    assert_eq!(client.reply_types(&option(wire::OPT_STRUCTURED_REPLY, b"")), [wire::REP_ACK]);
    assert_eq!(
        client.reply_types(&meta(wire::OPT_LIST_META_CONTEXT, "rw", &[])),
        [wire::REP_META_CONTEXT, wire::REP_ACK]
    );
    assert_eq!(client.reply_types(&set("rw")), [wire::REP_META_CONTEXT, wire::REP_ACK]);
    let step = client.send(&go(wire::OPT_GO, "rw")).1;
    assert!(
        matches!(step, Step::Transmission(n) if n.contexts == [Context::Allocation] && n.style == ReplyStyle::Structured)
    );

    let mut other = Client::new(&exports, 3);
    other.send(&option(wire::OPT_STRUCTURED_REPLY, b""));
    other.send(&set("ro"));
    assert!(matches!(other.send(&go(wire::OPT_GO, "rw")).1, Step::Transmission(n) if n.contexts.is_empty()));

    let mut failed = Client::new(&exports, 3);
    failed.send(&option(wire::OPT_STRUCTURED_REPLY, b""));
    failed.send(&set("rw"));
    assert_eq!(failed.reply_types(&option(wire::OPT_SET_META_CONTEXT, b"\0")), [Refusal::Invalid.reply()]);
    assert!(matches!(failed.send(&go(wire::OPT_GO, "rw")).1, Step::Transmission(n) if n.contexts.is_empty()));
}

/// An export with one context of its own.
struct Offering;

impl Exports for Offering {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }

    fn open(&self, _name: &str, _peer: &Peer) -> Result<Export, Error> {
        let access = Access::ReadOnly(Arc::new(MemoryDisk::new(ByteCount::new(1000))));
        Ok(Export { contexts: Some(Arc::new(Self)), ..Export::new(access, "") })
    }
}

impl crate::Contexts for Offering {
    fn names(&self) -> Vec<String> {
        vec!["x-own:good".into(), "x-own:bad".into()]
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn crate::Status>>, Error> {
        match name {
            "x-own:good" => Ok(Some(Arc::new(Self))),
            "x-own:bad" => Err(Error::corrupt("its map", None, "damaged")),
            _ => Ok(None),
        }
    }
}

impl crate::Status for Offering {
    fn status(&self, range: block::ByteRange, visit: &mut crate::VisitStatus<'_>) -> Result<(), Error> {
        let _more = visit(range.count().get(), 1);
        Ok(())
    }
}

#[test]
fn contexts_of_the_export_are_listed_selected_and_refused() {
    let mut client = Client::new(&Offering, 3);
    client.send(&option(wire::OPT_STRUCTURED_REPLY, b""));
    let (out, _) = client.send(&meta(wire::OPT_LIST_META_CONTEXT, "e", &["x-own:"]));
    let listed = replies(&out);
    assert_eq!(listed[0], (wire::REP_META_CONTEXT, b"\0\0\0\0x-own:good".to_vec()));
    assert_eq!(listed.len(), 3);
    let bad = meta(wire::OPT_SET_META_CONTEXT, "e", &["base:allocation", "x-own:bad"]);
    assert_eq!(client.reply_types(&bad), [Refusal::Policy.reply()]);
    let set = meta(wire::OPT_SET_META_CONTEXT, "e", &["x-own:good", "x-own:none", "base:allocation"]);
    let (out, _) = client.send(&set);
    assert_eq!(replies(&out)[0], (wire::REP_META_CONTEXT, b"\0\0\0\x02x-own:good".to_vec()));
    let step = client.send(&go(wire::OPT_GO, "e")).1;
    let names = |step| match step {
        Step::Transmission(agreed) => {
            agreed.contexts.iter().map(|context| context.name().to_owned()).collect()
        }
        _ => vec![],
    };
    assert_eq!(names(step), ["x-own:good", "base:allocation"]);
}

#[test]
fn a_stopping_server_says_so() {
    let exports = Two::default();
    let mut client = Client::new(&exports, 3);
    client.handshake.stop();
    assert_eq!(client.reply_types(&go(wire::OPT_GO, "rw")), [Refusal::Shutdown.reply()]);
    assert!(matches!(client.send(&option(wire::OPT_ABORT, b"")).1, Step::Close(End::Aborted)));
}
