//! Every format with every option that changes how bytes lie, as qemu-img makes it.

use crate::oracle::{Stage, content, data_bytes, qemu_img};
use block::{ByteOffset, ByteRange};
use formats::{Format, Reach, open};

/// What qemu calls a format, how it is to be made, and what it is here.
const IMAGES: &[(&str, &[&str], Format)] = &[
    ("raw", &[], Format::Raw),
    ("qcow2", &[], Format::Qcow2),
    ("qcow2", &["-o", "compat=0.10"], Format::Qcow2),
    ("qcow2", &["-o", "cluster_size=512"], Format::Qcow2),
    ("qcow2", &["-o", "cluster_size=2M"], Format::Qcow2),
    ("qcow2", &["-o", "lazy_refcounts=on,refcount_bits=1"], Format::Qcow2),
    ("qcow2", &["-o", "preallocation=metadata"], Format::Qcow2),
    ("qcow2", &["-o", "preallocation=full"], Format::Qcow2),
    ("qcow2", &["-o", "extended_l2=on"], Format::Qcow2),
    ("qcow2", &["-o", "extended_l2=on,cluster_size=16k"], Format::Qcow2),
    ("qcow2", &["-o", "extended_l2=on,cluster_size=2M"], Format::Qcow2),
    ("qcow2", &["-c"], Format::Qcow2),
    ("qcow2", &["-c", "-o", "compat=0.10,cluster_size=4k"], Format::Qcow2),
    ("qcow2", &["-c", "-o", "compression_type=zstd"], Format::Qcow2),
    ("qcow2", &["-c", "-o", "compression_type=zstd,cluster_size=2M"], Format::Qcow2),
    ("qcow2", &["-c", "-o", "compression_type=zstd,extended_l2=on"], Format::Qcow2),
    ("vpc", &[], Format::Vhd),
    ("vpc", &["-o", "force_size=on"], Format::Vhd),
    ("vpc", &["-o", "subformat=fixed"], Format::Vhd),
    ("vpc", &["-o", "subformat=fixed,force_size=on"], Format::Vhd),
    ("vhdx", &[], Format::Vhdx),
    ("vhdx", &["-o", "block_size=1M"], Format::Vhdx),
    ("vhdx", &["-o", "block_size=256M,block_state_zero=off"], Format::Vhdx),
    ("vhdx", &["-o", "subformat=fixed"], Format::Vhdx),
    ("vmdk", &[], Format::Vmdk),
    ("vmdk", &["-o", "zeroed_grain=on"], Format::Vmdk),
    ("vmdk", &["-o", "compat6=on,adapter_type=lsilogic"], Format::Vmdk),
    ("vmdk", &["-o", "subformat=streamOptimized"], Format::Vmdk),
    ("vmdk", &["-o", "subformat=monolithicFlat"], Format::Vmdk),
    ("vmdk", &["-o", "subformat=twoGbMaxExtentSparse"], Format::Vmdk),
    ("vmdk", &["-o", "subformat=twoGbMaxExtentFlat"], Format::Vmdk),
];

#[test]
fn whatever_qemu_makes_reads_as_what_went_in() {
    for (name, options, format) in IMAGES {
        let stage = Stage::set();
        let path = stage.made(&format!("image.{}", format.name()), name, options);
        let opened =
            open(&path, None, Reach::Below).unwrap_or_else(|error| panic!("{name} {options:?}: {error}"));
        assert_eq!(opened.format, *format, "{name} {options:?}");
        let mut wanted = content();
        // qemu rounds a VHD up to what cylinders, heads and sectors can say
        assert!(opened.disk.size().get() >= wanted.len() as u64, "{name} {options:?}");
        wanted.resize(opened.disk.size().get() as usize, 0);
        if options.iter().any(|option| option.contains("force_size")) || *format != Format::Vhd {
            assert_eq!(wanted.len(), content().len(), "{name} {options:?}");
        }
        sim::conformance::block_source(&*opened.disk, &wanted);
        let is_full = options.contains(&"preallocation=full");
        let data = data_bytes(&*opened.disk);
        assert!(is_full || data < 10 << 20, "{name} {options:?}: {data} bytes of data");
    }
}

#[test]
fn a_tebibyte_of_holes_is_walked_at_once() {
    let stage = Stage::set();
    for (name, options, format) in [
        ("raw", "", Format::Raw),
        ("qcow2", "", Format::Qcow2),
        ("qcow2", "extended_l2=on", Format::Qcow2),
        ("vpc", "force_size=on", Format::Vhd),
        ("vhdx", "", Format::Vhdx),
        ("vmdk", "", Format::Vmdk),
        ("vmdk", "subformat=twoGbMaxExtentSparse", Format::Vmdk),
    ] {
        let path = stage.text(&format!("{name}{}.{format}", options.len()));
        let options = if options.is_empty() { vec![] } else { vec!["-o", options] };
        qemu_img(&[&["create", "-q", "-f", name][..], &options, &[&path, "1T"]].concat());
        // far inside, across an edge of every table, and at the very end
        let places = [(300u64 << 30) - 4096, (1 << 40) - 8192];
        let commands = places.map(|at| format!("write -P 7 {at} 8k"));
        crate::oracle::qemu_io(name, &path, &commands.each_ref().map(String::as_str));
        let disk = open(path.as_ref(), None, Reach::Below).expect("opened").disk;
        assert_eq!(disk.size().get(), 1 << 40);
        for at in places {
            let mut buf = vec![0; 8192];
            disk.read_at(ByteOffset::new(at), &mut buf).expect("read");
            assert!(buf.iter().all(|&byte| byte == 7), "{name} at {at}");
        }
        let data = data_bytes(&*disk);
        assert!((16384..64 << 20).contains(&data), "{name} {options:?}: {data} bytes of data");
        let tail = ByteRange::between((1 << 40) - (1 << 30), 1 << 40);
        let mut seen = 0;
        disk.extents(tail, &mut |extent| {
            seen += extent.range.count().get();
            std::ops::ControlFlow::Continue(())
        })
        .expect("walked");
        assert_eq!(seen, 1 << 30);
    }
}
