//! The parser: the process that interprets a guest's bytes.

use super::pipe::{Pipe, PipeSource};
use super::probe::probe;
use super::sandbox;
use super::wire::{Answer, FromParser, Question, Request, ToParser, VERSION};
use crate::guest::{self, Guest, Listing, MAX_CONTENT, Node, Piece, Place};
use crate::luks;
use crate::volume::thin;
use crate::{Error, Result};
use block::{ByteCount, ByteRange, Window};
use std::sync::Arc;

/// Filesystems kept open at once; each holds a cache and perhaps a journal's table.
const MAX_OPEN: usize = 6;
/// Bytes of content sent inside one answer; more is asked for again.
const MAX_INSIDE: u64 = 256 << 10;

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
    match &request.question {
        Question::Probe { disks, opened } => return probe(disk, disks, opened),
        Question::Mapping { device, from } => {
            let metadata = Window::new(disk, request.volume)?;
            return thin::mapping(&metadata, *device, *from).map(Answer::Mapping);
        }
        Question::Luks => return luks::header::read(&Window::new(disk, request.volume)?).map(Answer::Luks),
        _ => {}
    }
    let guest = match open.iter().position(|(range, _)| *range == request.volume) {
        Some(place) => {
            let used = open.remove(place);
            open.push(used.clone());
            used.1
        }
        None => {
            let guest = guest::open(Arc::new(Window::new(disk, request.volume)?))?;
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
        Question::Probe { .. } | Question::Luks | Question::Mapping { .. } => {
            return Err(Error::invalid("a question", "it is not about files"));
        }
        Question::Open => {
            let remark = guest.remark().unwrap_or_default();
            Answer::Open { root: guest.root(), space: guest.space(), remark }
        }
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
        Question::Content { ino, at, len } => {
            Answer::Content(guest.content(*ino, *at, (*len as usize).min(MAX_CONTENT))?)
        }
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
