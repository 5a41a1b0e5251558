//! Thin volumes: the pool's metadata as `thin_restore` writes it, the group's as LVM's own tools take it.

use crate::image::{FileSource, KernelMount, empty, make_tree, mke2fs, noise, sh};
use crate::mounted::{Here, Scene, names};
use crate::seen::{assert_same, through_kernel};
use crate::volumes::Disks;
use block::Kind;
use mount::Options;
use mount::volume::thin::{MAX_RUNS, Run, mapping};
use std::fmt::Write;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;

/// Metadata of a pool with these devices: of each its mappings, as pairs of a block and where it is.
fn metadata(dir: &Path, blocks: u64, devices: &[(u32, Vec<(u64, u64)>)]) -> PathBuf {
    let mut xml = format!(
        "<superblock uuid=\"\" time=\"1\" transaction=\"1\" flags=\"0\" version=\"2\" data_block_size=\"128\" \
         nr_data_blocks=\"{blocks}\">\n"
    );
    for (device, mappings) in devices {
        let count = mappings.len();
        writeln!(
            xml,
            "<device dev_id=\"{device}\" mapped_blocks=\"{count}\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">"
        )
        .unwrap();
        for (at, data) in mappings {
            writeln!(xml, "<single_mapping origin_block=\"{at}\" data_block=\"{data}\" time=\"1\"/>")
                .unwrap();
        }
        xml += "</device>\n";
    }
    xml += "</superblock>\n";
    let (text, image) = (dir.join("metadata.xml"), empty(dir, "metadata", 8 * MIB));
    fs::write(&text, xml).unwrap();
    sh(&format!("thin_restore -q -i {} -o {}", text.display(), image.display()));
    sh(&format!("thin_check -q {}", image.display()));
    image
}

/// All of a mapping, page by page, block by block.
fn all(image: &Path, device: u32) -> (Vec<(u64, u64)>, usize) {
    let (source, mut found, mut pages, mut from) = (FileSource::open(image), Vec::new(), 0, Some(0));
    while let Some(at) = from {
        let page = mapping(&*source, device, at).unwrap();
        assert_eq!(page.block, CHUNK as u64);
        let blocks =
            |run: &Run| (0..run.count).map(|step| (run.at + step, run.data + step)).collect::<Vec<_>>();
        found.extend(page.runs.iter().flat_map(blocks));
        (from, pages) = (page.next, pages + 1);
    }
    (found, pages)
}

#[test]
fn mappings_of_every_size_are_read() {
    let dir = TempDir::new().unwrap();
    // every second block, so that nothing is a run; then one run in very many nodes; then nothing
    let scattered: Vec<_> = (0..40_000).map(|place| (place * 2, place * 3)).collect();
    let long: Vec<_> = (0..60_000).map(|place| (place + 1_000_000, place + 130_000)).collect();
    let devices = [(1, scattered.clone()), (7, long.clone()), (9, Vec::new()), (16_000_000, vec![(5, 5)])];
    let image = metadata(dir.path(), 200_000, &devices);
    let (found, pages) = all(&image, 1);
    assert!(found == scattered && pages == 40_000 / MAX_RUNS + 1, "{} in {pages} pages", found.len());
    assert!(all(&image, 7).0 == long);
    assert_eq!(mapping(&*FileSource::open(&image), 7, 0).unwrap().runs.len(), 1);
    assert_eq!(all(&image, 9).0, []);
    assert_eq!(all(&image, 16_000_000).0, [(5, 5)]);
    assert_eq!(mapping(&*FileSource::open(&image), 8, 0).unwrap_err().kind(), Kind::Corrupt);
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&[0xff], 100).unwrap();
    let error = mapping(&*FileSource::open(&image), 1, 0).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

