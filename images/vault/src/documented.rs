//! The examples of the specification, byte for byte. Also the seeds that damage and fuzz tests mutate.

use block::{ByteCount, DiskId, Epoch, StateId, Time, VaultId};

use crate::chunk::{CHUNK_SIZE, Encoding, decode, fingerprint};
use crate::front::{Front, INDEX, INFO, PACK};
use crate::index::{IndexContent, decode_blob, encode_blob};
use crate::info::Info;
use crate::key::Keys;
use crate::manifest::{Node, Point, PointKind, Ref, VaultPoint, encode_body};
use crate::name::{Address, ApplianceId, BlobId, Spot};
use crate::pack::{Finished, PackWriter};
use crate::{ManifestId, VaultKey};

const VAULT: VaultId = VaultId::from_bytes([0x11; 16]);

fn keys() -> Keys {
    Keys::derive(&VaultKey::from_bytes([0x44; 32]))
}

fn front(format: [u8; 4], id: u8) -> Front {
    let address = Address { appliance: ApplianceId::from_bytes([0x22; 8]), id: BlobId::from_bytes([id; 16]) };
    Front { format, vault: VAULT, address, salt: [0x33; 32] }
}

fn info() -> Vec<u8> {
    Info::new(&keys(), front(INFO, 0x11), Time { unix_ms: 5 }).encode(&keys())
}

/// The leaf of a disk of one chunk, which is the first of the example pack.
fn leaf() -> Node {
    Node::new(0, &[Ref::Stored(spot(0))])
}

fn spot(entry: u32) -> Spot {
    Spot { pack: front(PACK, 0x55).address, entry, chunk: 0 }
}

fn pack() -> Finished {
    let mut writer = PackWriter::with_front(&keys(), front(PACK, 0x55));
    let mut chunk = b"hello vault".to_vec();
    chunk.resize(CHUNK_SIZE as usize, 0);
    // lz4 of it: eleven letters and a zero, then that zero copied over and over, then five more at the end
    let mut encoded = b"\xcfhello vault\0\x01\0".to_vec();
    encoded.extend([0xff; 15]);
    encoded.extend([0xeb, 0x50, 0, 0, 0, 0, 0]);
    assert!(decode(Encoding::Lz4, &encoded, chunk.len()).as_ref() == Ok(&chunk));
    writer.push_frame(&[fingerprint(&keys(), &chunk)], CHUNK_SIZE as u32, Encoding::Lz4, &encoded);
    let node = leaf().encode();
    writer.push_node(node.len() as u32, Encoding::Raw, &node);
    writer.finish(&keys()).expect("the example opens")
}

fn index() -> (IndexContent, Vec<u8>) {
    let pack = pack();
    let content = IndexContent::of(vec![(pack.row(), pack.hooks())]);
    let bytes = encode_blob(&keys(), &front(INDEX, 0x66), &content);
    (content, bytes)
}

fn point_body() -> Vec<u8> {
    encode_body(&Point {
        about: VaultPoint {
            manifest: ManifestId::from_bytes([0; 16]),
            item: "web".to_owned(),
            disk: DiskId::from_bytes([0x77; 16]),
            state: StateId::from_bytes([0x88; 16]),
            base: None,
            epoch: Epoch::new(3),
            time: Time { unix_ms: 5 },
            made: Time { unix_ms: 6 },
            size: ByteCount::new(4096),
            kind: PointKind::Full,
            bytes_changed: ByteCount::new(1),
            bytes_read: ByteCount::new(2),
            chunks_new: 3,
            chunks_reused: 4,
            bytes_stored: ByteCount::new(5),
        },
        root: Ref::Stored(spot(1)),
    })
}

/// Checks the hex dump of a document.
#[track_caller]
fn shows(document: &str, bytes: &[u8]) {
    let lines = document.lines().filter_map(|line| line.strip_prefix("    0"));
    let shown: Vec<u8> = lines
        .flat_map(|line| line.split_whitespace().skip(1))
        .map(|byte| u8::from_str_radix(byte, 16).expect("a hex byte"))
        .collect();
    if shown != bytes {
        let dump: String = bytes
            .chunks(16)
            .enumerate()
            .map(|(row, line)| {
                let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("    {:08x}  {}\n", row * 16, line.join(" "))
            })
            .collect();
        panic!("the document should show\n{dump}");
    }
}

#[test]
fn the_documented_info_is_the_real_one() {
    shows(include_str!("../docs/overview.md"), &info());
}

#[test]
fn the_documented_pack_is_the_real_one() {
    shows(include_str!("../docs/pack.md"), &pack().bytes);
}

#[test]
fn the_documented_index_is_the_real_one() {
    let (content, bytes) = index();
    shows(include_str!("../docs/index.md"), &bytes);
    let back = decode_blob(&keys(), VAULT, front(INDEX, 0x66).address, &bytes).expect("the example decodes");
    assert_eq!(back, content);
}

#[test]
fn the_documented_point_is_the_real_one() {
    shows(include_str!("../docs/manifest.md"), &point_body());
}

/// Plain bytes of every kind of object, to be mutated.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let pack = pack();
    let records: Vec<u8> = pack.table.entries().flat_map(|entry| entry.record.encode()).collect();
    let table_at = pack.bytes.len() - 24;
    let mut table = pack.bytes[table_at..table_at + 16].to_vec();
    table.extend(records);
    let mut node = vec![Ref::Zero, Ref::Hole, Ref::Hole];
    node.extend((0..9).map(|chunk| Ref::Stored(Spot { chunk, ..spot(7) })));
    let key = VaultKey::from_bytes([0x44; 32]);
    vec![
        info(),
        pack.bytes[..108].to_vec(),
        pack.bytes[pack.bytes.len() - 24..].to_vec(),
        pack.bytes.clone(),
        table,
        point_body(),
        Node::new(0, &node).encode(),
        key.to_file_text().as_bytes().to_vec(),
        key.recovery_sheet(VAULT, "main", "/srv").as_bytes().to_vec(),
    ]
}
