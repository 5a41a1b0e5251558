//! Everything written here, judged by qemu: the same bytes, sound tables, and as sparse as it was.

use crate::oracle::{SIZE, Stage, bytes_of, content, qemu_img, qemu_io};
use block::linux::{KernelEntropy, LinuxMedia};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Media, MemoryDisk, OpenHow};
use formats::{Format, Output, Reach, open, write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const OUTPUTS: [Output; 7] = [
    Output::Raw,
    Output::Qcow2 { compressed: false },
    Output::Qcow2 { compressed: true },
    Output::Vhd { fixed: false },
    Output::Vhd { fixed: true },
    Output::Vhdx,
    Output::Vmdk,
];

/// What qemu calls the format.
fn qemu_name(output: Output) -> &'static str {
    if output.format() == Format::Vhd { "vpc" } else { output.format().name() }
}

/// The disk's size as qemu sees it.
fn qemu_size(output: Output, path: &str) -> u64 {
    let info = qemu_img(&["info", "-f", qemu_name(output), "--output=json", path]);
    let mut sizes = info.lines().filter_map(|line| line.trim().strip_prefix("\"virtual-size\": "));
    // the last one is the image's; those before are of the files it is made of
    let size = sizes.next_back().and_then(|size| size.trim_end_matches(',').parse().ok());
    size.unwrap_or_else(|| panic!("{info}"))
}

/// Writes a source into a new file of the stage.
fn written(stage: &Stage, from: &dyn BlockSource, output: Output) -> PathBuf {
    let path = stage.path(&format!("written.{}", output.format()));
    let folder = path.parent().expect("a folder");
    let file = LinuxMedia::new(folder, folder).and_then(|media| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        media.open(name, OpenHow::Truncate)
    });
    write(from, &*file.expect("made"), output, "written", &KernelEntropy, &mut |_| Ok(())).expect("written");
    path
}

fn disk_of(bytes: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(ByteCount::new(bytes.len() as u64));
    disk.write_at(ByteOffset::ZERO, bytes).expect("filled");
    disk
}

/// Bytes of a file that have room on the host.
fn allocated(path: &Path) -> u64 {
    path.metadata().expect("a file").blocks() * 512
}

#[test]
fn qemu_reads_the_same_bytes_and_so_do_we() {
    let disk = disk_of(&content());
    for output in OUTPUTS {
        let stage = Stage::set();
        let path = written(&stage, &disk, output);
        let text = path.display().to_string();
        let raw = stage.raw();
        assert_eq!(qemu_size(output, &text), SIZE, "{output:?}");
        qemu_img(&["compare", "-f", "raw", "-F", qemu_name(output), &raw, &text]);
        if !matches!(output, Output::Raw | Output::Vhd { .. }) {
            qemu_img(&["check", "-f", qemu_name(output), &text]);
        }
        let opened = open(&path, None, Reach::Below).expect("opened");
        sim::conformance::block_source(&*opened.disk, &content());
        let most = if matches!(output, Output::Vhdx) { 4 << 20 } else { 3 << 20 };
        assert!(allocated(&path) < most, "{output:?} takes {} bytes", allocated(&path));
    }
}

#[test]
fn any_size_goes_and_sizes_that_are_no_sectors_are_rounded_up() {
    let bytes = &content()[..200_000];
    for size in [0, 1, 511, 512, 513, 65_535, 65_536, 65_537, 131_072, 200_000] {
        for output in OUTPUTS {
            let stage = Stage::set();
            let path = written(&stage, &disk_of(&bytes[..size]), output);
            let opened = open(&path, Some(output.format()), Reach::Below).expect("opened");
            let rounded = if output == Output::Raw { size } else { size.next_multiple_of(512) };
            assert_eq!(opened.disk.size().get(), rounded as u64, "{output:?}");
            let mut wanted = bytes[..size].to_vec();
            wanted.resize(rounded, 0);
            assert_eq!(bytes_of(&*opened.disk), wanted, "{output:?} of {size}");
            if size == 200_000 || size == 513 {
                let raw = stage.text("part.raw");
                std::fs::write(&raw, &wanted).expect("written");
                let text = path.display().to_string();
                // what qemu makes of a raw file ends with a sector
                let format = qemu_name(output);
                if output != Output::Raw {
                    qemu_img(&["compare", "-f", "raw", "-F", format, &raw, &text]);
                    assert_eq!(qemu_size(output, &text), rounded as u64, "{output:?}");
                }
            }
        }
    }
}

