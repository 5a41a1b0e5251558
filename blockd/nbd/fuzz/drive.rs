//! Drives the decoders and the two state machines with arbitrary bytes, and checks what must hold whatever the bytes
//! are. Shared by the fuzz targets and by the tests that replay and vary their inputs.

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Error, Kind, MemoryDisk};
use nbd::handshake::{self, Context, Handshake, Negotiated, Tls};
use nbd::transmission::{self, Cells, Outbox, Transmission};
use nbd::wire::*;
use nbd::{Access, Export, ExportInfo, Exports, Peer, Uri};
use std::sync::Arc;

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

/// Bytes of the disk behind the wishes.
pub const SIZE: u64 = 700_001;

impl Wish {
    /// Wishes made of any bytes.
    pub fn parse(data: &[u8]) -> Vec<Self> {
        let wish = |bytes: &[u8]| Self {
            flags: u16::from(bytes[0]),
            command: u16::from(bytes[1] % 10),
            offset: u64::from(u32::from_le_bytes([bytes[2], bytes[3], bytes[4] & 15, 0])),
            length: u64::from(u16::from_le_bytes([bytes[5], bytes[6]])) * 11,
            fill: bytes[7],
        };
        data.chunks_exact(8).take(24).map(wish).collect()
    }
}

/// A connection on which a client makes `wishes`, whose bytes arrive in pieces of at most `piece`. Checks that each
/// is answered exactly once, in order, in well-formed replies, and that reads see what was written.
pub fn transmission(wishes: &[Wish], style: ReplyStyle, piece: usize) {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for (cookie, wish) in (1u64..).zip(wishes) {
        let Wish { flags, command, offset, length, fill } = *wish;
        let mut request = Request { flags, command, cookie, offset, length };
        if style < ReplyStyle::Extended || request.payload(style) > SIZE {
            // what fits the header, and this test's memory
            request.length = length.min(SIZE);
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
    let mut model = vec![0x5a; SIZE as usize];
    let disk = Arc::new(MemoryDisk::new(ByteCount::new(SIZE)));
    disk.write_at(ByteOffset::ZERO, &model).expect("a write to memory");
    let replies = serve(disk.clone(), style, &stream, piece);
    let mut replies = Replies { rest: &replies, style };
    expected.iter().for_each(|(request, fill)| replies.check(request, *fill, &mut model));
    assert!(replies.rest.is_empty(), "replies to nothing");
    let mut found = vec![0; model.len()];
    disk.read_at(ByteOffset::ZERO, &mut found).expect("a read of memory");
    assert!(found == model, "the disk is not what the replies say");
}

/// All replies to a stream of bytes that arrives in pieces.
pub fn serve(disk: Arc<MemoryDisk>, style: ReplyStyle, stream: &[u8], piece: usize) -> Vec<u8> {
    let negotiated = Negotiated {
        name: "x".into(),
        facts: ExportFacts { size: disk.size().get(), flags: 0 },
        export: Export::new(Access::ReadWrite(disk), ""),
        style,
        contexts: if style > ReplyStyle::Simple { vec![Context::Allocation] } else { Vec::new() },
        entered: None,
    };
    let mut machine = Transmission::new(negotiated, Arc::new(Cells::new()));
    let (mut out, mut all, mut pending) = (Outbox::new(), Vec::new(), Vec::new());
    for bytes in stream.chunks(piece.max(1)) {
        pending.extend_from_slice(bytes);
        loop {
            let (used, step) = machine.advance(&pending, &mut out);
            pending.drain(..used);
            all.extend_from_slice(out.filled());
            out.clear();
            match step {
                transmission::Step::Send => {}
                transmission::Step::Fetched => panic!("nothing was fetched"),
                transmission::Step::Close(_) => return all,
                transmission::Step::Input(need) => {
                    assert!(need > pending.len() && need <= 260 << 10, "wants {need}");
                    break;
                }
            }
        }
    }
    all
}

/// What a strict client makes of the replies.
struct Replies<'a> {
    rest: &'a [u8],
    style: ReplyStyle,
}

/// The front of a chunk, whatever the style.
struct Chunk {
    flags: u16,
    kind: u16,
    payload: Vec<u8>,
}

impl Replies<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.rest.split_at_checked(count).expect("a reply is cut short");
        self.rest = rest;
        taken
    }

    /// Checks the reply to a request and applies to the model what it says was done.
    fn check(&mut self, request: &Request, fill: u8, model: &mut [u8]) {
        let is_simple = self.rest.starts_with(&0x6744_6698u32.to_be_bytes());
        let errno = if is_simple { self.simple(request, model) } else { self.chunks(request, model) };
        if errno != Errno::NONE {
            return;
        }
        let start = request.offset as usize;
        let end = start + request.length as usize;
        match request.command {
            CMD_WRITE => model[start..end].fill(fill),
            CMD_WRITE_ZEROES => model[start..end].fill(0),
            CMD_TRIM => {
                let end = if end == model.len() { end } else { end / 4096 * 4096 };
                let start = start.next_multiple_of(4096).min(end);
                model[start..end].fill(0);
            }
            _ => {}
        }
    }

    fn simple(&mut self, request: &Request, model: &[u8]) -> Errno {
        assert!(self.style < ReplyStyle::Extended, "a simple reply among extended ones");
        let bytes = self.take(SimpleReply::LEN).try_into().expect("sixteen bytes");
        let reply = SimpleReply::decode(bytes).expect("a simple reply");
        assert_eq!(reply.cookie, request.cookie);
        if request.command == CMD_READ {
            assert!(self.style == ReplyStyle::Simple, "a simple reply to a read");
            if reply.errno == Errno::NONE {
                let start = request.offset as usize;
                let expected = &model[start..start + request.length as usize];
                assert!(self.take(request.length as usize) == expected, "wrong data");
            }
        }
        reply.errno
    }

    fn chunk(&mut self, request: &Request) -> Chunk {
        let (flags, kind, cookie, length) = if self.style == ReplyStyle::Extended {
            let bytes = self.take(ExtendedHeader::LEN).try_into().expect("32 bytes");
            let header = ExtendedHeader::decode(bytes).expect("an extended chunk");
            assert_eq!(header.offset, request.offset);
            (header.flags, header.kind, header.cookie, header.length)
        } else {
            let bytes = self.take(ChunkHeader::LEN).try_into().expect("twenty bytes");
            let header = ChunkHeader::decode(bytes).expect("a chunk");
            (header.flags, header.kind, header.cookie, header.length.into())
        };
        assert_eq!(cookie, request.cookie);
        Chunk { flags, kind, payload: self.take(length as usize).to_vec() }
    }

    fn chunks(&mut self, request: &Request, model: &[u8]) -> Errno {
        assert!(self.style > ReplyStyle::Simple, "chunks nobody asked for");
        let (mut covered, mut errno) = (0u64, Errno::NONE);
        loop {
            let Chunk { flags, kind, payload } = self.chunk(request);
            match kind {
                REPLY_OFFSET_DATA => {
                    let offset = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
                    assert_eq!(offset, request.offset + covered, "pieces in order");
                    assert!(model[offset as usize..][..payload.len() - 8] == payload[8..], "wrong data");
                    covered += payload.len() as u64 - 8;
                }
                REPLY_BLOCK_STATUS | REPLY_BLOCK_STATUS_EXT => {
                    let total = self.extents(kind, &payload);
                    assert!(total > 0 && total <= request.length);
                    covered = request.length;
                }
                REPLY_NONE => assert!(payload.is_empty() && flags == REPLY_FLAG_DONE),
                REPLY_ERROR => {
                    errno = Errno(u32::from_be_bytes(payload[..4].try_into().expect("four bytes")))
                }
                other => panic!("a chunk of type {other}"),
            }
            if flags & REPLY_FLAG_DONE != 0 {
                let has_content = matches!(request.command, CMD_READ | CMD_BLOCK_STATUS);
                let whole = covered == request.length;
                assert!(errno != Errno::NONE || !has_content || whole, "a reply with gaps");
                return errno;
            }
        }
    }

    /// The bytes that the extents in a chunk cover.
    fn extents(&self, kind: u16, payload: &[u8]) -> u64 {
        assert_eq!(payload[..4], Context::Allocation.id().to_be_bytes());
        assert_eq!(kind == REPLY_BLOCK_STATUS_EXT, self.style == ReplyStyle::Extended);
        if kind == REPLY_BLOCK_STATUS {
            let extents = payload[4..].chunks(8);
            return extents
                .map(|b| Extent32::decode(b.try_into().expect("8")).expect("one").length as u64)
                .sum();
        }
        let count = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
        let extents = payload[8..].chunks(16);
        assert_eq!(extents.len(), count as usize);
        extents.map(|b| Extent64::decode(b.try_into().expect("16")).expect("one").length).sum()
    }
}

fn style(number: u8) -> ReplyStyle {
    [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended][usize::from(number % 3)]
}

/// What the fuzz targets do with their input: its first two bytes say how it is cut and understood.
pub fn fuzz_transmission(data: &[u8]) {
    let [piece, mode, rest @ ..] = data else { return };
    let piece = usize::from(*piece) * 37 + 1;
    if mode & 1 == 0 {
        return transmission(&Wish::parse(rest), style(mode >> 1), piece);
    }
    drop(serve(Arc::new(MemoryDisk::new(ByteCount::new(SIZE))), style(mode >> 1), rest, piece));
}

/// The same for the handshake.
pub fn fuzz_handshake(data: &[u8]) {
    if let [piece, rest @ ..] = data {
        let tls = [Tls::Unsupported, Tls::Required, Tls::Active][usize::from(*piece % 3)];
        handshake(rest, usize::from(*piece) * 37 + 1, tls);
    }
}
