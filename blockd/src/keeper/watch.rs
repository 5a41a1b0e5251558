//! Conditions that come and go: each is told when it begins and when it ends, not over and over.

use crate::daemon::Daemon;
use control::{EventKind, SpaceState};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Between two looks at the age of points: objectives are hours.
const PAUSE_SECONDS: u64 = 60;

/// What was the case at the last look.
#[derive(Default)]
pub(super) struct Watch {
    looked: Option<Timestamp>,
    late: BTreeSet<String>,
    is_low: bool,
    has_jumped: bool,
    suspects: BTreeSet<String>,
}

impl Watch {
    /// Looks, and tells what has changed.
    pub(super) fn round(&mut self, daemon: &Daemon, now: Timestamp, has_changed: bool) {
        let events = daemon.events();
        let jump = daemon.appliance_clock().freezes();
        if let Some(why) = jump.as_ref().filter(|_| !self.has_jumped) {
            events.tell(EventKind::ClockJump, "clock", format!("nothing is deleted: {why}"));
        }
        self.has_jumped = jump.is_some();
        let is_low = daemon.space().show(0).state != SpaceState::Enough;
        match (self.is_low, is_low) {
            (false, true) => events.tell(EventKind::LowSpace, "instant tier", "less is left than is to be"),
            (true, false) => events.tell(EventKind::SpaceEnough, "instant tier", "enough is left again"),
            _ => {}
        }
        self.is_low = is_low;
        let suspects = daemon.tiers().vaults.marks().suspects();
        for (point, why) in suspects.iter().filter(|(point, _)| !self.suspects.contains(*point)) {
            events.tell(EventKind::SuspectPoint, point, why.as_str());
        }
        self.suspects = suspects.into_keys().collect();
        let is_time =
            self.looked.is_none_or(|last| now.as_second().abs_diff(last.as_second()) >= PAUSE_SECONDS);
        if is_time || has_changed {
            self.looked = Some(now);
            self.items(daemon);
        }
    }

    fn items(&mut self, daemon: &Daemon) {
        // why the items cannot be read is in the warnings of the status
        let Ok(items) = daemon.items() else { return };
        let late: BTreeSet<String> =
            items.into_iter().filter(|item| item.is_late).map(|item| item.item).collect();
        for item in late.difference(&self.late) {
            let message = "its newest good point is older than its policy allows, or there is none";
            daemon.events().tell(EventKind::RpoBreach, item, message);
        }
        for item in self.late.difference(&late) {
            daemon.events().tell(
                EventKind::RpoMet,
                item,
                "its newest good point is as new as its policy wants",
            );
        }
        self.late = late;
    }
}
