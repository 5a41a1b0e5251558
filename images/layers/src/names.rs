//! The names of a disk's files and of its live maps.

use block::{DiskId, Error, Kind};

/// The one file that says what exists.
pub(crate) const CHAIN: &str = "chain";
/// The next chain while it is written; until then, blocks set aside for it.
pub(crate) const CHAIN_NEW: &str = "chain.new";
/// Blocks set aside for giving space back on a full filesystem.
pub(crate) const ROOM: &str = "room";
/// Held by the process that has the disk open.
pub(crate) const LOCK: &str = "lock";

/// A file of a layer or a map, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbered {
    /// A layer's bytes, laid out like the disk: the layer's number and which of its files.
    Data(u64, u8),
    /// A frozen map.
    Map(u64),
    /// The sums of a sealed layer's blocks.
    Sums(u64),
    /// The committed map of an active layer.
    Committed(u64),
    /// The map journal of an active layer.
    Journal(u64),
}

impl Numbered {
    /// The file's name within the disk's directory.
    pub(crate) fn name(self) -> String {
        let (suffix, number) = match self {
            Self::Data(number, segment @ 1..) => return format!("{number:016x}.layer{segment}"),
            Self::Data(number, 0) => ("layer", number),
            Self::Map(number) => ("map", number),
            Self::Sums(number) => ("sums", number),
            Self::Committed(number) => ("committed", number),
            Self::Journal(number) => ("journal", number),
        };
        format!("{number:016x}.{suffix}")
    }

    /// What a name in the disk's directory stands for; `None` for any other name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (digits, suffix) = name.split_once('.')?;
        let number = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)?;
        let file = match suffix {
            "layer" => Self::Data(number, 0),
            "map" => Self::Map(number),
            "sums" => Self::Sums(number),
            "committed" => Self::Committed(number),
            "journal" => Self::Journal(number),
            _ => Self::Data(number, suffix.strip_prefix("layer")?.parse().ok()?),
        };
        (file.name() == name).then_some(file)
    }

    /// The path within the media.
    pub(crate) fn path(self, dir: &str) -> String {
        format!("{dir}/{}", self.name())
    }
}

/// What opening a file gave that must exist because the chain names it: a missing one is damage.
pub(crate) fn must_exist<T>(path: &str, opened: block::Result<T>) -> block::Result<T> {
    opened.map_err(|error| match error.kind() {
        Kind::NotFound => Error::corrupt(path, None, "it is missing, and the chain names it"),
        _ => error,
    })
}

/// The volatile memory that holds the live map of a layer.
pub(crate) fn live_map(disk: DiskId, layer: u64) -> String {
    format!("{disk}-{layer:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nothing_else_parses() {
        for file in [
            Numbered::Data(0, 0),
            Numbered::Data(1, 7),
            Numbered::Map(255),
            Numbered::Sums(256),
            Numbered::Committed(u64::MAX),
            Numbered::Journal(7),
        ] {
            assert_eq!(Numbered::parse(&file.name()), Some(file));
        }
        for other in [
            "chain",
            "lock",
            "0.map",
            "00000000000000AB.map",
            "+000000000000001.map",
            "x.layer",
            "0000000000000001.layer0",
        ] {
            assert_eq!(Numbered::parse(other), None, "{other}");
        }
    }
}
