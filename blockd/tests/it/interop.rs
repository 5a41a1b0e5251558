//! The test programs of two other projects, compiled from their sources and turned on the daemon: libnbd's interop
//! programs and the tester of the NBD reference implementation. `cargo xtask test` fetches the sources.

use crate::fixture::{State, noise};
use block::{BlockDevice, ByteRange, Provision};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The unpacked source of a Debian package.
fn source(name: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sources").join(name);
    assert!(place.is_dir(), "{} is missing: cargo xtask test fetches it", place.display());
    place
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("a process");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Compiles files of a source as its own build does, but for what it would find out about the host.
fn compile(root: &Path, to: &Path, files: &[&str], library: &str, more: &[String]) {
    let flags = run(Command::new("pkg-config").args(["--cflags", "--libs", library])).stdout;
    let flags = String::from_utf8(flags).expect("flags");
    std::fs::write(to.with_file_name("config.h"), "").expect("an empty configuration");
    let mut cc = Command::new("cc");
    cc.current_dir(root).args(["-w", "-O1", "-I."]).arg("-I").arg(to.parent().expect("a folder"));
    run(cc.args(more).args(files).arg("-o").arg(to).args(flags.split_whitespace()));
}

#[test]
fn the_interop_programs_of_libnbd_start_the_daemon_and_pass() {
    let (state, built) = (State::new(), TempDir::new().expect("a folder"));
    let daemon = state.start();
    daemon.create("interop", 1 << 20);
    assert!(daemon.stop().success());
    let root = source("libnbd");
    let text = |name: &str, value: &str| format!("-D{name}=\"{value}\"");
    let parameters = format!("-DSERVER_PARAMS=\"serve\",\"--state\",\"{}\"", state.path().display());
    let common = [
        "-Itests".to_owned(),
        "-Icommon/include".to_owned(),
        "-DSOCKET_ACTIVATION=1".to_owned(),
        text("SERVER", env!("CARGO_BIN_EXE_blockd")),
        parameters,
    ];
    let programs = [
        // a disk by its name; the only disk as the default; the list
        ("interop", vec![text("EXPORT_NAME", "interop")]),
        ("socket-activation", vec![]),
        ("list-exports", vec![text("EXPORTS", "interop"), text("DESCRIPTIONS", "disk interop")]),
    ];
    for (name, own) in programs {
        let program = built.path().join(name);
        let more: Vec<String> = common.iter().cloned().chain(own).collect();
        compile(&root, &program, &[&format!("interop/{name}.c"), "interop/requires.c"], "libnbd", &more);
        run(&mut Command::new(&program));
    }
}

/// A bitmap of qemu's in the eyes of libnbd's program is what changed since an older recovery point in ours. The program asks for
/// the default export; a line before it asks for a point.
#[test]
fn the_program_for_dirty_bitmaps_reads_what_changed_between_points() {
    const K64: usize = 64 << 10;
    let (state, built) = (State::new(), TempDir::new().expect("a folder"));
    let daemon = state.start();
    daemon.create("interop", 1 << 20);
    daemon.write("interop", 0, &noise(1, K64));
    let older = daemon.snapshot("interop");
    daemon.write("interop", K64 as u64, &noise(2, K64));
    let zeros = ByteRange::between(8 * K64 as u64, 9 * K64 as u64);
    daemon.export("interop").zero(zeros, Provision::Sparse).expect("zeros");
    let newer = daemon.snapshot("interop");
    let (root, program) = (source("libnbd"), built.path().join("dirty-bitmap"));
    let before = built.path().join("before.h");
    let text = format!(
        "#include <libnbd.h>\n\
         #define nbd_connect_systemd_socket_activation(h, a) \
         (nbd_set_export_name(h, \"{newer}\") ? -1 : nbd_connect_systemd_socket_activation(h, a))\n"
    );
    std::fs::write(&before, text).expect("a line");
    let more = ["-include".to_owned(), before.display().to_string()];
    compile(&root, &program, &["interop/dirty-bitmap.c"], "libnbd", &more);
    assert!(daemon.stop().success());
    let serve = [env!("CARGO_BIN_EXE_blockd"), "serve", "--state"];
    run(Command::new(&program).arg(format!("qemu:dirty-bitmap:{older}")).args(serve).arg(state.path()));
}

#[test]
fn the_tester_of_the_reference_implementation_passes() {
    let (state, built) = (State::new(), TempDir::new().expect("a folder"));
    let root = source("nbd");
    let tester = built.path().join("nbd-tester-client");
    let sizes = [("SHORT_INT", 2), ("INT", 4), ("LONG_INT", 8), ("LONG_LONG_INT", 8)];
    let more: Vec<String> =
        sizes.iter().map(|(kind, size)| format!("-DSIZEOF_UNSIGNED_{kind}={size}")).collect();
    compile(&root, &tester, &["tests/run/nbd-tester-client.c", "cliserv.c"], "glib-2.0", &more);
    let daemon = state.start();
    let log = |name: &str| root.join("tests/run").join(name).display().to_string();
    let (some, huge) = (log("integrity-test.tr"), log("integrityhuge-test.tr"));
    // a log expects a disk on which nothing was written
    let mut runs: Vec<(&str, u64, Vec<&str>)> = vec![
        ("read", 4 << 20, vec![]),
        ("write", 4 << 20, vec!["-w"]),
        ("flush", 4 << 20, vec!["-w", "-f"]),
        ("list", 4 << 20, vec!["-l"]),
        ("log", 50 << 20, vec!["-i", "-t", &some]),
    ];
    if std::env::var_os("BLOCKD_SOAK").is_some() {
        // with FUA, and with requests of up to 50 MB, half a minute of them
        runs.push(("fua", 50 << 20, vec!["-i", "-F", "-t", &some]));
        runs.push(("huge", 50 << 20, vec!["-i", "-t", &huge]));
    }
    for (disk, size, arguments) in runs {
        daemon.create(disk, size);
        let mut command = Command::new(&tester);
        // it leaves its own notes where it runs
        command.current_dir(built.path()).args(["-u"]).arg(state.file("nbd.sock")).args(["-N", disk]);
        run(command.args(arguments));
    }
    assert!(daemon.stop().success());
}