/// Makes a thin pool of two plain volumes of a group, by its text: the tools make pools only where they can run them.
fn into_pool(disks: &Disks, dir: &Path, volumes: &[(&str, u32, u64)]) {
    let text = dir.join("group");
    disks.lvm("vgcfgbackup", &format!("-f {} vg0", text.display()));
    let mut group = fs::read_to_string(&text).unwrap();
    // these names are for the tools alone
    for (plain, name) in [("meta", "pool_tmeta"), ("data", "pool_tdata")] {
        group = group.replace(&format!("{plain} {{"), &format!("{name} {{"));
        let at = group.find(&format!("{name} {{")).unwrap();
        let visible = group[at..].find(", \"VISIBLE\"").unwrap() + at;
        group.replace_range(visible..visible + ", \"VISIBLE\"".len(), "");
    }
    let volume = |name: &str, extents: u64, segment: &str| {
        // identifiers differ in their first letters
        let id: String = name
            .bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(char::from)
            .chain("A".repeat(32).chars())
            .collect();
        let id =
            [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32].map(|part| id[part].to_owned()).join("-");
        format!(
            "{name} {{\nid = \"{id}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\nsegment_count = 1\n\
             segment1 {{\nstart_extent = 0\nextent_count = {extents}\n{segment}\n}}\n}}\n"
        )
    };
    let mut made = volume(
        "pool",
        15,
        "type = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\"\ntransaction_id = 1\nchunk_size = 128\n\
         discards = \"passdown\"\nzero_new_blocks = 1",
    );
    for (name, device, extents) in volumes {
        let segment =
            format!("type = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = {device}");
        made += &volume(name, *extents, &segment);
    }
    group = group.replacen("logical_volumes {", &format!("logical_volumes {{\n{made}"), 1);
    fs::write(&text, group).unwrap();
    disks.lvm("vgcfgrestore", &format!("--force -y -f {} vg0", text.display()));
}

#[test]
fn thin_volumes_and_their_snapshots_show_what_was_written() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let plain = mke2fs(dir.path(), 40 * MIB, "-t ext4 -b 4096", Some(&tree));
    let mut expected = fs::read(&plain).unwrap();
    // chunks that hold anything lie where nothing keeps them in order; the volume is longer than what was written
    let (mut first, mut data) = (Vec::new(), vec![0; 60 * MIB as usize]);
    let place = |number: usize| (number * 37 + 11) % 960;
    for (number, chunk) in
        expected.chunks(CHUNK).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0))
    {
        let at = place(number);
        data[at * CHUNK..][..CHUNK].copy_from_slice(chunk);
        first.push((number as u64, at as u64));
    }
    // a snapshot shares all but one chunk
    let free = (0..960).find(|at| first.iter().all(|(_, used)| used != at)).unwrap();
    let mut second = first.clone();
    let changed = second.last_mut().unwrap();
    changed.1 = free;
    let changed = changed.0 as usize * CHUNK;
    let bytes = noise(3, CHUNK);
    data[free as usize * CHUNK..][..CHUNK].copy_from_slice(&bytes);

    let disks = Disks::new(64 * MIB);
    disks.lvm("vgcreate", &format!("vg0 {}", disks.devices()));
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n meta -l 2 vg0");
    disks.lvm("lvcreate", "-an -Zn -Wn -y -n data -l 15 vg0");
    let metadata = metadata(dir.path(), 960, &[(1, first), (2, second)]);
    disks.write("vg0/meta", &fs::read(metadata).unwrap());
    disks.write("vg0/data", &data);
    into_pool(&disks, dir.path(), &[("web", 1, 12), ("web-snap", 2, 12), ("lost", 5, 3)]);

    let all = fs::read(&disks.image).unwrap();
    let [one, two] = [0, 1].map(|half: usize| {
        let dir = TempDir::new().unwrap();
        let image = dir.path().join("image");
        fs::write(&image, &all[half * all.len() / 2..][..all.len() / 2]).unwrap();
        Scene::over(dir, image)
    });
    let servers = [one.server(), two.server()];
    let here = Here::over(Options {
        name: "vda".to_owned(),
        beside: vec![("vdb".to_owned(), servers[1].uri())],
        ..Options::new(servers[0].uri(), &one.point)
    });
    assert_eq!(
        names(&here.at("files")),
        [
            "vda.unreadable",
            "vdb.unreadable",
            "vg0-lost.unreadable",
            "vg0-pool.unreadable",
            "vg0-pool_tdata.unreadable",
            "vg0-pool_tmeta.unreadable",
            "vg0-web",
            "vg0-web--snap"
        ]
    );
    let kernel = KernelMount::new(&plain, "ro");
    assert_same(&through_kernel(&here.at("files/vg0-web")), &through_kernel(kernel.path()));
    expected.resize(48 * MIB as usize, 0);
    assert!(fs::read(here.at("partitions/vg0-web.raw")).unwrap() == expected);
    expected[changed..changed + CHUNK].copy_from_slice(&bytes);
    assert!(fs::read(here.at("partitions/vg0-web--snap.raw")).unwrap() == expected);
    assert!(fs::read(here.at("partitions/vg0-pool_tdata.raw")).unwrap() == data);
    let reason = fs::read_to_string(here.at("files/vg0-lost.unreadable")).unwrap();
    assert!(reason.contains("it has no volume 5"), "{reason}");
    // what was never written is a hole
    let file = fs::File::open(here.at("partitions/vg0-web.raw")).unwrap();
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(44 * MIB)).unwrap();
    assert_eq!(hole, 44 * MIB);
    assert!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(44 * MIB)).is_err());
}
