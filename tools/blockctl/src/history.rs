//! Recovery points of an item, as the crate that shows files asks for them; and what it finds out by them.

use crate::failure::{Failure, Result};
use crate::files::{Shown, escaped};
use crate::output::{Output, table};
use block::{ByteCount, ByteOffset, ByteRange, RangeSet};
use control::{ChangesQuery, Client};
use mount::guest::Node;
use mount::history::{Difference, History, differences};
use mount::{Error, Passphrases, Point, Points};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The text that names an item begins with this, then come its name, `?socket=` and where the daemon listens.
const ITEM: &str = "item:";
const SOCKET: &str = "?socket=";

/// What the daemon says of an item's points.
struct FromDaemon {
    // its event loop serves one call at a time
    client: Mutex<Client>,
    item: String,
}

/// The text that names an item to [`points`].
pub fn name(client: &Client, item: &str) -> Result<String> {
    let socket = std::path::absolute(client.socket());
    let socket = socket.map_err(|error| Failure::host("find the daemon's socket", &error))?;
    Ok(format!("{ITEM}{item}{SOCKET}{}", socket.display()))
}

/// The points of an item by the text that [`name`] makes.
///
/// # Errors
/// `Invalid` if it is another text.
pub fn points(text: &str) -> mount::Result<Arc<dyn Points>> {
    let parts = text.strip_prefix(ITEM).and_then(|rest| rest.split_once(SOCKET));
    let (item, socket) = parts.ok_or_else(|| Error::invalid(text, "it names no item"))?;
    let client = Client::new(PathBuf::from(socket)).map_err(|error| failed(&error))?;
    Ok(Arc::new(FromDaemon { client: Mutex::new(client), item: item.to_owned() }))
}

fn failed(error: &control::Error) -> Error {
    let kind = block::Kind::named(error.kind().name()).unwrap_or(block::Kind::Io);
    Error::Reported { kind, text: control::with_causes(error) }
}

impl FromDaemon {
    fn ask<T>(
        &self,
        ask: impl FnOnce(&Client) -> std::result::Result<T, control::Error>,
    ) -> mount::Result<T> {
        let client = self.client.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ask(&client).map_err(|error| failed(&error))
    }
}

impl Points for FromDaemon {
    fn list(&self) -> mount::Result<Vec<Point>> {
        let found = self.ask(|client| client.points(Some(&self.item)))?;
        let point = |point: control::Point| Point {
            name: point.name,
            disk: point.disk,
            epoch: point.epoch,
            time: point.time,
            uri: point.uri,
        };
        Ok(found.points.into_iter().map(point).collect())
    }

    fn changes(&self, older: &Point, newer: &Point) -> mount::Result<Option<RangeSet>> {
        let query = ChangesQuery { since: Some(older.name.clone()), until: Some(newer.name.clone()) };
        // whatever the reason, without a map every byte may have changed
        let Ok(changes) = self.ask(|client| client.changes(&newer.disk, &query)) else { return Ok(None) };
        let range = |change: &control::Change| {
            ByteRange::new(ByteOffset::new(change.offset), ByteCount::new(change.length))
        };
        Ok(changes.ranges.iter().map(range).collect())
    }
}

#[derive(Serialize)]
struct Version {
    point: String,
    time: String,
    since: String,
    #[serde(flatten)]
    file: Option<Shown>,
}

/// `blockctl files history`: which points hold another version of a file.
pub fn versions(
    client: &Client,
    output: &Output,
    item: &str,
    volume: u32,
    path: &[u8],
    passphrases: Passphrases,
) -> Result<()> {
    let history = History::new(points(&name(client, item)?)?, None, passphrases);
    let found = history.versions(item, volume, path)?;
    if found.is_empty() {
        let kind = control::Kind::NotFound;
        return Err(Failure::new(kind, format!("{item}:{volume}:{}: no point has it", escaped(path))));
    }
    let versions: Vec<Version> = found
        .into_iter()
        .map(|version| Version {
            file: version.look.node().map(|node| Shown::new(path, node, None)),
            point: version.newest.name,
            time: version.newest.time,
            since: version.oldest.name,
        })
        .collect();
    output.answer(&versions, |versions| {
        let row = |version: &Version| {
            let (size, changed) = version.file.as_ref().map(Shown::summary).unwrap_or_default();
            vec![version.point.clone(), version.since.clone(), version.time.clone(), size, changed]
        };
        let rows = versions.iter().map(row).collect();
        table(&["newest point", "oldest point", "time", ">size", "changed"], rows)
    })
}

#[derive(Serialize)]
struct Differing {
    partition: u32,
    change: &'static str,
    content: bool,
    metadata: bool,
    #[serde(flatten)]
    file: Shown,
}

/// `blockctl point diff A B --files`: which files differ between two points of a disk.
pub fn files_diff(
    client: &Client,
    output: &Output,
    older: &control::Point,
    newer: &control::Point,
    passphrases: Passphrases,
) -> Result<()> {
    if older.disk != newer.disk {
        return Err(Failure::usage(format!("{} and {} are points of two disks", older.name, newer.name)));
    }
    let history = History::new(points(&name(client, &newer.disk)?)?, None, passphrases);
    let of = |point: &control::Point| Point {
        name: point.name.clone(),
        disk: point.disk.clone(),
        epoch: point.epoch,
        time: point.time.clone(),
        uri: point.uri.clone(),
    };
    let (mut found, mut failed) = (Vec::new(), 0_u64);
    let mut tell = |volume, path: &[u8], node: &Node, difference| {
        found.push(differing(volume, path, node, &difference));
        Ok(())
    };
    let mut trouble = |volume, path: &[u8], error: &Error| {
        failed += 1;
        output.warn(&format!("{volume}:/{}: {}", escaped(path), error.with_causes()));
    };
    differences(&history, &of(older), &of(newer), &mut tell, &mut trouble)?;
    output
        .answer(&found, |found| found.iter().map(|differing| format!("{}\n", differing.line())).collect())?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(
            control::Kind::Corrupt,
            format!("compare {} and {}: {failed} could not be read", older.name, newer.name),
        )),
    }
}

fn differing(partition: u32, path: &[u8], node: &Node, difference: &Difference) -> Differing {
    let (change, content, metadata) = match *difference {
        Difference::Added => ("added", true, true),
        Difference::Removed => ("removed", true, true),
        Difference::Changed { content, metadata } => ("changed", content, metadata),
    };
    let path = [b"/", path].concat();
    Differing { partition, change, content, metadata, file: Shown::new(&path, node, None) }
}

impl Differing {
    /// A sign as `diff` has them, and the name as `files` takes it.
    fn line(&self) -> String {
        let sign = match self.change {
            "added" => '+',
            "removed" => '-',
            _ if self.content => '*',
            _ => '~',
        };
        format!("{sign} {}:{}", self.partition, self.file.path_escaped())
    }
}
