//! The formats by name, and how an image's format is found when nobody names it.

use crate::error::{Error, Result};
use crate::{qcow2, vhd, vhdx, vmdk};
use block::{BlockSource, ByteOffset};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// qemu's.
    Qcow2,
    /// Connectix's and Microsoft's older one; qemu calls it vpc.
    Vhd,
    /// Microsoft's newer one.
    Vhdx,
    /// VMware's.
    Vmdk,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Qcow2, Self::Vhd, Self::Vhdx, Self::Vmdk];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
        }
    }

    /// The format that qemu calls by this name.
    pub(crate) fn of_qemu(name: &str) -> Option<Self> {
        if name == "vpc" { Some(Self::Vhd) } else { name.parse().ok().filter(|&format| format != Self::Vhd) }
    }

    /// The format that a file's name ends like; raw has no ending of its own.
    pub fn of_name(path: &Path) -> Self {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "vpc" => Self::Vhd,
            ending => ending.parse().unwrap_or(Self::Raw),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| format!("no such format; there are {}", names.join(", ")))
    }
}

/// The format whose marks the bytes carry, raw if none. What a guest wrote onto a raw disk can carry any.
fn marked(file: &dyn BlockSource) -> Result<Format> {
    let size = file.size().get();
    let mut head = [0; 32];
    let head = &mut head[..size.min(32) as usize];
    file.read_at(ByteOffset::ZERO, head)?;
    if head.starts_with(qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    if head.starts_with(vhdx::MAGIC) {
        return Ok(Format::Vhdx);
    }
    if vmdk::MAGICS.iter().any(|magic| head.starts_with(magic)) {
        return Ok(Format::Vmdk);
    }
    Ok(if vhd::is_marked(file)? { Format::Vhd } else { Format::Raw })
}

/// The format of a file that nobody named one for: the one its bytes are marked with, if its name ends like it too.
/// A raw disk's bytes are its guest's, who could mark them as anything; the name is not.
///
/// # Errors
/// [`Error::Refused`] if name and bytes disagree; naming a format settles it.
pub(crate) fn probe(path: &Path, file: &dyn BlockSource) -> Result<Format> {
    let (marked, named) = (marked(file)?, Format::of_name(path));
    if marked == named {
        return Ok(marked);
    }
    let why = match marked {
        Format::Raw => format!("is named like a {named} image and does not begin like one"),
        _ => format!(
            "begins like a {marked} image and is not named like one; a guest could have written that onto a raw disk"
        ),
    };
    let wanted = if marked == Format::Raw { named } else { marked };
    Err(Error::refused(&path.display().to_string(), why)
        .with_help(format!("say what it is: --format raw, or --format {wanted}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
        }
        assert!("vpc".parse::<Format>().is_err() && "RAW".parse::<Format>().is_err());
        assert_eq!(Format::of_qemu("vpc"), Some(Format::Vhd));
        assert_eq!(Format::of_qemu("vhd"), None);
        assert_eq!(Format::of_qemu("file"), None);
    }

    #[test]
    fn the_ending_of_a_name_says_a_format() {
        for (name, format) in [
            ("a.QCOW2", Format::Qcow2),
            ("a.vpc", Format::Vhd),
            ("a.img", Format::Raw),
            ("vmdk", Format::Raw),
            ("a.raw", Format::Raw),
        ] {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
        }
    }
}
