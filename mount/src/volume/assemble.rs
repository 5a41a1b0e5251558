//! Finding out which disks and partitions belong together, and what they make.

use super::lvm::{self, Group, InPool, PoolOf};
use super::{MAX_VOLUME_NAME, Part, Space, Thin, fits, md};
use crate::Result;
use block::{BlockSource, ByteRange, Window};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Volumes are laid out at multiples of this, so that addresses stay readable.
const ALIGN: u64 = 1 << 20;
/// Parts of all volumes together, so that the answer that tells of them stays small.
const MAX_ALL_PARTS: usize = 8192;
/// Volumes put together of one machine.
const MAX_VOLUMES: usize = 512;

/// A disk or partition that may belong to something larger.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its addresses.
    pub range: ByteRange,
    /// Set to what it belongs to, in words, if it does.
    pub belongs: Option<String>,
}

/// A volume put together.
#[derive(Debug, Clone)]
pub struct Found {
    /// Unique among them: `group-volume` as device-mapper writes it, or `md-name`.
    pub name: String,
    /// The addresses it was given, behind everything it is made of; none if it cannot be read.
    pub range: ByteRange,
    /// What it is made of, or why that cannot be told.
    pub parts: Result<Vec<Part>, String>,
    /// What maps it instead of parts, if it is a thin volume.
    pub thin: Option<Thin>,
    belongs: Option<String>,
}

impl Found {
    /// What this volume itself is a part of, in words.
    pub fn belongs(&self) -> Option<&str> {
        self.belongs.as_deref()
    }
}

/// Looks at all members and puts together what they make. What is damaged is told of where it is found: in the member's
/// `belongs`, or in the volume's parts.
///
/// # Errors
/// Only if a member is not on the disks.
pub fn assemble(disks: &Arc<dyn BlockSource>, members: &mut [Member]) -> Result<Vec<Found>> {
    let mut found = Assembly { end: disks.size().get(), parts: 0, volumes: Vec::new() };
    arrays(disks, members, &mut found)?;
    let space: Arc<dyn BlockSource> = Arc::new(found.space(disks));
    // a group may lie on disks, partitions and arrays alike
    let arrays = found.volumes.len();
    let mut all = members.to_vec();
    let whole = |volume: &Found| Member { range: volume.range, belongs: None };
    all.extend(found.volumes.iter().map(whole));
    groups(&space, &mut all, &mut found)?;
    let mut belongs = all.into_iter().map(|member| member.belongs);
    members.iter_mut().zip(&mut belongs).for_each(|(member, belongs)| member.belongs = belongs);
    let arrays = found.volumes.iter_mut().take(arrays);
    arrays.zip(belongs).for_each(|(array, belongs)| array.belongs = belongs);
    Ok(found.volumes)
}

/// Where a thin pool's metadata and data are, if they can be read.
type Pool = Option<(ByteRange, ByteRange)>;

struct Assembly {
    /// Where the next volume may begin.
    end: u64,
    parts: usize,
    volumes: Vec<Found>,
}

impl Assembly {
    fn add(&mut self, name: &str, parts: Result<Vec<Part>>) -> &str {
        let start = self.end.next_multiple_of(ALIGN);
        let len = |parts: &[Part]| parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.len));
        let end =
            |parts: &[Part]| len(parts).and_then(|len| start.checked_add(len)).filter(|end| *end >> 62 == 0);
        let (range, parts) = match parts {
            Err(error) => (ByteRange::between(start, start), Err(error.to_string())),
            Ok(parts) => match end(&parts).map(|end| ByteRange::between(start, end)) {
                Some(range) if !fits(range, &parts) => {
                    (ByteRange::between(start, start), Err("its parts lie outside the disks".to_owned()))
                }
                Some(range) if self.parts + parts.len() <= MAX_ALL_PARTS => (range, Ok(parts)),
                _ => (
                    ByteRange::between(start, start),
                    Err(format!("it has too many parts: {MAX_ALL_PARTS} of all volumes are read")),
                ),
            },
        };
        self.end = range.end();
        self.parts += parts.as_ref().map_or(0, Vec::len);
        self.volumes.push(Found { name: self.unused(name), range, parts, thin: None, belongs: None });
        self.volumes.last().map(|volume| volume.name.as_str()).unwrap_or_default()
    }

    /// Adds the two hidden volumes of a thin pool; where they are, if both can be read.
    fn pool(&mut self, group: &str, pool: PoolOf) -> Pool {
        let of =
            format!("of the thin pool {}, whose volumes are read each for itself", mapped(group, &pool.name));
        let mut add = |(name, parts): (String, Result<Vec<Part>>), what: &str| {
            self.add(&mapped(group, &name), parts);
            let added = self.volumes.last_mut()?;
            added.parts.is_ok().then(|| {
                added.belongs = Some(format!("it holds the {what} {of}"));
                added.range
            })
        };
        let metadata = add(pool.metadata, "metadata");
        metadata.zip(add(pool.data, "data"))
    }

    /// Makes the volume added last one of a pool.
    fn map_last(&mut self, pools: &HashMap<String, Pool>, volume: &InPool) {
        let pool = pools.get(&volume.pool).copied().flatten();
        if let (Some((metadata, data)), Some(last)) = (pool, self.volumes.last_mut()) {
            last.thin = Some(Thin { metadata, data, device: volume.device, len: volume.len });
        }
    }

    /// The name, or the name with a number where two groups have the same.
    fn unused(&self, name: &str) -> String {
        let short = name.get(..name.floor_char_boundary(MAX_VOLUME_NAME)).unwrap_or_default();
        let short: String = short.chars().map(|c| if c.is_control() || c == '/' { '_' } else { c }).collect();
        let taken = |name: &str| self.volumes.iter().any(|volume| volume.name == name);
        let numbered = (2..).map(|number| format!("{short}.{number}"));
        std::iter::once(short.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(short)
    }

    fn space(&self, disks: &Arc<dyn BlockSource>) -> Space {
        let space = Space::new(Arc::clone(disks));
        let readable = self
            .volumes
            .iter()
            .filter_map(|volume| Some((volume.range, volume.parts.as_ref().ok()?.clone())));
        space.add(readable);
        space
    }
}

