//! Volumes put together from disks: LVM as its own tools make it, MD as mdadm reads it.

use crate::image::{FileSource, KernelMount, empty, make_tree, mke2fs, noise, run, sh};
use crate::seen::{assert_same, through_kernel, through_reader};
use block::{BlockSource, ByteOffset, ByteRange, Window};
use mount::guest;
use mount::volume::{Found, Member, Space, assemble};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A loop device over some bytes of a file, until dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path, offset: u64, size: u64) -> Self {
        let line = format!("losetup -f --show -o {offset} --sizelimit {size} {}", file.display());
        Self(sh(&line).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        sh(&format!("losetup -d {}", self.0));
    }
}

/// Two disks end to end in one file, each a physical volume, and the tools to make groups of them.
pub struct Disks {
    dir: TempDir,
    pub image: PathBuf,
    size: u64,
    loops: [Loop; 2],
}

impl Disks {
    pub fn new(size: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let image = empty(dir.path(), "disks", 2 * size);
        let loops = [Loop::new(&image, 0, size), Loop::new(&image, size, size)];
        let disks = Self { dir, image, size, loops };
        disks.lvm("pvcreate", &disks.devices());
        disks
    }

    pub fn devices(&self) -> String {
        format!("{} {}", self.loops[0].0, self.loops[1].0)
    }

    pub fn lvm(&self, command: &str, arguments: &str) -> String {
        let accepted = self.loops.iter().map(|device| format!("\"a|^{}$|\"", device.0)).collect::<Vec<_>>();
        let config = format!(
            "devices {{ filter=[{}, \"r|.*|\"] use_devicesfile=0 scan=[\"/dev\"] obtain_device_list_from_udev=0 }} \
             backup {{ backup=0 archive=0 }} global {{ locking_type=1 }} activation {{ udev_sync=0 udev_rules=0 }}",
            accepted.join(", ")
        );
        sh(&format!(
            "LVM_SUPPRESS_FD_WARNINGS=1 {command} --driverloaded n --config '{config}' {arguments} 2>&1"
        ))
    }

    /// Where the bytes of a volume are, as the tools tell it: for each segment its stripes and what a stripe is.
    fn segments(&self, volume: &str) -> Vec<(u64, u64, Vec<u64>)> {
        let told = self.lvm(
            "lvs",
            &format!(
                "--noheadings --units b --nosuffix --segments --separator ';' \
                 -o seg_start,seg_size,stripe_size,seg_pe_ranges {volume}"
            ),
        );
        let first = self.lvm("pvs", "--noheadings --units b --nosuffix -o pe_start");
        let first: u64 = first.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        let mut segments: Vec<_> = told
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.trim().split(';').collect();
                let [start, size, stripe, ranges] = fields.as_slice() else { return None };
                let place = |range: &str| {
                    let (device, extents) = range.split_once(':').unwrap();
                    let extent: u64 = extents.split('-').next().unwrap().parse().unwrap();
                    let disk = self.loops.iter().position(|it| it.0 == device).unwrap() as u64;
                    disk * self.size + first + extent * 4 * MIB
                };
                let legs = ranges.split_whitespace().map(place).collect();
                Some((start.parse::<u64>().ok()?, (size.parse().unwrap(), stripe.parse().unwrap(), legs)))
            })
            .collect();
        segments.sort_by_key(|(start, _)| *start);
        segments.into_iter().map(|(_, segment)| segment).collect()
    }

    /// Writes bytes to a volume, at the places the tools tell.
    pub fn write(&self, volume: &str, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.image).unwrap();
        let mut left = bytes;
        for (size, stripe, legs) in self.segments(volume) {
            let (mut segment, rest) = left.split_at(left.len().min(size as usize));
            left = rest;
            let unit = if legs.len() == 1 { size } else { stripe };
            for turn in 0.. {
                if segment.is_empty() {
                    break;
                }
                let (now, rest) = segment.split_at(segment.len().min(unit as usize));
                let leg = legs[turn % legs.len()] + (turn / legs.len()) as u64 * unit;
                file.write_all_at(now, leg).unwrap();
                segment = rest;
            }
        }
        assert!(left.is_empty(), "the volume is as long as its bytes");
    }

    fn assemble(&self) -> (Arc<dyn BlockSource>, Vec<Member>, Vec<Found>) {
        let disks = FileSource::open(&self.image);
        let member = |start| Member { range: ByteRange::between(start, start + self.size), belongs: None };
        let mut members = vec![member(0), member(self.size)];
        let found = assemble(&disks, &mut members).unwrap();
        let space = Space::new(disks);
        space.add(found.iter().filter_map(|found| Some((found.range, found.parts.clone().ok()?))));
        (Arc::new(space), members, found)
    }
}

