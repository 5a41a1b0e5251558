//! Hostile bytes: random changes of real images, and the traps somebody would set on purpose.

use crate::bases::{BASES, BTRFS, Base, DISKS, FAT, ISO, LUKS, NTFS, Patch, THIN, XFS};
use crate::exercise;
use crate::image::{FileSource, mke2fs, run, sh};
use crate::memory::bounded;
use crate::mounted::{Here, Scene};
use block::{BlockSource, ByteOffset, Kind};
use mount::guest::Guest;
use mount::guest::ext4::Ext4;
use mount::parser::wire::{Answer, FromParser, Question, Request, ToParser, VERSION};
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

#[test]
fn the_bases_are_sound() {
    for base in BASES
        .iter()
        .chain(XFS.iter())
        .chain(NTFS.iter())
        .chain(FAT.iter())
        .chain(BTRFS.iter())
        .chain(ISO.iter())
    {
        assert!(exercise::filesystem(&base.patched([])) >= 36);
    }
    let found: Vec<_> = DISKS.iter().map(|base| exercise::volumes(&base.patched([]))).collect();
    assert_eq!(found, [2, 1]);
    let found: Vec<_> = LUKS.iter().map(|base| exercise::luks(&base.patched([]))).collect();
    assert_eq!(found, [1, 1]);
    assert_eq!(exercise::thin(&THIN[0].patched([])), 3000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_images_are_survived(
        base in 0..4_usize,
        patches in patches(),
    ) {
        changed(&BASES[base], patches, exercise::filesystem);
    }

    #[test]
    fn changed_xfs_is_survived(base in 0..3_usize, patches in patches()) {
        changed(&XFS[base], patches, exercise::filesystem);
    }

    #[test]
    fn changed_ntfs_is_survived(patches in patches()) {
        changed(&NTFS[0], patches, exercise::filesystem);
    }

    #[test]
    fn changed_btrfs_is_survived(base in 0..2_usize, patches in patches()) {
        changed(&BTRFS[base], patches, exercise::filesystem);
    }

    #[test]
    fn changed_volumes_are_survived(base in 0..2_usize, patches in patches()) {
        changed(&DISKS[base], patches, exercise::volumes);
    }

    #[test]
    fn changed_luks_is_survived(base in 0..2_usize, patches in patches()) {
        changed(&LUKS[base], patches, exercise::luks);
    }

    #[test]
    fn changed_thin_pools_are_survived(patches in patches()) {
        changed(&THIN[0], patches, exercise::thin);
    }

    #[test]
    fn any_text_is_a_header_or_not(text in json()) {
        bounded(|| exercise::luks_text(text.as_bytes()));
    }

    #[test]
    fn changed_iso_is_survived(base in 0..3_usize, patches in patches()) {
        changed(&ISO[base], patches, exercise::filesystem);
    }

    #[test]
    fn changed_fat_is_survived(base in 0..4_usize, patches in patches()) {
        changed(&FAT[base], patches, exercise::filesystem);
    }

    #[test]
    fn any_bytes_are_a_partition_table_or_not(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        signed in any::<bool>(),
    ) {
        if signed && bytes.len() >= 512 {
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            for entry in 0..4 {
                bytes[446 + entry * 16] &= 0x80;
                bytes[446 + entry * 16 + 4] = [5, 0x83, 0xee, 0][usize::from(bytes[entry] % 4)];
            }
        }
        exercise::partitions(&bytes);
    }

    #[test]
    fn any_bytes_are_a_message_or_not(kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in [kind, 1, 2, 3, 0x81, 0x82, 0x83, 0x84, 0x85] {
            exercise::wire(&[&[kind], bytes.as_slice()].concat());
            for question in 1..13 {
                exercise::wire(&[&[kind, question], bytes.as_slice()].concat());
            }
        }
    }
}

/// A header of LUKS2 in which one word is another.
fn json() -> impl Strategy<Value = String> {
    const TEXT: &str = r#"{"keyslots":{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},
        "area":{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64},
        "kdf":{"type":"argon2id","time":4,"memory":65536,"cpus":2,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="}}},"tokens":{},
        "segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64",
        "sector_size":512}},"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256",
        "iterations":1000,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","digest":"AAAAAAAAAAAAAAAAAAAAAA=="}},
        "config":{"json_size":"12288","keyslots_size":"16744448"}}"#;
    let words: Vec<&str> = TEXT.split_inclusive([':', ',', '{', '[', '}']).collect();
    let other = prop_oneof![
        likely().prop_map(|number| number.to_string()),
        likely().prop_map(|number| format!("\"{number}\"")),
        Just("{}".to_owned()),
        Just("[".repeat(200)),
        Just(String::new()),
        Just("null".to_owned()),
    ];
    (0..words.len(), other).prop_map(move |(place, other)| {
        let end = words[place].chars().last().unwrap_or_default();
        let put = |(at, word): (usize, &&str)| {
            if at == place { format!("{other}{end}") } else { (*word).to_owned() }
        };
        words.iter().enumerate().map(put).collect()
    })
}

