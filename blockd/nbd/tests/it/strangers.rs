//! The tools of libnbd, qemu and fio against our server.

use crate::stage::{Stage, noise, run};
use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Provision, Visit,
};
use nbd::{Access, Export, ExportInfo, Exports, Limits, Listener, Peer, Server, wire};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

#[test]
fn nbdinfo_is_told_everything() {
    let stage = Stage::new(64 * MIB + 512);
    let text = run("nbdinfo", &[&stage.uri("disk").to_string()]);
    for line in [
        "newstyle-fixed without TLS, using structured packets",
        "export-size: 67109376",
        "description: the disk",
        "base:allocation",
        "is_rotational: false",
        "is_read_only: false",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let text = run("nbdinfo", &["--list", &stage.uri("").to_string()]);
    assert!(text.contains("export=\"disk\"") && text.contains("export=\"disk@1\""), "{text}");
    let text = run("nbdinfo", &[&stage.uri("disk@1").to_string()]);
    assert!(text.contains("is_read_only: true") && text.contains("can_trim: false"), "{text}");
}

#[test]
fn nbdinfo_draws_the_map() {
    let stage = Stage::new(8 * MIB);
    stage.disk.write_at(ByteOffset::new(MIB), &noise(65536, 1)).unwrap();
    stage.disk.zero(ByteRange::between(2 * MIB, 3 * MIB), Provision::Sparse).unwrap();
    let text = run("nbdinfo", &["--map", &stage.uri("disk").to_string()]);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["0", "1048576", "3"],
        ["1048576", "65536", "0"],
        ["1114112", "983040", "3"],
        ["2097152", "1048576", "2"],
        ["3145728", "5242880", "3"],
    ];
    assert_eq!(rows.len(), expected.len(), "{text}");
    rows.iter().zip(expected).for_each(|(row, expected)| assert_eq!(row[..3], expected, "{text}"));
}

#[test]
fn nbdinfo_draws_a_map_longer_than_one_reply() {
    let blocks = 140_000u64;
    let stage = Stage::new(blocks * 4096);
    for block in (0..blocks).step_by(2) {
        stage.disk.write_at(ByteOffset::new(block * 4096), &[1]).unwrap();
    }
    let text = run("nbdinfo", &["--map", &stage.uri("disk").to_string()]);
    assert_eq!(text.lines().count() as u64, blocks);
}

/// A raw image with data, holes and an odd size.
fn image(stage: &Stage, size: u64) -> (std::path::PathBuf, Vec<u8>) {
    let mut bytes = vec![0; size as usize];
    for (start, count) in [(0, 4096), (MIB, 3 * MIB), (10 * MIB + 512, 12_345), (size - 700, 700)] {
        bytes[start as usize..(start + count) as usize].copy_from_slice(&noise(count as usize, start + 1));
    }
    let path = stage.folder.path().join("image");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn nbdcopy_copies_both_ways_over_four_connections() {
    let stage = Stage::new(32 * MIB + 512);
    let (path, bytes) = image(&stage, 32 * MIB + 512);
    let uri = stage.uri("disk").to_string();
    run("nbdcopy", &["--connections=4", "--flush", path.to_str().unwrap(), &uri]);
    assert!(stage.disk.contents() == bytes, "copied in");
    let out = stage.folder.path().join("out");
    run("nbdcopy", &["--connections=4", &uri, out.to_str().unwrap()]);
    assert!(std::fs::read(out).unwrap() == bytes, "copied out");
    let used: Vec<_> = stage.server.stats();
    assert_eq!(used[0].name, "disk");
    assert!(used[0].counts.of(nbd::wire::CMD_WRITE).requests > 0);
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let stage = Stage::new(32 * MIB + 512);
    let (path, bytes) = image(&stage, 32 * MIB + 512);
    let (uri, path) = (stage.uri("disk").to_string(), path.to_str().unwrap());
    run("qemu-img", &["convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", path, &uri]);
    assert!(stage.disk.contents() == bytes);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", path, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", path, &stage.uri("disk@1").to_string()]);
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert!(map.contains(r#""zero": true"#) && map.contains(r#""data": true"#), "{map}");
    let out = stage.folder.path().join("out");
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, out.to_str().unwrap()]);
    assert!(std::fs::read(out).unwrap() == bytes);
}

