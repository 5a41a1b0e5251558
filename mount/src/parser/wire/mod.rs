//! The bytes between supervisor and parser; `docs/child-protocol.md` is their definition. Knows no socket.

mod encrypted;
mod input;
mod out;

use crate::guest::{Listing, MAX_ATTRIBUTE_NAMES, Node, NodeKind, Piece, Place, Space};
use crate::luks::Luks;
use crate::partition::{MAX_NUMBER, Scheme};
use crate::volume::thin::Mapping;
use crate::volume::{self, Part, Thin};
use block::{ByteRange, Cursor, Kind, Malformed};
use input::{answer, failure, request, rest};
use out::Out;

/// The version in the greeting.
pub const VERSION: u32 = 3;
/// The longest frame after its length, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// The most bytes of one read.
pub const MAX_READ: usize = 256 << 10;
/// The longest sentence, in bytes.
pub const MAX_TEXT: usize = 1024;
/// The most remarks about partition tables.
pub const MAX_REMARKS: usize = 64;
/// The most volumes of one machine.
pub const MAX_VOLUMES: usize = 1024;
/// The most disks of one machine.
pub const MAX_DISKS: usize = 31;
/// Volumes are numbered by disk: the first volume of disk 1 is volume 1024, and so on.
pub const PER_DISK: u32 = MAX_NUMBER + 1;
/// Volumes that were decrypted or mapped have the numbers from here on, as if they were on a disk behind the last.
pub const FIRST_OPENED: u32 = 31 * PER_DISK;
/// The most of these.
pub const MAX_OPENED: usize = 64;
/// Volumes that are put together from others have the numbers from here on.
pub const FIRST_ASSEMBLED: u32 = 32 * PER_DISK;
/// The most attribute names: each takes two bytes at least.
const MAX_NAMES: usize = MAX_ATTRIBUTE_NAMES / 2;

const KINDS: [Kind; 12] = [
    Kind::Invalid,
    Kind::OutOfRange,
    Kind::NotFound,
    Kind::Conflict,
    Kind::ReadOnly,
    Kind::NoSpace,
    Kind::Io,
    Kind::Corrupt,
    Kind::Unsupported,
    Kind::Unavailable,
    Kind::Poisoned,
    Kind::Cancelled,
];
const NODE_KINDS: [NodeKind; 7] = [
    NodeKind::File,
    NodeKind::Directory,
    NodeKind::Symlink,
    NodeKind::Fifo,
    NodeKind::Socket,
    NodeKind::CharDevice,
    NodeKind::BlockDevice,
];
const SCHEMES: [Scheme; 4] = [Scheme::None, Scheme::Mbr, Scheme::Gpt, Scheme::GptBackup];
const NO_KIND: u8 = 255;

/// A question about a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The addresses it is about.
    pub volume: ByteRange,
    /// What is asked.
    pub question: Question,
}

/// What is asked; inodes are the filesystem's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Question {
    /// The volume is all disks, end to end, of these lengths, and what was made of them, of which these are volumes that
    /// were decrypted or mapped.
    Probe {
        disks: Vec<u64>,
        opened: Vec<ByteRange>,
    },
    Open,
    Node {
        ino: u64,
    },
    Lookup {
        dir: u64,
        name: Vec<u8>,
    },
    List {
        dir: u64,
        cookie: u64,
        with_nodes: bool,
    },
    Link {
        ino: u64,
    },
    Pieces {
        ino: u64,
        from: u64,
        to: u64,
    },
    AttributeNames {
        ino: u64,
    },
    Attribute {
        ino: u64,
        name: Vec<u8>,
    },
    Content {
        ino: u64,
        at: u64,
        len: u32,
    },
    /// What the header of an encrypted volume says.
    Luks,
    /// How a thin volume is mapped from a block on. The volume is its pool's metadata.
    Mapping {
        device: u32,
        from: u64,
    },
}

