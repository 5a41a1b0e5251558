//! What the parity of a set says of it: members, sums. Specified in `docs/parity.md`.

use block::{
    BlobStore, ByteRange, Cursor, Error, FileHeader, HEADER_LEN, Kind, Malformed, Result, check_blob_name,
};

/// Where a store with parity keeps what is its own.
pub(super) const OWN: &str = "parity/";
/// Says how much parity there is.
pub(super) const SCHEME: &str = "parity/scheme";
pub(super) const SETS: &str = "parity/sets/";
pub(super) const TWINS: &str = "parity/twin/";
pub(super) const GONE: &str = "parity/gone/";
/// Bytes under one sum, and of one block of a column.
pub(super) const BLOCK: u64 = 4096;
const SUM_LEN: u64 = 4;
/// The longest blob a set may have: larger than any pack and any index.
pub(super) const MAX_MEMBER: u64 = 64 << 20;
/// The most members of a set: as many blobs are read to mend one.
const MAX_MEMBERS: u8 = 16;
/// The most parity of a set.
pub(super) const MAX_PARITY: u8 = 4;
/// A head ends within this.
pub(super) const MAX_HEAD: u64 = 4096;
const SCHEME_HEADER: FileHeader = FileHeader::new(*b"prsc", 0);
const SET_HEADER: FileHeader = FileHeader::new(*b"prty", 0);
const SCHEME_LEN: usize = HEADER_LEN + 4 + 4;

/// How much parity a store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    members: u8,
    parity: u8,
}

impl Scheme {
    /// So much parity for so many blobs.
    ///
    /// # Errors
    /// `Invalid` if it is not 2 to 16 and 1 to 4.
    pub fn new(members: u8, parity: u8) -> Result<Self> {
        if (2..=MAX_MEMBERS).contains(&members) && (1..=MAX_PARITY).contains(&parity) {
            return Ok(Self { members, parity });
        }
        let why = format!("is not 2 to {MAX_MEMBERS} blobs and 1 to {MAX_PARITY} of parity, as 8+2");
        Err(Error::refused(Kind::Invalid, format!("parity {members}+{parity}"), why))
    }

    /// Blobs of a full set.
    pub fn members(self) -> usize {
        self.members.into()
    }

    /// Parity of each set: so many of its blobs may be damaged at one place.
    pub fn parity(self) -> usize {
        self.parity.into()
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = SCHEME_HEADER.encode().to_vec();
        bytes.extend_from_slice(&[self.members, self.parity, 0, 0]);
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        FileHeader::check(bytes, &SCHEME_HEADER, SCHEME)?;
        let mut cursor = Cursor::new(bytes);
        let mut fields = || {
            cursor.bytes(HEADER_LEN)?;
            let [members, parity, ..] = cursor.array::<4>()?;
            let covered = cursor.position();
            if cursor.u32()? != crc32fast::hash(&bytes[..covered]) {
                return Err(cursor.malformed("its checksum disagrees"));
            }
            cursor.end().map(|()| (members, parity))
        };
        let (members, parity) = fields().map_err(|why| Error::corrupt(SCHEME, None, why.to_string()))?;
        Self::new(members, parity).map_err(|why| Error::corrupt(SCHEME, None, why.to_string()))
    }

    /// That of a store; `None` if it keeps no parity.
    pub(super) fn load(store: &dyn BlobStore) -> Result<Option<Self>> {
        match store.size(SCHEME) {
            Ok(size) if size.get() == SCHEME_LEN as u64 => {
                Ok(Some(Self::decode(&store.get(SCHEME, ByteRange::whole(size))?)?))
            }
            Ok(size) => Err(Error::corrupt(SCHEME, None, format!("{size} bytes, {SCHEME_LEN} expected"))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.members, self.parity)
    }
}

impl std::str::FromStr for Scheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('+').and_then(|(k, m)| Some((k.parse().ok()?, m.parse().ok()?)));
        let (members, parity) = numbers.ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            Error::refused(Kind::Invalid, format!("parity {shown:?}"), "is not two numbers, as 8+2")
        })?;
        Self::new(members, parity)
    }
}

/// The id of a set.
pub(super) type SetId = [u8; 16];

pub(super) fn hex(id: &SetId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn set_name(id: &SetId, number: usize) -> String {
    format!("{SETS}{}/{number}", hex(id))
}

pub(super) fn gone_name(name: &str) -> String {
    format!("{GONE}{}", &blake3::hash(name.as_bytes()).to_hex()[..32])
}

/// A blob of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) len: u64,
}

impl Member {
    pub(super) fn blocks(&self) -> u64 {
        self.len.div_ceil(BLOCK)
    }
}

