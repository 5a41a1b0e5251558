//! Writing a source as an image of any format.

use crate::format::Format;
use crate::qcow2::Qcow2Writer;
use crate::vhd::{DynamicWriter, finish_fixed};
use crate::vhdx::VhdxWriter;
use crate::vmdk::VmdkWriter;
use block::{
    BlockSource, ByteCount, ByteOffset, Entropy, Error, Kind, MediaFile, Pace, Result, copy_to_file, each_run,
};

/// Sizes of disks in every format but raw are multiples of this.
const SECTOR: u64 = 512;

/// The largest disk in a VHD: the format's document says 2 TiB, tools stop at 2040 GiB.
const VHD_LIMIT: u64 = 2040 << 30;

/// The largest disk in a VMDK here: a grain's place is a 32-bit number of sectors, and tables take room too.
const VMDK_LIMIT: u64 = (2 << 40) - (2 << 30);

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The disk's bytes.
    Raw,
    /// qcow2 version 3.
    Qcow2 {
        /// Clusters compressed with zstd, which qemu reads since 5.1.
        compressed: bool,
    },
    /// A VHD.
    Vhd {
        /// With every block of the disk in its place, as Azure takes it; its zeros are holes of the file.
        fixed: bool,
    },
    /// A dynamic VHDX.
    Vhdx,
    /// A VMDK of type monolithicSparse.
    Vmdk,
}

impl Output {
    /// The format as it is written where nothing more is said.
    pub const fn plain(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2 { compressed: false },
            Format::Vhd => Self::Vhd { fixed: false },
            Format::Vhdx => Self::Vhdx,
            Format::Vmdk => Self::Vmdk,
        }
    }

    /// The format.
    pub const fn format(self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Qcow2 { .. } => Format::Qcow2,
            Self::Vhd { .. } => Format::Vhd,
            Self::Vhdx => Format::Vhdx,
            Self::Vmdk => Format::Vmdk,
        }
    }

    /// The size that a disk of `size` bytes has in this format.
    ///
    /// # Errors
    /// `Unsupported` if the format has no disks of that size.
    pub fn size(self, size: ByteCount) -> Result<ByteCount> {
        let rounded = if self == Self::Raw { size.get() } else { size.get().next_multiple_of(SECTOR) };
        let limit = match self {
            Self::Vhd { .. } => VHD_LIMIT,
            Self::Vmdk => VMDK_LIMIT,
            Self::Raw | Self::Qcow2 { .. } | Self::Vhdx => block::MAX_DISK_SIZE,
        };
        if rounded > limit {
            let (what, why) =
                (format!("a {} of {size} bytes", self.format()), format!("the largest has {limit}"));
            return Err(Error::refused(Kind::Unsupported, what, why));
        }
        Ok(ByteCount::new(rounded))
    }
}

/// Takes the units of a disk (clusters, blocks, grains) that are not all zeros, ascending.
pub(crate) trait UnitWriter {
    /// Bytes a unit.
    fn unit(&self) -> u64;

    /// One unit. The last of the disk is filled up with zeros.
    fn put(&mut self, index: u64, bytes: &[u8]) -> Result<()>;

    /// All have come.
    fn finish(&mut self) -> Result<()>;
}

/// Writes a source into an empty file. Zeros take no room in it; nothing is promised to be durable before the file is
/// synced. `name` is the file's, for formats that write it down. Gives the bytes of the source that were written.
///
/// # Errors
/// `Unsupported` if the format has no disks of that size; what source, file or pace report.
pub fn write(
    from: &dyn BlockSource,
    to: &dyn MediaFile,
    output: Output,
    name: &str,
    entropy: &dyn Entropy,
    pace: &mut Pace<'_>,
) -> Result<ByteCount> {
    let size = output.size(from.size())?.get();
    match output {
        Output::Raw => copy_to_file(from, to, pace),
        Output::Vhd { fixed: true } => {
            let written = copy_to_file(from, to, pace)?;
            finish_fixed(to, size, entropy)?;
            Ok(written)
        }
        Output::Vhd { fixed: false } => by_unit(from, &mut DynamicWriter::new(to, size, entropy)?, pace),
        Output::Vhdx => by_unit(from, &mut VhdxWriter::new(to, size, entropy)?, pace),
        Output::Vmdk => by_unit(from, &mut VmdkWriter::new(to, name, size, entropy)?, pace),
        Output::Qcow2 { compressed } => by_unit(from, &mut Qcow2Writer::new(to, size, compressed)?, pace),
    }
}

/// The unit that is being filled.
struct Filling {
    index: Option<u64>,
    bytes: Vec<u8>,
}

impl Filling {
    /// Hands the unit on, if there is one.
    fn flush(&mut self, to: &mut dyn UnitWriter) -> Result<()> {
        if let Some(index) = self.index.take() {
            to.put(index, &self.bytes)?;
            self.bytes.fill(0);
        }
        Ok(())
    }
}

fn by_unit(from: &dyn BlockSource, to: &mut dyn UnitWriter, pace: &mut Pace<'_>) -> Result<ByteCount> {
    let unit = to.unit();
    let mut filling = Filling { index: None, bytes: vec![0; unit as usize] };
    let mut written = 0;
    let mut visit = |at: ByteOffset, mut run: &[u8]| {
        let mut at = at.get();
        written += run.len() as u64;
        while !run.is_empty() {
            if filling.index != Some(at / unit) {
                filling.flush(to)?;
                filling.index = Some(at / unit);
            }
            let within = (at % unit) as usize;
            let (part, rest) = run.split_at(run.len().min(unit as usize - within));
            filling.bytes[within..within + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            run = rest;
        }
        Ok(())
    };
    each_run(from, &mut visit, pace)?;
    filling.flush(to)?;
    to.finish()?;
    Ok(ByteCount::new(written))
}

/// Writes bytes to a part of a file that is a hole, leaving blocks of zeros away; the file becomes as long as if they
/// had been written.
pub(crate) fn write_sparse(to: &dyn MediaFile, at: u64, bytes: &[u8]) -> Result<()> {
    block::runs_of(ByteOffset::new(at), bytes, &mut |at, run| to.write_at(at.get(), run))?;
    let end = at + bytes.len() as u64;
    if to.size()? < end { to.set_len(end) } else { Ok(()) }
}
