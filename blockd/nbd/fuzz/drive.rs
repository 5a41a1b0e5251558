//! Drives the decoders and the two state machines with arbitrary bytes, and checks what must hold whatever the bytes
//! are. Shared by the fuzz targets and by the tests that replay and vary their inputs.

#[path = "replies.rs"]
mod replies;
#[path = "serve.rs"]
mod serve;
#[path = "shelf.rs"]
mod shelf;

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Error, Kind, MemoryDisk};
use nbd::handshake::{self, Handshake, Tls};
use nbd::wire::*;
use nbd::{Access, Export, ExportInfo, Exports, Peer, Uri};
use replies::Checker;
use serve::serve;
use std::sync::{Arc, LazyLock};

/// Every decoder takes any bytes without a panic, and what it takes it encodes to the same bytes.
pub fn fuzz_wire(data: &[u8]) {
    if let Some(bytes) = data.first_chunk() {
        drop(Greeting::decode(bytes).map(|greeting| assert_eq!(&greeting.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(OptionHeader::decode(bytes).map(|header| assert_eq!(&header.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(OptionReplyHeader::decode(bytes).map(|header| assert_eq!(&header.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(Request::decode(bytes).map(|request| assert_eq!(&request.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(SimpleReply::decode(bytes).map(|reply| assert_eq!(&reply.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(ChunkHeader::decode(bytes).map(|chunk| assert_eq!(&chunk.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(Extent32::decode(bytes).map(|extent| assert_eq!(&extent.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(Request::decode_extended(bytes).map(|request| assert_eq!(&request.encode_extended(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(ExtendedHeader::decode(bytes).map(|header| assert_eq!(&header.encode(), bytes)));
    }
    if let Some(bytes) = data.first_chunk() {
        drop(Extent64::decode(bytes).map(|extent| assert_eq!(&extent.encode(), bytes)));
    }
    drop(ExportFacts::decode(data).map(|facts| assert_eq!(facts.encode(), data)));
    drop(BlockSizes::decode(data));
    drop(GoRequest::decode(data));
    if let Ok(request) = MetaRequest::decode(data) {
        let mut bytes = Vec::new();
        request.put(&mut bytes, OPT_SET_META_CONTEXT);
        assert_eq!(&bytes[OptionHeader::LEN..], data);
    }
    if let Some(uri) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Uri>().ok()) {
        assert_eq!(uri.to_string().parse::<Uri>().ok(), Some(uri));
    }
}

struct Any(Arc<MemoryDisk>);

impl Exports for Any {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        vec![ExportInfo { name: "a".into(), description: "b".into() }]
    }

    fn open(&self, name: &str, _peer: &Peer) -> Result<Export, Error> {
        match name.len() {
            0..3 => Ok(Export::new(Access::ReadWrite(self.0.clone()), "")),
            3..6 => Ok(Export::new(Access::ReadOnly(self.0.clone()), name)),
            6..9 => Err(Error::refused(Kind::Unavailable, name, "locked")),
            _ => Err(Error::NotFound { what: name.into() }),
        }
    }
}

/// A handshake with a client that sends `data` in pieces of at most `piece` bytes. Returns whether an export was
/// chosen. Where TLS is required, nothing is opened before it.
pub fn handshake(data: &[u8], piece: usize, tls: Tls) -> bool {
    let exports = Any(Arc::new(MemoryDisk::new(ByteCount::new(4096))));
    let peer = Peer::Unix { uid: 0, gid: 0, pid: 0 };
    let mut machine = Handshake::new(&exports, &peer, tls);
    let (mut pending, mut out) = (Vec::new(), Vec::new());
    for bytes in data.chunks(piece.max(1)) {
        pending.extend_from_slice(bytes);
        out.clear();
        let (used, step) = machine.advance(&pending, &mut out);
        assert!(used <= pending.len());
        pending.drain(..used);
        // an option asks for no more than its own size of replies, a few times over
        assert!(out.len() <= 64 * used + 4096, "{} bytes of replies to {used}", out.len());
        match step {
            handshake::Step::Input(need) => {
                assert!(need > pending.len(), "asks for what it has");
                assert!(need <= 16 + (32 << 10), "keeps {need} bytes");
            }
            handshake::Step::Transmission(negotiated) => {
                assert!(negotiated.style > ReplyStyle::Simple || negotiated.contexts.is_empty());
                assert!(tls != Tls::Required, "an export without the TLS it needs");
                return true;
            }
            // what comes now is TLS, which is not ours to fuzz
            handshake::Step::StartTls => {
                assert_eq!(tls, Tls::Required);
                return false;
            }
            handshake::Step::Close(_) => return false,
        }
    }
    false
}

/// A request as a fuzzer writes it: mostly sensible, because most random bytes end a connection at once.
#[derive(Debug, Clone)]
pub struct Wish {
    pub flags: u16,
    pub command: u16,
    pub offset: u64,
    pub length: u64,
    pub fill: u8,
}

/// Bytes of the disk behind most wishes: a few runs of [`shelf`], and not whole blocks.
pub const SMALL: u64 = 49_001;

/// Bytes of a disk whose reads and writes are taken in several pieces; it costs ten times as much to look at.
pub const LARGE: u64 = 700_001;

/// What a disk holds before the first wish: no byte is like its neighbours, so that one taken from the wrong place shows.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..LARGE).map(|at| (at % 251) as u8).collect());

impl Wish {
    /// Wishes made of any bytes, for a disk of `size` bytes.
    pub fn parse(data: &[u8], size: u64) -> Vec<Self> {
        let wish = |bytes: &[u8]| {
            let length = u64::from(u16::from_le_bytes([bytes[5], bytes[6]]));
            Self {
                flags: u16::from(bytes[0]),
                command: u16::from(bytes[1] % 10),
                offset: u64::from(u32::from_le_bytes([bytes[2], bytes[3], bytes[4], 0])) % (size + 99),
                length: match bytes[1] / 64 {
                    0 => length % 9000,
                    1 => length % 16 * 4096,
                    2 => length * 11 % size,
                    _ => length * 11,
                },
                fill: bytes[7],
            }
        };
        let most = if size > SMALL { 24 } else { 160 };
        data.chunks_exact(8).take(most).map(wish).collect()
    }
}

/// A client that makes `wishes`, whose bytes arrive in pieces of at most `piece`. Checks that each is answered exactly
/// once, in order unless it was fetched, in well-formed replies, and that reads see what was written. With a `seed` the
/// disk's bytes lie in files.
pub fn transmission(wishes: &[Wish], size: u64, style: ReplyStyle, piece: usize, seed: Option<u64>) {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for (cookie, wish) in (1u64..).zip(wishes) {
        let Wish { flags, command, offset, length, fill } = *wish;
        let mut request = Request { flags, command, cookie, offset, length };
        if style < ReplyStyle::Extended || request.payload(style) > size {
            // what fits the header, and this test's memory
            request.length = length.min(size);
        }
        match style {
            ReplyStyle::Extended => stream.extend_from_slice(&request.encode_extended()),
            _ => stream.extend_from_slice(&request.encode()),
        }
        stream.resize(stream.len() + request.payload(style) as usize, fill);
        if command == CMD_DISC {
            break;
        }
        expected.push((request, fill));
    }
    let model = CONTENT[..size as usize].to_vec();
    let disk = Arc::new(MemoryDisk::new(ByteCount::new(size)));
    disk.write_at(ByteOffset::ZERO, &model).expect("a write to memory");
    let served = serve(disk.clone(), style, &stream, piece, seed);
    let model = Checker::new(&served, style, &expected, model).check();
    let mut found = vec![0; model.len()];
    disk.read_at(ByteOffset::ZERO, &mut found).expect("a read of memory");
    assert!(found == model, "the disk is not what the replies say");
}

fn style(number: u8) -> ReplyStyle {
    [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended][usize::from(number % 3)]
}

/// What the fuzz targets do with their input: its first three bytes say how it is cut and understood, and how the host
/// behaves.
pub fn fuzz_transmission(data: &[u8]) {
    let [piece, mode, seed, rest @ ..] = data else { return };
    let piece = usize::from(*piece) * 37 + 1;
    let seed = (*seed != 0).then(|| u64::from(*seed));
    let style = style(mode >> 4);
    let size = if mode & 6 == 6 { LARGE } else { SMALL };
    if mode & 1 == 0 {
        return transmission(&Wish::parse(rest, size), size, style, piece, seed);
    }
    drop(serve(Arc::new(MemoryDisk::new(ByteCount::new(size))), style, rest, piece, seed));
}

/// The same for the handshake.
pub fn fuzz_handshake(data: &[u8]) {
    if let [piece, rest @ ..] = data {
        let tls = [Tls::Unsupported, Tls::Required, Tls::Active][usize::from(*piece % 3)];
        handshake(rest, usize::from(*piece) * 37 + 1, tls);
    }
}
