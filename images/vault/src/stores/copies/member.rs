//! What makes a store one of the copies of a set. Specified in `docs/copies.md`.

use std::ops::ControlFlow;

use block::{
    BlobStore, ByteCount, ByteRange, Cursor, Entropy, Error, FileHeader, HEADER_LEN, Kind, Malformed, Result,
};

/// Where a copy keeps what is the set's and not the vault's.
pub(super) const OWN: &str = "copies/";
/// Says which copy this is.
pub(super) const MEMBER: &str = "copies/member";
const BEHIND: &str = "copies/behind/";
const GONE: &str = "copies/gone/";
/// Copies of a set at most: more only cost, and each is written to at every put.
pub const MAX_COPIES: usize = 8;
/// Longest text of a mark.
const MAX_MARK: u64 = 512;
const FORMAT: [u8; 4] = *b"copy";
const LEN: usize = HEADER_LEN + 16 + 4 + 4;

/// Which copy of which set a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) set: [u8; 16],
    /// Copies of the set.
    pub(super) count: u8,
    /// Which of them, from 1.
    pub(super) number: u8,
}

impl Card {
    pub(super) fn fresh_set(entropy: &dyn Entropy) -> Result<[u8; 16]> {
        let mut set = [0; 16];
        entropy.fill(&mut set)?;
        Ok(set)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = FileHeader::new(FORMAT, 0).encode().to_vec();
        bytes.extend_from_slice(&self.set);
        bytes.extend_from_slice(&[self.count, self.number, 0, 0]);
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        FileHeader::check(bytes, &FileHeader::new(FORMAT, 0), MEMBER)?;
        Self::fields(bytes).map_err(|why| Error::corrupt(MEMBER, None, why.to_string()))
    }

    fn fields(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(HEADER_LEN)?;
        let set = cursor.array()?;
        let [count, number, ..] = cursor.array::<4>()?;
        let covered = cursor.position();
        if cursor.u32()? != crc32fast::hash(&bytes[..covered]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        cursor.end()?;
        if !(2..=MAX_COPIES).contains(&usize::from(count)) || !(1..=count).contains(&number) {
            return Err(cursor.malformed(format!("copy {number} of {count}")));
        }
        Ok(Self { set, count, number })
    }

    /// The card in a store; `None` if it is no copy.
    pub(super) fn load(store: &dyn BlobStore) -> Result<Option<Self>> {
        match store.size(MEMBER) {
            Ok(size) if size.get() == LEN as u64 => {
                Ok(Some(Self::decode(&store.get(MEMBER, ByteRange::whole(size))?)?))
            }
            Ok(size) => Err(Error::corrupt(MEMBER, None, format!("{size} bytes, {LEN} expected"))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// For fuzzing: decodes any bytes as a card.
pub fn fuzz_card(bytes: &[u8]) {
    if let Ok(card) = Card::decode(bytes) {
        assert_eq!(card.encode()[HEADER_LEN..], bytes[HEADER_LEN..]);
    }
}

/// Says in a copy that another one lacks something. It is there when this returns.
pub(super) fn mark_behind(store: &dyn BlobStore, number: u8, why: &str) -> Result<()> {
    let why: String = why.chars().filter(|c| !c.is_control()).take(MAX_MARK as usize / 4).collect();
    tolerate(store.put(&format!("{BEHIND}{number}"), why.as_bytes()), Kind::Conflict)
}

/// Takes that back.
pub(super) fn unmark_behind(store: &dyn BlobStore, number: u8) -> Result<()> {
    tolerate(store.delete(&format!("{BEHIND}{number}")), Kind::NotFound)
}

/// The copies that lack something, as this one knows, with the reason.
pub(super) fn marked_behind(store: &dyn BlobStore) -> Result<Vec<(u8, String)>> {
    let marks = texts(store, BEHIND)?;
    Ok(marks.into_iter().filter_map(|(name, why)| Some((name[BEHIND.len()..].parse().ok()?, why))).collect())
}

fn gone_name(name: &str) -> String {
    format!("{GONE}{}", &blake3::hash(name.as_bytes()).to_hex()[..32])
}

/// Says in a copy that a blob was deleted while another copy could not hear of it.
pub(super) fn bury(store: &dyn BlobStore, name: &str) -> Result<()> {
    tolerate(store.put(&gone_name(name), name.as_bytes()), Kind::Conflict)
}

/// Takes that back, when every copy has heard.
pub(super) fn forget(store: &dyn BlobStore, name: &str) -> Result<()> {
    tolerate(store.delete(&gone_name(name)), Kind::NotFound)
}

/// The blobs that were deleted while a copy could not hear of it, as this one knows.
pub(super) fn buried(store: &dyn BlobStore) -> Result<Vec<String>> {
    let named = texts(store, GONE)?.into_iter().filter(|(mark, name)| gone_name(name) == *mark);
    Ok(named.map(|(_, name)| name).collect())
}

fn texts(store: &dyn BlobStore, prefix: &str) -> Result<Vec<(String, String)>> {
    let mut names = Vec::new();
    store.list(prefix, &mut |name, size: ByteCount| {
        names.push((name.to_owned(), size));
        ControlFlow::Continue(())
    })?;
    let mut texts = Vec::new();
    for (name, size) in names {
        let bytes = store.get(&name, ByteRange::between(0, size.get().min(MAX_MARK)))?;
        texts.push((name, String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(texts)
}

fn tolerate(done: Result<()>, kind: Kind) -> Result<()> {
    match done {
        Err(error) if error.kind() == kind => Ok(()),
        done => done,
    }
}