fn window(source: &Arc<dyn BlockSource>, range: ByteRange) -> Result<Window> {
    Ok(Window::new(Arc::clone(source), range)?)
}

fn arrays(disks: &Arc<dyn BlockSource>, members: &mut [Member], found: &mut Assembly) -> Result<()> {
    let mut arrays: BTreeMap<[u8; 16], Vec<(usize, md::Superblock)>> = BTreeMap::new();
    for (place, member) in members.iter_mut().enumerate() {
        match md::read(&window(disks, member.range)?, member.range) {
            Ok(Some(superblock)) => arrays.entry(superblock.array).or_default().push((place, superblock)),
            Ok(None) => {}
            Err(error) => member.belongs = Some(error.to_string()),
        }
    }
    for array in arrays.values().take(MAX_VOLUMES) {
        let superblocks: Vec<_> = array.iter().map(|(_, superblock)| superblock.clone()).collect();
        let given = superblocks.first().map(|superblock| superblock.name.as_str()).unwrap_or_default();
        let own = given.rsplit(':').next().unwrap_or_default();
        let name = found.add(&format!("md-{own}"), md::parts(&superblocks));
        for (place, _) in array {
            if let Some(member) = members.get_mut(*place) {
                member.belongs = Some(format!("it is a member of the MD array {given}, which is {name}"));
            }
        }
    }
    Ok(())
}

fn groups(space: &Arc<dyn BlockSource>, members: &mut [Member], found: &mut Assembly) -> Result<()> {
    let mut present = HashMap::new();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, member) in members.iter_mut().enumerate().filter(|(_, member)| member.belongs.is_none()) {
        let label = match lvm::read(&window(space, member.range)?) {
            Ok(Some(label)) => label,
            Ok(None) => continue,
            Err(error) => {
                member.belongs = Some(format!("whether it is a disk of LVM cannot be told: {error}"));
                continue;
            }
        };
        member.belongs = Some("it is a disk of LVM that belongs to no group that could be read".to_owned());
        present.insert(label.id.clone(), member.range);
        places.insert(label.id, place);
        let group = match label.metadata {
            Ok(None) => continue,
            Ok(Some(text)) => match Group::new(&text) {
                Ok(group) => match groups.remove(&group.id) {
                    Some(known) => known.newer(&text),
                    None => Ok(group),
                },
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match group {
            Ok(group) => drop(groups.insert(group.id.clone(), group)),
            Err(error) => member.belongs = Some(format!("it is a disk of LVM, but {error}")),
        }
    }
    let mut groups: Vec<&Group> = groups.values().collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    for group in groups {
        let mut names = Vec::new();
        let volumes = group.volumes(&present);
        let mut room = MAX_VOLUMES - found.volumes.len();
        let pools = group.pools(&present);
        let pools: HashMap<String, Pool> = pools
            .into_iter()
            .take(room / 4)
            .map(|pool| (pool.name.clone(), found.pool(&group.name, pool)))
            .collect();
        room = MAX_VOLUMES - found.volumes.len();
        let left_out = volumes.len().saturating_sub(room);
        for volume in volumes.into_iter().take(room) {
            names.push(found.add(&mapped(&group.name, &volume.name), volume.parts).to_owned());
            if let Some(thin) = volume.thin {
                found.map_last(&pools, &thin);
            }
        }
        let mut shown = if names.is_empty() { "it has no volumes".to_owned() } else { names.join(", ") };
        if left_out > 0 {
            // at the front: a long sentence is cut
            shown = format!("{left_out} more than the {MAX_VOLUMES} volumes that are put together; {shown}");
        }
        for id in group.physical_ids() {
            if let Some(member) = places.get(&id).and_then(|place| members.get_mut(*place)) {
                member.belongs = Some(format!("it is a disk of the LVM group {}: {shown}", group.name));
            }
        }
    }
    Ok(())
}

/// The name device-mapper gives a volume: hyphens inside the two names are doubled.
fn mapped(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}