/// A volume, as the probe found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The partition's number (0 for a disk without a table) with its disk's times [`PER_DISK`], or [`FIRST_ASSEMBLED`]
    /// and more.
    pub number: u32,
    /// The name of a volume that was put together, empty for any other.
    pub name: String,
    /// Its addresses: on the disks, or behind them if it was put together.
    pub range: ByteRange,
    /// What it was put together from.
    pub parts: Vec<Part>,
    /// What it holds, or a sentence saying why it cannot be read.
    pub content: Result<String, String>,
    /// What it takes to get at its bytes, if that is more than arithmetic.
    pub needs: Option<Needs>,
}

/// What it takes to get at the bytes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A key: it is encrypted, in a way that [`Question::Luks`] tells of.
    Key,
    /// A mapping, which [`Question::Mapping`] tells of.
    Mapping(Thin),
}

impl Volume {
    /// Whether the addresses are possible behind `end`, the end of what was told before, on disks of `size` bytes.
    fn fits(&self, size: u64, end: u64) -> bool {
        match (self.number >= FIRST_ASSEMBLED, self.parts.is_empty()) {
            (false, true) => self.name.is_empty() && self.range.end() <= size,
            (true, true) => !self.name.is_empty() && self.range.is_empty() && self.content.is_err(),
            (true, false) => {
                !self.name.is_empty()
                    && self.range.start() >= end.max(size)
                    && volume::fits(self.range, &self.parts)
            }
            (false, false) => false,
        }
    }
}

/// What was answered; one variant for each question.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Answer {
    Probe {
        schemes: Vec<Scheme>,
        remarks: Vec<String>,
        volumes: Vec<Volume>,
    },
    /// The remark is empty where there is nothing to say.
    Open {
        root: u64,
        space: Space,
        remark: String,
    },
    Node(Node),
    Lookup(Option<Node>),
    List {
        listing: Listing,
        nodes: Vec<Option<Node>>,
    },
    Link(Vec<u8>),
    Pieces(Vec<Piece>),
    AttributeNames(Vec<Vec<u8>>),
    Attribute(Vec<u8>),
    Content(Vec<u8>),
    Luks(Luks),
    Mapping(Mapping),
}

/// What the supervisor sends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ToParser {
    Ask(Request),
    Data(Vec<u8>),
    NoData { kind: Kind, text: String },
}

/// What the parser sends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FromParser {
    Hello { version: u32 },
    Refused { text: String },
    Read { offset: u64, count: u32 },
    Answer(Answer),
    Failed { kind: Kind, text: String },
}

impl ToParser {
    /// The frame after its length.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        match self {
            Self::Ask(request) => {
                out.u8(0x01);
                out.request(request);
            }
            Self::Data(bytes) => {
                out.u8(0x02);
                out.0.extend_from_slice(bytes);
            }
            Self::NoData { kind, text } => {
                out.u8(0x03);
                out.failure(*kind, text);
            }
        }
        out.0
    }

    /// The message in a frame.
    ///
    /// # Errors
    /// [`Malformed`] if it is none, or passes a limit.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame);
        let message = match cursor.u8()? {
            0x01 => Self::Ask(request(&mut cursor)?),
            0x02 => Self::Data(rest(&mut cursor, MAX_READ)?),
            0x03 => {
                let (kind, text) = failure(&mut cursor)?;
                Self::NoData { kind, text }
            }
            other => return Err(cursor.malformed(format!("a message of type {other:#x}"))),
        };
        cursor.end()?;
        Ok(message)
    }
}