/// Two disks that make volumes of every kind that can be made here, for changing bytes of.
pub fn base() -> Vec<u8> {
    let disks = Disks::new(8 * MIB);
    disks.lvm("vgcreate", &format!("vg0 -s 1m {}", disks.devices()));
    let [first, second] = &disks.loops;
    disks.lvm("lvcreate", &format!("-an -Zn -Wn -y -n data -l 2 vg0 {}", first.0));
    disks.lvm("lvextend", &format!("-l +1 vg0/data {}", second.0));
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n fast -i 2 -I 64k -l 2 vg0");
    fs::read(&disks.image).unwrap()
}

/// Two members of an array.
pub fn array() -> Vec<u8> {
    let mut bytes = vec![0; 4 * MIB as usize];
    for role in 0..2 {
        let superblock = superblock(0, role, 2, (MIB / 2, MIB), 4096, 4096);
        let at = role as usize * 2 * MIB as usize + 4096;
        bytes[at..at + superblock.len()].copy_from_slice(&superblock);
    }
    bytes
}

#[test]
fn lvm_volumes_over_two_disks() {
    let disks = Disks::new(128 * MIB);
    disks.lvm("vgcreate", &format!("vg-a {}", disks.devices()));
    let [first, second] = &disks.loops;
    let create = |arguments: &str| disks.lvm("lvcreate", &format!("-an -Zn -Wn -y {arguments}"));
    create(&format!("-n root -l 10 vg-a {}", first.0));
    create(&format!("-n between -l 2 vg-a {}", first.0));
    disks.lvm("lvextend", &format!("-l +5 vg-a/root {}", second.0));
    disks.lvm("lvextend", &format!("-l +5 vg-a/root {}", first.0));
    create("-n fast -i 2 -I 64k -l 12 vg-a");
    let tree = TempDir::new().unwrap();
    make_tree(tree.path());
    let filesystem = mke2fs(disks.dir.path(), 80 * MIB, "-t ext4", Some(tree.path()));
    assert!(disks.segments("vg-a/root").len() >= 3);
    disks.write("vg-a/root", &fs::read(&filesystem).unwrap());
    let fast = noise(3, 40 * MIB as usize);
    disks.write("vg-a/fast", &fast);

    let (space, members, found) = disks.assemble();
    let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["vg--a-between", "vg--a-fast", "vg--a-root"]);
    for member in &members {
        let belongs = member.belongs.as_deref().unwrap();
        assert!(belongs.contains("LVM group vg-a") && belongs.contains("vg--a-root"), "{belongs}");
    }
    let sizes: Vec<_> = found.iter().map(|found| found.range.count().get() / (4 * MIB)).collect();
    assert_eq!(sizes, [2, 12, 20]);
    let mut bytes = vec![0; fast.len()];
    space.read_at(ByteOffset::new(found[1].range.start()), &mut bytes).unwrap();
    assert!(bytes == fast, "stripes in turn");
    let root: Arc<dyn BlockSource> = Arc::new(Window::new(Arc::clone(&space), found[2].range).unwrap());
    let reader = guest::open(Arc::clone(&root)).unwrap();
    let ours = through_reader(&*reader, &|at, buf| root.read_at(ByteOffset::new(at), buf).unwrap());
    let kernel = KernelMount::new(&filesystem, "ro");
    assert_same(&ours, &through_kernel(kernel.path()));
}

