//! What vaults hold, as it was when each was last listed. Listing a vault reads its store, so it is done again only where something
//! may have changed: where a directory of points was touched, where this daemon stored or forgot a point, or, of a bucket, after
//! some seconds.

use super::{Tiers, Trouble};
use crate::vaults::{NamedVault, Touched};
use block::DiskId;
use block::sync::{Mutex, lock};
use std::collections::HashMap;
use std::sync::Arc;
use vault::VaultPoint;

/// For how long a bucket is taken to hold what it held: others may write to it.
const BUCKET_AGE_NS: u64 = 10_000_000_000;

/// The points of one disk under one name.
pub(super) struct Group {
    /// What the disk was called at their backups.
    pub(super) item: String,
    /// The disk.
    pub(super) disk: DiskId,
    /// They, oldest first.
    pub(super) points: Vec<VaultPoint>,
}

/// A vault and what it holds.
pub(super) struct Listing {
    pub(super) vault: Arc<NamedVault>,
    pub(super) groups: Vec<Group>,
    pub(super) trouble: Vec<Arc<Trouble>>,
    touched: Touched,
    stored: u64,
    taken_ns: u64,
}

/// The last listing of each vault.
#[derive(Default)]
pub struct Listings(Mutex<HashMap<String, Arc<Listing>>>);

fn monotonic_ns(tiers: &Tiers) -> u64 {
    tiers.disks.env().clock.monotonic_ns()
}

impl Listing {
    fn of(tiers: &Tiers, vault: &Arc<NamedVault>) -> Self {
        // before the vault is listed: what changes meanwhile is seen next time
        let (touched, taken_ns) = (vault.touched(), monotonic_ns(tiers));
        let stored = tiers.catalog.stored_changes(&vault.key());
        let (points, trouble) = tiers.look_into(vault);
        let mut groups: Vec<Group> = Vec::new();
        let mut places: HashMap<(DiskId, String), usize> = HashMap::new();
        for point in points {
            let at = *places.entry((point.disk, point.item.clone())).or_insert_with(|| {
                groups.push(Group { item: point.item.clone(), disk: point.disk, points: Vec::new() });
                groups.len() - 1
            });
            groups[at].points.push(point);
        }
        let trouble = trouble.into_iter().map(Arc::new).collect();
        Self { vault: vault.clone(), groups, trouble, touched, stored, taken_ns }
    }

    fn is_current(&self, tiers: &Tiers, vault: &Arc<NamedVault>) -> bool {
        Arc::ptr_eq(&self.vault, vault)
            // what could not be looked at may be there by now
            && self.trouble.is_empty()
            && self.stored == tiers.catalog.stored_changes(&vault.key())
            && match vault.touched() {
                Touched::Unknown => monotonic_ns(tiers) - self.taken_ns < BUCKET_AGE_NS && vault.trouble().is_none(),
                touched => self.touched.is_settled() && self.touched == touched,
            }
    }
}

impl Tiers {
    /// Every vault with what it holds.
    pub(super) fn listings(&self) -> Vec<Arc<Listing>> {
        let current = |vault: &Arc<NamedVault>| {
            let known = lock(&self.listings.0).get(&vault.name).cloned();
            if let Some(known) = known.filter(|known| known.is_current(self, vault)) {
                return known;
            }
            let listing = Arc::new(Listing::of(self, vault));
            lock(&self.listings.0).insert(vault.name.clone(), listing.clone());
            listing
        };
        self.vaults.all().iter().map(current).collect()
    }
}
