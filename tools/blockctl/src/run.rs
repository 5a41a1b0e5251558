//! `blockctl run …`: disks that run from a recovery point.

use crate::cli::{RunOptions, RunVerb};
use crate::failure::{Failure, Result};
use crate::output::{Output, table};
use crate::size;
use control::{Client, Kind, Run, RunRequest, RunState};
use std::time::Duration;

/// Between two looks at a run that becomes independent.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the verb, or a recovery point.
pub fn run(options: RunOptions, client: &Client, output: &Output) -> Result<()> {
    match options.verb {
        Some(RunVerb::Status { name: Some(name) }) => {
            output.answer(&client.run_status(&name)?, |run| list(std::slice::from_ref(run)))
        }
        Some(RunVerb::Status { name: None }) => output.answer(&client.runs()?, |runs| list(runs)),
        Some(RunVerb::Promote { name, no_wait }) => promote(client, output, &name, no_wait),
        Some(RunVerb::Discard { name, yes }) => {
            output.confirm(&format!("delete disk {name} with all that was written to it"), yes)?;
            output.answer(&client.discard(&name)?, |disk| format!("deleted {}", disk.name))
        }
        None => {
            let (Some(point), Some(name)) = (options.point, options.name) else {
                return Err(Failure::usage("run: names no recovery point and no disk"));
            };
            let request = RunRequest { point, name, hydrate: !options.no_hydrate };
            output.answer(&client.run(&request)?, |run| {
                let point = run.point.as_deref().unwrap_or("?");
                format!("{}: {} from {point}\n{}", run.name, size::show(run.size), run.uri)
            })
        }
    }
}

fn promote(client: &Client, output: &Output, name: &str, no_wait: bool) -> Result<()> {
    let mut run = client.promote(name)?;
    let mut progress = output.progress(&format!("promote {name}"));
    while !no_wait && run.state != RunState::Independent {
        if let Some(why) = run.trouble.filter(|_| run.state == RunState::Stalled) {
            let why = format!("disk {name} does not become independent now: {why}");
            return Err(Failure::new(Kind::Unavailable, why)
                .with_help(format!("it goes on by itself once it can: blockctl run status {name}")));
        }
        progress.at(run.bytes_done, run.bytes_total);
        std::thread::sleep(LOOK);
        run = client.run_status(name)?;
    }
    output.answer(&run, |run| match run.state {
        RunState::Independent => format!("{}: independent", run.name),
        _ => list(std::slice::from_ref(run)),
    })
}

/// Runs for people.
pub fn list(runs: &[Run]) -> String {
    let row = |run: &Run| {
        let whence = match (&run.vault, run.tier) {
            (Some(vault), _) => format!("vault {vault}"),
            (None, Some(tier)) => tier.name().to_owned(),
            (None, None) => String::new(),
        };
        let speed = run.bytes_per_second.map(|speed| format!("{}/s", size::show(speed)));
        let left = run.estimate_ms.map(|ms| format!("{} s", ms.div_ceil(1000)));
        vec![
            run.name.clone(),
            run.point.clone().unwrap_or_default(),
            whence,
            run.state.name().to_owned(),
            format!("{} of {}", size::show(run.bytes_done), size::show(run.bytes_total)),
            size::show(run.bytes_copied),
            speed.unwrap_or_default(),
            left.unwrap_or_default(),
            run.trouble.clone().unwrap_or_default(),
        ]
    };
    let head = ["disk", "point", "from", "state", ">here", ">copied", ">speed", ">left", "trouble"];
    table(&head, runs.iter().map(row).collect())
}