/// Asks everything of a changed image, in no more memory than a reader may take.
fn changed(base: &Base, patches: Vec<Patch>, look: impl Fn(&Arc<dyn BlockSource>) -> usize) {
    // images are made before memory is counted
    let changed = base.patched(patches);
    bounded(|| look(&changed));
}

fn cases() -> u32 {
    if std::env::var_os("BLOCKD_SOAK").is_some() { 30_000 } else { 3000 }
}

fn patches() -> impl Strategy<Value = Vec<Patch>> {
    prop::collection::vec((any::<u16>(), any::<u8>(), likely(), any::<u8>()), 1..6)
}

/// Numbers that are more often wrong in an interesting way than any others.
fn likely() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u8>().prop_map(u64::from),
        Just(0),
        Just(u64::MAX),
        (0..64_u32).prop_map(|bit| 1 << bit),
    ]
}

fn image(arguments: &str, size: u64, fill: impl Fn(&Path)) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let image = mke2fs(dir.path(), size, arguments, Some(&tree));
    (dir, image)
}

fn debugfs(image: &Path, command: &str) -> String {
    run("debugfs", &["-w".as_ref(), "-R".as_ref(), command.as_ref(), image.as_ref()])
}

fn patch(image: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

/// Sizes in the superblock that would make a reader ask for a table of gigabytes.
#[test]
fn huge_tables_are_not_asked_for() {
    let (_dir, image) = image("-t ext4 -b 4096 -O ^metadata_csum", 16 << 20, |_| {});
    // blocks, in groups of one each: 2^32 groups less one
    patch(&image, 1024 + 0x4, &u32::MAX.to_le_bytes());
    patch(&image, 1024 + 0x20, &1_u32.to_le_bytes());
    let fs = Ext4::open(FileSource::open(&image)).unwrap();
    assert!(fs.node(2).is_ok(), "the first group is where it was");
    let last = fs.space().inodes;
    assert!(fs.node(last).is_err());
    patch(&image, 1024 + 0x150, &u32::MAX.to_le_bytes());
    let error = Ext4::open(FileSource::open(&image)).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
}

/// A journal whose superblock claims to be larger than anything, and one whose every block is a descriptor.
#[test]
fn hostile_journals_end() {
    let (_dir, image) = image("-t ext4 -b 4096 -O ^metadata_csum", 16 << 20, |_| {});
    let journal: u64 = debugfs(&image, "bmap <8> 0").trim().parse().unwrap();
    let inner: u64 = debugfs(&image, "bmap <8> 25").trim().parse().unwrap();
    // needs_recovery, and a log that begins at block 25 with sequence 1
    let features = 0x2c2_u32 | 4;
    patch(&image, 1024 + 0x60, &features.to_le_bytes());
    let start = |at: u32| patch(&image, journal * 4096 + 0x1c, &at.to_be_bytes());
    start(25);
    patch(&image, journal * 4096 + 0x18, &1_u32.to_be_bytes());
    let mut descriptor = [0xc03b_3998_u32, 1, 1].map(u32::to_be_bytes).concat();
    while descriptor.len() < 4096 {
        descriptor.extend([0, 0, 0, 7, 0, 0, 0, 2]);
    }
    for block in 0..900 {
        patch(&image, (inner + block) * 4096, &descriptor);
    }
    let fs = Ext4::open(FileSource::open(&image)).unwrap();
    assert!(fs.list(2, 0).is_ok(), "without a commit nothing counts");
    for (at, value) in [(0x10, u32::MAX), (0x10, 0), (0x14, u32::MAX), (0x1c, u32::MAX), (0xc, 1024)] {
        let mut before = [0; 4];
        FileSource::open(&image).read_at(ByteOffset::new(journal * 4096 + at), &mut before).unwrap();
        patch(&image, journal * 4096 + at, &value.to_be_bytes());
        let error =
            Ext4::open(FileSource::open(&image)).err().unwrap_or_else(|| panic!("{at:#x} {value:#x}"));
        assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "{error}");
        patch(&image, journal * 4096 + at, &before);
    }
}

