//! `blockctl mount` and `umount`.

use crate::cli::MountOptions;
use crate::failure::{Failure, Result};
use crate::output::Output;
use control::{Client, Kind};
use mount::Options;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Mounted {
    point: String,
    dir: String,
    log: Option<String>,
}

/// Shows a recovery point as a tree of files.
pub fn mount(client: &Client, output: &Output, options: &MountOptions) -> Result<()> {
    if !options.point.contains('@') {
        return Err(Failure::usage(format!("mount {}: only a recovery point can be mounted", options.point))
            .with_help(format!("`blockctl snapshot {}` makes one", options.point)));
    }
    let point = client.point(&options.point)?;
    let mut how = Options::new(&point.uri, &options.dir);
    how.foreground = options.foreground;
    how.allow_other = options.allow_other;
    let log = mount::run(&how).map_err(|error| {
        let failure = Failure::from(error);
        match failure.kind {
            Kind::Conflict => {
                failure.with_help("mount at an empty directory; `blockctl umount DIR` ends a mount")
            }
            Kind::NotFound => failure.with_help("the directory must exist: `mkdir -p DIR` makes it"),
            _ => failure,
        }
    })?;
    if options.foreground {
        return Ok(());
    }
    let log = log.map(|log| log.display().to_string());
    let mounted = Mounted { point: point.name, dir: options.dir.display().to_string(), log };
    output.answer(&mounted, |mounted| {
        let log = mounted.log.as_deref().unwrap_or_default();
        format!("{} is at {}; what cannot be read is explained in {log}", mounted.point, mounted.dir)
    })
}

/// Ends a mount.
pub fn umount(output: &Output, dir: &Path) -> Result<()> {
    mount::umount(dir).map_err(|error| {
        let failure = Failure::from(error);
        match failure.kind {
            Kind::Conflict | Kind::NotFound => failure
                .with_help("`findmnt -t fuse.blockd` lists the mounts; `fuser -vm DIR` says who uses one"),
            _ => failure,
        }
    })?;
    let dir = dir.display().to_string();
    output.answer(&serde_json::json!({ "dir": dir }), |_| String::new())
}
