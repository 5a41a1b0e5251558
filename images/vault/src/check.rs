//! Checking a whole vault: every object is read, opened, decoded and compared with what others say of it.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use block::{ByteCount, ByteRange};

use crate::index::{Entry, Index};
use crate::info::Info;
use crate::inner::Inner;
use crate::manifest::{Node, NodeReader, Ref, Shape, walk};
use crate::name::{Address, ContentId, INFO_NAME, Shelf};
use crate::pack::{FOOTER_LEN, MAX_PACK_LEN, PackHead, Trailer, open_entry, read_head};
use crate::progress::Progress;
use crate::{Error, ManifestId, Result};

/// Damage listed in one report; more is only counted. A vault that damaged needs no longer list.
const MAX_LISTED: usize = 10_000;

/// One damaged or missing object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The blob.
    pub blob: String,
    /// Which part of it.
    pub place: String,
    /// What does not fit.
    pub why: String,
}

impl Damage {
    /// The damage an error tells of; `blob` if it names none.
    pub(crate) fn of(error: &Error, blob: &str) -> Self {
        match error {
            Error::Damaged { blob, place, why } => {
                Self { blob: blob.clone(), place: place.clone(), why: why.clone() }
            }
            Error::Missing { blob, needed_for } => Self {
                blob: blob.clone(),
                place: "all of it".to_owned(),
                why: format!("it is missing, needed for {needed_for}"),
            },
            other => Self { blob: blob.to_owned(), place: "it".to_owned(), why: other.to_string() },
        }
    }
}

/// A recovery point that does not restore completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtPoint {
    /// The point.
    pub manifest: ManifestId,
    /// The item it is of, if its blob can be read.
    pub item: Option<String>,
    /// The first thing found wrong with it.
    pub why: String,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Recovery points looked at.
    pub points: u64,
    /// Packs read.
    pub packs: u64,
    /// Entries decoded and found right: chunks and nodes.
    pub entries: u64,
    /// Bytes read from the store.
    pub bytes_read: ByteCount,
    /// Damaged and missing objects, at most 10,000 of them.
    pub damage: Vec<Damage>,
    /// All damage found, listed or not.
    pub damage_count: u64,
    /// Points that do not restore completely.
    pub hurt: Vec<HurtPoint>,
    /// Bytes in packs that no point needs; unknown if a point cannot be followed to its end.
    pub unreferenced: Option<ByteCount>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damage_count == 0 && self.hurt.is_empty()
    }
}

struct Check<'a> {
    vault: &'a Inner,
    report: CheckReport,
    // ids with at least one place that decodes
    good: HashSet<ContentId>,
    trailers: HashMap<Address, (u64, Arc<Trailer>)>,
}

pub(crate) fn run(vault: &Inner, progress: &dyn Progress) -> Result<CheckReport> {
    let report = CheckReport::default();
    let mut check = Check { vault, report, good: HashSet::new(), trailers: HashMap::new() };
    // a backup beside this writes packs, then their index, then the point: what is listed in the opposite order finds
    // everything it relies on in the lists made after it
    let points = vault.addresses(Shelf::Points)?;
    let indexes = vault.addresses(Shelf::Index)?;
    check.info()?;
    check.packs(progress)?;
    check.indexes(&indexes, progress)?;
    check.points(&points, progress)?;
    if check.report.hurt.is_empty() {
        check.report.unreferenced = Some(crate::reach::of(vault, progress)?.unreferenced);
    }
    Ok(check.report)
}

