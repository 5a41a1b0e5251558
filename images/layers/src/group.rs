//! Group points after a crash: a point of several disks exists only if every member's seal record is durable.

use crate::Disk;
use block::StateId;

/// Points of these disks that are no points: their group has a member among the disks whose history does not know the
/// state, because the crash came before its seal was durable. As (index of the disk, state). A member that is not
/// among the disks, because it was deleted or cannot be opened, says nothing.
///
/// Whoever opens all disks after a crash deletes these before anyone can see them.
pub fn incomplete_groups(disks: &[&Disk]) -> Vec<(usize, StateId)> {
    let histories: Vec<_> = disks.iter().map(|disk| (disk.id(), disk.history())).collect();
    let is_missing = |member: &(block::DiskId, StateId)| {
        histories.iter().any(|(id, history)| *id == member.0 && !history.contains(&member.1))
    };
    let mut incomplete = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let points = disk.points().into_iter().filter(|point| point.group.iter().any(is_missing));
        incomplete.extend(points.map(|point| (index, point.state)));
    }
    incomplete
}
