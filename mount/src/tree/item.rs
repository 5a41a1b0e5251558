//! The tree of an item: `by-time/` has the tree of each of its points, `by-file/` has a directory for each file, in which
//! its versions are.

use super::number::Place;
use super::shown::{Add, FOREVER, Shown};
use super::table::Table;
use crate::files::{Files, lossy};
use crate::guest::{Node, NodeKind, Space, Stamp};
use crate::history::History;
use crate::points::Point;
use crate::{Error, Result};
use block::sync::{Mutex, lock};
use block::{Clock, linux::SystemClock};
use std::sync::Arc;
use std::time::Duration;

/// How long a list of points is believed.
const FRESH: Duration = Duration::from_secs(1);

/// Points that were not looked into for this long, twice as long at most, are closed.
const IDLE: Duration = Duration::from_secs(30);

/// What a number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Top,
    ByTime,
    ByFile,
    /// Within one of the two, a disk of a machine.
    DiskByTime(Arc<str>),
    DiskByFile(Arc<str>),
    /// A file of a point, by its number there.
    In(Arc<str>, u64),
    /// A path of a partition of a disk, in `by-file`.
    Path(Arc<str>, u32, Arc<[u8]>),
}

/// The points as last listed.
struct Listed {
    points: Arc<Vec<Point>>,
    at_ns: u64,
    /// When they were first seen to be these.
    since: Stamp,
}

/// The tree over all points of an item.
pub(crate) struct Item {
    history: History,
    /// The item's name if it is a machine: its disks are called by what is behind it.
    machine: Option<String>,
    table: Table<Key>,
    listed: Mutex<Option<Listed>>,
}

impl Item {
    /// A tree of the points there are now and will be. With a machine's name, its disks are told apart.
    pub(crate) fn new(history: History, machine: Option<String>) -> Self {
        Self { history, machine, table: Table::new(Key::Top), listed: Mutex::new(None) }
    }