impl Check<'_> {
    fn damage(&mut self, damage: Damage) {
        self.report.damage_count += 1;
        if self.report.damage.len() < MAX_LISTED {
            self.report.damage.push(damage);
        }
    }

    /// Notes damage; passes on what is no damage.
    fn note(&mut self, error: Error, blob: &str) -> Result<()> {
        if !error.is_damage() && !matches!(error, Error::Unsupported(_)) {
            return Err(error);
        }
        self.damage(Damage::of(&error, blob));
        Ok(())
    }

    /// The blob without which the vault does not open again.
    fn info(&mut self) -> Result<()> {
        let read = Info::load(&*self.vault.store)
            .and_then(|(info, bytes)| info.verify(&self.vault.keys, &bytes).map(|()| info.front.vault));
        match read {
            Ok(id) if id == self.vault.id => Ok(()),
            Ok(id) => {
                self.note(Error::damaged(INFO_NAME, "front", format!("it is of vault {id}")), INFO_NAME)
            }
            Err(Error::NoVault) => {
                let needed_for = "opening the vault".to_owned();
                self.note(Error::Missing { blob: INFO_NAME.to_owned(), needed_for }, INFO_NAME)
            }
            Err(Error::WrongKey { vault }) => {
                let why = format!("it is of vault {vault} and another key");
                self.note(Error::damaged(INFO_NAME, "front", why), INFO_NAME)
            }
            Err(error) => self.note(error, INFO_NAME),
        }
    }

    fn packs(&mut self, progress: &dyn Progress) -> Result<()> {
        let packs = self.vault.sizes(Shelf::Packs)?;
        let total = packs.iter().map(|(_, len)| len).sum();
        for (address, len) in packs {
            stop_if(progress)?;
            if let Err(error) = self.pack(address, len) {
                self.note(error, &address.name(Shelf::Packs))?;
            }
            progress.at(self.report.bytes_read, ByteCount::new(total));
        }
        Ok(())
    }

    fn pack(&mut self, address: Address, len: u64) -> Result<()> {
        let name = address.name(Shelf::Packs);
        let bytes = self.vault.fetch(&name, MAX_PACK_LEN)?;
        self.report.packs += 1;
        self.report.bytes_read = ByteCount::new(self.report.bytes_read.get() + len);
        let slice = |range: ByteRange| {
            let part = bytes.get(range.start() as usize..range.end() as usize);
            part.map(<[u8]>::to_vec)
                .ok_or_else(|| Error::damaged(&name, "length", "it is shorter than it says"))
        };
        let head = read_head(&self.vault.keys, self.vault.id, address, bytes.len() as u64, &slice)?;
        let before = self.report.damage_count;
        self.entries(&head, &bytes)?;
        let body = &bytes[..bytes.len() - FOOTER_LEN];
        if before == self.report.damage_count && crc32fast::hash(body) != head.footer.body_crc {
            self.damage(Damage::of(&Error::damaged(&name, "footer", "the body's checksum disagrees"), &name));
        }
        self.trailers.insert(address, (bytes.len() as u64, Arc::new(head.trailer)));
        Ok(())
    }

    fn entries(&mut self, head: &PackHead, bytes: &[u8]) -> Result<()> {
        let address = head.front.address;
        for (number, offset, record) in head.trailer.entries() {
            let end = offset as usize + record.stored as usize;
            let mut sealed = bytes.get(offset as usize..end).unwrap_or_default().to_vec();
            match open_entry(&self.vault.keys, &head.key, &address, number, record, &mut sealed) {
                Ok(_) => {
                    self.report.entries += 1;
                    self.good.insert(record.id);
                }
                Err(error) => self.note(error, &address.name(Shelf::Packs))?,
            }
        }
        Ok(())
    }

    fn indexes(&mut self, indexes: &[Address], progress: &dyn Progress) -> Result<()> {
        for &address in indexes {
            stop_if(progress)?;
            let name = address.name(Shelf::Index);
            match self.vault.read_index(address) {
                Ok(content) => {
                    for (row, pack) in content.packs.iter().enumerate() {
                        let mine = content.entries.iter().filter(|entry| entry.pack as usize == row);
                        if let Some(why) = self.disagreement(pack.address, pack.len, mine) {
                            self.damage(Damage {
                                blob: name.clone(),
                                place: format!("pack table {row}"),
                                why,
                            });
                        }
                    }
                }
                Err(error) => self.note(error, &name)?,
            }
        }
        Ok(())
    }

    /// Why an index and a pack's trailer do not agree.
    fn disagreement<'e>(
        &self,
        pack: Address,
        len: u64,
        mut entries: impl Iterator<Item = &'e Entry>,
    ) -> Option<String> {
        let name = pack.name(Shelf::Packs);
        let Some((found, trailer)) = self.trailers.get(&pack) else {
            return Some(format!("it names {name}, which is missing or damaged"));
        };
        if *found != len {
            return Some(format!("it says {name} has {len} bytes, it has {found}"));
        }
        let differs = |entry: &&Entry| trailer.get(entry.number) != Some((entry.offset, &entry.record));
        entries.find(differs).map(|entry| format!("entry {} of {name} is another there", entry.number))
    }

    fn points(&mut self, points: &[Address], progress: &dyn Progress) -> Result<()> {
        for &address in points {
            stop_if(progress)?;
            self.report.points += 1;
            let manifest = ManifestId::from_bytes(*address.id.as_bytes());
            match self.vault.read_point(address) {
                Ok(point) => {
                    let shape = Shape::new(point.about.size);
                    if let Some(why) = self.tree(shape, point.root)? {
                        self.report.hurt.push(HurtPoint { manifest, item: Some(point.about.item), why });
                    }
                }
                // deleted since it was listed
                Err(Error::NoPoint(_)) => self.report.points -= 1,
                Err(error) => {
                    let why = error.to_string();
                    self.note(error, &address.name(Shelf::Points))?;
                    self.report.hurt.push(HurtPoint { manifest, item: None, why });
                }
            }
        }
        Ok(())
    }

    /// The first thing wrong with a tree.
    fn tree(&self, shape: Shape, root: Ref) -> Result<Option<String>> {
        let nodes = Nodes { vault: self.vault, index: &self.vault.index.load(), good: &self.good };
        let mut wrong = None;
        let mut visit = |run: crate::manifest::Run| match run.what {
            Ref::Stored(id) if !self.good.contains(&id) => {
                wrong = Some(format!("chunk {} ({id}) cannot be read", run.first));
                Ok(ControlFlow::Break(()))
            }
            _ => Ok(ControlFlow::Continue(())),
        };
        match walk(&nodes, shape, root, 0..shape.chunks(), &mut visit) {
            Ok(_) => Ok(wrong),
            Err(error) if error.is_damage() => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }
}

fn stop_if(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

struct Nodes<'a> {
    vault: &'a Inner,
    index: &'a Index,
    good: &'a HashSet<ContentId>,
}

impl NodeReader for Nodes<'_> {
    fn node(&self, id: &ContentId, level: u8, count: usize) -> Result<Arc<Node>> {
        if !self.good.contains(id) {
            return Err(Error::damaged(&format!("(node {id})"), "content", "no place of it can be read"));
        }
        Ok(Arc::new(self.vault.read_node(self.index, id, level, count)?))
    }
}
