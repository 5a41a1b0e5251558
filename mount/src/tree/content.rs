//! The bytes of files: read from the disk at the places the parser told, never through the parser.

use super::number::Place;
use super::recent::Recent;
use super::{Held, Page, Tree, unexpected};
use crate::guest::{MAX_CONTENT, NodeKind, Piece, Place as Where};
use crate::parser::Parser;
use crate::parser::wire::{Answer, Question, Request};
use crate::volume::Space as Addresses;
use crate::{Error, Result};
use block::{BlockSource, ByteOffset, ByteRange, ExtentKind, RangeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Pieces are asked for and kept in windows of this many bytes of a file.
const WINDOW: u64 = 64 << 20;
/// Windows kept (twice as many at most); usual ones have a few pieces, the largest 4096, about 200 KiB.
const MAX_WINDOWS: usize = 512;

/// The pieces of `start..end` of a file, in order and without gap.
struct Window {
    start: u64,
    end: u64,
    pieces: Vec<Piece>,
}

impl Window {
    fn holds(&self, at: u64) -> bool {
        (self.start..self.end).contains(&at)
    }
}

/// What has bytes: a range of addresses, or a file of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// These addresses, one after the other.
    Range(ByteRange),
    /// A file, by its number in the tree and in its filesystem.
    File {
        /// The addresses of the volume that its filesystem fills.
        volume: ByteRange,
        number: u64,
        ino: u64,
    },
}

/// Everything that bytes of files are read from.
pub(super) struct Contents {
    /// The disks, end to end, and behind them what is put together from them.
    pub(super) source: Arc<Addresses>,
    pub(super) parser: Parser,
    windows: Recent<(u64, u64), Window>,
}

impl Contents {
    pub(super) fn new(source: Arc<Addresses>, parser: Parser) -> Self {
        Self { source, parser, windows: Recent::new(MAX_WINDOWS) }
    }

    /// Reads up to `buf.len()` bytes; fewer only at the end. The number read.
    pub(super) fn read(&self, bytes: Bytes, offset: u64, buf: &mut [u8]) -> Result<usize> {
        match bytes {
            Bytes::Range(range) => self.read_range(range, offset, buf),
            Bytes::File { .. } => self.read_file(bytes, offset, buf),
        }
    }

    fn read_range(&self, range: ByteRange, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = range.count().get().saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if count > 0 {
            self.source.read_at(ByteOffset::new(range.start() + offset), &mut buf[..count])?;
        }
        Ok(count)
    }

    fn read_file(&self, file: Bytes, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let Some(window) = self.window(file, at)? else { break };
            let first = window.pieces.partition_point(|piece| piece.at + piece.len <= at);
            for piece in &window.pieces[first..] {
                if done == buf.len() {
                    break;
                }
                let into = offset + done as u64 - piece.at;
                let count = usize::try_from(piece.len - into).unwrap_or(usize::MAX).min(buf.len() - done);
                self.read_piece(file, piece, into, &mut buf[done..done + count])?;
                done += count;
            }
        }
        Ok(done)
    }

    fn read_piece(&self, file: Bytes, piece: &Piece, into: u64, buf: &mut [u8]) -> Result<()> {
        let Bytes::File { volume, ino, .. } = file else { return Err(unexpected()) };
        match &piece.place {
            Where::Zero => buf.fill(0),
            Where::Bytes(bytes) => buf.copy_from_slice(&bytes[into as usize..into as usize + buf.len()]),
            // inside the volume, which is inside the disk: the parser's answer was checked for it
            Where::Volume(at) => {
                let start = volume.start() + at + into;
                self.source.read_at(ByteOffset::new(start), buf)?;
            }
            Where::Coded => self.read_coded(volume, ino, piece.at + into, buf)?,
        }
        Ok(())
    }

    /// Content that only the parser can decode.
    fn read_coded(&self, volume: ByteRange, ino: u64, mut at: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let len = buf.len().min(MAX_CONTENT);
            let question = Question::Content { ino, at, len: len as u32 };
            let Answer::Content(bytes) = self.parser.ask(&Request { volume, question })? else {
                return Err(unexpected());
            };
            // at least one byte and no more than asked for: the answer was checked for it
            let (now, rest) = buf.split_at_mut(bytes.len());
            now.copy_from_slice(&bytes);
            (buf, at) = (rest, at + bytes.len() as u64);
        }
        Ok(())
    }

    /// The pieces around byte `at` of a file, or `None` at its end. The window holds `at`.
    fn window(&self, file: Bytes, at: u64) -> Result<Option<Arc<Window>>> {
        let Bytes::File { volume, number, ino } = file else { return Err(unexpected()) };
        let key = (number, at / WINDOW);
        let cached = self.windows.get(&key);
        if let Some(window) = cached.as_ref().filter(|window| window.holds(at)) {
            return Ok(Some(Arc::clone(window)));
        }
        // from its start, so that later reads find it; from `at`, where a file in very many pieces fills an answer
        // before `at`, or is damaged before it
        let starts = [key.1 * WINDOW, at];
        for from in starts.into_iter().skip(usize::from(cached.is_some())) {
            let question = Question::Pieces { ino, from, to: at.saturating_add(WINDOW) };
            let pieces = match self.parser.ask(&Request { volume, question }) {
                Ok(Answer::Pieces(pieces)) => pieces,
                Ok(_) => return Err(unexpected()),
                Err(_) if from != at => continue,
                Err(error) => return Err(error),
            };
            let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(None) };
            let window = Arc::new(Window { start: first.at, end: last.at + last.len, pieces });
            if window.holds(at) {
                self.windows.insert(key, Arc::clone(&window));
                return Ok(Some(window));
            }
        }
        Ok(None)
    }
}

