//! Writing messages.

use super::encrypted::put_luks;
use super::{
    Answer, KINDS, MAX_REMARKS, MAX_TEXT, NO_KIND, NODE_KINDS, Needs, Question, Request, SCHEMES, Volume,
};
use crate::guest::{Listing, Node, NodeKind, Piece, Place};
use crate::partition::Scheme;
use block::Kind;

/// A message under construction.
#[derive(Default)]
pub(super) struct Out(pub(super) Vec<u8>);

impl Out {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn name(&mut self, name: &[u8]) {
        self.u16(name.len() as u16);
        self.0.extend_from_slice(name);
    }

    /// A sentence, cut to its limit at a character.
    pub(super) fn text(&mut self, text: &str) {
        let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
        self.u16(text.len() as u16);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn failure(&mut self, kind: Kind, text: &str) {
        let place = KINDS.iter().position(|it| *it == kind).unwrap_or_default();
        self.u8(place as u8);
        self.text(text);
    }

    pub(super) fn request(&mut self, request: &Request) {
        self.u64(request.volume.start());
        self.u64(request.volume.count().get());
        match &request.question {
            Question::Probe { disks, opened } => {
                self.u8(1);
                self.u8(disks.len() as u8);
                disks.iter().for_each(|len| self.u64(*len));
                self.u8(opened.len() as u8);
                for range in opened {
                    self.u64(range.start());
                    self.u64(range.count().get());
                }
            }
            Question::Open => self.u8(2),
            Question::Node { ino } => self.about(3, *ino),
            Question::Lookup { dir, name } => {
                self.about(4, *dir);
                self.bytes(name);
            }
            Question::List { dir, cookie, with_nodes } => {
                self.about(5, *dir);
                self.u64(*cookie);
                self.u8(u8::from(*with_nodes));
            }
            Question::Link { ino } => self.about(6, *ino),
            Question::Pieces { ino, from, to } => {
                self.about(7, *ino);
                self.u64(*from);
                self.u64(*to);
            }
            Question::AttributeNames { ino } => self.about(8, *ino),
            Question::Attribute { ino, name } => {
                self.about(9, *ino);
                self.bytes(name);
            }
            Question::Content { ino, at, len } => {
                self.about(10, *ino);
                self.u64(*at);
                self.u32(*len);
            }
            Question::Luks => self.u8(11),
            Question::Mapping { device, from } => {
                self.u8(12);
                self.u32(*device);
                self.u64(*from);
            }
        }
    }

    fn about(&mut self, question: u8, ino: u64) {
        self.u8(question);
        self.u64(ino);
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Probe { schemes, remarks, volumes } => self.probe(schemes, remarks, volumes),
            Answer::Open { root, space, remark } => {
                self.about(2, *root);
                self.u32(space.block_size);
                [space.blocks, space.free, space.inodes, space.free_inodes]
                    .into_iter()
                    .for_each(|count| self.u64(count));
                self.text(remark);
            }
            Answer::Node(node) => {
                self.u8(3);
                self.node(node);
            }
            Answer::Lookup(found) => {
                self.u8(4);
                self.maybe_node(found.as_ref());
            }
            Answer::List { listing, nodes } => self.list(listing, nodes),
            Answer::Link(target) => {
                self.u8(6);
                self.bytes(target);
            }
            Answer::Pieces(pieces) => self.pieces(pieces),
            Answer::AttributeNames(names) => {
                self.u8(8);
                self.u16(names.len() as u16);
                for name in names {
                    self.u8(name.len() as u8);
                    self.0.extend_from_slice(name);
                }
            }
            Answer::Attribute(value) => {
                self.u8(9);
                self.bytes(value);
            }
            Answer::Content(bytes) => {
                self.u8(10);
                self.bytes(bytes);
            }
            Answer::Luks(luks) => {
                self.u8(11);
                put_luks(self, luks);
            }
            Answer::Mapping(mapping) => {
                self.u8(12);
                self.u64(mapping.block);
                self.u8(u8::from(mapping.next.is_some()));
                self.u64(mapping.next.unwrap_or_default());
                self.u16(mapping.runs.len() as u16);
                for run in &mapping.runs {
                    [run.at, run.data, run.count].into_iter().for_each(|number| self.u64(number));
                }
            }
        }
    }

