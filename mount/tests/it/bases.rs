//! Small filesystems to change bytes of. Shared by the tests and by the fuzz targets.

use crate::image::{KernelMount, empty, luks1, luks2, many, mke2fs, noise, sh};
use crate::{ntfs, volumes};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Visit, check_range};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

/// Small filesystems of every way of storing things, one with a journal to replay.
pub static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let kinds = [
        ("-t ext4 -b 1024 -N 64 -O ^metadata_csum,^has_journal,inline_data -I 256", 512 << 10),
        ("-t ext4 -b 1024 -N 64 -O ^has_journal,^resize_inode,meta_bg -I 256", 512 << 10),
        ("-t ext2 -b 1024 -N 64 -I 128 -O ^resize_inode", 512 << 10),
        ("-t ext3 -b 1024 -N 64 -I 128 -J size=1 -O ^resize_inode", 3 << 20),
    ];
    kinds.into_iter().map(|(arguments, size)| Base::new(arguments, size)).collect()
});

/// Small XFS filesystems: of both versions, and one with a log to replay.
pub static XFS: LazyLock<Vec<Base>> = LazyLock::new(|| vec![xfs_v5(false), xfs_v5(true), xfs_v4()]);

fn xfs_v5(dirty: bool) -> Base {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "image", 32 << 20);
    sh(&format!("mkfs.xfs -q --unsupported -m reflink=1 -i nrext64=0 {}", image.display()));
    let mounted = KernelMount::new(&image, "rw");
    small_tree(&mounted.path().join("tree"));
    if dirty {
        rustix::fs::syncfs(fs::File::open(mounted.path()).unwrap()).unwrap();
        return Base::of(fs::read(&image).unwrap());
    }
    drop(mounted);
    Base::of(fs::read(&image).unwrap())
}

/// Small NTFS filesystems: with everything, and with records of their own for attributes.
pub static NTFS: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let image = ntfs::mkfs(dir.path(), if many(0) > 0 { 192 << 20 } else { 24 << 20 }, "");
    let mounted = ntfs::Reference::new(&image, "streams_interface=xattr,compression");
    ntfs::make_tree(mounted.path());
    drop(mounted);
    vec![Base::of(fs::read(&image).unwrap())]
});

/// Small FAT and exFAT filesystems.
pub static FAT: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let kinds =
        [("fat -F 12", 2 << 20), ("fat -F 16", 16 << 20), ("fat -F 32 -s 1", 40 << 20), ("exfat", 8 << 20)];
    let base = |(arguments, size): (&str, u64)| {
        let (dir, tree, at) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        for i in 0..30 {
            fs::write(tree.path().join(format!("a long enough name {i}")), noise(i, 3000)).unwrap();
        }
        fs::create_dir(tree.path().join("dir")).unwrap();
        for i in 0..30 {
            fs::write(tree.path().join(format!("dir/a long enough name {i}")), noise(i, 300)).unwrap();
        }
        let image = empty(dir.path(), "image", size);
        sh(&format!("mkfs.{arguments} {} >/dev/null", image.display()));
        let (image_path, tree, at) = (image.display(), tree.path().display(), at.path().display());
        if arguments == "exfat" {
            let device = sh(&format!("losetup -f --show {image_path}"));
            let device = device.trim();
            sh(&format!("mount.exfat-fuse {device} {at} >/dev/null && cp -r {tree}/. {at}/ && umount {at}"));
            sh(&format!("losetup -d {device}"));
        } else {
            sh(&format!("MTOOLS_SKIP_CHECK=1 mcopy -s -i {image_path} {tree}/* ::"));
        }
        Base::of(fs::read(&image).unwrap())
    };
    kinds.into_iter().map(base).collect()
});

/// Small btrfs filesystems with a snapshot and all three compressions; the second has a log to replay, and checksums of a kind
/// that is not verified, so that changes get through to what they change.
pub static BTRFS: LazyLock<Vec<Base>> = LazyLock::new(|| vec![btrfs("crc32c"), btrfs("xxhash")]);

