//! Drives the decoders and the two state machines with arbitrary bytes, and checks what must hold whatever the bytes
//! are. Shared by the fuzz targets and by the tests that replay and vary their inputs.

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Error, Kind, MemoryDisk};
use nbd::handshake::{self, Context, Handshake, Negotiated};
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
    fn list(&self) -> Vec<ExportInfo> {
        vec![ExportInfo { name: "a".into(), description: "b".into() }]
    }

    fn open(&self, name: &str, _peer: &Peer) -> Result<Export, Error> {
        match name.len() {
            0..3 => Ok(Export { access: Access::ReadWrite(self.0.clone()), description: String::new() }),
            3..6 => Ok(Export { access: Access::ReadOnly(self.0.clone()), description: name.into() }),
            6..9 => Err(Error::refused(Kind::Unavailable, name, "locked")),
            _ => Err(Error::NotFound { what: name.into() }),
        }
    }
}

/// A handshake with a client that sends `data` in pieces of at most `piece` bytes. Returns whether an export was
/// chosen.
pub fn handshake(data: &[u8], piece: usize) -> bool {
    let exports = Any(Arc::new(MemoryDisk::new(ByteCount::new(4096))));
    let peer = Peer::Unix { uid: 0, gid: 0, pid: 0 };
    let mut machine = Handshake::new(&exports, &peer);
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
                assert!(need <= 16 + (64 << 10), "keeps {need} bytes");
            }
            handshake::Step::Transmission(negotiated) => {
                assert!(negotiated.structured || negotiated.contexts.is_empty());
                return true;
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
    pub length: u32,
    pub fill: u8,
}

/// Bytes of the disk behind the wishes.
pub const SIZE: u64 = 70_001;

impl Wish {
    /// Wishes made of any bytes.
    pub fn parse(data: &[u8]) -> Vec<Self> {
        let wish = |bytes: &[u8]| Self {
            flags: u16::from(bytes[0]),
            command: u16::from(bytes[1] % 10),
            offset: u64::from(u32::from_le_bytes([bytes[2], bytes[3], bytes[4] & 1, 0])),
            length: u32::from(u16::from_le_bytes([bytes[5], bytes[6]])),
            fill: bytes[7],
        };
        data.chunks_exact(8).take(24).map(wish).collect()
    }
}

/// A connection on which a client makes `wishes`, whose bytes arrive in pieces of at most `piece`. Checks that each
/// is answered exactly once, in order, in well-formed replies, and that reads see what was written.
pub fn transmission(wishes: &[Wish], structured: bool, piece: usize) {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for (cookie, wish) in (1u64..).zip(wishes) {
        let Wish { flags, command, offset, length, fill } = *wish;
        let request = Request { flags, command, cookie, offset, length };
        stream.extend_from_slice(&request.encode());
        stream.resize(stream.len() + request.payload() as usize, fill);
        if command == CMD_DISC {
            break;
        }
        expected.push((request, fill));
    }
    let mut model = vec![0x5a; SIZE as usize];
    let disk = Arc::new(MemoryDisk::new(ByteCount::new(SIZE)));
    disk.write_at(ByteOffset::ZERO, &model).expect("a write to memory");
    let replies = serve(disk.clone(), structured, &stream, piece);
    let mut replies = Replies { rest: &replies, structured };
    expected.iter().for_each(|(request, fill)| replies.check(request, *fill, &mut model));
    assert!(replies.rest.is_empty(), "replies to nothing");
    let mut found = vec![0; model.len()];
    disk.read_at(ByteOffset::ZERO, &mut found).expect("a read of memory");
    assert!(found == model, "the disk is not what the replies say");
}

