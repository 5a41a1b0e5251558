//! More of every stop: other things the same power cut may leave, and what `check`, which shares nothing with the product,
//! makes of the files before anybody opens them.

use super::{DIR, Pending, Plan, World, Wrong, mismatch, wrong};
use block::{BlockDevice, ByteOffset, MemoryDisk};
use check::{Directory, check_directory};

impl World {
    /// Looks at other outcomes of the stop that the history goes on from afterwards.
    pub fn survey(&mut self, pending: &Pending, plan: Plan) -> Result<(), Wrong> {
        for _ in 0..plan.outcomes {
            let mut other = Self {
                rng: self.rng.fork(),
                media: self.media.fork(),
                disk: None,
                model: self.model.clone(),
                states: self.states.clone(),
                crash_states: 0,
                pinned: self.pinned.clone(),
                held: None,
                base: self.base.clone(),
            };
            other.crash(pending, plan.power)?;
            // the newest, which the stop may have hit, and any other
            let points = other.model.points();
            let some = (points.len() > 1).then(|| *other.rng.pick(&points));
            let some: Vec<usize> = points.last().copied().into_iter().chain(some).collect();
            other.verify_with(&some)?;
            self.crash_states += other.crash_states;
        }
        Ok(())
    }

    /// What the files say as they lie there after a stop: nothing is damaged, every recovery point reads what it must,
    /// and after a loss of power what is committed is what it may be.
    pub fn second_opinion(&self, pending: &Pending, lost_power: bool) -> Result<(), Wrong> {
        let report = check_directory(&self.media, DIR, true);
        if let Some(finding) = report.findings.first() {
            return Err(format!("the check says: {finding}"));
        }
        let directory = Directory::open(&self.media, DIR).map_err(wrong)?;
        directory.hydrated(self.base_bytes()).map_err(wrong)?;
        for point in self.model.points() {
            let is_it = |seal: &&check::Seal| seal.is_point && seal.state == *self.states[point].as_bytes();
            let Some(seal) = directory.chain.seals.iter().find(is_it) else {
                match pending {
                    Pending::Delete(deleted) if *deleted == point => continue,
                    _ => return Err(format!("the check finds no recovery point {point}")),
                }
            };
            if directory.content(Some(seal.epoch), self.base_bytes()).map_err(wrong)?
                != self.model.point(point)
            {
                return Err(format!("the check reads another content of recovery point {point}"));
            }
        }
        if lost_power && !matches!(pending, Pending::Resize(_)) {
            let mut model = self.model.clone();
            if let Pending::Action(action) = pending {
                model.failed(action);
            }
            let disk = MemoryDisk::new(model.size());
            let content = directory.content(None, self.base_bytes()).map_err(wrong)?;
            disk.write_at(ByteOffset::ZERO, &content).map_err(wrong)?;
            model.check_after_power_cut(&disk).map_err(mismatch)?;
        }
        Ok(())
    }
}