    /// Closes points nobody looks into, for as long as somebody has the tree.
    pub(crate) fn close_idle(tree: &Arc<Self>) {
        let tree = Arc::downgrade(tree);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(IDLE);
                let Some(tree) = tree.upgrade() else { return };
                tree.history.close_idle();
            }
        });
    }

    /// Every point, and since when there are just these.
    fn points(&self) -> Result<(Arc<Vec<Point>>, Stamp)> {
        let mut listed = lock(&self.listed);
        let now = SystemClock.monotonic_ns();
        if let Some(known) = &*listed
            && now.saturating_sub(known.at_ns) < FRESH.as_nanos() as u64
        {
            return Ok((Arc::clone(&known.points), known.since));
        }
        let points = Arc::new(self.history.points()?);
        let before = listed.as_ref().filter(|known| known.points == points);
        let since = before.map_or_else(super::now, |known| known.since);
        *listed = Some(Listed { points: Arc::clone(&points), at_ns: now, since });
        Ok((points, since))
    }

    fn key(&self, ino: u64) -> Result<Key> {
        self.table.thing(ino).ok_or_else(|| Error::not_found(format!("inode {ino}")))
    }

    fn point(&self, name: &str) -> Result<Point> {
        let (points, _) = self.points()?;
        let found = points.iter().find(|point| point.name == name);
        found.cloned().ok_or_else(|| Error::not_found(format!("the point {name}")))
    }

    fn files(&self, name: &str) -> Result<Arc<Files>> {
        self.history.files(&self.point(name)?)
    }

    /// The disks there are points of.
    fn disks(&self) -> Result<Vec<Arc<str>>> {
        let (points, _) = self.points()?;
        let mut disks: Vec<Arc<str>> = points.iter().map(|point| point.disk.as_str().into()).collect();
        disks.dedup();
        disks.sort();
        disks.dedup();
        Ok(disks)
    }

    /// What `by-time` or `by-file` leads to where there is only one disk.
    fn disk(&self) -> Result<Arc<str>> {
        self.disks()?.into_iter().next().ok_or_else(|| Error::not_found("a point"))
    }

    /// Everything in a directory that is not a guest's.
    fn names(&self, key: &Key) -> Result<Vec<(Vec<u8>, Key)>> {
        Ok(match key {
            Key::Top => vec![(b"by-time".to_vec(), Key::ByTime), (b"by-file".to_vec(), Key::ByFile)],
            Key::ByTime | Key::ByFile => match &self.machine {
                Some(machine) => self.members(machine, *key == Key::ByTime)?,
                None if self.disks()?.is_empty() => Vec::new(),
                None if *key == Key::ByTime => self.names(&Key::DiskByTime(self.disk()?))?,
                None => self.names(&Key::DiskByFile(self.disk()?))?,
            },
            Key::DiskByTime(disk) => {
                let (points, _) = self.points()?;
                let of_disk = points.iter().filter(|point| *point.disk == **disk);
                let top = Place::Top.number();
                of_disk.map(|point| (label(point), Key::In(point.name.as_str().into(), top))).collect()
            }
            Key::DiskByFile(disk) => {
                let (points, _) = self.points()?;
                let Some(newest) = points.iter().rfind(|point| *point.disk == **disk) else {
                    return Ok(Vec::new());
                };
                let files = self.history.files(newest)?;
                let readable = files.volumes().into_iter().filter(|volume| volume.content.is_ok());
                let named = |volume: crate::files::Volume| {
                    (volume.name.into_bytes(), Key::Path(Arc::clone(disk), volume.number, Arc::default()))
                };
                readable.map(named).collect()
            }
            Key::Path(disk, volume, path) => self.versions(disk, *volume, path)?,
            Key::In(..) => return Err(Error::invalid("a file", "it is not a directory of the item")),
        })
    }

    fn members(&self, machine: &str, by_time: bool) -> Result<Vec<(Vec<u8>, Key)>> {
        let short = |disk: &str| {
            let rest = disk.strip_prefix(machine).map(|rest| rest.trim_start_matches('/'));
            rest.unwrap_or(disk).replace('/', "-").into_bytes()
        };
        let key = |disk| if by_time { Key::DiskByTime(disk) } else { Key::DiskByFile(disk) };
        Ok(self.disks()?.into_iter().map(|disk| (short(&disk), key(disk))).collect())
    }

    /// What is at a path of a disk through all its points: names that any version of a directory has, and every version
    /// of anything else, newest first.
    fn versions(&self, disk: &Arc<str>, volume: u32, path: &[u8]) -> Result<Vec<(Vec<u8>, Key)>> {
        let (mut names, mut found) = (std::collections::BTreeSet::new(), Vec::new());
        for version in self.history.versions(disk, volume, path)? {
            match version.look.node() {
                Some(node) if node.kind == NodeKind::Directory => {
                    names.extend(version.look.names().iter().cloned());
                }
                Some(node) => {
                    found.push((
                        label(&version.newest),
                        Key::In(version.newest.name.as_str().into(), node.ino),
                    ));
                }
                None => {}
            }
        }
        let below = |name: Vec<u8>| {
            let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            (name, Key::Path(Arc::clone(disk), volume, path.into()))
        };
        Ok(names.into_iter().map(below).chain(found).collect())
    }

    fn find(&self, dir: &Key, name: &[u8]) -> Result<Option<Key>> {
        if let Key::Path(disk, volume, path) = dir {
            let below = if path.is_empty() { name.to_vec() } else { [path, &b"/"[..], name].concat() };
            // most paths lead to what the newest point has, which is found without the others
            let (points, _) = self.points()?;
            let newest = points.iter().rfind(|point| *point.disk == **disk);
            let there = newest.map(|newest| self.history.files(newest)?.find(*volume, &below, false));
            if let Some(Ok(_)) = there {
                return Ok(Some(Key::Path(Arc::clone(disk), *volume, below.into())));
            }
        }
        let names = self.names(dir)?;
        Ok(names.into_iter().find(|(its, _)| its == name).map(|(_, key)| key))
    }

    fn node_of(&self, key: &Key) -> Result<Node> {
        let ino = self.table.number(key);
        match key {
            // a point is not opened because somebody looks at its name
            Key::In(point, inner) if *inner != Place::Top.number() => {
                let node = self.files(point)?.tree().node(place(*inner)?)?;
                Ok(Node { ino, ..node })
            }
            _ => {
                let (_, since) = self.points()?;
                let (uid, gid) = super::owner();
                Ok(Node {
                    ino,
                    kind: NodeKind::Directory,
                    perm: 0o555,
                    uid,
                    gid,
                    nlink: 2,
                    size: 0,
                    blocks: 0,
                    rdev: 0,
                    atime: since,
                    mtime: since,
                    ctime: since,
                    generation: 0,
                })
            }
        }
    }

    /// Asks the tree of the point a file is of.
    fn inside<T>(&self, ino: u64, ask: impl FnOnce(&dyn Shown, u64) -> Result<T>) -> Result<T> {
        match self.key(ino)? {
            Key::In(point, inner) => ask(self.files(&point)?.tree(), inner),
            _ => Err(Error::invalid("a directory of the item", "it has nothing but names")),
        }
    }
}

