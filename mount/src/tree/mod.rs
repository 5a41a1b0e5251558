//! The mounted tree: `disk.raw`, `partitions/N.raw` and `files/N/`. Knows what is where and how to read it; knows no
//! FUSE (that is [`fuse`]) and interprets no guest's byte (that is [`crate::parser`]).

mod ahead;
mod content;
pub(crate) mod fuse;
pub(crate) mod item;
mod number;
mod order;
mod recent;
pub(crate) mod shown;
mod table;
mod volumes;

use crate::guest::{Entry, Node, NodeKind, Space, Stamp};
use crate::luks::Passphrases;
use crate::parser::Parser;
use crate::parser::wire::{Answer, FIRST_OPENED, MAX_DISKS, PER_DISK, Question, Request, Volume};
use crate::volume::{Joined, Space as Addresses};
use crate::{Error, Result};
use ahead::Ahead;
pub(crate) use ahead::FETCHERS;
use block::linux::SystemClock;
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteRange, Clock, Kind};
use content::Contents;
pub(crate) use number::Place;
pub(crate) use recent::Recent;
use std::path::Path;
use std::sync::Arc;

/// Pages of directories kept (twice as many at most), about 200 KiB each at most.
const MAX_PAGES: usize = 64;

/// The tree over one recovery point.
pub(crate) struct Tree {
    contents: Arc<Contents>,
    disks: Vec<Disk>,
    volumes: Vec<Held>,
    /// The names of the volumes that were decrypted.
    opened: Vec<String>,
    owner: (u32, u32),
    made: Stamp,
    pages: Recent<u64, Page>,
    ahead: Ahead,
}

/// One disk among those of a machine.
pub(crate) struct Disk {
    /// Before the number of each of its partitions; empty if it is the only one.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) range: ByteRange,
}

/// A volume and what is known of it.
struct Held {
    volume: Volume,
    state: Mutex<Option<State>>,
}

/// Found out when a volume is first looked into.
#[derive(Clone)]
enum State {
    Readable { root: u64, space: Space },
    Unreadable { kind: Kind, why: Arc<str> },
}

/// A page of a directory.
pub(crate) struct Page {
    entries: Vec<(Entry, Option<Node>)>,
    next: Option<u64>,
}

impl Page {
    /// Names, numbers and what could be told of them.
    pub(crate) fn into_entries(self) -> (Vec<(Entry, Option<Node>)>, Option<u64>) {
        (self.entries, self.next)
    }
}

/// What a name in a made directory leads to.
type Named = (String, Place);

impl Tree {
    /// Starts a parser and asks it what the disks hold. Each has a name, which stands before the numbers of its partitions; a
    /// disk alone has none. Encrypted volumes that one of the passphrases opens are decrypted.
    ///
    /// # Errors
    /// [`Error::Sandbox`] if guests' bytes cannot be read safely; `Invalid` for too many disks.
    pub(crate) fn start(
        disks: Vec<(String, Arc<dyn BlockSource>)>,
        executable: &Path,
        passphrases: &Passphrases,
    ) -> Result<Self> {
        if disks.is_empty() || disks.len() > MAX_DISKS {
            return Err(Error::invalid(
                format!("{} disks", disks.len()),
                format!("1 to {MAX_DISKS} can be looked at"),
            ));
        }
        let (names, sources): (Vec<String>, Vec<_>) = disks.into_iter().unzip();
        let joined = Joined::new(sources)?;
        let disks: Vec<Disk> =
            names.into_iter().zip(joined.ranges()).map(|(name, range)| Disk { name, range }).collect();
        let source = Arc::new(Addresses::new(Arc::new(joined)));
        let parser = Parser::start(Arc::clone(&source) as Arc<dyn BlockSource>, executable)?;
        let (volumes, opened) = volumes::find(&source, &disks, &parser, passphrases);
        let held = |volume| Held { volume, state: Mutex::new(None) };
        let volumes = volumes.into_iter().map(held).collect();
        let contents = Arc::new(Contents::new(source, parser));
        let read = Arc::clone(&contents);
        let ahead = Ahead::new(Arc::new(move |bytes, offset, buf: &mut [u8]| read.read(bytes, offset, buf)));
        let pages = Recent::new(MAX_PAGES);
        let (owner, made) = (owner(), now());
        Ok(Self { contents, disks, volumes, opened, owner, made, pages, ahead })
    }