impl Tree {
    /// Reads up to `buf.len()` bytes of a file; fewer only at its end. The number read.
    pub(crate) fn read(&self, place: Place, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let bytes = match place {
            Place::Disk(disk) => Bytes::Range(self.disk(disk)?.range),
            Place::Partition(number) => Bytes::Range(self.held(number)?.volume.range),
            Place::Guest(volume, ino) => Self::file(self.held(volume)?, ino),
            Place::Reason(number) => {
                let text = self.reason(number)?;
                let rest =
                    usize::try_from(offset).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or_default();
                let count = rest.len().min(buf.len());
                buf[..count].copy_from_slice(&rest[..count]);
                return Ok(count);
            }
            Place::Top | Place::Partitions | Place::Files => {
                return Err(Error::invalid("a directory", "it has no content"));
            }
        };
        self.ahead.read(place.number(), bytes, offset, buf)
    }

    fn file(held: &Held, ino: u64) -> Bytes {
        let number = Place::Guest(held.volume.number, ino).number();
        Bytes::File { volume: held.volume.range, number, ino }
    }

    /// Has the files of a page of a directory known as those that are read next, in their order.
    pub(super) fn expect(&self, held: &Held, page: &Page) {
        let nodes = page.entries.iter().filter_map(|(_, node)| node.as_ref());
        let files = nodes.filter(|node| node.kind == NodeKind::File && node.size > 0);
        self.ahead.expect(files.filter_map(|node| match Place::of(node.ino) {
            Some(Place::Guest(_, ino)) => Some((node.ino, Self::file(held, ino), node.size)),
            _ => None,
        }));
    }

    /// Where all bytes of a file are in its volume, and which bytes of the disks these are.
    pub(crate) fn pieces(&self, place: Place, size: u64, limit: usize) -> Result<(Vec<Piece>, RangeSet)> {
        let Place::Guest(volume, ino) = place else {
            return Err(Error::invalid("a file", "it is not a guest's"));
        };
        let held = self.held(volume)?;
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < size {
            let question = Question::Pieces { ino, from: at, to: size };
            let Answer::Pieces(found) = self.ask(held, question)? else { return Err(unexpected()) };
            let Some(last) = found.last() else { break };
            at = last.at + last.len;
            if pieces.len() + found.len() > limit {
                return Err(Error::unsupported(
                    format!("inode {ino}"),
                    format!("it is in more than {limit} pieces"),
                ));
            }
            pieces.extend(found);
        }
        let mut data = RangeSet::new();
        for piece in &pieces {
            if let Where::Volume(at) = piece.place {
                let start = held.volume.range.start() + at;
                self.contents.source.on_disks(ByteRange::between(start, start + piece.len), &mut data)?;
            }
        }
        Ok((pieces, data))
    }

    /// The next data, or the next hole, at or after `offset`: what `lseek` answers. `None` means there is none.
    pub(crate) fn seek(&self, place: Place, offset: u64, data: bool) -> Result<Option<u64>> {
        let size = self.node(place)?.size;
        if offset >= size {
            return Ok(None);
        }
        let found = match place {
            Place::Guest(volume, ino) => self.seek_guest(self.held(volume)?, ino, offset, size, data)?,
            Place::Partition(number) => self.seek_range(self.held(number)?.volume.range, offset, data)?,
            Place::Disk(disk) => self.seek_range(self.disk(disk)?.range, offset, data)?,
            _ if data => Some(offset),
            _ => None,
        };
        // every file ends in a hole
        Ok(found.or((!data).then_some(size)))
    }

    fn seek_guest(&self, held: &Held, ino: u64, offset: u64, size: u64, data: bool) -> Result<Option<u64>> {
        let mut at = offset;
        while at < size {
            let Some(window) = self.contents.window(Self::file(held, ino), at)? else { return Ok(None) };
            let fitting = |piece: &&Piece| piece.at + piece.len > at && (piece.place != Where::Zero) == data;
            if let Some(piece) = window.pieces.iter().find(fitting) {
                return Ok(Some(piece.at.max(at)));
            }
            at = window.end;
        }
        Ok(None)
    }

    fn seek_range(&self, range: ByteRange, offset: u64, data: bool) -> Result<Option<u64>> {
        let mut found = None;
        self.contents.source.extents(
            ByteRange::between(range.start() + offset, range.end()),
            &mut |extent| {
                if (extent.kind == ExtentKind::Data) == data {
                    found = Some(extent.range.start() - range.start());
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(found)
    }
}