impl Shown for Item {
    fn node(&self, ino: u64) -> Result<Node> {
        self.node_of(&self.key(ino)?)
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<Node>> {
        let key = self.key(dir)?;
        if let Key::In(point, inner) = key {
            let found = Shown::lookup(self.files(&point)?.tree(), inner, name)?;
            return Ok(found.map(|node| Node { ino: self.table.number(&Key::In(point, node.ino)), ..node }));
        }
        self.find(&key, name)?.map(|key| self.node_of(&key)).transpose()
    }

    fn list(&self, dir: u64, from: u64, add: &mut Add<'_>) -> Result<()> {
        let key = self.key(dir)?;
        if let Key::In(point, inner) = key {
            let files = self.files(&point)?;
            return Shown::list(files.tree(), inner, from, &mut |inner, next, kind, name, node| {
                let ino = self.table.number(&Key::In(Arc::clone(&point), inner));
                let node = node.map(|node| Node { ino, ..node.clone() });
                add(ino, next, kind, name, node.as_ref())
            });
        }
        for (at, (name, key)) in (1..).zip(self.names(&key)?).skip(from as usize) {
            let node = self.node_of(&key).ok();
            let kind = node.as_ref().map_or(NodeKind::Directory, |node| node.kind);
            if add(self.table.number(&key), at, kind, &name, node.as_ref()) {
                break;
            }
        }
        Ok(())
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        self.inside(ino, |tree, ino| tree.link(ino))
    }

    fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.inside(ino, |tree, ino| tree.read(ino, offset, buf))
    }

    fn seek(&self, ino: u64, offset: u64, data: bool) -> Result<Option<u64>> {
        self.inside(ino, |tree, ino| tree.seek(ino, offset, data))
    }

    fn attribute_names(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        match self.key(ino)? {
            Key::In(..) => self.inside(ino, |tree, ino| tree.attribute_names(ino)),
            _ => Ok(Vec::new()),
        }
    }

    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        match self.key(ino)? {
            Key::In(..) => self.inside(ino, |tree, ino| tree.attribute(ino, name)),
            _ => Err(Error::not_found(lossy(name))),
        }
    }

    fn space(&self, ino: u64) -> Result<Space> {
        match self.key(ino)? {
            Key::In(..) => self.inside(ino, |tree, ino| tree.space(ino)),
            _ => Ok(Space { block_size: 4096, ..Space::default() }),
        }
    }

    fn keep(&self, ino: u64) -> Duration {
        match self.key(ino) {
            Ok(Key::In(..)) => FOREVER,
            // points come and go
            _ => FRESH,
        }
    }

    fn remember(&self, ino: u64) {
        self.table.remember(ino);
    }

    fn forget(&self, ino: u64, times: u64) {
        self.table.forget(ino, times);
    }
}

/// What a point is called where points are names: its time, and its number since two can have one time.
fn label(point: &Point) -> Vec<u8> {
    format!("{}@{}", point.time, point.epoch).into_bytes()
}

fn place(number: u64) -> Result<Place> {
    Place::of(number).ok_or_else(|| Error::not_found(format!("inode {number}")))
}