#[test]
fn lvm_that_cannot_be_put_together_says_why() {
    let disks = Disks::new(64 * MIB);
    let [first, second] = &disks.loops;
    disks.lvm("vgcreate", &format!("vg0 {}", first.0));
    disks.lvm("vgcreate", &format!("vg1 {}", second.0));
    for group in ["vg0", "vg1"] {
        disks.lvm("lvcreate", &format!("-an -Zn -Wn -y -n data -l 2 {group}"));
    }
    let (_, _, found) = disks.assemble();
    assert_eq!(found.iter().map(|found| &*found.name).collect::<Vec<_>>(), ["vg0-data", "vg1-data"]);

    let disks = FileSource::open(&disks.image);
    let mut only = [Member { range: ByteRange::between(0, 64 * MIB), belongs: None }];
    assert_eq!(assemble(&disks, &mut only).unwrap().len(), 1, "the other disk is not there");

    let spanning = Disks::new(64 * MIB);
    spanning.lvm("vgcreate", &format!("vg0 {}", spanning.devices()));
    spanning.lvm("lvcreate", "-an -Zn -Wn -y -n wide -l 20 vg0");
    let source = FileSource::open(&spanning.image);
    let mut only = [Member { range: ByteRange::between(0, 64 * MIB), belongs: None }];
    let found = assemble(&source, &mut only).unwrap();
    let why = found[0].parts.as_ref().unwrap_err();
    assert!(why.contains("is not among those looked at"), "{why}");
}

/// A machine got the disk of another, and both call their groups alike, as those made from one template do.
#[test]
fn lvm_groups_of_one_name_are_told_apart() {
    let [one, other] = [1, 2].map(|seed| {
        let disks = Disks::new(64 * MIB);
        disks.lvm("vgcreate", &format!("vg0 {}", disks.loops[0].0));
        disks.lvm("lvcreate", "-an -Zn -Wn -y -n data -l 3 vg0");
        disks.write("vg0/data", &noise(seed, 12 * MIB as usize));
        disks
    });
    let half = |disks: &Disks| fs::read(&disks.image).unwrap()[..64 * MIB as usize].to_vec();
    let image = one.dir.path().join("both");
    fs::write(&image, [half(&one), half(&other)].concat()).unwrap();
    let source = FileSource::open(&image);
    let member = |start| Member { range: ByteRange::between(start, start + 64 * MIB), belongs: None };
    let mut members = [member(0), member(64 * MIB)];
    let found = assemble(&source, &mut members).unwrap();
    let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["vg0-data", "vg0-data.2"]);
    let space = Space::new(source);
    space.add(found.iter().map(|found| (found.range, found.parts.clone().unwrap())));
    let read = |found: &Found| {
        let mut bytes = vec![0; found.range.count().get() as usize];
        space.read_at(ByteOffset::new(found.range.start()), &mut bytes).unwrap();
        bytes
    };
    let mut contents = found.iter().map(read).collect::<Vec<_>>();
    let mut expected = [1, 2].map(|seed| noise(seed, 12 * MIB as usize));
    contents.sort();
    expected.sort();
    assert!(contents == expected, "each has its own bytes");
}

/// Whatever bytes of it are wrong, metadata is refused or put together, never followed off the disks.
#[test]
fn damaged_lvm_is_told_of() {
    let disks = Disks::new(16 * MIB);
    disks.lvm("vgcreate", &format!("vg0 {}", disks.devices()));
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n data -l 3 vg0");
    assert_eq!(disks.assemble().2.len(), 1);
    let file = File::options().write(true).open(&disks.image).unwrap();
    for start in [0, 16 * MIB] {
        file.write_all_at(b"x", start + 4096 + 600).unwrap();
        file.write_all_at(b"x", start + 4096 + 1200).unwrap();
        file.write_all_at(b"x", start + 4096 + 2000).unwrap();
    }
    let (_, members, found) = disks.assemble();
    assert!(found.is_empty() || found[0].parts.is_ok());
    if found.is_empty() {
        assert!(members[0].belongs.as_deref().unwrap().contains("checksum"), "{members:?}");
    }
}