fn btrfs(checksum: &str) -> Base {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "image", 128 << 20);
    sh(&format!("mkfs.btrfs -q --mixed -n 4096 --csum {checksum} {}", image.display()));
    for kind in ["zlib", "lzo", "zstd"] {
        let mounted = KernelMount::new(&image, &format!("rw,compress-force={kind}"));
        small_tree(&mounted.path().join(kind));
        fs::write(mounted.path().join(kind).join("text"), "a line of text\n".repeat(20_000)).unwrap();
        if kind == "zstd" {
            let at = mounted.path().display();
            sh(&format!("btrfs subvolume create {at}/sub && btrfs subvolume snapshot {at} {at}/sub/shot"));
        }
    }
    if checksum == "crc32c" {
        return Base::of(fs::read(&image).unwrap());
    }
    let mounted = KernelMount::new(&image, "rw,commit=300");
    let at = |name: &str| mounted.path().join(name);
    let sync = |name: &str| fs::File::open(at(name)).unwrap().sync_all().unwrap();
    for subvolume in ["", "sub/shot/"] {
        let name = |name: &str| format!("{subvolume}zlib/{name}");
        fs::remove_file(at(&name("dir/a long enough name to fill some blocks 3"))).unwrap();
        sync(&name("dir"));
        fs::write(at(&name("late")), noise(7, 9000)).unwrap();
        sync(&name("late"));
        let sparse = fs::File::options().write(true).open(at(&name("sparse"))).unwrap();
        sparse.write_all_at(&noise(9, 9000), 41_000).unwrap();
        sparse.set_len(200_000).unwrap();
        sparse.sync_all().unwrap();
        fs::hard_link(at(&name("text")), at(&name("dir/other"))).unwrap();
        sync(&name("text"));
    }
    let base = Base::of(fs::read(&image).unwrap());
    assert_ne!(base.bytes[0x1_0060..0x1_0068], [0; 8], "it has no log");
    base
}

/// A small ISO 9660 with Rock Ridge and Joliet, and a plain one.
pub static ISO: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let base = |arguments: &str| {
        let dir = TempDir::new().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
        small_tree(&tree);
        sh(&format!("genisoimage -quiet {arguments} -o {} {} 2>&1", image.display(), tree.display()));
        Base::of(fs::read(&image).unwrap())
    };
    vec![base("-R -J"), base("-l"), base("-J")]
});

/// Encrypted volumes of either version.
pub static LUKS: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let (small, first, second) =
        (empty(dir.path(), "small", 1 << 20), dir.path().join("1"), dir.path().join("2"));
    luks1(&small, &first, "hash-alg=sha256");
    luks2(&small, &second, "--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32");
    [first, second].into_iter().map(|image| Base::of(fs::read(image).unwrap())).collect()
});

/// The metadata of a thin pool.
pub static THIN: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let (text, image) = (dir.path().join("xml"), empty(dir.path(), "image", 2 << 20));
    let mut xml = r#"<superblock uuid="" time="1" transaction="1" flags="0" version="2" data_block_size="128" nr_data_blocks="9000">"#.to_owned();
    for device in [1, 2] {
        xml += &format!(
            r#"<device dev_id="{device}" mapped_blocks="1500" transaction="0" creation_time="0" snap_time="1">"#
        );
        for block in 0..1500 {
            xml += &format!(
                r#"<single_mapping origin_block="{}" data_block="{}" time="1"/>"#,
                block * device,
                block * 3
            );
        }
        xml += "</device>";
    }
    fs::write(&text, xml + "</superblock>").unwrap();
    sh(&format!("thin_restore -q -i {} -o {}", text.display(), image.display()));
    vec![Base::of(fs::read(image).unwrap())]
});

/// Pairs of disks that volumes are put together from.
pub static DISKS: LazyLock<Vec<Base>> =
    LazyLock::new(|| vec![Base::of(volumes::base()), Base::of(volumes::array())]);

