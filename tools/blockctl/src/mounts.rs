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
    if let Some(point) = options.points.iter().find(|point| !point.contains('@')) {
        return Err(Failure::usage(format!("mount {point}: only a recovery point can be mounted"))
            .with_help(format!("`blockctl snapshot {point}` makes one")));
    }
    let mut disks = Vec::new();
    for point in &options.points {
        let point = client.point(point)?;
        disks.push((disk_name(&point.name).to_owned(), point.name, point.uri));
    }
    let mut names: Vec<&str> = disks.iter().map(|(name, _, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
        return Err(Failure::usage(format!("mount: two disks are called {name}"))
            .with_help("the disks of a machine have different names, as vm/web/vda@3 and vm/web/vdb@3 do"));
    }
    let points = disks.iter().map(|(_, point, _)| point.as_str()).collect::<Vec<_>>().join(", ");
    let mut disks = disks.into_iter().map(|(name, _, uri)| (name, uri));
    let (name, uri) =
        disks.next().ok_or_else(|| Failure::usage("mount: no recovery point is named".to_owned()))?;
    let mut how = Options::new(uri, &options.dir);
    how.beside = disks.collect();
    if !how.beside.is_empty() {
        how.name = name;
    }
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
    let mounted = Mounted { point: points, dir: options.dir.display().to_string(), log };
    output.answer(&mounted, |mounted| {
        let log = mounted.log.as_deref().unwrap_or_default();
        format!("{} is at {}; what cannot be read is explained in {log}", mounted.point, mounted.dir)
    })
}

/// What a disk is called among those of its machine: the last part of its name.
fn disk_name(point: &str) -> &str {
    let disk = point.split('@').next().unwrap_or_default();
    disk.rsplit('/').next().unwrap_or_default()
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
