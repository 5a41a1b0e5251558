//! `blockctl rehearse`.

use crate::cli::RehearseOptions;
use crate::failure::Result;
use crate::job;
use crate::output::Output;
use crate::size;
use control::{Client, Job, Rehearsal, RehearseRequest};

/// `blockctl rehearse`.
pub fn run(client: &Client, output: &Output, options: RehearseOptions) -> Result<()> {
    let request = RehearseRequest {
        point: options.point,
        wait: Some(options.wait),
        timeout_seconds: Some(options.timeout),
        probe: options.probe,
        memory_bytes: Some(options.memory),
    };
    let begun = client.rehearse(&request)?;
    let done = job::follow(client, output, &begun)?;
    job::answer(output, &done, told)
}

fn told(job: &Job) -> String {
    job.rehearsal.as_ref().map_or_else(String::new, show)
}

/// What a rehearsal came to.
pub fn show(rehearsal: &Rehearsal) -> String {
    let mut lines = vec![format!(
        "{} of {}: {}",
        rehearsal.point,
        rehearsal.time,
        rehearsal.error.as_deref().map_or_else(|| "passed".to_owned(), |why| format!("failed: {why}"))
    )];
    let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1000.0);
    if let (Some(disks), Some(up)) = (rehearsal.disks_ms, rehearsal.up_ms) {
        let sign = &rehearsal.waited_for;
        lines.push(format!("disks after {}, up after {} ({sign})", seconds(disks), seconds(up)));
    }
    if let Some(probe) = &rehearsal.probe {
        let code = probe.exit_code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        lines.push(format!("probe {:?} ended with {code}: {}", probe.command, probe.output.trim()));
    }
    for volume in rehearsal.filesystems.iter().filter(|volume| volume.readable) {
        let state = match volume.damaged {
            0 => "read through".to_owned(),
            count => format!("{} not read", size::count(count, "name")),
        };
        let (point, number, content) = (&volume.point, &volume.volume, &volume.content);
        lines.push(format!("{point}:{number} {content}: {} entries, {state}", volume.entries));
    }
    lines.extend(rehearsal.console.iter().map(|path| format!("console: {path}")));
    lines.extend(rehearsal.screenshot.iter().map(|path| format!("screen: {path}")));
    lines.join("\n")
}
