//! Where the clusters of a file or directory are: in a row, or one after the other as the table says.

use super::Fat;
use super::boot::Width;
use crate::fields::{le16, le32};
use crate::{Error, Result};

/// What holds the bytes of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Area {
    /// A place of its own: the root directory of FAT12 and FAT16.
    Place(u64, u64),
    /// Clusters that the table links, from this one on.
    Chain(u32),
    /// Clusters in a row, without a word in the table.
    Row(u32, u64),
    /// Nothing.
    Empty,
}

/// Bytes in a row on the volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub byte: u64,
    pub len: u64,
}

impl Fat {
    /// The byte a cluster begins at.
    fn cluster_at(&self, cluster: u32) -> Result<u64> {
        let index = u64::from(cluster).checked_sub(2).filter(|index| *index < self.boot.clusters);
        let index = index
            .ok_or_else(|| Error::corrupt("a chain of clusters", format!("it leads to cluster {cluster}")))?;
        Ok(self.boot.clusters_at + index * self.boot.cluster)
    }

    /// The cluster after this one, or `None` at the end.
    pub(super) fn next(&self, cluster: u32) -> Result<Option<u32>> {
        let (at, number) = (self.boot.table, u64::from(cluster));
        let (next, end) = match self.boot.width {
            Width::Fat12 => {
                let pair = le16(&self.lines.read(at + number * 3 / 2, 2)?, 0)?;
                (u32::from(if number % 2 == 1 { pair >> 4 } else { pair & 0xfff }), 0xff8)
            }
            Width::Fat16 => (u32::from(le16(&self.lines.read(at + number * 2, 2)?, 0)?), 0xfff8),
            Width::Fat32 => (le32(&self.lines.read(at + number * 4, 4)?, 0)? & 0x0fff_ffff, 0x0fff_fff8),
            Width::Exfat => (le32(&self.lines.read(at + number * 4, 4)?, 0)?, 0xffff_fff8),
        };
        Ok((next < end).then_some(next))
    }

    /// Calls `visit` for the bytes of an area from its byte `from` on, span by span, until it says that it has enough. The
    /// first span may begin before. The end of the area is where it is said to be, however long the chain.
    pub(super) fn spans(
        &self,
        area: Area,
        from: u64,
        visit: &mut dyn FnMut(u64, Span) -> Result<bool>,
    ) -> Result<()> {
        let size = self.boot.cluster;
        let mut cluster = match area {
            Area::Empty => return Ok(()),
            Area::Place(byte, len) => return visit(0, Span { byte, len }).map(drop),
            Area::Row(first, len) => {
                let (byte, last) =
                    (self.cluster_at(first)?, u64::from(first) + len.div_ceil(size).max(1) - 1);
                self.cluster_at(u32::try_from(last).unwrap_or(u32::MAX))?;
                return visit(0, Span { byte, len }).map(drop);
            }
            Area::Chain(first) => first,
        };
        let mut at = 0;
        // a chain that is longer than there are clusters leads back to itself
        let mut left = self.boot.clusters;
        while left > 0 {
            left -= 1;
            let mut span = Span { byte: self.cluster_at(cluster)?, len: size };
            let mut next = self.next(cluster)?;
            while let Some(following) = next.filter(|next| *next == cluster.wrapping_add(1)) {
                self.cluster_at(following)?;
                left = left.saturating_sub(1);
                span.len += size;
                cluster = following;
                next = self.next(cluster)?;
            }
            if at + span.len > from && !visit(at, span)? {
                return Ok(());
            }
            at += span.len;
            match next {
                Some(following) => cluster = following,
                None => return Ok(()),
            }
        }
        Err(Error::corrupt("a chain of clusters", "it leads back to itself"))
    }
}
