//! Seal: freeze the active layer, start the next. Writers are barred only while the views change hands.
//!
//! 1. make the next layer, with all its files and their names durable;
//! 2. bar writers of every disk of the group, exchange the views, let writers in: this is the instant;
//! 3. wait until the writers that entered before have left;
//! 4. sync the data, write and sync the frozen map, sync the directory;
//! 5. commit the chain: now the recovery point exists;
//! 6. lay the layer's blocks into the owner index and forget its live map.
//!
//! If 4 or 5 finds the filesystem full, the disk stays between 2 and 5: reads and writes go on, no flush succeeds, and
//! the next flush or seal completes the boundary without making a point of it. A daemon that dies there finds both
//! live maps and does the same at the next open.

use crate::active::{Active, Place};
use crate::chain::{Chain, EpochRecord, LayerRecord, MAX_GROUP, MAX_LAYERS};
use crate::disk::{Disk, Roots, Unsealed};
use crate::frozen::FrozenMap;
use crate::names::Numbered;
use crate::view::{Below, Layer, View};
use crate::{Error, Point, Result};
use block::sync::atomic::Ordering;
use block::sync::{Arc, MutexGuard, lock};
use block::{ByteRange, DiskId, Epoch, OpenHow, StateId, Time, planted};
use std::borrow::Cow;

/// Makes one recovery point of several disks, all at the same instant: every write acknowledged before the call is in,
/// none issued after it returns is. The points come in the order of `disks`.
///
/// # Errors
/// Nothing is made if any member fails. `TooMany` for more than [`MAX_GROUP`] disks; a disk named twice is `Invalid`.
pub fn seal_group(disks: &[&Disk], numbering: Numbering) -> Result<Vec<Point>> {
    seal_disks(disks, true, numbering)
}

/// How the points of a group are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// Each disk goes on from its own last epoch.
    Own,
    /// All get the same epoch, the lowest that is new to every one of them: the disks of one machine.
    Common,
}

impl Disk {
    /// The next point is numbered `first` or higher, as long as the disk is open: numbers below may name points of an earlier
    /// disk of the same name.
    pub fn number_from(&self, first: Epoch) {
        lock(&self.roots).least_epoch = first;
    }
}

/// Seals disks at one instant, with or without making recovery points of it.
fn seal_disks(disks: &[&Disk], is_point: bool, numbering: Numbering) -> Result<Vec<Point>> {
    let mut order: Vec<usize> = (0..disks.len()).collect();
    order.sort_by_key(|&index| disks[index].id);
    if order.windows(2).any(|pair| disks[pair[0]].id == disks[pair[1]].id) {
        let why = "a disk can be in a group only once";
        return Err(block::Error::refused(block::Kind::Invalid, "the group", why).into());
    }
    if let Some(disk) = disks.first().filter(|_| disks.len() > MAX_GROUP) {
        return Err(Error::TooMany { disk: disk.id, what: "disks in a group", limit: MAX_GROUP });
    }
    // always in the order of the ids, so that two groups never wait for each other
    let mut members: Vec<Member<'_>> = Vec::new();
    for &index in &order {
        match Member::prepare(disks[index], is_point) {
            Ok(member) => members.push(member),
            Err(error) => {
                members.iter().for_each(Member::discard);
                return Err(error);
            }
        }
    }
    if members.len() > 1 {
        let group: Vec<_> = members.iter().map(|member| (member.disk.id, member.state)).collect();
        members.iter_mut().for_each(|member| member.group = group.clone());
    }
    if let Some(common) = members.iter().map(|member| member.epoch).max()
        && numbering == Numbering::Common
    {
        members.iter_mut().for_each(|member| member.epoch = common);
    }
    exchange(&mut members);
    let sealed: Vec<Result<Point>> = members.iter_mut().map(Member::finish).collect();
    if sealed.iter().any(Result::is_err) {
        members
            .iter_mut()
            .zip(&sealed)
            .filter(|(_, made)| made.is_ok())
            .for_each(|(member, _)| member.demote());
    }
    let made: Vec<Point> = sealed.into_iter().collect::<Result<_>>()?;
    let mut points: Vec<(usize, Point)> = order.into_iter().zip(made).collect();
    points.sort_by_key(|(index, _)| *index);
    Ok(points.into_iter().map(|(_, point)| point).collect())
}

/// A disk on its way through a seal.
struct Member<'a> {
    disk: &'a Disk,
    roots: MutexGuard<'a, Roots>,
    next: Arc<Active>,
    map: u64,
    state: StateId,
    epoch: Epoch,
    is_point: bool,
    group: Vec<(DiskId, StateId)>,
}