impl FromParser {
    /// The frame after its length.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        match self {
            Self::Hello { version } => {
                out.u8(0x81);
                out.u32(*version);
            }
            Self::Refused { text } => {
                out.u8(0x82);
                out.text(text);
            }
            Self::Read { offset, count } => {
                out.u8(0x83);
                out.u64(*offset);
                out.u32(*count);
            }
            Self::Answer(answer) => {
                out.u8(0x84);
                out.answer(answer);
            }
            Self::Failed { kind, text } => {
                out.u8(0x85);
                out.failure(*kind, text);
            }
        }
        out.0
    }

    /// The message in a frame.
    ///
    /// # Errors
    /// [`Malformed`] if it is none, or passes a limit.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame);
        let message = match cursor.u8()? {
            0x81 => Self::Hello { version: cursor.u32()? },
            0x82 => Self::Refused { text: cursor.text(MAX_TEXT)?.to_owned() },
            0x83 => {
                let (offset, count) = (cursor.u64()?, cursor.u32()?);
                if count == 0 || count as usize > MAX_READ {
                    return Err(cursor.malformed(format!("a read of {count} bytes")));
                }
                Self::Read { offset, count }
            }
            0x84 => Self::Answer(answer(&mut cursor)?),
            0x85 => {
                let (kind, text) = failure(&mut cursor)?;
                Self::Failed { kind, text }
            }
            other => return Err(cursor.malformed(format!("a message of type {other:#x}"))),
        };
        cursor.end()?;
        Ok(message)
    }
}

impl Answer {
    /// Whether this can be an answer to that question. What the types cannot say is checked here: an answer about
    /// another inode, pieces outside the volume or with gaps.
    pub fn fits(&self, request: &Request) -> bool {
        match (self, &request.question) {
            (Self::Probe { volumes, .. }, Question::Probe { .. }) => {
                let numbers = volumes.iter().map(|volume| volume.number);
                let mut end = 0;
                numbers.is_sorted_by(|a, b| a < b)
                    && volumes.iter().all(|volume| {
                        let fits = volume.fits(request.volume.end(), end);
                        end = end.max(volume.range.end());
                        fits
                    })
            }
            (Self::Content(bytes), Question::Content { len, .. }) => {
                !bytes.is_empty() && bytes.len() <= *len as usize
            }
            (Self::Open { .. }, Question::Open)
            | (Self::Lookup(_), Question::Lookup { .. })
            | (Self::Link(_), Question::Link { .. })
            | (Self::AttributeNames(_), Question::AttributeNames { .. })
            | (Self::Attribute(_), Question::Attribute { .. }) => true,
            (Self::Luks(luks), Question::Luks) => luks.is_possible(request.volume.count().get()),
            (Self::Mapping(mapping), Question::Mapping { from, .. }) => mapping.is_possible(*from),
            (Self::Node(node), Question::Node { ino }) => node.ino == *ino,
            (Self::List { listing, nodes }, Question::List { .. }) => {
                let pairs = listing.entries.iter().zip(nodes);
                pairs.clone().count() == listing.entries.len()
                    && pairs
                        .into_iter()
                        .all(|(entry, node)| node.as_ref().is_none_or(|node| node.ino == entry.ino))
            }
            (Self::Pieces(pieces), Question::Pieces { from, .. }) => {
                pieces_fit(pieces, *from, request.volume.count().get())
            }
            _ => false,
        }
    }
}

fn pieces_fit(pieces: &[Piece], from: u64, volume: u64) -> bool {
    let end = |piece: &Piece| piece.at.checked_add(piece.len).filter(|end| *end <= i64::MAX as u64);
    let placed = |piece: &Piece| match &piece.place {
        Place::Volume(at) => at.checked_add(piece.len).is_some_and(|end| end <= volume),
        Place::Zero | Place::Coded => true,
        Place::Bytes(bytes) => bytes.len() as u64 == piece.len,
    };
    pieces.first().is_none_or(|first| first.at <= from)
        && pieces.last().is_none_or(|last| end(last).is_some_and(|end| end > from))
        && pieces.iter().all(|piece| piece.len > 0 && end(piece).is_some() && placed(piece))
        && pieces.windows(2).all(|pair| matches!(pair, [a, b] if end(a) == Some(b.at)))
}
