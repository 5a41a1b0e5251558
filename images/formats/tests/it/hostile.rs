//! Images that lie: any bit turned over, any end cut off. Nothing panics, nothing is read that is not there.

use crate::oracle::{Stage, qemu_img};
use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Failure, Kind, Visit, check_range,
};
use formats::{Format, Reach, open, read};
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A file's bytes up to a length, with one byte changed.
struct Bytes {
    bytes: Arc<Vec<u8>>,
    len: usize,
    changed: Option<(usize, u8)>,
}

impl BlockSource for Bytes {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.len as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let start = offset.get() as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        if let Some((at, byte)) = self.changed
            && (start..start + buf.len()).contains(&at)
        {
            buf[at - start] = byte;
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let _stop = visit(Extent { range, kind: ExtentKind::Data });
        Ok(())
    }
}

const WINDOW: u64 = 4 << 20;

/// Walks and reads the beginning and the end of a disk; gives the bytes of the beginning.
fn walk(disk: &dyn BlockSource) -> block::Result<Vec<u8>> {
    let size = disk.size().get();
    let mut first = Vec::new();
    for start in [size.saturating_sub(WINDOW), 0] {
        let range = ByteRange::between(start, size.min(start + WINDOW));
        let mut end = start;
        disk.extents(range, &mut |extent| {
            assert!(
                extent.range.start() == end && extent.range.end() <= range.end() && !extent.range.is_empty()
            );
            end = extent.range.end();
            ControlFlow::Continue(())
        })?;
        assert_eq!(end, range.end());
        first = vec![0; range.count().get() as usize];
        disk.read_at(range.offset(), &mut first)?;
    }
    Ok(first)
}

/// Small images of every layout that has tables.
fn images(stage: &Stage) -> Vec<(String, Format, Arc<Vec<u8>>)> {
    let raw = stage.text("small.raw");
    let mut content = crate::oracle::content();
    content.truncate(1_300_000 / 512 * 512);
    fs::write(&raw, content).expect("written");
    let kinds: [(&str, &[&str], Format); 9] = [
        ("qcow2", &[], Format::Qcow2),
        ("qcow2", &["-o", "cluster_size=512"], Format::Qcow2),
        ("qcow2", &["-o", "extended_l2=on"], Format::Qcow2),
        ("qcow2", &["-c"], Format::Qcow2),
        ("qcow2", &["-c", "-o", "compression_type=zstd"], Format::Qcow2),
        ("vpc", &["-o", "force_size=on"], Format::Vhd),
        ("vhdx", &["-o", "block_size=1M"], Format::Vhdx),
        ("vmdk", &[], Format::Vmdk),
        ("vmdk", &["-o", "subformat=streamOptimized"], Format::Vmdk),
    ];
    kinds
        .into_iter()
        .map(|(name, options, format)| {
            let path = stage.text("small.image");
            qemu_img(&[&["convert", "-f", "raw", "-O", name], options, &[&raw, &path]].concat());
            let bytes = Arc::new(fs::read(path).expect("read"));
            (format!("{name} {options:?}"), format, bytes)
        })
        .collect()
}

fn opened(format: Format, bytes: Bytes) -> block::Result<Vec<u8>> {
    let disk = read("image", Arc::new(bytes), format)?;
    walk(&*disk)
}

#[test]
fn any_bit_may_be_turned_over() {
    let stage = Stage::set();
    let soak = std::env::var_os("BLOCKD_SOAK").is_some();
    let rounds = if soak { 20_000 } else { 250 };
    let mut rng = sim::Rng::new(11);
    for (name, format, bytes) in images(&stage) {
        let mut refused = 0;
        for _ in 0..rounds {
            // headers, tables, and anything
            let limit = [96, 4096, 70 << 10, 512 << 10, 3 << 20, bytes.len() as u64][rng.below(6) as usize];
            let at = rng.below(limit.min(bytes.len() as u64)) as usize;
            let changed = Some((at, bytes[at] ^ 1 << rng.below(8)));
            match opened(format, Bytes { bytes: bytes.clone(), len: bytes.len(), changed }) {
                Ok(_) => {}
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, Kind::Corrupt | Kind::Unsupported | Kind::Invalid),
                        "{name} with byte {at} changed: {kind:?} {error}"
                    );
                    refused += 1;
                }
            }
        }
        assert!(refused > rounds / 50, "{name}: {refused} refused");
    }
}