    fn probe(&mut self, schemes: &[Scheme], remarks: &[String], volumes: &[Volume]) {
        self.u8(1);
        self.u16(schemes.len() as u16);
        for scheme in schemes {
            self.u8(SCHEMES.iter().position(|it| it == scheme).unwrap_or_default() as u8);
        }
        let remarks = remarks.get(..MAX_REMARKS).unwrap_or(remarks);
        self.u16(remarks.len() as u16);
        remarks.iter().for_each(|remark| self.text(remark));
        self.u16(volumes.len() as u16);
        volumes.iter().for_each(|volume| self.volume(volume));
    }

    fn volume(&mut self, volume: &Volume) {
        self.u32(volume.number);
        self.text(&volume.name);
        self.u64(volume.range.start());
        self.u64(volume.range.count().get());
        self.u16(volume.parts.len() as u16);
        for part in &volume.parts {
            self.u64(part.len);
            self.u64(part.stripe);
            self.u16(part.legs.len() as u16);
            part.legs.iter().for_each(|leg| self.u64(*leg));
        }
        let (state, text) = match (&volume.content, &volume.needs) {
            (Ok(what), _) => (1, what),
            (Err(why), None) => (0, why),
            (Err(why), Some(Needs::Key)) => (2, why),
            (Err(why), Some(Needs::Mapping(_))) => (3, why),
        };
        self.u8(state);
        self.text(text);
        if let (3, Some(Needs::Mapping(thin))) = (state, &volume.needs) {
            for range in [thin.metadata, thin.data] {
                self.u64(range.start());
                self.u64(range.count().get());
            }
            self.u32(thin.device);
            self.u64(thin.len);
        }
    }

    fn list(&mut self, listing: &Listing, nodes: &[Option<Node>]) {
        self.u8(5);
        self.u8(u8::from(listing.next.is_some()));
        self.u64(listing.next.unwrap_or_default());
        self.u16(listing.entries.len() as u16);
        for (entry, node) in listing.entries.iter().zip(nodes) {
            self.u64(entry.ino);
            self.u8(entry.kind.map_or(NO_KIND, kind_place));
            self.u64(entry.next);
            self.name(&entry.name);
            self.maybe_node(node.as_ref());
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) {
        self.u8(7);
        self.u16(pieces.len() as u16);
        for piece in pieces {
            self.u64(piece.at);
            self.u64(piece.len);
            match &piece.place {
                Place::Volume(at) => self.about(0, *at),
                Place::Zero => self.u8(1),
                Place::Coded => self.u8(3),
                Place::Bytes(bytes) => {
                    self.u8(2);
                    self.bytes(bytes);
                }
            }
        }
    }

    fn maybe_node(&mut self, node: Option<&Node>) {
        self.u8(u8::from(node.is_some()));
        node.into_iter().for_each(|node| self.node(node));
    }

    fn node(&mut self, node: &Node) {
        self.u64(node.ino);
        self.u8(kind_place(node.kind));
        self.u16(node.perm);
        [node.uid, node.gid, node.nlink].into_iter().for_each(|value| self.u32(value));
        [node.size, node.blocks].into_iter().for_each(|value| self.u64(value));
        self.u32(node.rdev);
        for stamp in [node.atime, node.mtime, node.ctime] {
            self.u64(stamp.seconds.cast_unsigned());
            self.u32(stamp.nanos);
        }
        self.u32(node.generation);
    }
}

fn kind_place(kind: NodeKind) -> u8 {
    NODE_KINDS.iter().position(|it| *it == kind).unwrap_or_default() as u8
}
