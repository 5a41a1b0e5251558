//! fio's NBD engine as the client of every subject.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What one cell does.
#[derive(Clone, Copy)]
pub struct Access {
    /// In fio's words: `randread`, `randwrite`, `read`, `write`.
    pub rw: &'static str,
    /// Bytes a request.
    pub block_bytes: u32,
    /// Requests in flight on each connection.
    pub depth: u32,
    /// Whether a flush follows each write.
    pub flushes: bool,
    /// How long at most.
    pub seconds: Option<u32>,
    /// Whether it goes on, all over the disk, until the time is up.
    pub again: bool,
}

/// 1 MiB sequential writes of incompressible data over the whole disk.
pub const FILL: Access =
    Access { rw: "write", block_bytes: 1 << 20, depth: 4, flushes: false, seconds: None, again: false };

/// 4 KiB random writes, every block of the disk exactly once.
pub const WRITE_EACH_BLOCK_ONCE: Access = Access { rw: "randwrite", block_bytes: 4 << 10, depth: 32, ..FILL };

impl Access {
    /// 4 KiB random reads for so many seconds.
    pub const fn read(seconds: u32) -> Self {
        Self { rw: "randread", seconds: Some(seconds), again: true, ..WRITE_EACH_BLOCK_ONCE }
    }

    /// 4 KiB random writes for so many seconds.
    pub const fn write(seconds: u32) -> Self {
        Self { rw: "randwrite", ..Self::read(seconds) }
    }

    /// 128 KiB sequential reads, over and over, for so many seconds.
    pub const fn read_in_order(seconds: u32) -> Self {
        Self { rw: "read", block_bytes: 128 << 10, ..Self::read(seconds) }
    }

    fn is_read(self) -> bool {
        self.rw.ends_with("read")
    }

    fn options(self, command: &mut Command) {
        command.args([
            "--group_reporting",
            "--output-format=json",
            "--thread",
            "--randrepeat=0",
            "--refill_buffers=0",
        ]);
        command.arg(format!("--rw={}", self.rw)).arg(format!("--bs={}", self.block_bytes));
        command.arg(format!("--iodepth={}", self.depth));
        if self.flushes {
            command.arg("--fsync=1");
        }
        if let Some(seconds) = self.seconds {
            command.arg(format!("--runtime={seconds}"));
            if self.again {
                command.args(["--time_based", "--norandommap"]);
            }
        }
    }
}

/// The depth of the load in the background: that of a busy virtio disk.
const LOAD_DEPTH: u32 = 32;

/// What fio measured in one cell.
#[derive(Clone, Copy)]
pub struct Measured {
    /// Requests a second, all connections together.
    pub iops: f64,
    /// 99th percentile of completion latency, microseconds.
    pub p99_us: f64,
    /// Requests completed.
    pub requests: f64,
    /// CPU time of the client a request, microseconds.
    pub client_us: f64,
}

/// Runs one cell against an NBD export of `size_bytes` over that many connections, which share the disk evenly.
///
/// # Errors
/// fio cannot be started, reports an error, or answers with something that is not its JSON.
pub fn run(uri: &str, size_bytes: u64, connections: u32, access: Access) -> Result<Measured> {
    let share = size_bytes / u64::from(connections);
    let mut command = Command::new("fio");
    command.args(["--name=cell", "--ioengine=nbd"]).arg(format!("--uri={uri}"));
    command.arg(format!("--numjobs={connections}"));
    command.arg(format!("--size={share}")).arg(format!("--offset_increment={share}"));
    access.options(&mut command);
    finish(command, uri, access)
}

/// Runs one cell on a file itself, by io_uring.
///
/// # Errors
/// As [`run`].
pub fn run_on_file(file: &Path, access: Access) -> Result<Measured> {
    let mut command = Command::new("fio");
    command
        .args(["--name=cell", "--ioengine=io_uring", "--readonly"])
        .arg(format!("--filename={}", file.display()));
    access.options(&mut command);
    finish(command, &file.display().to_string(), access)
}

fn finish(mut command: Command, on: &str, access: Access) -> Result<Measured> {
    let output = command.stderr(Stdio::inherit()).output().context("fio cannot be started")?;
    if !output.status.success() {
        bail!("fio on {on}: {}", output.status);
    }
    parse(&output.stdout, access).with_context(|| format!("fio's answer about {on}"))
}

/// Starts 4 KiB random writes to the first `size_bytes` of an export that go on until the process is ended.
///
/// # Errors
/// fio cannot be started.
pub fn background(uri: &str, size_bytes: u64) -> Result<Child> {
    let mut command = Command::new("fio");
    command.args(["--name=load", "--ioengine=nbd", "--thread", "--rw=randwrite", "--bs=4k", "--norandommap"]);
    command.args(["--time_based", "--runtime=1h"]).arg(format!("--iodepth={LOAD_DEPTH}"));
    command.arg(format!("--uri={uri}")).arg(format!("--size={size_bytes}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("fio cannot be started")
}

fn parse(answer: &[u8], access: Access) -> Result<Measured> {
    // fio may write a note before its JSON
    let start = answer.iter().position(|byte| *byte == b'{').context("no JSON in it")?;
    let answer: Value = serde_json::from_slice(&answer[start..])?;
    let job = &answer["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        bail!("error {}", job["error"]);
    }
    let side = &job[if access.is_read() { "read" } else { "write" }];
    let number = |value: &Value, name: &str| value.as_f64().with_context(|| format!("{name} is missing"));
    let requests = number(&side["total_ios"], "total_ios")?;
    // shares of the time the jobs took, of all of them together
    let share = number(&job["usr_cpu"], "usr_cpu")? + number(&job["sys_cpu"], "sys_cpu")?;
    let took_ms = number(&job["job_runtime"], "job_runtime")?;
    Ok(Measured {
        iops: number(&side["iops"], "iops")?,
        p99_us: number(&side["clat_ns"]["percentile"]["99.000000"], "99th percentile")? / 1000.0,
        client_us: share / 100.0 * took_ms * 1000.0 / requests,
        requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_before_the_json_is_skipped_and_an_error_is_one() {
        let good = br#"fio: note
            {"jobs":[{"error":0,"job_runtime":6,"usr_cpu":20.5,"sys_cpu":29.5,"write":{"iops":1.5,"total_ios":3,"clat_ns":{"percentile":{"99.000000":2000}}}}]}"#;
        let measured = parse(good, FILL).unwrap();
        assert_eq!((measured.iops, measured.p99_us, measured.requests), (1.5, 2.0, 3.0));
        assert_eq!(measured.client_us, 1000.0);
        assert!(parse(br#"{"jobs":[{"error":5}]}"#, FILL).is_err());
        assert!(parse(b"no json", FILL).is_err());
    }
}