/// Bars the writers of all members, gives each its next layer, and lets them in.
fn exchange(members: &mut [Member<'_>]) {
    let clock = members.first().map(|member| member.disk.env.clock.clone());
    let now = || clock.as_ref().map_or(0, |clock| clock.monotonic_ns());
    // one instant, one time
    let time = || clock.as_ref().map_or(Time { unix_ms: 0 }, |clock| clock.now());
    let began = now();
    if planted!("group-sealed-one-by-one") {
        for member in members.iter_mut() {
            member.disk.bar_writers();
            member.exchange(time());
        }
        return;
    }
    members.iter().for_each(|member| member.disk.bar_writers());
    let time = time();
    for member in members.iter_mut() {
        member.exchange(time);
    }
    let blocked = now().saturating_sub(began);
    for member in members.iter_mut() {
        if let Some(unsealed) = &mut member.roots.unsealed {
            unsealed.record.seal_ns = blocked;
        }
    }
}

impl<'a> Member<'a> {
    fn prepare(disk: &'a Disk, is_point: bool) -> Result<Self> {
        let mut roots = lock(&disk.roots);
        disk.check()?;
        disk.complete_seal(&mut roots)?;
        roots.chain.check_room()?;
        let (number, map) = (roots.chain.take_number(), roots.chain.take_number());
        let state = StateId::random(&*disk.env.entropy)?;
        let prepared = disk.prepare_layer(&roots.chain, number, map);
        let blocks = roots.chain.size.blocks();
        let next = prepared.inspect_err(|_| disk.discard_layer(number, map, blocks))?;
        let epoch = roots.chain.next_epoch().max(roots.least_epoch);
        Ok(Self { disk, roots, next, map, state, epoch, is_point, group: Vec::new() })
    }

    /// Takes back what was prepared for a seal that does not happen.
    fn discard(&self) {
        self.disk.discard_layer(self.next.number, self.map, self.roots.chain.size.blocks());
    }

    fn exchange(&mut self, time: Time) {
        let disk = self.disk;
        let view = disk.view.load();
        let mut below = view.below.clone();
        below.pending.insert(0, view.active.clone());
        let chain = &self.roots.chain;
        let record = EpochRecord {
            epoch: self.epoch,
            is_point: self.is_point,
            group: self.group.clone(),
            ..EpochRecord::after(chain, self.state, time, view.size, self.map)
        };
        self.roots.unsealed = Some(Unsealed { layer: view.active.clone(), map: self.map, record });
        let (size, active) = (view.size, self.next.clone());
        disk.admit_writers(View { serial: 0, size, active, below, is_sealing: true });
    }

    fn finish(&mut self) -> Result<Point> {
        let sealed = self.disk.complete_seal(&mut self.roots);
        if sealed.is_err()
            && let Some(unsealed) = &mut self.roots.unsealed
        {
            // the caller is told there is no point: whatever completes the boundary later must not make one
            unsealed.record.is_point = false;
            unsealed.record.group.clear();
        }
        sealed?;
        let newest = self.roots.chain.newest().map(Point::from_record);
        newest.ok_or(Error::NoSuchPoint { disk: self.disk.id, state: self.state })
    }

    /// Takes back this member's point because another member's failed.
    fn demote(&mut self) {
        let mut next = self.roots.chain.clone();
        if let Some(newest) = next.epochs.last_mut() {
            newest.is_point = false;
            newest.is_deleted = true;
        }
        if let Err(error) = self.disk.commit_chain(&mut self.roots, next) {
            // the record lists all members, so an incomplete group is recognised wherever it is listed
            tracing::warn!(disk = %self.disk.id, %error, "a member of a failed group point could not be taken back");
        }
    }
}

impl Disk {
    /// Makes a recovery point. It exists, durably, when this returns.
    ///
    /// # Errors
    /// `NoSpace` heals; no point is made. A failed sync poisons the disk.
    pub fn seal(&self) -> Result<Point> {
        let points = seal_group(&[self], Numbering::Own)?;
        points.into_iter().next().ok_or(Error::Closed { disk: self.id })
    }

    /// Ends the active layer without making a recovery point, so that the layers below it can be folded.
    pub(crate) fn seal_without_point(&self) -> Result<()> {
        seal_disks(&[self], false, Numbering::Own).map(drop)
    }

    /// Makes history begin anew: from here on no earlier state is an ancestor, and no change since one is known. For a
    /// disk under which something changed that no change map tells of.
    ///
    /// # Errors
    /// As [`seal`](Self::seal); history goes on then.
    pub fn begin_history_anew(&self) -> Result<()> {
        self.seal_without_point()?;
        let mut roots = lock(&self.roots);
        let mut next = roots.chain.clone();
        if let Some(newest) = next.epochs.last_mut() {
            newest.parent = None;
        }
        self.commit_chain(&mut roots, next)
    }

    /// Removes a layer prepared for a seal that did not happen.
    pub(crate) fn discard_layer(&self, number: u64, map: u64, blocks: u64) {
        self.remove_layer(number, blocks);
        self.remove_files(&[Numbered::Committed(number), Numbered::Journal(number), Numbered::Map(map)]);
        self.forget_live_map(number);
    }

    /// Makes the next layer, and sets aside the room the frozen map of this one will need.
    fn prepare_layer(&self, chain: &Chain, number: u64, map: u64) -> Result<Arc<Active>> {
        let next = self.make_layer(&self.place(), number, map)?;
        next.sign(self.identity(chain), chain.generation);
        Ok(next)
    }

    /// Makes a layer and the room for the frozen map of the one before it, all but the room durable.
    pub(crate) fn make_layer(&self, place: &Place<'_>, number: u64, map: u64) -> Result<Arc<Active>> {
        /// Map pages that may come to be while the seal is under way.
        const SLACK_PAGES: u64 = 16;
        let next = Active::create(place, number)?;
        let room =
            FrozenMap::max_encoded_len(0) + (self.touched_pages() + SLACK_PAGES) * FrozenMap::max_page_len();
        let file = self.env.media.open(&place.path(Numbered::Map(map)), OpenHow::Truncate)?;
        file.allocate(ByteRange::between(0, room))?;
        self.env.media.sync_dir(&self.dir).map_err(|error| self.failed_sync(error))?;
        Ok(next)
    }

    fn touched_pages(&self) -> u64 {
        self.view.load().active.map.spelled_out_pages()
    }

    /// Completes a seal that is under way, if one is: steps 3 to 6.
    pub(crate) fn complete_seal(&self, roots: &mut Roots) -> Result<()> {
        let Some(unsealed) = &roots.unsealed else { return Ok(()) };
        let layer = unsealed.layer.clone();
        let map = unsealed.map;
        if !planted!("seal-without-waiting-for-writers") {
            layer.in_flight.wait_until_empty();
            layer.is_final.store(true, Ordering::Release);
        }
        let frozen = layer.map.freeze(&*self.env.media);
        if !planted!("seal-without-data-sync") {
            layer.file.sync().map_err(|error| self.poisoned(error))?;
        }
        self.write_map(map, &frozen)?;
        let mut next = roots.chain.clone();
        next.layers.push(LayerRecord::sealed(layer.number, map, &unsealed.record));
        next.epochs.push(unsealed.record.clone());
        next.active = self.view.load().active.number;
        self.commit_chain(roots, next)?;
        roots.unsealed = None;
        self.publish_below(self.view.load().below.clone(), false);
        self.lay_pending(roots, &frozen);
        self.remove_files(&[Numbered::Committed(layer.number), Numbered::Journal(layer.number)]);
        self.forget_live_map(layer.number);
        Ok(())
    }

    /// Writes a map file, durably, with its name.
    pub(crate) fn write_map(&self, number: u64, map: &FrozenMap) -> Result<()> {
        let path = Numbered::Map(number).path(&self.dir);
        let media = &*self.env.media;
        let file = media.open(&path, OpenHow::Write).or_else(|_| media.open(&path, OpenHow::Create))?;
        let len = map.write_to(&*file, self.id, number)?;
        file.set_len(len)?;
        if !planted!("map-without-sync") {
            file.sync().map_err(|error| self.poisoned(error))?;
        }
        media.sync_dir(&self.dir).map_err(|error| self.failed_sync(error))
    }

    /// Moves the one pending layer into the owner index. Without room for the index it stays pending: slower to read,
    /// equally right; the next seal tries again.
    fn lay_pending(&self, roots: &mut Roots, newest: &FrozenMap) {
        let view = self.view.load();
        let mut below = view.below.clone();
        while let Some(layer) = below.pending.last().cloned() {
            let media = &*self.env.media;
            let frozen = match below.pending.len() {
                1 => Cow::Borrowed(newest),
                _ => Cow::Owned(layer.map.freeze(media)),
            };
            let sealed = Layer::unsummed(&self.place(), &below.files, layer.number, frozen.blocks());
            sealed.bytes.store(frozen.bytes(), Ordering::Relaxed);
            let sealed = Arc::new(sealed);
            if let Err(error) = self.learn_sums(&roots.chain, &sealed) {
                tracing::warn!(disk = %self.id, %error, "a layer's sums cannot be read: its blocks are not verified");
            }
            if let Err(error) = roots.take_slot(&mut below, sealed).and_then(|slot| {
                // readers must know the slot before the index names it
                self.publish_below(below.clone(), false);
                Ok(below.index.lay(&frozen, slot)?)
            }) {
                tracing::warn!(disk = %self.id, %error, "no room for the owner index: a layer stays outside it");
                return;
            }
            if !planted!("verified-outlives-its-owner") {
                self.seen.forget(&frozen);
            }
            below.pending.pop();
            self.publish_below(below.clone(), false);
        }
    }
}

impl Roots {
    /// Gives a layer a slot of the table that no view still uses for another.
    pub(crate) fn take_slot(&mut self, below: &mut Below, layer: Arc<Layer>) -> Result<u16> {
        self.retired.retain(|old| old.layer.strong_count() > 0);
        let is_free = |slot: usize| {
            below.slots.get(slot).is_none_or(Option::is_none)
                && !self.retired.iter().any(|old| usize::from(old.slot) == slot)
        };
        let slot = (0..=MAX_LAYERS).find(|&slot| is_free(slot));
        let slot = slot.ok_or(Error::TooMany { disk: self.chain.disk, what: "layers", limit: MAX_LAYERS })?;
        if below.slots.len() <= slot {
            below.slots.resize(slot + 1, None);
        }
        below.slots[slot] = Some(layer);
        Ok(slot as u16)
    }
}
