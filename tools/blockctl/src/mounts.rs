//! `blockctl mount` and `umount`.

use crate::cli::MountOptions;
use crate::failure::{Failure, Result};
use crate::output::Output;
use control::Client;
use mount::Options;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Mounted {
    point: String,
    dir: String,
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
    mount::run(&how)?;
    if options.foreground {
        return Ok(());
    }
    let mounted = Mounted { point: point.name, dir: options.dir.display().to_string() };
    output.answer(&mounted, |mounted| format!("{} is at {}", mounted.point, mounted.dir))
}

/// Ends a mount.
pub fn umount(output: &Output, dir: &Path) -> Result<()> {
    mount::umount(dir)?;
    let dir = dir.display().to_string();
    output.answer(&serde_json::json!({ "dir": dir }), |_| String::new())
}