#[test]
fn an_image_that_was_cut_off_is_refused_or_whole() {
    let stage = Stage::set();
    let mut rng = sim::Rng::new(12);
    for (name, format, bytes) in images(&stage) {
        let whole =
            opened(format, Bytes { bytes: bytes.clone(), len: bytes.len(), changed: None }).expect("whole");
        let lens = (0..60).map(|_| rng.below(bytes.len() as u64) as usize);
        for len in
            lens.chain([0, 1, 511, 512, 4096, 65536, bytes.len() - 1, bytes.len() - 512, bytes.len() - 513])
        {
            match opened(format, Bytes { bytes: bytes.clone(), len, changed: None }) {
                Ok(read) => {
                    assert!(read == whole, "{name} cut to {len} of {} bytes reads other bytes", bytes.len())
                }
                Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "{name} cut to {len}: {error}"),
            }
        }
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let stage = Stage::set();
    let secret = "secret,id=key,data=abc";
    let encrypted = stage.text("encrypted.qcow2");
    let options = "encrypt.format=luks,encrypt.key-secret=key";
    qemu_img(&["create", "-q", "-f", "qcow2", "--object", secret, "-o", options, &encrypted, "1M"]);
    let external = stage.text("external.qcow2");
    let data = format!("data_file={}", stage.text("external.raw"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data, &external, "1M"]);
    let corrupt = stage.text("corrupt.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &corrupt, "1M"]);
    set_bytes(&corrupt, 79, &[2]);
    let future = stage.text("future.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &future, "1M"]);
    set_bytes(&future, 79, &[1 << 7]);
    let esx = stage.text("esx.vmdk");
    fs::write(&esx, [b"COWD".as_slice(), &[0; 2044]].concat()).expect("written");
    let seven = stage.text("seven.vmdk");
    let text =
        "# Disk DescriptorFile\nversion=4\nCID=00000001\nparentCID=ffffffff\ncreateType=\"seSparse\"\n";
    fs::write(&seven, text).expect("written");
    for (path, kind, says) in [
        (&encrypted, Kind::Unsupported, "encryption"),
        (&external, Kind::Unsupported, "external data file"),
        (&corrupt, Kind::Invalid, "corrupt"),
        (&future, Kind::Unsupported, "feature bit 7"),
        (&esx, Kind::Unsupported, "COW"),
        (&seven, Kind::Unsupported, "seSparse"),
    ] {
        let error = open(path.as_ref(), None, Reach::Below).err().expect("refused");
        assert!(error.kind() == kind && error.to_string().contains(says), "{path}: {error}");
    }
    // dirty says only that reference counts may be wrong
    set_bytes(&future, 79, &[1]);
    assert!(open(future.as_ref(), None, Reach::Below).is_ok());
}

/// A differencing image is its parent's content too, so it must not read as zeros where it has nothing.
#[test]
fn differencing_images_are_refused_by_name() {
    let stage = Stage::set();
    let vhd = stage.made("child.vhd", "vpc", &["-o", "force_size=on"]);
    let mut bytes = fs::read(&vhd).expect("read");
    for footer in [0, bytes.len() - 512] {
        bytes[footer + 63] = 4;
        let sum = u32::from_be_bytes(bytes[footer + 64..footer + 68].try_into().expect("four")) - 1;
        bytes[footer + 64..footer + 68].copy_from_slice(&sum.to_be_bytes());
    }
    fs::write(&vhd, bytes).expect("written");
    let vhdx = stage.made("child.vhdx", "vhdx", &[]);
    let bytes = fs::read(&vhdx).expect("read");
    // file parameters: block size, then flags
    let parameters = [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d];
    let item = bytes.windows(8).position(|eight| eight == parameters).expect("an item");
    let table = bytes.windows(8).position(|eight| eight == b"metadata").expect("a table");
    let offset = u32::from_le_bytes(bytes[item + 16..item + 20].try_into().expect("four")) as usize;
    set_bytes(&vhdx.display().to_string(), table + offset + 4, &[2]);
    for path in [vhd, vhdx] {
        let error = open(&path, None, Reach::Below).err().expect("refused");
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains("differencing"), "{error}");
    }
}

fn set_bytes(path: &str, at: usize, bytes: &[u8]) {
    let mut all = fs::read(path).expect("read");
    all[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, all).expect("written");
}