    /// The parser processes alive now.
    pub(crate) fn parsers(&self) -> Vec<u32> {
        self.contents.parser.processes()
    }

    /// What each volume holds, or why it cannot be read as files.
    pub(crate) fn contents(&self) -> Vec<crate::files::Volume> {
        let told = |volume: &Volume| crate::files::Volume {
            number: volume.number,
            name: self.title(volume),
            content: volume.content.clone(),
        };
        self.volumes.iter().map(|held| told(&held.volume)).collect()
    }

    /// The number of the volume that is called so.
    pub(crate) fn named(&self, title: &str) -> Option<u32> {
        let found = self.volumes.iter().map(|held| &held.volume).find(|volume| self.title(volume) == title);
        found.map(|volume| volume.number)
    }

    /// The root directory of a volume.
    pub(crate) fn root(&self, number: u32) -> Result<Node> {
        match self.state(self.held(number)?)? {
            State::Readable { root, .. } => self.node(Place::Guest(number, root)),
            State::Unreadable { kind, why } => {
                let title = self.title(&self.held(number)?.volume);
                let text = format!("partition {title} cannot be read as files: {why}");
                Err(Error::Reported { kind, text })
            }
        }
    }

    fn held(&self, number: u32) -> Result<&Held> {
        let found = self.volumes.iter().find(|held| held.volume.number == number);
        found.ok_or_else(|| Error::not_found(format!("partition {number}")))
    }

    fn disk(&self, place: u32) -> Result<&Disk> {
        let found = self.disks.get(place as usize);
        found.ok_or_else(|| Error::not_found(format!("disk {place}")))
    }

    /// The file with the bytes of a disk.
    fn disk_name(disk: &Disk) -> String {
        let name = if disk.name.is_empty() { "disk" } else { &disk.name };
        format!("{name}.raw")
    }

    fn title(&self, volume: &Volume) -> String {
        volumes::title(&self.disks, &self.opened, volume)
    }

    /// Whether a volume is all of a disk, so that its bytes have a file already.
    fn is_disk(volume: &Volume) -> bool {
        volume.number < FIRST_OPENED && volume.number.is_multiple_of(PER_DISK)
    }

