//! Fields of stored bytes, little-endian, and the header every file begins with (`images/block/docs/header.md`).

/// Why bytes are not what a document says.
pub(crate) type Why = String;

/// Reads fields one after the other.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Why> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("ends at byte {} within a field", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn number<const N: usize>(&mut self) -> Result<u64, Why> {
        let taken = self.take(N)?;
        Ok(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Why> {
        self.number::<8>()
    }

    pub(crate) fn id(&mut self) -> Result<[u8; 16], Why> {
        let mut id = [0; 16];
        id.copy_from_slice(self.take(16)?);
        Ok(id)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// Checks the common header of a file of this format, version 1, without features.
pub(crate) fn header(fields: &mut Fields<'_>, format: &[u8; 4]) -> Result<(), Why> {
    header_with(fields, format, 0).map(drop)
}

/// Checks the common header of a file of this format, version 1. Which of the features that a reader must know it has,
/// of those in `known`.
pub(crate) fn header_with(fields: &mut Fields<'_>, format: &[u8; 4], known: u64) -> Result<u64, Why> {
    let bytes = fields.take(32)?;
    if bytes[..8] != [0x89, 0x62, 0x6c, 0x6b, 0x64, 0x0d, 0x0a, 0x1a] {
        return Err("is no file of blockd: the first eight bytes are others".to_owned());
    }
    if crc32fast::hash(&bytes[..28]).to_le_bytes() != bytes[28..32] {
        return Err("its header disagrees with the header's checksum".to_owned());
    }
    if &bytes[8..12] != format {
        let (found, wanted) = (String::from_utf8_lossy(&bytes[8..12]), String::from_utf8_lossy(format));
        return Err(format!("is a {found:?} file, not {wanted:?}"));
    }
    let mut words = Fields::new(&bytes[12..28]);
    let (version, _compatible) = (words.number::<4>()?, words.number::<4>()?);
    let (read_only, must) = (words.number::<4>()?, words.number::<4>()?);
    let unknown = read_only | must & !known;
    if version != 1 || unknown != 0 {
        return Err(format!(
            "has version {version} and feature bits {unknown:#x}; known is version 1 with {known:#x}"
        ));
    }
    Ok(must)
}

/// Everything but the last four bytes, which are the CRC-32 of it.
pub(crate) fn sealed_by_crc(bytes: &[u8]) -> Result<&[u8], Why> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("is shorter than its checksum")?;
    if crc32fast::hash(body).to_le_bytes() == *crc {
        Ok(body)
    } else {
        Err("the checksum at its end disagrees".to_owned())
    }
}
