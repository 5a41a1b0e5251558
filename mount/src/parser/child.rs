//! The parser: the process that interprets a guest's bytes.

use super::pipe::{Pipe, PipeSource};
use super::sandbox;
use super::wire::{
    Answer, FromParser, MAX_REMARKS, MAX_VOLUMES, Question, Request, ToParser, VERSION, Volume,
};
use crate::guest::{Guest, Listing, Node, Piece, Place, ext4};
use crate::partition::{Partition, read_table};
use crate::{Error, Result};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Window};
use std::sync::Arc;

/// Filesystems kept open at once; each holds a cache and perhaps a journal's table.
const MAX_OPEN: usize = 6;
/// Bytes of content sent inside one answer; more is asked for again.
const MAX_INSIDE: u64 = 256 << 10;
/// Looked at to tell what a volume holds.
const PROBE: usize = 4096;

/// Lives as the parser until the supervisor is gone. Its exit status tells nobody anything.
pub(super) fn live() {
    // the message of a panic would go into the pipe
    std::panic::set_hook(Box::new(|_| {}));
    let pipe = Arc::new(Pipe::new());
    let greeting = match sandbox::enter() {
        Ok(()) => FromParser::Hello { version: VERSION },
        Err(error) => FromParser::Refused { text: error.to_string() },
    };
    if pipe.send(&greeting).is_err() || matches!(greeting, FromParser::Refused { .. }) {
        return;
    }
    let mut open = Vec::new();
    while let Ok(Some(ToParser::Ask(request))) = pipe.receive() {
        let message = match serve(&pipe, &mut open, &request) {
            Ok(answer) => FromParser::Answer(answer),
            Err(error) => FromParser::Failed { kind: error.kind(), text: error.to_string() },
        };
        if pipe.send(&message).is_err() {
            return;
        }
    }
}

/// Open filesystems, the one used last at the end.
type Open = Vec<(ByteRange, Arc<dyn Guest>)>;

fn serve(pipe: &Arc<Pipe>, open: &mut Open, request: &Request) -> Result<Answer> {
    let disk = Arc::new(PipeSource { pipe: Arc::clone(pipe), size: ByteCount::new(request.volume.end()) });
    if request.question == Question::Probe {
        return probe(disk);
    }
    let guest = match open.iter().position(|(range, _)| *range == request.volume) {
        Some(place) => {
            let used = open.remove(place);
            open.push(used.clone());
            used.1
        }
        None => {
            let guest: Arc<dyn Guest> =
                Arc::new(ext4::Ext4::open(Arc::new(Window::new(disk, request.volume)?))?);
            if open.len() >= MAX_OPEN {
                open.remove(0);
            }
            open.push((request.volume, Arc::clone(&guest)));
            guest
        }
    };
    answer(&*guest, &request.question)
}

fn answer(guest: &dyn Guest, question: &Question) -> Result<Answer> {
    Ok(match question {
        Question::Probe => return Err(Error::invalid("a probe", "it is about the disk")),
        Question::Open => Answer::Open { root: guest.root(), space: guest.space() },
        Question::Node { ino } => Answer::Node(guest.node(*ino)?),
        Question::Lookup { dir, name } => {
            Answer::Lookup(guest.lookup(*dir, name)?.map(|ino| guest.node(ino)).transpose()?)
        }
        Question::List { dir, cookie, with_nodes } => {
            let listing = guest.list(*dir, *cookie)?;
            let nodes = nodes(guest, &listing, *with_nodes);
            Answer::List { listing, nodes }
        }
        Question::Link { ino } => Answer::Link(guest.link(*ino)?),
        Question::Pieces { ino, from, to } => Answer::Pieces(bounded(guest.pieces(*ino, *from, *to)?)),
        Question::AttributeNames { ino } => Answer::AttributeNames(guest.attributes(*ino)?),
        Question::Attribute { ino, name } => Answer::Attribute(guest.attribute(*ino, name)?),
    })
}

/// The nodes of a page, where they can be read: a name whose inode is damaged is still a name.
fn nodes(guest: &dyn Guest, listing: &Listing, wanted: bool) -> Vec<Option<Node>> {
    let entries = listing.entries.iter();
    entries.map(|entry| if wanted { guest.node(entry.ino).ok() } else { None }).collect()
}

/// Leaves out pieces once too many bytes travel inside them.
fn bounded(mut pieces: Vec<Piece>) -> Vec<Piece> {
    let mut inside = 0;
    let fitting = pieces.iter().take_while(|piece| {
        if matches!(piece.place, Place::Bytes(_)) {
            inside += piece.len;
        }
        inside <= MAX_INSIDE
    });
    let count = fitting.count();
    pieces.truncate(count.max(1));
    pieces
}

/// The partitions and what each holds; a disk without partitions is volume 0.
fn probe(disk: Arc<PipeSource>) -> Result<Answer> {
    let table = read_table(&*disk)?;
    let mut remarks = table.remarks;
    let mut partitions = table.partitions;
    if partitions.is_empty() && disk.size() != ByteCount::ZERO {
        partitions.push(Partition { number: 0, range: ByteRange::whole(disk.size()) });
    }
    if partitions.len() > MAX_VOLUMES {
        remarks
            .insert(0, format!("only the first {MAX_VOLUMES} of {} partitions are shown", partitions.len()));
        partitions.truncate(MAX_VOLUMES);
    }
    remarks.truncate(MAX_REMARKS);
    let volumes = partitions.into_iter().map(|partition| volume(&disk, partition)).collect();
    Ok(Answer::Probe { scheme: table.scheme, remarks, volumes })
}

fn volume(disk: &PipeSource, partition: Partition) -> Volume {
    let Partition { number, range } = partition;
    Volume { number, range, content: content(disk, range).map_err(|error| error.to_string()) }
}

/// What a volume holds, if it is readable.
fn content(disk: &PipeSource, range: ByteRange) -> Result<String> {
    let mut start = vec![0; PROBE.min(range.count().as_usize().unwrap_or(PROBE))];
    disk.read_at(ByteOffset::new(range.start()), &mut start)?;
    if ext4::detect(&start) {
        ext4::check(&start)?;
        return Ok("ext4".to_owned());
    }
    Err(Error::unsupported("this volume", foreign(&start)))
}

/// What else a volume may be, by the marks other software looks for.
fn foreign(start: &[u8]) -> &'static str {
    let says = |at: usize, text: &[u8]| start.get(at..at + text.len()) == Some(text);
    let marks: [(usize, &[u8], &str); 8] = [
        (0, b"XFSB", "XFS is not readable in this version"),
        (3, b"NTFS    ", "NTFS is not readable in this version"),
        (3, b"EXFAT   ", "exFAT is not readable in this version"),
        (54, b"FAT1", "FAT is not readable in this version"),
        (82, b"FAT32", "FAT is not readable in this version"),
        (512, b"LABELONE", "LVM volumes are not readable in this version"),
        (0, b"LUKS\xba\xbe", "it is encrypted with LUKS"),
        (4086, b"SWAPSPACE2", "it is swap space"),
    ];
    let found = marks.iter().find(|(at, text, _)| says(*at, text));
    match found {
        Some((_, _, what)) => what,
        None if start.iter().all(|byte| *byte == 0) => "it begins with zeros, there is no filesystem on it",
        None => "no filesystem this version knows is on it",
    }
}