#[test]
fn qemu_io_does_every_kind_of_request() {
    let stage = Stage::new(64 * MIB);
    let commands = [
        "write -P 0xab 1m 64k",
        "write -f -P 0xcd 2m 4k",
        "write -P 0xee 8m 1m",
        "write -z -u 8m 1m",
        "write -P 0xee 12m 1m",
        "write -z 12m 1m",
        "write -z -n -u 20m 40m",
        "write -P 0xee 16m 1m",
        "discard 16m 1m",
        "write -P 0x11 513 1000",
        "read -P 0xab 1m 64k",
        "read -P 0xcd 2m 4k",
        "read -P 0 8m 1m",
        "read -P 0 12m 1m",
        "read -P 0 16m 1m",
        "read -P 0x11 513 1000",
        "flush",
    ];
    let uri = stage.uri("disk").to_string();
    let mut args = vec!["-f", "raw", "-d", "unmap"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    args.push(&uri);
    let text = run("qemu-io", &args);
    assert!(!text.contains("failed") && !text.contains("verification"), "{text}");
    assert!(stage.disk.flushes.load(std::sync::atomic::Ordering::SeqCst) >= 2);
}

/// A tool that runs until the test ends.
struct Running(Child);

impl Running {
    /// Starts it and waits until `sign` exists.
    fn start(program: &str, args: &[&str], sign: &Path) -> Self {
        let child = Command::new(program).args(args).stdout(Stdio::null()).spawn();
        let mut running = Self(child.unwrap_or_else(|error| panic!("{program}: {error}")));
        for _ in 0..500 {
            if sign.exists() {
                return running;
            }
            assert!(running.0.try_wait().unwrap().is_none(), "{program} ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{program} does not come up");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn nbdfuse_shows_the_export_as_a_file() {
    let stage = Stage::new(8 * MIB);
    let (folder, uri) = (stage.folder.path().join("mnt"), stage.uri("disk").to_string());
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("nbd");
    let fuse = Running::start("nbdfuse", &[folder.to_str().unwrap(), &uri], &file);
    let bytes = noise(3 * MIB as usize, 9);
    let open = std::fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, &bytes, 1234).unwrap();
    open.sync_all().unwrap();
    assert!(stage.disk.contents()[1234..][..bytes.len()] == bytes);
    let mut back = vec![0; bytes.len()];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut back, 1234).unwrap();
    assert!(back == bytes);
    drop(open);
    run("fusermount3", &["-u", folder.to_str().unwrap()]);
    drop(fuse);
}

#[test]
fn qemu_storage_daemon_builds_on_our_export() {
    let stage = Stage::new(8 * MIB);
    let bytes = noise(8 * MIB as usize, 4);
    stage.disk.write_at(ByteOffset::ZERO, &bytes).unwrap();
    let again = stage.folder.path().join("again.sock");
    let socket = stage.socket();
    let node =
        format!("driver=nbd,node-name=n,server.type=unix,server.path={},export=disk", socket.display());
    let server = format!("addr.type=unix,addr.path={}", again.display());
    let args = [
        "--blockdev",
        &node,
        "--nbd-server",
        &server,
        "--export",
        "type=nbd,id=e,node-name=n,name=a,writable=on",
    ];
    let _daemon = Running::start("qemu-storage-daemon", &args, &again);
    let uri = format!("nbd+unix:///a?socket={}", again.display());
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &stage.uri("disk@1").to_string()]);
    run("qemu-io", &["-f", "raw", "-c", "write -P 0x5a 1m 1m", "-c", "flush", &uri]);
    assert!(stage.disk.contents()[MIB as usize..2 * MIB as usize].iter().all(|byte| *byte == 0x5a));
    assert!(stage.disk.flushes.load(std::sync::atomic::Ordering::SeqCst) >= 1);
}

/// 9 GiB of nothing.
struct Vast;

impl BlockSource for Vast {
    fn size(&self) -> ByteCount {
        ByteCount::new(9 << 30)
    }
    fn read_at(&self, _: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        buf.fill(0);
        Ok(())
    }
    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let _stop = visit(Extent { range, kind: ExtentKind::Hole });
        Ok(())
    }
}

impl BlockDevice for Vast {
    fn write_at(&self, _: ByteOffset, _: &[u8]) -> block::Result<()> {
        Ok(())
    }
    fn zero(&self, _: ByteRange, _: Provision) -> block::Result<()> {
        Ok(())
    }
    fn discard(&self, _: ByteRange) -> block::Result<()> {
        Ok(())
    }
    fn flush(&self) -> block::Result<()> {
        Ok(())
    }
}

impl Exports for Vast {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }
    fn open(&self, _name: &str, _peer: &Peer) -> block::Result<Export> {
        Ok(Export::new(Access::ReadWrite(Arc::new(Self)), ""))
    }
}

#[test]
fn qemu_zeroes_and_maps_8_gib_in_one_request_by_extended_headers() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = Listener::unix(&socket, 0o600).unwrap();
    let server = Server::start(vec![listener], Arc::new(Vast), Limits::default()).unwrap();
    let uri = nbd::Uri::unix(&socket, "vast").to_string();
    run(
        "qemu-io",
        &["-f", "raw", "-d", "unmap", "-c", "write -z -n -u 0 8G", "-c", "discard 0 1G", "-c", "map", &uri],
    );
    let counts = server.stats()[0].counts;
    let of = |command| (counts.of(command).requests, counts.of(command).bytes);
    assert_eq!(of(wire::CMD_WRITE_ZEROES), (1, 8 << 30));
    assert_eq!(of(wire::CMD_TRIM), (1, 1 << 30));
    assert!(of(wire::CMD_BLOCK_STATUS).1 >= 9 << 30);
    server.stop();
}

fn fio(stage: &Stage, more: &[&str]) {
    let uri = format!("--uri={}", stage.uri("disk"));
    let mut args = vec![
        "--name=job",
        "--ioengine=nbd",
        &uri,
        "--randseed=7",
        "--output-format=terse",
        "--verify_state_save=0",
    ];
    args.extend(more);
    run("fio", &args);
}

#[test]
fn fio_writes_and_verifies_under_load() {
    let stage = Stage::new(64 * MIB);
    fio(
        &stage,
        &[
            "--rw=randwrite",
            "--bsrange=512-128k",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=1024",
            "--iodepth=16",
            "--size=64m",
        ],
    );
    fio(&stage, &["--rw=randtrimwrite", "--bs=4k", "--iodepth=16", "--size=16m"]);
    fio(&stage, &["--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=32", "--size=8m"]);
}
