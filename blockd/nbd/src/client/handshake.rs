//! A client's half of option haggling.

use super::stream::Stream;
use crate::error::Error;
use crate::export::ExportInfo;
use crate::limits::{MAX_OPTION_LEN, MAX_TEXT_LEN};
use crate::wire::{
    self, BlockSizes, ExportFacts, GoRequest, Greeting, MetaRequest, OptionHeader, OptionReplyHeader,
    REP_ERROR, Refusal,
};
use block::{Cursor, Kind};

/// Replies to one option that are believed. A list of exports is the longest.
const MAX_REPLIES: usize = 1 << 16;

/// What client and server agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) facts: ExportFacts,
    pub(super) sizes: BlockSizes,
    pub(super) structured: bool,
    /// The server's number for the context that was asked for.
    pub(super) context: Option<u32>,
}

impl Terms {
    pub(super) fn has(&self, flag: u16) -> bool {
        self.facts.flags & flag != 0
    }

    pub(super) fn read_only(&self) -> bool {
        self.has(wire::SEND_READ_ONLY)
    }

    pub(super) fn multi_conn(&self) -> bool {
        self.has(wire::SEND_MULTI_CONN)
    }
}

/// A reply to an option.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

/// Chooses an export with one metadata context; the data phase follows.
pub(super) fn choose(stream: &mut Stream, export: &str, wanted: &str) -> Result<Terms, Error> {
    if export.len() > MAX_TEXT_LEN {
        return Err(
            stream.protocol(format!("a name of {} bytes, at most {MAX_TEXT_LEN} are valid", export.len()))
        );
    }
    let flags = greet(stream)?;
    let mut terms = Terms {
        facts: ExportFacts { size: 0, flags: 0 },
        sizes: BlockSizes::DEFAULT,
        structured: false,
        context: None,
    };
    let fixed = flags & wire::FLAG_FIXED_NEWSTYLE != 0;
    if fixed {
        terms.structured = structured(stream)?;
        if terms.structured {
            terms.context = context(stream, export, wanted)?;
        }
        if go(stream, export, &mut terms)? {
            return Ok(terms);
        }
    }
    export_name(stream, export, flags, &mut terms)?;
    Ok(terms)
}

/// Asks for all exports and says good-bye.
pub(super) fn list(stream: &mut Stream) -> Result<Vec<ExportInfo>, Error> {
    if greet(stream)? & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(Error::Lacks { at: stream.at().to_owned(), what: "a list of its exports" });
    }
    send(stream, wire::OPT_LIST, &[])?;
    let mut exports = Vec::new();
    for _ in 0..MAX_REPLIES {
        let reply = receive(stream, wire::OPT_LIST)?;
        match reply.kind {
            wire::REP_SERVER => exports.push(server(stream, &reply.data)?),
            wire::REP_ACK => {
                send(stream, wire::OPT_ABORT, &[])?;
                return Ok(exports);
            }
            _ => return Err(unwelcome(stream, "to list its exports", &reply)),
        }
    }
    Err(stream.protocol(format!("more than {MAX_REPLIES} exports")))
}

/// The first words of both sides; the server's flags.
fn greet(stream: &mut Stream) -> Result<u16, Error> {
    let greeting = Greeting::decode(&stream.array()?).map_err(|why| stream.protocol(why.why))?;
    let flags = greeting.flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    stream.send(&u32::from(flags).to_be_bytes(), &[])?;
    Ok(flags)
}

fn structured(stream: &mut Stream) -> Result<bool, Error> {
    send(stream, wire::OPT_STRUCTURED_REPLY, &[])?;
    let reply = receive(stream, wire::OPT_STRUCTURED_REPLY)?;
    match reply.kind {
        wire::REP_ACK => Ok(true),
        kind if kind & REP_ERROR != 0 => Ok(false),
        _ => Err(unwelcome(stream, "structured replies", &reply)),
    }
}

/// Selects a metadata context. A server that refuses will say why when the export is chosen.
fn context(stream: &mut Stream, export: &str, wanted: &str) -> Result<Option<u32>, Error> {
    let option = wire::OPT_SET_META_CONTEXT;
    let mut bytes = Vec::new();
    MetaRequest { name: export, queries: vec![wanted] }.put(&mut bytes, option);
    stream.send(&bytes, &[])?;
    let mut number = None;
    for _ in 0..MAX_REPLIES {
        let reply = receive(stream, option)?;
        match (reply.kind, reply.data.split_first_chunk::<4>()) {
            (wire::REP_META_CONTEXT, Some((id, name))) if name == wanted.as_bytes() => {
                number = Some(u32::from_be_bytes(*id));
            }
            (wire::REP_ACK, _) => return Ok(number),
            (kind, _) if kind & REP_ERROR != 0 => return Ok(None),
            _ => return Err(unwelcome(stream, "metadata contexts", &reply)),
        }
    }
    Err(stream.protocol("endless metadata contexts"))
}