/// All replies to a stream of bytes that arrives in pieces.
pub fn serve(disk: Arc<MemoryDisk>, structured: bool, stream: &[u8], piece: usize) -> Vec<u8> {
    let negotiated = Negotiated {
        name: "x".into(),
        facts: ExportFacts { size: disk.size().get(), flags: 0 },
        export: Export { access: Access::ReadWrite(disk), description: String::new() },
        structured,
        contexts: if structured { vec![Context::Allocation] } else { Vec::new() },
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
                transmission::Step::Close(_) => return all,
                transmission::Step::Input(need) => {
                    assert!(need > pending.len() && need <= Request::LEN + (64 << 20), "wants {need}");
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
    structured: bool,
}

impl Replies<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.rest.split_at_checked(count).expect("a reply is cut short");
        self.rest = rest;
        taken
    }

    /// Checks the reply to a request and applies to the model what it says was done.
    fn check(&mut self, request: &Request, fill: u8, model: &mut [u8]) {
        let structured = self.rest.starts_with(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        let errno = if structured { self.chunks(request, model) } else { self.simple(request, model) };
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
        let bytes = self.take(SimpleReply::LEN).try_into().expect("sixteen bytes");
        let reply = SimpleReply::decode(bytes).expect("a simple reply");
        assert_eq!(reply.cookie, request.cookie);
        if request.command == CMD_READ {
            assert!(!self.structured, "a simple reply to a read");
            if reply.errno == Errno::NONE {
                let start = request.offset as usize;
                let expected = &model[start..start + request.length as usize];
                assert!(self.take(request.length as usize) == expected, "wrong data");
            }
        }
        reply.errno
    }

    fn chunks(&mut self, request: &Request, model: &[u8]) -> Errno {
        assert!(self.structured, "chunks nobody asked for");
        let (mut covered, mut errno) = (0u64, Errno::NONE);
        loop {
            let bytes = self.take(ChunkHeader::LEN).try_into().expect("twenty bytes");
            let chunk = ChunkHeader::decode(bytes).expect("a chunk");
            assert_eq!(chunk.cookie, request.cookie);
            let payload = self.take(chunk.length as usize).to_vec();
            match chunk.kind {
                REPLY_OFFSET_DATA => {
                    let offset = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
                    assert_eq!(offset, request.offset + covered, "pieces in order");
                    assert!(model[offset as usize..][..payload.len() - 8] == payload[8..], "wrong data");
                    covered += payload.len() as u64 - 8;
                }
                REPLY_BLOCK_STATUS => {
                    assert_eq!(payload[..4], Context::Allocation.id().to_be_bytes());
                    let extents = payload[4..].chunks(8).map(|bytes| {
                        Extent32::decode(bytes.try_into().expect("eight bytes")).expect("an extent").length
                    });
                    let total: u64 = extents.map(u64::from).sum();
                    assert!(total > 0 && total <= u64::from(request.length));
                    covered = u64::from(request.length);
                }
                REPLY_NONE => assert!(payload.is_empty() && chunk.flags == REPLY_FLAG_DONE),
                REPLY_ERROR => {
                    errno = Errno(u32::from_be_bytes(payload[..4].try_into().expect("four bytes")))
                }
                other => panic!("a chunk of type {other}"),
            }
            if chunk.flags & REPLY_FLAG_DONE != 0 {
                let has_content = matches!(request.command, CMD_READ | CMD_BLOCK_STATUS);
                let whole = covered == u64::from(request.length);
                assert!(errno != Errno::NONE || !has_content || whole, "a reply with gaps");
                return errno;
            }
        }
    }
}

/// What the fuzz targets do with their input: its first two bytes say how it is cut and understood.
pub fn fuzz_transmission(data: &[u8]) {
    let [piece, mode, rest @ ..] = data else { return };
    let piece = usize::from(*piece) * 37 + 1;
    if mode & 2 == 0 {
        return transmission(&Wish::parse(rest), mode & 1 != 0, piece);
    }
    drop(serve(Arc::new(MemoryDisk::new(ByteCount::new(SIZE))), mode & 1 != 0, rest, piece));
}

/// The same for the handshake.
pub fn fuzz_handshake(data: &[u8]) {
    if let [piece, rest @ ..] = data {
        handshake(rest, usize::from(*piece) * 37 + 1);
    }
}
