//! A volume group: from its metadata to the parts of its logical volumes.

use super::label::{damaged, sequence};
use super::text::{Section, Value};
use crate::volume::{MAX_LEGS, MAX_PARTS, Part};
use crate::{Error, Result};
use block::ByteRange;
use std::collections::HashMap;

const SECTOR: u64 = 512;
/// Volumes of one group looked at.
const MAX_VOLUMES: usize = 1024;
/// Volumes made of hidden volumes: a mirror of stripes has two levels.
const MAX_DEPTH: usize = 4;

/// The newest description of a group.
pub(in crate::volume) struct Group {
    pub name: String,
    pub id: String,
    section: Section,
}

/// A visible logical volume.
pub(in crate::volume) struct Logical {
    /// Its own name, without the group's.
    pub name: String,
    /// What it is made of, or a sentence saying why that cannot be told.
    pub parts: Result<Vec<Part>>,
    /// What it is of a thin pool, if it is.
    pub thin: Option<InPool>,
}

/// A thin volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) struct InPool {
    /// The name of its pool.
    pub pool: String,
    /// Its number there.
    pub device: u32,
    /// Its bytes.
    pub len: u64,
}

/// What a thin pool is made of.
pub(in crate::volume) struct PoolOf {
    /// Its own name.
    pub name: String,
    /// The names and the parts of the hidden volumes with its metadata and its data.
    pub metadata: (String, Result<Vec<Part>>),
    pub data: (String, Result<Vec<Part>>),
}

/// An area of a physical volume: where extent 0 begins, and where the volume ends, both addresses.
struct Physical {
    first: u64,
    end: u64,
}

impl Group {
    /// The group a metadata text describes.
    pub(in crate::volume) fn new(text: &Section) -> Result<Self> {
        let found = text.sections().find(|(_, section)| section.number("seqno").is_some());
        let (name, section) = found.ok_or_else(|| damaged("it describes no group"))?;
        let id = section.text("id").ok_or_else(|| damaged("its group has no identifier"))?;
        Ok(Self { name: name.to_owned(), id: plain(id), section: section.clone() })
    }

    /// Takes the newer of two descriptions.
    pub(in crate::volume) fn newer(self, text: &Section) -> Result<Self> {
        let mine = self.section.number("seqno").unwrap_or(0);
        if sequence(text) > mine { Self::new(text) } else { Ok(self) }
    }

    /// The identifiers of its physical volumes.
    pub(in crate::volume) fn physical_ids(&self) -> impl Iterator<Item = String> {
        let volumes = self.section.section("physical_volumes");
        volumes.into_iter().flat_map(Section::sections).filter_map(|(_, volume)| volume.text("id").map(plain))
    }

    /// Its visible volumes; `present` tells where the physical volume of an identifier is.
    pub(in crate::volume) fn volumes(&self, present: &HashMap<String, ByteRange>) -> Vec<Logical> {
        let places = self.places(present);
        let volumes = self.section.section("logical_volumes");
        let visible = volumes.into_iter().flat_map(Section::sections).filter(|(_, volume)| {
            volume.list("status").iter().any(|flag| matches!(flag, Value::Text(flag) if flag == "VISIBLE"))
        });
        let logical = |(name, volume): (&str, &Section)| Logical {
            name: name.to_owned(),
            parts: self.all_parts(volume, &places),
            thin: self.in_pool(volume),
        };
        visible.take(MAX_VOLUMES).map(logical).collect()
    }

    /// Its thin pools.
    pub(in crate::volume) fn pools(&self, present: &HashMap<String, ByteRange>) -> Vec<PoolOf> {
        let places = self.places(present);
        let volumes = self.section.section("logical_volumes");
        let hidden = |segment: &Section, name: &str| {
            let name = segment.text(name).unwrap_or_default();
            let volume = volumes.and_then(|volumes| volumes.section(name));
            let parts = volume.ok_or_else(|| damaged("a thin pool without its volumes"));
            (name.to_owned(), parts.and_then(|volume| self.all_parts(volume, &places)))
        };
        let pool = |(name, volume): (&str, &Section)| {
            let segment = only_segment(volume, "thin-pool")?;
            let (metadata, data) = (hidden(segment, "metadata"), hidden(segment, "pool"));
            Some(PoolOf { name: name.to_owned(), metadata, data })
        };
        volumes.into_iter().flat_map(Section::sections).filter_map(pool).take(MAX_VOLUMES).collect()
    }

    fn in_pool(&self, volume: &Section) -> Option<InPool> {
        let segment = only_segment(volume, "thin")?;
        // its unwritten blocks are those of a volume outside the pool
        if segment.text("external_origin").is_some() {
            return None;
        }
        let device = u32::try_from(segment.number("device_id")?).ok()?;
        let len = self.bytes(segment.number("extent_count")?).ok()?;
        Some(InPool { pool: segment.text("thin_pool")?.to_owned(), device, len })
    }

