//! fio's NBD engine as the client of every subject.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The depth every cell runs at: deep enough that batching shows, the depth of a busy virtio disk.
const QUEUE_DEPTH: u32 = 32;

/// What one cell does.
#[derive(Clone, Copy)]
pub enum Access {
    /// 4 KiB random reads for so many seconds.
    Read {
        /// How long.
        seconds: u32,
    },
    /// 4 KiB random writes, every block of the disk exactly once.
    WriteEachBlockOnce,
    /// 1 MiB sequential writes of incompressible data over the whole disk.
    Fill,
}

/// What fio measured in one cell.
#[derive(Clone, Copy)]
pub struct Measured {
    /// Requests a second, all connections together.
    pub iops: f64,
    /// 99th percentile of completion latency, microseconds.
    pub p99_us: f64,
    /// Requests completed.
    pub requests: f64,
}

/// Runs one cell against an NBD export of `size_bytes` over that many connections, which share the disk evenly.
///
/// # Errors
/// fio cannot be started, reports an error, or answers with something that is not its JSON.
pub fn run(uri: &str, size_bytes: u64, connections: u32, access: Access) -> Result<Measured> {
    let share = size_bytes / u64::from(connections);
    let mut command = Command::new("fio");
    command.args(["--name=cell", "--ioengine=nbd", "--group_reporting", "--output-format=json", "--thread"]);
    command.args(["--randrepeat=0", "--refill_buffers=0"]);
    command.arg(format!("--uri={uri}")).arg(format!("--iodepth={QUEUE_DEPTH}"));
    command.arg(format!("--numjobs={connections}"));
    command.arg(format!("--size={share}")).arg(format!("--offset_increment={share}"));
    match access {
        Access::Read { seconds } => {
            command.args(["--rw=randread", "--bs=4k", "--time_based", "--norandommap"]);
            command.arg(format!("--runtime={seconds}"));
        }
        Access::WriteEachBlockOnce => drop(command.args(["--rw=randwrite", "--bs=4k"])),
        Access::Fill => drop(command.args(["--rw=write", "--bs=1m", "--iodepth=4"])),
    }
    let output = command.stderr(Stdio::inherit()).output().context("fio cannot be started")?;
    if !output.status.success() {
        bail!("fio on {uri}: {}", output.status);
    }
    parse(&output.stdout, access).with_context(|| format!("fio's answer about {uri}"))
}

/// Starts 4 KiB random writes to the first `size_bytes` of an export that go on until the process is ended.
///
/// # Errors
/// fio cannot be started.
pub fn background(uri: &str, size_bytes: u64) -> Result<Child> {
    let mut command = Command::new("fio");
    command.args(["--name=load", "--ioengine=nbd", "--thread", "--rw=randwrite", "--bs=4k", "--norandommap"]);
    command.args(["--time_based", "--runtime=1h"]).arg(format!("--iodepth={QUEUE_DEPTH}"));
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
    let side = &job[if matches!(access, Access::Read { .. }) { "read" } else { "write" }];
    let number = |value: &Value, name: &str| value.as_f64().with_context(|| format!("{name} is missing"));
    Ok(Measured {
        iops: number(&side["iops"], "iops")?,
        p99_us: number(&side["clat_ns"]["percentile"]["99.000000"], "99th percentile")? / 1000.0,
        requests: number(&side["total_ios"], "total_ios")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_before_the_json_is_skipped_and_an_error_is_one() {
        let good = br#"fio: note
            {"jobs":[{"error":0,"write":{"iops":1.5,"total_ios":3,"clat_ns":{"percentile":{"99.000000":2000}}}}]}"#;
        let measured = parse(good, Access::Fill).unwrap();
        assert_eq!((measured.iops, measured.p99_us, measured.requests), (1.5, 2.0, 3.0));
        assert!(parse(br#"{"jobs":[{"error":5}]}"#, Access::Fill).is_err());
        assert!(parse(b"no json", Access::Fill).is_err());
    }
}