/// Chooses the export with GO; false if the server does not know that option.
fn go(stream: &mut Stream, export: &str, terms: &mut Terms) -> Result<bool, Error> {
    let mut bytes = Vec::new();
    GoRequest { name: export, wants_name: false, wants_description: false, wants_block_size: true }
        .put(&mut bytes, wire::OPT_GO);
    stream.send(&bytes, &[])?;
    let mut facts = None;
    for _ in 0..MAX_REPLIES {
        let reply = receive(stream, wire::OPT_GO)?;
        match reply.kind {
            wire::REP_INFO => info(&reply.data, &mut facts, terms).map_err(|why| stream.protocol(why.why))?,
            wire::REP_ACK => {
                terms.facts = facts.ok_or_else(|| stream.protocol("no size of the export"))?;
                return Ok(true);
            }
            kind if kind == Refusal::Unsupported.reply() => return Ok(false),
            _ => return Err(unwelcome(stream, &format!("export {export:?}"), &reply)),
        }
    }
    Err(stream.protocol("endless facts about an export"))
}

fn info(data: &[u8], facts: &mut Option<ExportFacts>, terms: &mut Terms) -> Result<(), block::Malformed> {
    let mut cursor = Cursor::new(data);
    let kind = cursor.array().map(u16::from_be_bytes)?;
    let rest = cursor.bytes(cursor.remaining())?;
    match kind {
        wire::INFO_EXPORT => *facts = Some(ExportFacts::decode(rest)?),
        wire::INFO_BLOCK_SIZE => terms.sizes = BlockSizes::decode(rest)?,
        _ => {}
    }
    Ok(())
}

/// Chooses the export the old way, in which a server refuses by closing.
fn export_name(stream: &mut Stream, export: &str, flags: u16, terms: &mut Terms) -> Result<(), Error> {
    send(stream, wire::OPT_EXPORT_NAME, export.as_bytes())?;
    let bytes = match stream.array::<{ ExportFacts::LEN }>() {
        Err(Error::Closed { at }) => {
            let (what, why) = (format!("export {export:?}"), "it closed the connection".to_owned());
            return Err(Error::Refused { at, what, kind: Kind::NotFound, why });
        }
        other => other?,
    };
    if flags & wire::FLAG_NO_ZEROES == 0 {
        stream.skip(124)?;
    }
    terms.facts = ExportFacts::decode(&bytes).map_err(|why| stream.protocol(why.why))?;
    Ok(())
}

fn send(stream: &mut Stream, option: u32, data: &[u8]) -> Result<(), Error> {
    stream.send(&OptionHeader { option, length: data.len() as u32 }.encode(), data)
}

fn receive(stream: &mut Stream, option: u32) -> Result<Reply, Error> {
    let header = OptionReplyHeader::decode(&stream.array()?).map_err(|why| stream.protocol(why.why))?;
    if header.option != option {
        return Err(stream.protocol(format!("a reply to option {} instead of {option}", header.option)));
    }
    if header.length > MAX_OPTION_LEN {
        return Err(stream.protocol(format!("a reply of {} bytes to option {option}", header.length)));
    }
    let mut data = vec![0; header.length as usize];
    stream.exact(&mut data)?;
    Ok(Reply { kind: header.reply, data })
}

/// An entry of the list of exports.
fn server(stream: &Stream, data: &[u8]) -> Result<ExportInfo, Error> {
    let entry = || {
        let mut cursor = Cursor::new(data);
        let length = cursor.array().map(u32::from_be_bytes)? as usize;
        let name = cursor.bytes(length)?;
        Ok((name, cursor.bytes(cursor.remaining())?))
    };
    let (name, description) = entry().map_err(|why: block::Malformed| stream.protocol(why.why))?;
    let name =
        std::str::from_utf8(name).map_err(|_| stream.protocol("the name of an export is not UTF-8"))?;
    Ok(ExportInfo { name: name.to_owned(), description: String::from_utf8_lossy(description).into_owned() })
}

/// The error for a reply that does not grant what was asked for.
fn unwelcome(stream: &Stream, what: &str, reply: &Reply) -> Error {
    if reply.kind & REP_ERROR == 0 {
        return stream.protocol(format!("a reply of type {} about {what}", reply.kind));
    }
    let (kind, reason) = match reply.kind - REP_ERROR {
        1 => (Kind::Unsupported, "not supported"),
        2 => (Kind::Unavailable, "not allowed"),
        3 => (Kind::Invalid, "invalid"),
        4 => (Kind::Unsupported, "not supported on its platform"),
        5 => (Kind::Unsupported, "TLS is required"),
        6 => (Kind::NotFound, "unknown"),
        7 => (Kind::Unavailable, "it is stopping"),
        8 => (Kind::Unsupported, "block sizes are required"),
        _ => (Kind::Unavailable, "for no known reason"),
    };
    let text = String::from_utf8_lossy(&reply.data);
    let text: String = text.chars().filter(|c| !c.is_control()).take(500).collect();
    let why = if text.is_empty() { reason.to_owned() } else { text };
    Error::Refused { at: stream.at().to_owned(), what: what.to_owned(), kind, why }
}