/// The beginning of one parity of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) set: SetId,
    pub(super) number: u8,
    pub(super) parity: u8,
    pub(super) members: Vec<Member>,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = SET_HEADER.encode().to_vec();
        bytes.extend_from_slice(&self.set);
        bytes.extend_from_slice(&[self.number, self.members.len() as u8, self.parity, 0]);
        for member in &self.members {
            bytes.extend_from_slice(&member.len.to_le_bytes());
            bytes.push(member.name.len() as u8);
            bytes.extend_from_slice(member.name.as_bytes());
        }
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The head that `bytes` begin with.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        FileHeader::check(bytes, &SET_HEADER, name)?;
        Self::fields(bytes).map_err(|why| Error::corrupt(name, None, why.to_string()))
    }

    fn fields(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(HEADER_LEN)?;
        let set = cursor.array()?;
        let [number, count, parity, zero] = cursor.array::<4>()?;
        if number >= parity || parity > MAX_PARITY || !(1..=MAX_MEMBERS).contains(&count) || zero != 0 {
            return Err(cursor.malformed(format!("parity {number} of {parity} of {count} blobs")));
        }
        let mut members: Vec<Member> = Vec::with_capacity(count.into());
        for _ in 0..count {
            let len = cursor.u64()?;
            let name_len = cursor.u8()?.into();
            let name = std::str::from_utf8(cursor.bytes(name_len)?).unwrap_or_default();
            if !(1..=MAX_MEMBER).contains(&len) || check_blob_name(name).is_err() || name.starts_with(OWN) {
                return Err(cursor.malformed("a member that none can be"));
            }
            if members.iter().any(|member| member.name == name) {
                return Err(cursor.malformed("a member that it names before"));
            }
            members.push(Member { name: name.to_owned(), len });
        }
        let covered = cursor.position();
        if cursor.u32()? != crc32fast::hash(&bytes[..covered]) {
            return Err(cursor.malformed("the checksum of its head disagrees"));
        }
        Ok(Self { set, number, parity, members })
    }

    pub(super) fn len(&self) -> u64 {
        let names: usize = self.members.iter().map(|member| 9 + member.name.len()).sum();
        (HEADER_LEN + 16 + 4 + names + 4) as u64
    }

    pub(super) fn columns(&self) -> u64 {
        self.members.iter().map(Member::blocks).max().unwrap_or(0)
    }

    fn sums(&self) -> u64 {
        self.members.iter().map(Member::blocks).sum::<u64>() + self.columns()
    }

    /// Where the sums lie.
    pub(super) fn sums_range(&self) -> ByteRange {
        ByteRange::between(self.len(), self.len() + (self.sums() + 1) * SUM_LEN)
    }

    /// Where the parity of these columns lies.
    pub(super) fn data_range(&self, columns: &std::ops::Range<u64>) -> ByteRange {
        let at = self.sums_range().end();
        ByteRange::between(at + columns.start * BLOCK, at + columns.end * BLOCK)
    }

    /// The length of the whole blob.
    pub(super) fn total(&self) -> u64 {
        self.data_range(&(0..self.columns())).end()
    }
}

/// The sums of a set, by block: those of its members, and those of one of its parities behind them.
pub(super) struct Sums(Vec<Vec<u32>>);

impl Sums {
    pub(super) fn new(members: Vec<Vec<u32>>) -> Self {
        Self(members)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flatten().flat_map(|sum| sum.to_le_bytes()).collect();
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(head: &Head, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let all = cursor.bytes((head.sums() * SUM_LEN) as usize)?;
        if cursor.u32()? != crc32fast::hash(all) {
            return Err(cursor.malformed("the checksum of its sums disagrees"));
        }
        cursor.end()?;
        let (words, _) = all.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let counts = head.members.iter().map(Member::blocks).chain([head.columns()]);
        Ok(Self(counts.map(|count| words.by_ref().take(count as usize).collect()).collect()))
    }

    /// Those of one shard: a member, or behind them the parity.
    pub(super) fn of(&self, shard: usize) -> &[u32] {
        self.0.get(shard).map_or(&[], Vec::as_slice)
    }
}

/// The sum of each block.
pub(super) fn sums_of(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(BLOCK as usize).map(crc32fast::hash).collect()
}

/// For fuzzing: decodes any bytes as a scheme and as the parity of a set.
pub fn fuzz_parity(bytes: &[u8]) {
    if let Ok(scheme) = Scheme::decode(bytes) {
        assert_eq!(scheme.encode()[HEADER_LEN..HEADER_LEN + 2], bytes[HEADER_LEN..HEADER_LEN + 2]);
    }
    if let Ok(head) = Head::decode("fuzz", bytes) {
        let len = head.len() as usize;
        assert!(len as u64 <= MAX_HEAD);
        assert_eq!(head.encode()[HEADER_LEN..], bytes[HEADER_LEN..len]);
        let sums = head.sums_range();
        if let Some(stored) = bytes.get(len..sums.end() as usize)
            && let Ok(sums) = Sums::decode(&head, stored)
        {
            assert_eq!(sums.encode(), stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_says_what_it_is_and_every_flip_is_found() {
        let members = vec![
            Member { name: "packs/a".to_owned(), len: 9000 },
            Member { name: "packs/b".to_owned(), len: 1 },
        ];
        let head = Head { set: [7; 16], number: 1, parity: 2, members };
        let bytes = head.encode();
        assert_eq!((bytes.len() as u64, head.columns()), (head.len(), 3));
        assert_eq!(Head::decode("x", &bytes).unwrap(), head);
        let sums = Sums::new(vec![vec![1, 2, 3], vec![4], vec![5, 6, 7]]);
        let stored = sums.encode();
        assert_eq!(stored.len() as u64, head.sums_range().count().get());
        assert_eq!(Sums::decode(&head, &stored).unwrap().of(2), [5, 6, 7]);
        assert_eq!(head.total(), head.len() + 4 * 8 + 3 * BLOCK);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Head::decode("x", &flipped).is_err(), "at {at}");
        }
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Sums::decode(&head, &flipped).is_err(), "at {at}");
        }
    }

    #[test]
    fn a_scheme_is_read_as_it_is_shown() {
        let scheme: Scheme = "8+2".parse().unwrap();
        assert_eq!((scheme.members(), scheme.parity(), scheme.to_string().as_str()), (8, 2, "8+2"));
        assert_eq!(Scheme::decode(&scheme.encode()).unwrap(), scheme);
        for wrong in ["", "8", "1+1", "8+0", "17+1", "8+5", "-1+1", "8+2+1"] {
            assert_eq!(wrong.parse::<Scheme>().unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
    }
}