    fn all_parts(
        &self,
        volume: &Section,
        places: &HashMap<&str, Result<Physical, String>>,
    ) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        self.parts(volume, places, 0, &mut parts).map(|()| parts)
    }

    /// Where each physical volume is, by the name it has inside the metadata.
    fn places(&self, present: &HashMap<String, ByteRange>) -> HashMap<&str, Result<Physical, String>> {
        let place = |volume: &Section| {
            let id = volume.text("id").map(plain).unwrap_or_default();
            let device = volume.text("device").unwrap_or("unknown");
            let (Some(range), Some(start)) = (present.get(&id), volume.number("pe_start")) else {
                return Err(format!("its disk {id}, once {device}, is not among those looked at"));
            };
            let first = start.checked_mul(SECTOR).and_then(|at| at.checked_add(range.start()));
            let first = first.filter(|first| *first <= range.end());
            let first = first.ok_or_else(|| format!("the extents of its disk {id} begin behind its end"))?;
            Ok(Physical { first, end: range.end() })
        };
        let volumes = self.section.section("physical_volumes");
        let volumes = volumes.into_iter().flat_map(Section::sections);
        volumes.map(|(name, volume)| (name, place(volume))).collect()
    }

    /// Adds the parts of a volume, segment after segment.
    fn parts(
        &self,
        volume: &Section,
        places: &HashMap<&str, Result<Physical, String>>,
        depth: usize,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let mut segments: Vec<&Section> = volume.sections().map(|(_, segment)| segment).collect();
        segments.retain(|segment| segment.number("extent_count").is_some());
        segments.sort_by_key(|segment| segment.number("start_extent"));
        let mut expected = 0_u64;
        for segment in segments {
            let count = segment.number("extent_count").unwrap_or(0);
            if segment.number("start_extent") != Some(expected) {
                return Err(damaged(format!("a volume without its extent {expected}")));
            }
            expected = expected.saturating_add(count);
            self.segment(segment, count, places, depth, parts)?;
            if parts.len() > MAX_PARTS {
                return Err(Error::unsupported("the volume", format!("it has more than {MAX_PARTS} parts")));
            }
        }
        Ok(())
    }

    fn segment(
        &self,
        segment: &Section,
        count: u64,
        places: &HashMap<&str, Result<Physical, String>>,
        depth: usize,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let kind = segment.text("type").unwrap_or("unknown");
        let bytes = self.bytes(count)?;
        match kind {
            "striped" | "linear" => {
                let legs = segment.list("stripes").as_chunks::<2>().0;
                let legs: Vec<u64> =
                    legs.iter().map(|leg| self.leg(leg, bytes, places)).collect::<Result<_>>()?;
                let stripe = segment.number("stripe_size").unwrap_or(0).saturating_mul(SECTOR);
                if legs.is_empty() || legs.len() > MAX_LEGS || legs.len() > 1 && stripe == 0 {
                    return Err(damaged(format!("{} stripes of {stripe} bytes", legs.len())));
                }
                parts.push(Part { len: bytes, stripe, legs });
                Ok(())
            }
            // every leg has all bytes; the first one is as good as any once the mirror was in step
            "raid1" => self.first_image(segment, "raids", 1, places, depth, parts),
            "mirror" => self.first_image(segment, "mirrors", 0, places, depth, parts),
            "thin-pool" => Err(unreadable("it is a thin pool, whose volumes are read each for itself")),
            "thin" => Err(unreadable("it is a thin volume whose pool could not be read")),
            "snapshot" | "cache" | "cache-pool" | "writecache" | "vdo" | "vdo-pool" => {
                Err(unreadable(&format!("it is of the kind {kind} of LVM")))
            }
            kind => {
                Err(unreadable(&format!("it is of the kind {kind} of LVM, which this version does not read")))
            }
        }
    }

    /// The parts of the hidden volume that holds the first copy.
    fn first_image(
        &self,
        segment: &Section,
        list: &str,
        place: usize,
        places: &HashMap<&str, Result<Physical, String>>,
        depth: usize,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let image = match segment.list(list).get(place) {
            Some(Value::Text(name)) if depth < MAX_DEPTH => {
                self.section.section("logical_volumes").and_then(|volumes| volumes.section(name))
            }
            _ => None,
        };
        let image = image.ok_or_else(|| damaged("a mirror without its copies"))?;
        self.parts(image, places, depth + 1, parts)
    }

    fn bytes(&self, extents: u64) -> Result<u64> {
        let size = self.section.number("extent_size").and_then(|sectors| sectors.checked_mul(SECTOR));
        let bytes = size.and_then(|size| size.checked_mul(extents)).filter(|bytes| *bytes > 0);
        bytes.ok_or_else(|| damaged(format!("a segment of {extents} extents")))
    }

    /// The address of a leg: a physical volume and an extent on it.
    fn leg(
        &self,
        leg: &[Value; 2],
        bytes: u64,
        places: &HashMap<&str, Result<Physical, String>>,
    ) -> Result<u64> {
        let [Value::Text(name), Value::Number(extent)] = leg else {
            return Err(damaged("a stripe that names no disk"));
        };
        let place = places.get(name.as_str()).ok_or_else(|| damaged(format!("a stripe on {name}")))?;
        let place = place.as_ref().map_err(|why| unreadable(why))?;
        let at = self.bytes(extent.saturating_add(1))? - self.bytes(1)?;
        let address = place.first.checked_add(at).filter(|at| *at < place.end);
        address.ok_or_else(|| damaged(format!("{bytes} bytes at extent {extent}, behind the end of {name}")))
    }
}

