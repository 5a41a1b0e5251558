//! The bytes of every message, as the protocol text (`doc/proto.md` of the NBD project) lays them out. All numbers
//! are big-endian. Nothing here reads or writes a socket; decoders are checked and never panic.

mod ask;
mod errno;
mod facts;
mod option;
mod reply;
mod request;

pub use ask::{GoRequest, MetaRequest};
pub use errno::Errno;
pub use facts::{
    BlockSizes, ExportFacts, put_info_block_size, put_info_export, put_info_text, put_meta_context,
    put_server,
};
pub use option::{GREETING_LEN, Greeting, OptionHeader, OptionReply, OptionReplyHeader, Refusal};
pub use reply::{ChunkHeader, ExtendedHeader, Extent32, Extent64, ReplyStyle, SimpleReply};
pub use request::{Request, in_words};

use block::{Cursor, Malformed};

/// The port registered for NBD.
pub const PORT: u16 = 10809;

/// First word of a greeting, `NBDMAGIC`.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of a greeting and first of an option, `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Both handshake flags there are, in either direction.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// The 124 zeros after the answer to [`OPT_EXPORT_NAME`] are left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Chooses an export; can only be refused by closing.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Ends the session.
pub const OPT_ABORT: u32 = 2;
/// Asks for all exports.
pub const OPT_LIST: u32 = 3;
/// Asks for TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Asks about an export.
pub const OPT_INFO: u32 = 6;
/// Chooses an export.
pub const OPT_GO: u32 = 7;
/// Asks for structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Asks which metadata contexts there are.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Selects metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Asks for requests and replies with 64-bit fields.
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// The option succeeded; ends its replies.
pub const REP_ACK: u32 = 1;
/// An export.
pub const REP_SERVER: u32 = 2;
/// A fact about an export.
pub const REP_INFO: u32 = 3;
/// A metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Set in every reply that refuses.
pub const REP_ERROR: u32 = 1 << 31;

/// Size and flags.
pub const INFO_EXPORT: u16 = 0;
/// The canonical name.
pub const INFO_NAME: u16 = 1;
/// A line for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Smallest, preferred and largest request.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Always set in the transmission flags.
pub const SEND_HAS_FLAGS: u16 = 1;
/// The export may not be written.
pub const SEND_READ_ONLY: u16 = 1 << 1;
/// [`CMD_FLUSH`] is understood.
pub const SEND_FLUSH: u16 = 1 << 2;
/// [`CMD_FLAG_FUA`] is understood.
pub const SEND_FUA: u16 = 1 << 3;
/// [`CMD_TRIM`] is understood.
pub const SEND_TRIM: u16 = 1 << 5;
/// [`CMD_WRITE_ZEROES`] is understood.
pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
/// [`CMD_FLAG_DF`] is understood.
pub const SEND_DF: u16 = 1 << 7;
/// A flush on one connection covers writes answered on all.
pub const SEND_MULTI_CONN: u16 = 1 << 8;
/// [`CMD_CACHE`] is understood.
pub const SEND_CACHE: u16 = 1 << 10;
/// [`CMD_FLAG_FAST_ZERO`] is understood.
pub const SEND_FAST_ZERO: u16 = 1 << 11;
/// [`CMD_BLOCK_STATUS`] may name the contexts it is about.
pub const SEND_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Reads a range.
pub const CMD_READ: u16 = 0;
/// Writes the payload that follows.
pub const CMD_WRITE: u16 = 1;
/// Ends the session.
pub const CMD_DISC: u16 = 2;
/// Makes answered writes durable.
pub const CMD_FLUSH: u16 = 3;
/// Gives a range up.
pub const CMD_TRIM: u16 = 4;
/// Brings a range near.
pub const CMD_CACHE: u16 = 5;
/// Makes a range zero.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Asks for extents.
pub const CMD_BLOCK_STATUS: u16 = 7;
/// One more than the largest command.
pub const COMMANDS: usize = 8;

/// Durable before the answer.
pub const CMD_FLAG_FUA: u16 = 1;
/// Zeros keep their space.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// One chunk of content.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// One extent per context.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Refuse unless faster than writing.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// The length of an extended request is that of its payload.
pub const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// The last chunk of a structured reply.
pub const REPLY_FLAG_DONE: u16 = 1;
/// Nothing more to say.
pub const REPLY_NONE: u16 = 0;
/// Bytes of the export.
pub const REPLY_OFFSET_DATA: u16 = 1;
/// Zeros of the export.
pub const REPLY_OFFSET_HOLE: u16 = 2;
/// Extents of a context.
pub const REPLY_BLOCK_STATUS: u16 = 5;
/// Extents of a context, with 64-bit lengths.
pub const REPLY_BLOCK_STATUS_EXT: u16 = 6;
/// The request failed.
pub const REPLY_ERROR: u16 = (1 << 15) + 1;
/// The request failed at an offset.
pub const REPLY_ERROR_OFFSET: u16 = (1 << 15) + 2;
/// Set in every type of chunk that says a request failed.
pub const REPLY_IS_ERROR: u16 = 1 << 15;

/// No space is allocated.
pub const STATE_HOLE: u32 = 1;
/// Reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;
/// The one context of the protocol itself.
pub const BASE_ALLOCATION: &str = "base:allocation";

fn be16(cursor: &mut Cursor<'_>) -> Result<u16, Malformed> {
    cursor.array().map(u16::from_be_bytes)
}

fn be32(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    cursor.array().map(u32::from_be_bytes)
}

fn be64(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    cursor.array().map(u64::from_be_bytes)
}