    /// What a volume holds. Opens it if nobody looked before; a failure that may pass is not kept.
    fn state(&self, held: &Held) -> Result<State> {
        let mut state = lock(&held.state);
        if let Some(state) = &*state {
            return Ok(state.clone());
        }
        let opened = match &held.volume.content {
            Ok(_) => self.ask(held, Question::Open),
            Err(why) => Err(Error::Reported { kind: Kind::Unsupported, text: why.clone() }),
        };
        let found = match opened {
            Ok(Answer::Open { root, space, remark }) => {
                if !remark.is_empty() {
                    tracing::warn!("files/{}: {remark}", self.title(&held.volume));
                }
                State::Readable { root, space }
            }
            Ok(_) => return Err(unexpected()),
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) => State::Unreadable { kind: error.kind(), why: error.to_string().into() },
        };
        *state = Some(found.clone());
        Ok(found)
    }

    fn ask(&self, held: &Held, question: Question) -> Result<Answer> {
        self.contents.parser.ask(&Request { volume: held.volume.range, question })
    }

    pub(crate) fn node(&self, place: Place) -> Result<Node> {
        let made = |kind, size, nlink| self.made_node(place, kind, size, nlink);
        Ok(match place {
            Place::Top => made(NodeKind::Directory, 0, 4),
            Place::Partitions => made(NodeKind::Directory, 0, 2),
            Place::Files => made(NodeKind::Directory, 0, 2 + self.volumes.len() as u32),
            Place::Disk(disk) => made(NodeKind::File, self.disk(disk)?.range.count().get(), 1),
            Place::Partition(number) => {
                made(NodeKind::File, self.held(number)?.volume.range.count().get(), 1)
            }
            Place::Reason(number) => made(NodeKind::File, self.reason(number)?.len() as u64, 1),
            Place::Guest(volume, ino) => match self.ask(self.held(volume)?, Question::Node { ino })? {
                Answer::Node(node) => self.outer(volume, node),
                _ => return Err(unexpected()),
            },
        })
    }

    /// A node of the guest, under the number it has in the tree.
    fn outer(&self, volume: u32, node: Node) -> Node {
        Node { ino: Place::Guest(volume, node.ino).number(), ..node }
    }

    fn made_node(&self, place: Place, kind: NodeKind, size: u64, nlink: u32) -> Node {
        let (uid, gid) = self.owner;
        let perm = if kind == NodeKind::Directory { 0o555 } else { 0o444 };
        let (ino, blocks, made) = (place.number(), size.div_ceil(512), self.made);
        Node {
            ino,
            kind,
            perm,
            uid,
            gid,
            nlink,
            size,
            blocks,
            rdev: 0,
            atime: made,
            mtime: made,
            ctime: made,
            generation: 0,
        }
    }

    /// The text of `files/N.unreadable`.
    fn reason(&self, number: u32) -> Result<String> {
        let held = self.held(number)?;
        match self.state(held)? {
            State::Unreadable { why, .. } => {
                let volume = &held.volume;
                let raw = match (volume.range.is_empty(), Self::is_disk(volume)) {
                    (true, _) => return Ok(format!("{why}\n")),
                    (false, true) => Self::disk_name(self.disk(number / PER_DISK)?),
                    (false, false) => format!("partitions/{}.raw", self.title(volume)),
                };
                Ok(format!("{why}\nIts bytes are in {raw}.\n"))
            }
            State::Readable { .. } => Err(Error::not_found(format!("files/{number}.unreadable"))),
        }
    }

    /// The names in a made directory.
    fn names(&self, place: Place) -> Result<Vec<Named>> {
        Ok(match place {
            Place::Top => {
                let disks = (0..).zip(&self.disks);
                let disks = disks.map(|(place, disk)| (Self::disk_name(disk), Place::Disk(place)));
                let folders = [("partitions", Place::Partitions), ("files", Place::Files)];
                disks.chain(folders.map(|(name, place)| (name.to_owned(), place))).collect()
            }
            Place::Partitions => {
                let volumes = self.volumes.iter().map(|held| &held.volume);
                let with_bytes = volumes.filter(|volume| !Self::is_disk(volume) && !volume.range.is_empty());
                let named = |volume| format!("{}.raw", self.title(volume));
                with_bytes.map(|volume| (named(volume), Place::Partition(volume.number))).collect()
            }
            Place::Files => self.volumes.iter().map(|held| self.name(held)).collect::<Result<_>>()?,
            _ => return Err(Error::invalid("a file", "it is not a directory")),
        })
    }

    /// What stands for a volume in `files`.
    fn name(&self, held: &Held) -> Result<Named> {
        let number = held.volume.number;
        Ok(match self.state(held)? {
            State::Readable { root, .. } => (self.title(&held.volume), Place::Guest(number, root)),
            State::Unreadable { .. } => {
                (format!("{}.unreadable", self.title(&held.volume)), Place::Reason(number))
            }
        })
    }

    /// The file a directory names so, or `None`.
    pub(crate) fn lookup(&self, dir: Place, name: &[u8]) -> Result<Option<Node>> {
        let Place::Guest(volume, dir) = dir else {
            let names = self.names(dir)?;
            let found = names.into_iter().find(|(its, _)| its.as_bytes() == name);
            return found.map(|(_, place)| self.node(place)).transpose();
        };
        match self.ask(self.held(volume)?, Question::Lookup { dir, name: name.to_vec() })? {
            Answer::Lookup(found) => Ok(found.map(|node| self.outer(volume, node))),
            _ => Err(unexpected()),
        }
    }

    /// The page of a guest's directory that begins at `cookie`, or holds an entry after which it begins, and the place
    /// in it to begin at.
    fn page(&self, volume: u32, dir: u64, cookie: u64) -> Result<(Arc<Page>, usize)> {
        let ino = Place::Guest(volume, dir).number();
        // the kernel continues where it could take no more, which is most often within the page it had last
        if let Some(page) = self.pages.get(&ino)
            && let Some(place) = page.entries.iter().position(|(entry, _)| entry.next == cookie)
            && (place + 1 < page.entries.len() || page.next.is_none())
        {
            return Ok((page, place + 1));
        }
        let page = Arc::new(self.list_guest(volume, dir, cookie)?);
        self.pages.insert(ino, Arc::clone(&page));
        Ok((page, 0))
    }

    /// A page of a guest's directory, not kept for the next who asks.
    pub(crate) fn list(&self, dir: Place, cookie: u64) -> Result<Page> {
        match dir {
            Place::Guest(volume, dir) => self.list_guest(volume, dir, cookie),
            _ => Err(Error::invalid("a file", "it is not a directory of a guest")),
        }
    }

    fn list_guest(&self, volume: u32, dir: u64, cookie: u64) -> Result<Page> {
        let question = Question::List { dir, cookie, with_nodes: true };
        let Answer::List { listing, nodes } = self.ask(self.held(volume)?, question)? else {
            return Err(unexpected());
        };
        if listing.next.is_some_and(|next| next <= cookie) {
            return Err(unexpected());
        }
        let outer = |mut entry: Entry| {
            entry.ino = Place::Guest(volume, entry.ino).number();
            entry
        };
        let nodes = nodes.into_iter().map(|node| node.map(|node| self.outer(volume, node)));
        let entries = listing.entries.into_iter().map(outer).zip(nodes).collect();
        let page = Page { entries, next: listing.next };
        self.expect(self.held(volume)?, &page);
        Ok(page)
    }

    pub(crate) fn link(&self, place: Place) -> Result<Vec<u8>> {
        let Place::Guest(volume, ino) = place else {
            return Err(Error::invalid("a file", "it is not a symbolic link"));
        };
        match self.ask(self.held(volume)?, Question::Link { ino })? {
            Answer::Link(target) => Ok(target),
            _ => Err(unexpected()),
        }
    }

    pub(crate) fn attribute_names(&self, place: Place) -> Result<Vec<Vec<u8>>> {
        let Place::Guest(volume, ino) = place else { return Ok(Vec::new()) };
        match self.ask(self.held(volume)?, Question::AttributeNames { ino })? {
            Answer::AttributeNames(names) => Ok(names),
            _ => Err(unexpected()),
        }
    }

    pub(crate) fn attribute(&self, place: Place, name: &[u8]) -> Result<Vec<u8>> {
        let Place::Guest(volume, ino) = place else {
            return Err(Error::not_found("the attribute"));
        };
        match self.ask(self.held(volume)?, Question::Attribute { ino, name: name.to_vec() })? {
            Answer::Attribute(value) => Ok(value),
            _ => Err(unexpected()),
        }
    }

    /// Sizes for `statfs`.
    fn space(&self, place: Place) -> Result<Space> {
        if let Place::Guest(volume, _) = place
            && let State::Readable { space, .. } = self.state(self.held(volume)?)?
        {
            return Ok(space);
        }
        let bytes = self.disks.iter().map(|disk| disk.range.end()).max().unwrap_or_default();
        Ok(Space { block_size: 4096, blocks: bytes.div_ceil(4096), ..Space::default() })
    }
}

/// Whoever mounts; what is not the guest's belongs to them.
fn owner() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

fn now() -> Stamp {
    let ms = SystemClock.now().unix_ms;
    Stamp { seconds: (ms / 1000).cast_signed(), nanos: (ms % 1000) as u32 * 1_000_000 }
}

/// Whether asking again may help. Damage and unknown features stay; so does a parser that dies of a volume.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::ParserLost { .. } => false,
        _ => !matches!(error.kind(), Kind::Corrupt | Kind::Unsupported | Kind::NotFound | Kind::Invalid),
    }
}

/// The parser's answers are checked against their questions, so this is a mistake of this program.
fn unexpected() -> Error {
    Error::invalid("the parser's answer", "it is not to the question asked")
}
