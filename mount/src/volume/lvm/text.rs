//! The language of LVM's metadata: sections in braces, numbers, strings, lists, comments.

use super::label::damaged;
use crate::Result;
use std::collections::BTreeMap;

/// Sections inside sections; real metadata has four.
const MAX_DEPTH: usize = 8;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Values by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::volume) struct Section(BTreeMap<String, Value>);

impl Section {
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> &[Value] {
        match self.0.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        match self.0.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

/// All of a text.
pub(super) fn parse(bytes: &[u8]) -> Result<Section> {
    // the text ends with a zero
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut reader = Reader { bytes: bytes.get(..end).unwrap_or_default(), at: 0 };
    let section = reader.section(0)?;
    match reader.peek() {
        None => Ok(section),
        Some(byte) => Err(reader.damaged(format!("{:?} where a name belongs", char::from(byte)))),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn damaged(&self, why: impl Into<String>) -> crate::Error {
        damaged(format!("{} at its byte {}", why.into(), self.at))
    }

    /// The next byte that is neither space nor comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at)? {
                b'#' => {
                    let rest = self.bytes.get(self.at..).unwrap_or_default();
                    self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                }
                byte if byte.is_ascii_whitespace() => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<()> {
        match self.take(wanted) {
            true => Ok(()),
            false => Err(self.damaged(format!("no {:?}", char::from(wanted)))),
        }
    }

    fn word(&mut self, accepted: impl Fn(u8) -> bool) -> String {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|byte| !accepted(*byte)).unwrap_or(rest.len());
        self.at += len;
        String::from_utf8_lossy(rest.get(..len).unwrap_or_default()).into_owned()
    }

    fn section(&mut self, depth: usize) -> Result<Section> {
        let mut section = Section::default();
        while let Some(byte) = self.peek() {
            if byte == b'}' {
                break;
            }
            let name = self.word(|byte| byte.is_ascii_alphanumeric() || b"_.+-/".contains(&byte));
            if name.is_empty() {
                return Err(self.damaged(format!("{:?} where a name belongs", char::from(byte))));
            }
            let value = if self.take(b'{') {
                if depth == MAX_DEPTH {
                    return Err(self.damaged(format!("sections {MAX_DEPTH} deep")));
                }
                let inner = self.section(depth + 1)?;
                self.expect(b'}')?;
                Value::Section(inner)
            } else {
                self.expect(b'=')?;
                self.value()?
            };
            section.0.insert(name, value);
        }
        Ok(section)
    }

    fn value(&mut self) -> Result<Value> {
        if !self.take(b'[') {
            return self.scalar();
        }
        let mut list = Vec::new();
        while !self.take(b']') {
            list.push(self.scalar()?);
            if !self.take(b',') {
                self.expect(b']')?;
                break;
            }
        }
        Ok(Value::List(list))
    }

    fn scalar(&mut self) -> Result<Value> {
        if self.take(b'"') {
            let mut text = String::new();
            loop {
                text.push_str(&self.word(|byte| byte != b'"' && byte != b'\\'));
                match self.bytes.get(self.at) {
                    Some(b'"') => break self.at += 1,
                    Some(_) => {
                        // a backslash and what it stands before
                        let escaped = self.bytes.get(self.at + 1).copied();
                        text.extend(escaped.map(char::from));
                        self.at += 2;
                    }
                    None => return Err(self.damaged("a string without end")),
                }
            }
            return Ok(Value::Text(text));
        }
        self.peek();
        let word = self.word(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
        // negative and fractional numbers occur, none of them in what is read here
        match word.parse() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) if !word.is_empty() => Ok(Value::Text(word)),
            Err(_) => Err(self.damaged("no value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_read() {
        let text =
            b"# Generated\nvg-0 {\n\tid = \"a\\\"b\"\n\tseqno = 3 # x\n\tstatus = [\"READ\", \"WRITE\"]\n\
            \tflags = []\n\tsize = -1\n\tinner { list = [\"pv0\", 0] }\n}\n\0rest";
        let parsed = parse(text).unwrap();
        let group = parsed.section("vg-0").unwrap();
        assert_eq!((group.text("id"), group.number("seqno")), (Some("a\"b"), Some(3)));
        assert_eq!(group.list("status").len(), 2);
        let list = group.section("inner").unwrap().list("list");
        assert_eq!(list, [Value::Text("pv0".to_owned()), Value::Number(0)]);
    }

    #[test]
    fn what_does_not_end_is_damaged() {
        for text in ["a {", "a = \"", "a = [1", "a = ", "}", "a { b = 1 } }", "= 1", &"a{".repeat(1000)] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