/// The kernel may not know this version any more: filled by mkfs itself.
fn xfs_v4() -> Base {
    let dir = TempDir::new().unwrap();
    let image = empty(dir.path(), "image", 32 << 20);
    let (prototype, content) = (dir.path().join("prototype"), dir.path().join("content"));
    fs::write(&content, noise(1, 30_000)).unwrap();
    let mut lines = format!("/\n0 0\nd--755 0 0\nfile ---644 0 0 {}\ndir d--755 0 0\n", content.display());
    for i in 0..100 {
        lines += &format!("a_long_enough_name_to_fill_some_blocks_{i} ---644 0 0 /dev/null\n");
    }
    lines += "$\nlink l--777 0 0 somewhere/else\n$\n";
    fs::write(&prototype, lines).unwrap();
    sh(&format!("mkfs.xfs -q --unsupported -m crc=0 -p {} {} 2>&1", prototype.display(), image.display()));
    Base::of(fs::read(&image).unwrap())
}

/// Place, offset there, value, its length.
pub type Patch = (u16, u8, u64, u8);

pub struct Base {
    bytes: Arc<[u8]>,
    /// Where it is not all zeros, in steps of 16 bytes.
    used: Vec<usize>,
}

impl Base {
    fn new(arguments: &str, size: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let tree = dir.path().join("tree");
        small_tree(&tree);
        let image = mke2fs(dir.path(), size, arguments, Some(&tree));
        if arguments.contains("ext3") {
            // a transaction that puts a new version over two blocks and takes back a third
            let block = dir.path().join("block");
            fs::write(&block, noise(5, 2048)).unwrap();
            let script = format!("jo\njw -b 900,901 {}\njw -r 902\njc\n", block.display());
            sh(&format!("printf '{script}' | debugfs -w -f - {} 2>&1", image.display()));
            assert!(sh(&format!("dumpe2fs -h {} 2>&1", image.display())).contains("needs_recovery"));
        }
        Self::of(fs::read(&image).unwrap())
    }

    /// An image, to be changed where it is not all zeros.
    pub fn of(bytes: Vec<u8>) -> Self {
        let is_used = |at: &usize| bytes[*at..(*at + 16).min(bytes.len())].iter().any(|b| *b != 0);
        let used = (0..bytes.len()).step_by(16).filter(is_used).collect();
        Self { bytes: bytes.into(), used }
    }

    /// The image with some bytes changed, each where the original is not all zeros.
    pub fn patched(&self, patches: impl IntoIterator<Item = Patch>) -> Arc<dyn BlockSource> {
        let place = |(place, into, value, len): Patch| {
            // places are 16 bits, images have more
            let spread = usize::from(place) * self.used.len() / (1 << 16) + usize::from(into >> 4);
            let at = self.used[spread % self.used.len()] + usize::from(into % 16);
            let len = usize::from(len % 8 + 1).min(self.bytes.len().saturating_sub(at));
            (at, value.to_le_bytes()[..len].to_vec())
        };
        Arc::new(Patched {
            bytes: Arc::clone(&self.bytes),
            patches: patches.into_iter().map(place).collect(),
        })
    }
}

/// An image with some bytes changed, without a copy of it.
struct Patched {
    bytes: Arc<[u8]>,
    patches: Vec<(usize, Vec<u8>)>,
}

impl BlockSource for Patched {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let start = offset.get() as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        for (at, bytes) in &self.patches {
            for (at, byte) in (*at..).zip(bytes) {
                if let Some(target) = at.checked_sub(start).and_then(|at| buf.get_mut(at)) {
                    *target = *byte;
                }
            }
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let _stop = visit(Extent { range, kind: ExtentKind::Data });
        Ok(())
    }
}

fn small_tree(tree: &Path) {
    fs::create_dir_all(tree.join("dir/below")).unwrap();
    fs::write(tree.join("dir/file"), noise(1, 30_000)).unwrap();
    fs::write(tree.join("dir/below/tiny"), "tiny").unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    for i in 0..12 {
        sparse.write_all_at(&noise(i, 1000), i * 40_000).unwrap();
    }
    symlink("t".repeat(100), tree.join("link")).unwrap();
    for i in 0..30 {
        fs::write(tree.join(format!("dir/a long enough name to fill some blocks {i}")), "").unwrap();
    }
    rustix::fs::setxattr(tree.join("dir/file"), "user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
}