#[test]
fn a_tebibyte_of_holes_stays_one() {
    let stage = Stage::set();
    let source = stage.text("source.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &source, "1T"]);
    let places = [0, (300u64 << 30) - 4096, (1 << 40) - 8192];
    let commands = places.map(|at| format!("write -P 7 {at} 8k"));
    qemu_io("qcow2", &source, &commands.each_ref().map(String::as_str));
    let disk = open(source.as_ref(), None, Reach::Below).expect("opened").disk;
    for output in OUTPUTS {
        let path = written(&stage, &*disk, output);
        let text = path.display().to_string();
        assert!(allocated(&path) < 8 << 20, "{output:?} takes {} bytes", allocated(&path));
        let format = qemu_name(output);
        assert_eq!(qemu_size(output, &text), 1 << 40, "{output:?}");
        for at in places {
            qemu_io(
                format,
                &text,
                &[&format!("read -P 7 {at} 8k"), &format!("read -P 0 {} 8k", at ^ (1 << 33))],
            );
        }
        if matches!(output, Output::Qcow2 { .. } | Output::Vhdx) {
            qemu_img(&["check", "-f", format, &text]);
            let map = qemu_img(&["map", "-f", format, "--output=json", &text]);
            let data = map.lines().filter(|line| line.contains("\"data\": true")).count();
            assert!(data <= 8, "{output:?}: {map}");
        }
        std::fs::remove_file(path).expect("removed");
    }
}

/// More clusters than one block of counts has, whose edges fall among compressed and plain clusters and tables.
#[test]
fn qcow2_counts_its_clusters_beyond_one_block() {
    let stage = Stage::set();
    let raw = stage.text("large.raw");
    qemu_img(&["create", "-q", "-f", "raw", &raw, "5G"]);
    // every cluster has a little, so that every one is taken while the file stays sparse
    let source = Speckled(ByteCount::new(5 << 30));
    for compressed in [false, true] {
        let path = written(&stage, &source, Output::Qcow2 { compressed });
        let text = path.display().to_string();
        let checked = qemu_img(&["check", "-f", "qcow2", "--output=json", &text]);
        assert!(checked.contains("\"allocated-clusters\": 81920"), "{checked}");
        for cluster in [0u64, 32_700, 32_767, 32_768, 65_535, 81_919] {
            let at = (cluster << 16) + 4096;
            qemu_io("qcow2", &text, &[&format!("read -P {} {at} 4k", Speckled::mark(at))]);
        }
        let disk = open(&path, None, Reach::Below).expect("opened").disk;
        let mut block = vec![0; 4096];
        for cluster in 0..81_920u64 {
            let at = (cluster << 16) + 4096;
            disk.read_at(ByteOffset::new(at), &mut block).expect("read");
            assert!(block.iter().all(|&byte| byte == Speckled::mark(at)), "cluster {cluster}");
        }
        std::fs::remove_file(path).expect("removed");
    }
}

/// The second block of every 64 KiB has a mark, the others are zeros.
struct Speckled(ByteCount);

impl Speckled {
    fn mark(at: u64) -> u8 {
        (at >> 16) as u8 | 1
    }
}

impl BlockSource for Speckled {
    fn size(&self) -> ByteCount {
        self.0
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        for (index, block) in buf.chunks_mut(4096).enumerate() {
            let at = offset.get() + index as u64 * 4096;
            block.fill(if (at >> 12) % 16 == 1 { Self::mark(at) } else { 0 });
        }
        Ok(())
    }

    fn extents(&self, range: block::ByteRange, visit: &mut block::Visit<'_>) -> block::Result<()> {
        let _stop = visit(block::Extent { range, kind: block::ExtentKind::Data });
        Ok(())
    }
}

#[test]
fn a_disk_too_large_for_a_format_is_refused_before_anything_is_written() {
    for (output, gib) in [(Output::Vhd { fixed: false }, 2041), (Output::Vmdk, 2047)] {
        let error = output.size(ByteCount::new(gib << 30)).expect_err("too large");
        assert_eq!(error.kind(), block::Kind::Unsupported, "{error}");
        assert!(output.size(ByteCount::new(SIZE)).is_ok());
    }
}