/// A tree of extents whose inner node leads back to itself.
#[test]
fn looping_extents_end() {
    let (_dir, image) = image("-t ext4 -b 4096 -O ^metadata_csum", 16 << 20, |tree| {
        let file = fs::File::create(tree.join("pieces")).unwrap();
        (0..40).for_each(|i| file.write_all_at(b"x", i * 8192).unwrap());
    });
    let told = debugfs(&image, "stat /pieces");
    let block = told.split("(ETB0):").nth(1).unwrap().split([',', '\n']).next().unwrap().trim();
    let block: u64 = block.parse().unwrap();
    let ino = Ext4::open(FileSource::open(&image)).unwrap().lookup(2, b"pieces").unwrap().unwrap();
    for depth in [1_u16, 2, 4, 5, 6, 0xffff] {
        let header = [&0xf30a_u16.to_le_bytes()[..], &[1, 0, 84, 1], &depth.to_le_bytes(), &[0; 4]].concat();
        let entry = [&[0; 4][..], &(block as u32).to_le_bytes(), &[0; 4]].concat();
        patch(&image, block * 4096, &[header, entry].concat());
        let fs = Ext4::open(FileSource::open(&image)).unwrap();
        let error = fs.pieces(ino, 0, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{depth}: {error}");
    }
}

/// A directory that contains its own parent, seen through FUSE by a program that walks it.
#[test]
fn looping_directories_end() {
    let (dir, image) = image("-t ext4 -b 4096 -O ^metadata_csum", 16 << 20, |tree| {
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/c/file"), "here").unwrap();
    });
    debugfs(&image, "link /a /a/b/c/loop");
    debugfs(&image, "link /a/b /a/b/again");
    let scene = Scene::over(dir, image);
    let server = scene.server();
    let here = Here::new(&server.uri(), &scene.point);
    // find says that there is a loop, and goes on
    let told = sh(&format!("timeout 60 find {} 2>&1 || true", here.at("files/0").display()));
    assert!(told.contains("a/b/c/file"), "{told}");
    assert!(told.lines().count() < 40, "{told}");
}

/// What the parser sends is not believed: each of these decodes, and none of them fits its question.
#[test]
fn answers_that_do_not_fit_are_refused() {
    use block::ByteRange;
    use mount::guest::{Piece, Place};
    let request = |question| Request { volume: ByteRange::between(1 << 20, 2 << 20), question };
    let pieces = request(Question::Pieces { ino: 12, from: 4096, to: 1 << 16 });
    let piece = |at, len, place| Piece { at, len, place };
    let wrong = [
        vec![piece(4096, 0, Place::Zero)],
        vec![piece(8192, 10, Place::Zero)],
        vec![piece(0, 4096, Place::Zero)],
        vec![piece(4096, 4096, Place::Volume(1 << 20))],
        vec![piece(4096, u64::MAX, Place::Volume(2))],
        vec![piece(4096, 5, Place::Bytes(vec![1, 2, 3, 4].into()))],
        vec![piece(4096, 4096, Place::Zero), piece(8193, 10, Place::Zero)],
        vec![piece(0, i64::MAX as u64, Place::Zero), piece(i64::MAX as u64, 10, Place::Zero)],
    ];
    for pieces_answer in wrong {
        let message = FromParser::Answer(Answer::Pieces(pieces_answer));
        let Ok(FromParser::Answer(answer)) = FromParser::decode(&message.encode()) else {
            panic!("{message:?}")
        };
        assert!(!answer.fits(&pieces), "{answer:?}");
    }
    let right = Answer::Pieces(vec![piece(0, 8192, Place::Volume(0)), piece(8192, 4, Place::Zero)]);
    assert!(right.fits(&pieces));
    assert!(!right.fits(&request(Question::Link { ino: 12 })));
    assert!(!Answer::Link(b"x".to_vec()).fits(&pieces));
}

/// The example of `docs/child-protocol.md`, byte for byte.
#[test]
fn the_example_of_the_document_is_true() {
    let document = include_str!("../../docs/child-protocol.md");
    let example = document.split("## Example").nth(1).unwrap().split("```").nth(1).unwrap();
    let frames: Vec<Vec<u8>> = example
        .trim()
        .lines()
        .map(|line| line.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect())
        .collect();
    let volume = block::ByteRange::between(1 << 20, 2 << 20);
    let messages = [
        FromParser::Hello { version: VERSION }.encode(),
        ToParser::Ask(Request { volume, question: Question::Node { ino: 2 } }).encode(),
        FromParser::Read { offset: (1 << 20) + 1024, count: 1024 }.encode(),
    ];
    for (frame, message) in frames.iter().zip(&messages) {
        assert_eq!(&frame[..4], (message.len() as u32).to_le_bytes());
        assert_eq!(&frame[4..], message);
    }
    assert_eq!(frames.len(), messages.len());
}