/// The segment of a volume that has one of this kind and no other.
fn only_segment<'a>(volume: &'a Section, kind: &str) -> Option<&'a Section> {
    let mut segments = volume
        .sections()
        .map(|(_, segment)| segment)
        .filter(|segment| segment.number("extent_count").is_some());
    let segment = segments.next().filter(|segment| segment.text("type") == Some(kind))?;
    segments.next().is_none().then_some(segment)
}

/// Identifiers are written with hyphens, and stored without.
fn plain(id: &str) -> String {
    id.chars().filter(|character| *character != '-').collect()
}

fn unreadable(why: &str) -> Error {
    Error::unsupported("the volume", why)
}

#[cfg(test)]
mod tests {
    use super::super::text::parse;
    use super::*;

    fn group(volumes: &str) -> Group {
        let text = format!(
            "vg0 {{ id = \"g-1\" seqno = 2 extent_size = 8 physical_volumes {{
               pv0 {{ id = \"p-0\" pe_start = 16 }} pv1 {{ id = \"p-1\" pe_start = 16 }} }}
             logical_volumes {{ {volumes} }} }}"
        );
        Group::new(&parse(text.as_bytes()).unwrap()).unwrap()
    }

    fn read(volumes: &str) -> Vec<Logical> {
        let range = |start| ByteRange::between(start, start + (1 << 20));
        let present = [("p0", range(0)), ("p1", range(1 << 20))];
        group(volumes).volumes(&present.map(|(id, range)| (id.to_owned(), range)).into())
    }

    const IMAGES: &str = "copy_0 { status = [\"READ\"] segment1 { start_extent = 0 extent_count = 3
        type = \"striped\" stripe_count = 1 stripes = [ \"pv1\", 2 ] } }";

    #[test]
    fn a_mirror_is_read_from_its_first_copy() {
        let mirror = |kind: &str, list: &str| {
            format!(
                "{IMAGES} m {{ status = [\"READ\", \"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = 3
                 type = \"{kind}\" {list} }} }}"
            )
        };
        for (kind, list) in
            [("raid1", "raids = [\"meta\", \"copy_0\"]"), ("mirror", "mirrors = [\"copy_0\", 0]")]
        {
            let volumes = read(&mirror(kind, list));
            assert_eq!(volumes.len(), 1, "only what is visible");
            let legs = vec![(1 << 20) + 8192 + 2 * 4096];
            let expected = [Part { len: 3 * 4096, stripe: 0, legs }];
            assert_eq!(volumes[0].parts.as_ref().unwrap(), &expected);
        }
        let mut looping = mirror("raid1", "raids = [\"meta\", \"m\"]");
        assert!(read(&looping)[0].parts.is_err());
        looping = mirror("thin", "");
        let why = read(&looping)[0].parts.as_ref().unwrap_err().to_string();
        assert!(why.contains("whose pool could not be read"), "{why}");
    }

    #[test]
    fn gaps_and_places_outside_are_refused() {
        for segment in [
            "start_extent = 1 extent_count = 1 type = \"striped\" stripes = [\"pv0\", 0]",
            "start_extent = 0 extent_count = 1 type = \"striped\" stripes = [\"pv0\", 1000]",
            "start_extent = 0 extent_count = 1 type = \"striped\" stripes = [\"pv0\", 18446744073709551615]",
            "start_extent = 0 extent_count = 2 type = \"striped\" stripes = [\"pv0\", 0, \"pv1\", 0]",
            "start_extent = 0 extent_count = 0 type = \"striped\" stripes = [\"pv0\", 0]",
            "start_extent = 0 extent_count = 1 type = \"striped\" stripes = [\"pv9\", 0]",
        ] {
            let volume = format!("v {{ status = [\"VISIBLE\"] segment1 {{ {segment} }} }}");
            assert!(read(&volume)[0].parts.is_err(), "{segment}");
        }
    }
}
