//! Partition tables made by sfdisk.

use crate::image::{FileSource, empty, sh};
use mount::partition::{Scheme, Table, read_table};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn sfdisk(image: &Path, script: &str) {
    sh(&format!("printf '{script}' | sfdisk -q {}", image.display()));
}

fn table(image: &Path) -> Table {
    read_table(&*FileSource::open(image)).unwrap()
}

fn in_mib(table: &Table) -> Vec<(u32, u64, u64)> {
    let partitions = table.partitions.iter();
    partitions.map(|p| (p.number, p.range.start() / MIB, p.range.count().get() / MIB)).collect()
}

/// What sfdisk itself reads back, as (number, start, length) in sectors.
fn oracle(image: &Path) -> Vec<(u32, u64, u64)> {
    let json = sh(&format!("sfdisk --json {}", image.display()));
    let field = |line: &str, name: &str| -> Option<u64> {
        let rest = line.split_once(&format!("\"{name}\": "))?.1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    };
    let number = |line: &str| -> Option<u32> {
        let node = line.split_once("\"node\": \"")?.1.split_once('"')?.0;
        node.strip_prefix(image.to_str()?)?.trim_start_matches('p').parse().ok()
    };
    let json = json.replace('\n', " ").replace('}', "}\n");
    json.lines()
        .filter_map(|line| Some((number(line)?, field(line, "start")?, field(line, "size")?)))
        .collect()
}

fn agrees(image: &Path) -> Table {
    let table = table(image);
    let ours: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.range.start() / 512, p.range.count().get() / 512))
        .collect();
    assert!(!ours.is_empty());
    assert_eq!(ours, oracle(image));
    table
}

#[test]
fn gpt_with_gaps_in_its_numbers() {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "disk", 64 * MIB);
    sfdisk(
        &image,
        "label: gpt\\n3: start=1MiB,size=10MiB\\n1: start=20MiB,size=5MiB\\n128: start=30MiB,size=1MiB\\n",
    );
    let table = agrees(&image);
    assert_eq!(table.scheme, Scheme::Gpt);
    assert_eq!(in_mib(&table), [(1, 20, 5), (3, 1, 10), (128, 30, 1)]);
    assert!(table.remarks.is_empty());
}

#[test]
fn the_copy_of_a_gpt_stands_in_for_a_damaged_one() {
    let dir = TempDir::new().unwrap();
    for (at, name) in [(512, "header"), (512 + 56, "guid"), (1024 + 32, "entries")] {
        let image = empty(dir.path(), name, 64 * MIB);
        sfdisk(&image, "label: gpt\\nstart=1MiB,size=10MiB\\nstart=20MiB,size=5MiB\\n");
        OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[0x5a; 8], at).unwrap();
        let table = table(&image);
        assert_eq!(table.scheme, Scheme::GptBackup, "{name}");
        assert_eq!(in_mib(&table), [(1, 1, 10), (2, 20, 5)], "{name}");
        assert_eq!(table.remarks.len(), 1, "{name}");
    }
}

#[test]
fn gpt_of_large_sectors() {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "disk", 64 * MIB);
    let device = sh(&format!("losetup -b 4096 -f --show {}", image.display()));
    let device = device.trim();
    sfdisk(Path::new(device), "label: gpt\\nsize=8M\\nsize=16M\\n");
    sh(&format!("losetup -d {device}"));
    let table = table(&image);
    assert_eq!((table.scheme, in_mib(&table)), (Scheme::Gpt, vec![(1, 1, 8), (2, 9, 16)]));
}

#[test]
fn mbr_with_logical_partitions() {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "disk", 128 * MIB);
    sfdisk(
        &image,
        "label: dos\\nsize=8M\\nsize=8M,type=7,bootable\\ntype=5\\nsize=4M\\nsize=6M\\nsize=2M\\n",
    );
    let table = table(&image);
    assert_eq!(table.scheme, Scheme::Mbr);
    let without_extended: Vec<_> = oracle(&image).into_iter().filter(|(number, _, _)| *number != 3).collect();
    let ours: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.range.start() / 512, p.range.count().get() / 512))
        .collect();
    assert_eq!(ours, without_extended);
    assert_eq!(ours.iter().map(|p| p.0).collect::<Vec<_>>(), [1, 2, 5, 6, 7]);
}

/// The chain of logical partitions is made to lead back into itself.
#[test]
fn a_looping_chain_ends() {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "disk", 128 * MIB);
    sfdisk(&image, "label: dos\\ntype=5\\nsize=4M\\nsize=6M\\n");
    let file = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let second = table(&image).partitions[1].range.start() - MIB;
    // its second entry now names the first link: type 5, relative 0, some length
    let mut entry = [0; 16];
    entry[4] = 5;
    entry[12] = 64;
    file.write_all_at(&entry, second + 446 + 16).unwrap();
    let table = table(&image);
    assert_eq!(table.partitions.len(), 2);
    assert_eq!(table.remarks, ["the chain of logical partitions breaks before partition 7"]);
}

#[test]
fn partitions_behind_the_end_of_the_disk() {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "disk", 64 * MIB);
    sfdisk(&image, "label: dos\\nstart=2048,size=8M\\nstart=32768,size=40M\\nstart=114688,size=8M\\n");
    OpenOptions::new().write(true).open(&image).unwrap().set_len(40 * MIB).unwrap();
    let table = table(&image);
    assert_eq!(in_mib(&table), [(1, 1, 8), (2, 16, 24)]);
    assert_eq!(table.remarks.len(), 2);
}

#[test]
fn disks_without_a_table() {
    let dir = TempDir::new().unwrap();
    for (name, size) in [("nothing", 0), ("a byte", 1), ("half a sector", 300), ("zeros", 4 * MIB)] {
        let table = table(&empty(dir.path(), name, size));
        assert_eq!(table, Table { scheme: Scheme::None, partitions: vec![], remarks: vec![] }, "{name}");
    }
    let image = empty(dir.path(), "filesystem", 4 * MIB);
    sh(&format!("mke2fs -q -F {}", image.display()));
    assert_eq!(table(&image).scheme, Scheme::None);
}