/// A superblock of version 1.2 as `mdadm --create` would write it; mdadm reads it back and judges it.
fn superblock(level: i32, role: u16, members: u16, data: (u64, u64), chunk: u32, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 256 + 2 * usize::from(members)];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, b"sixteen bytes id");
    put(32, b"host:data");
    put(72, &level.to_le_bytes());
    put(80, &(data.1 / 512).to_le_bytes());
    put(88, &(chunk / 512).to_le_bytes());
    put(92, &u32::from(members).to_le_bytes());
    put(128, &(data.0 / 512).to_le_bytes());
    put(136, &(data.1 / 512).to_le_bytes());
    put(144, &(offset / 512).to_le_bytes());
    put(160, &u32::from(role).to_le_bytes());
    put(168, &[role as u8 + 1; 16]);
    put(200, &7_u64.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &u32::from(members).to_le_bytes());
    for i in 0..members {
        put(256 + 2 * usize::from(i), &i.to_le_bytes());
    }
    let sum: u64 = bytes
        .chunks(4)
        .map(|word| word.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
        .sum();
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    bytes[216..220].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn md_mirrors_and_stripes() {
    const SIZE: u64 = 64 * MIB;
    let data = (MIB, SIZE - 2 * MIB);
    let content = noise(11, 2 * (SIZE - 2 * MIB) as usize);
    for (level, chunk) in [(1, 0), (0, 64 << 10), (-1, 0)] {
        let dir = TempDir::new().unwrap();
        let image = empty(dir.path(), "disks", 2 * SIZE);
        let file = File::options().write(true).open(&image).unwrap();
        for role in 0..2_u16 {
            let start = u64::from(role) * SIZE;
            let superblock = superblock(level, role, 2, data, chunk, 4096);
            file.write_all_at(&superblock, start + 4096).unwrap();
            let alone = empty(dir.path(), "alone", SIZE);
            File::options().write(true).open(&alone).unwrap().write_all_at(&superblock, 4096).unwrap();
            let told = run("mdadm", &["--examine".as_ref(), alone.as_ref()]);
            assert!(told.contains("correct") && told.contains("host:data"), "{told}");
        }
        let place = |at: u64| match level {
            0 => {
                let turn = at / u64::from(chunk);
                (turn % 2) * SIZE + data.0 + turn / 2 * u64::from(chunk) + at % u64::from(chunk)
            }
            -1 => at / data.1 * SIZE + data.0 + at % data.1,
            _ => data.0 + at,
        };
        let len = if level == 1 { data.1 } else { 2 * data.1 };
        for at in (0..len).step_by(64 << 10) {
            let part = &content[at as usize..(at as usize + (64 << 10)).min(len as usize)];
            file.write_all_at(part, place(at)).unwrap();
            if level == 1 {
                file.write_all_at(part, SIZE + place(at)).unwrap();
            }
        }
        let disks = FileSource::open(&image);
        let member = |start| Member { range: ByteRange::between(start, start + SIZE), belongs: None };
        let mut members = [member(0), member(SIZE)];
        let found = assemble(&disks, &mut members).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "md-data");
        assert_eq!(found[0].range.count().get(), len, "level {level}");
        let space = Space::new(disks.clone());
        space.add(found.iter().map(|found| (found.range, found.parts.clone().unwrap())));
        let mut bytes = vec![0; len as usize];
        space.read_at(ByteOffset::new(found[0].range.start()), &mut bytes).unwrap();
        assert!(bytes == content[..len as usize], "level {level}");
        // one member alone is enough for a mirror, and for nothing else
        let found = assemble(&disks, &mut [member(SIZE)]).unwrap();
        assert_eq!(found[0].parts.is_ok(), level == 1, "{:?}", found[0].parts);
    }
}
