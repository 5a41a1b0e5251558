//! What is on the disks: partitions, what is put together from them, and what each volume holds.

use super::wire::{
    Answer, FIRST_ASSEMBLED, FIRST_OPENED, MAX_OPENED, MAX_REMARKS, MAX_VOLUMES, Needs, PER_DISK, Volume,
};
use crate::guest::recognise;
use crate::luks::header;
use crate::partition::{Partition, Table, read_table};
use crate::volume::{Found, Member, Space, assemble};
use crate::{Error, Result};
use block::{BlockSource, ByteOffset, ByteRange, Window};
use std::sync::Arc;

/// Answers the probe of disks of these lengths, which lie end to end in `all`, and of the volumes behind them that were
/// decrypted.
pub(super) fn probe(all: Arc<dyn BlockSource>, disks: &[u64], opened: &[ByteRange]) -> Result<Answer> {
    let (mut schemes, mut remarks, mut partitions) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0_u64;
    for (place, len) in (0..).zip(disks) {
        let end = start.checked_add(*len).filter(|end| *end <= all.size().get());
        let end = end.ok_or_else(|| Error::invalid("a probe", "its disks are longer than all of them"))?;
        let table = read_table(&Window::new(Arc::clone(&all), ByteRange::between(start, end))?)?;
        schemes.push(table.scheme);
        let of = if disks.len() > 1 { format!("disk {}: ", place + 1) } else { String::new() };
        remarks.extend(table.remarks.iter().map(|remark| format!("{of}{remark}")));
        partitions.extend(volumes_of(&table, place, start, end));
        start = end;
    }
    let limit = MAX_VOLUMES / 2 - MAX_OPENED;
    if partitions.len() > limit {
        remarks.insert(0, format!("only the first {limit} of {} partitions are shown", partitions.len()));
        partitions.truncate(limit);
    }
    partitions
        .extend((FIRST_OPENED..).zip(opened).map(|(number, range)| Partition { number, range: *range }));
    remarks.truncate(MAX_REMARKS);
    let volumes = contents(&all, &partitions)?;
    Ok(Answer::Probe { schemes, remarks, volumes })
}

/// The partitions of one disk by their addresses; a disk without a table is its own volume 0.
fn volumes_of(table: &Table, disk: u32, start: u64, end: u64) -> Vec<Partition> {
    let mut partitions = table.partitions.clone();
    if partitions.is_empty() && start < end {
        partitions.push(Partition { number: 0, range: ByteRange::between(0, end - start) });
    }
    for partition in &mut partitions {
        partition.number += disk * PER_DISK;
        partition.range = ByteRange::between(start + partition.range.start(), start + partition.range.end());
    }
    partitions
}

fn contents(all: &Arc<dyn BlockSource>, partitions: &[Partition]) -> Result<Vec<Volume>> {
    let member = |partition: &Partition| Member { range: partition.range, belongs: None };
    let mut members: Vec<Member> = partitions.iter().map(member).collect();
    let found = assemble(all, &mut members)?;
    let mut volumes: Vec<Volume> =
        partitions.iter().zip(&members).map(|(partition, member)| plain(all, partition, member)).collect();
    let space = Space::new(Arc::clone(all));
    space.add(found.iter().filter_map(|found| Some((found.range, found.parts.as_ref().ok()?.clone()))));
    let space: Arc<dyn BlockSource> = Arc::new(space);
    volumes.extend((FIRST_ASSEMBLED..).zip(&found).map(|(number, found)| assembled(&space, number, found)));
    Ok(volumes)
}

fn plain(all: &Arc<dyn BlockSource>, partition: &Partition, member: &Member) -> Volume {
    let (content, needs) = match &member.belongs {
        Some(to) => (Err(to.clone()), None),
        None => content(all, partition.range),
    };
    let (number, range) = (partition.number, partition.range);
    Volume { number, name: String::new(), range, parts: Vec::new(), content, needs }
}

fn assembled(space: &Arc<dyn BlockSource>, number: u32, found: &Found) -> Volume {
    let (content, needs) = match (&found.parts, found.belongs()) {
        (Err(why), _) => (Err(why.clone()), found.thin.map(Needs::Mapping)),
        (Ok(_), Some(to)) => (Err(to.to_owned()), None),
        (Ok(_), None) => content(space, found.range),
    };
    let parts = found.parts.clone().unwrap_or_default();
    Volume { number, name: found.name.clone(), range: found.range, parts, content, needs }
}

/// What a volume holds, if it is readable, or what it takes to read it.
fn content(space: &Arc<dyn BlockSource>, range: ByteRange) -> (Result<String, String>, Option<Needs>) {
    let look = || {
        let window = Window::new(Arc::clone(space), range)?;
        let mut start = [0; 16];
        if window.size().get() >= start.len() as u64 {
            window.read_at(ByteOffset::ZERO, &mut start)?;
        }
        let needs = header::detect(&start).then_some(Needs::Key);
        Ok((recognise(&window).map(str::to_owned).map_err(|error| error.to_string()), needs))
    };
    look().unwrap_or_else(|error: Error| (Err(error.to_string()), None))
}
