//! What a client asks about an export: the data of options.

use super::{INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_NAME, OptionHeader, be16, be32};
use crate::limits::MAX_TEXT_LEN;
use block::{Cursor, Malformed};

/// A text with its length (u32) before it, at most [`MAX_TEXT_LEN`] bytes.
fn text<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, Malformed> {
    let length = be32(cursor)? as usize;
    if length > MAX_TEXT_LEN {
        return Err(cursor.malformed(format!("a text of {length} bytes, at most {MAX_TEXT_LEN} are valid")));
    }
    let bytes = cursor.bytes(length)?;
    std::str::from_utf8(bytes).map_err(|_| cursor.malformed("a text is not UTF-8"))
}

/// The data of [`super::OPT_INFO`] and [`super::OPT_GO`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// Whether its name is asked for.
    pub wants_name: bool,
    /// Whether its description is asked for.
    pub wants_description: bool,
    /// Whether its block sizes are asked for.
    pub wants_block_size: bool,
}

impl<'a> GoRequest<'a> {
    /// From the data of the option. Facts nobody knows of are left out.
    ///
    /// # Errors
    /// [`Malformed`] if lengths do not fit, or the name is too long or not UTF-8.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(data);
        let name = text(&mut cursor)?;
        let mut go = Self { name, wants_name: false, wants_description: false, wants_block_size: false };
        for _ in 0..be16(&mut cursor)? {
            match be16(&mut cursor)? {
                INFO_NAME => go.wants_name = true,
                INFO_DESCRIPTION => go.wants_description = true,
                INFO_BLOCK_SIZE => go.wants_block_size = true,
                _ => {}
            }
        }
        cursor.end().map(|()| go)
    }

    /// Appends the whole option.
    pub fn put(&self, out: &mut Vec<u8>, option: u32) {
        let wants = [
            (self.wants_name, INFO_NAME),
            (self.wants_description, INFO_DESCRIPTION),
            (self.wants_block_size, INFO_BLOCK_SIZE),
        ];
        let mut data = (self.name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(self.name.as_bytes());
        let count = wants.iter().filter(|(wanted, _)| *wanted).count() as u16;
        data.extend_from_slice(&count.to_be_bytes());
        for (_, info) in wants.iter().filter(|(wanted, _)| *wanted) {
            data.extend_from_slice(&info.to_be_bytes());
        }
        out.extend_from_slice(&OptionHeader { option, length: data.len() as u32 }.encode());
        out.extend_from_slice(&data);
    }
}

/// The data of [`super::OPT_LIST_META_CONTEXT`] and [`super::OPT_SET_META_CONTEXT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// What is asked for; nothing means everything to LIST and nothing to SET.
    pub queries: Vec<&'a str>,
}

impl<'a> MetaRequest<'a> {
    /// From the data of the option.
    ///
    /// # Errors
    /// [`Malformed`] if lengths do not fit, or a text is too long or not UTF-8.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(data);
        let name = text(&mut cursor)?;
        let count = be32(&mut cursor)? as usize;
        // each query takes its length at least, so a count the data cannot hold allocates nothing
        if count > cursor.remaining() / 4 {
            return Err(cursor.malformed(format!("{count} queries do not fit here")));
        }
        let queries = (0..count).map(|_| text(&mut cursor)).collect::<Result<_, _>>()?;
        cursor.end().map(|()| Self { name, queries })
    }

    /// Appends the whole option.
    pub fn put(&self, out: &mut Vec<u8>, option: u32) {
        let mut data = Vec::new();
        let put_text = |data: &mut Vec<u8>, text: &str| {
            data.extend_from_slice(&(text.len() as u32).to_be_bytes());
            data.extend_from_slice(text.as_bytes());
        };
        put_text(&mut data, self.name);
        data.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|query| put_text(&mut data, query));
        out.extend_from_slice(&OptionHeader { option, length: data.len() as u32 }.encode());
        out.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{OPT_GO, OPT_SET_META_CONTEXT};

    #[test]
    fn options_survive_encoding() {
        let go =
            GoRequest { name: "web@3", wants_name: true, wants_description: false, wants_block_size: true };
        let mut bytes = Vec::new();
        go.put(&mut bytes, OPT_GO);
        assert_eq!(GoRequest::decode(&bytes[OptionHeader::LEN..]), Ok(go));

        let meta = MetaRequest { name: "", queries: vec!["base:", "x-y:z"] };
        let mut bytes = Vec::new();
        meta.put(&mut bytes, OPT_SET_META_CONTEXT);
        assert_eq!(MetaRequest::decode(&bytes[OptionHeader::LEN..]), Ok(meta));
    }

    #[test]
    fn counts_and_lengths_that_lie_are_malformed() {
        let huge = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(MetaRequest::decode(&huge).is_err());
        assert!(GoRequest::decode(&[0, 0, 0x10, 1, 0, 0]).is_err());
        assert!(GoRequest::decode(&[0, 0, 0, 1, 0xff, 0, 0]).is_err());
        assert!(GoRequest::decode(&[0, 0, 0, 0, 0, 0, 9]).is_err(), "bytes left over");
    }
}
