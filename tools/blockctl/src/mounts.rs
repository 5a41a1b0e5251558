//! `blockctl mount` and `umount`.

use crate::cli::MountOptions;
use crate::failure::{Failure, Result};
use crate::history;
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
    let (named, mut how) = match options.points.as_slice() {
        [item] if !item.contains('@') => item_of(client, item, options)?,
        _ => points(client, options)?,
    };
    how.foreground = options.foreground;
    how.allow_other = options.allow_other;
    how.passphrases = options.passphrases.read()?;
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
    let mounted = Mounted { point: named, dir: options.dir.display().to_string(), log };
    output.answer(&mounted, |mounted| {
        let log = mounted.log.as_deref().unwrap_or_default();
        format!("{} is at {}; what cannot be read is explained in {log}", mounted.point, mounted.dir)
    })
}

/// A point, or the points of several disks of one machine.
fn points(client: &Client, options: &MountOptions) -> Result<(String, Options)> {
    if let Some(item) = options.points.iter().find(|point| !point.contains('@')) {
        return Err(Failure::usage(format!(
            "mount {item}: beside others only recovery points can be mounted"
        ))
        .with_help(format!("`blockctl mount {item} DIR` alone shows all its points")));
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
    Ok((points, how))
}

/// What a disk is called among those of its machine: the last part of its name.
fn disk_name(point: &str) -> &str {
    let disk = point.split('@').next().unwrap_or_default();
    disk.rsplit('/').next().unwrap_or_default()
}

/// All points of a disk or machine.
fn item_of(client: &Client, name: &str, options: &MountOptions) -> Result<(String, Options)> {
    let points = client.points(Some(name))?.points;
    if points.is_empty() {
        return Err(Failure::new(Kind::NotFound, format!("mount {name}: there is no recovery point of it"))
            .with_help(format!(
                "`blockctl snapshot {name}` makes one; `blockctl disk list` shows the disks"
            )));
    }
    // a machine's disks have names of their own
    let machine = points.iter().any(|point| point.disk != name).then(|| name.to_owned());
    let mut how = Options::new(history::name(client, name)?, &options.dir);
    how.item = Some(mount::Item { machine, points: history::points });
    Ok((name.to_owned(), how))
}

/// Ends a mount.
pub fn umount(output: &Output, dir: &Path) -> Result<()> {
    mount::umount(dir).map_err(|error| {
        let failure = Failure::from(error);
        match failure.kind {
            Kind::Conflict => failure
                .with_help("`findmnt -t fuse.blockd` lists the mounts; `fuser -vm DIR` says who uses one"),
            Kind::NotFound => failure.with_help("check the path; `findmnt -t fuse.blockd` lists the mounts"),
            _ => failure,
        }
    })?;
    let dir = dir.display().to_string();
    output.answer(&serde_json::json!({ "dir": dir }), |_| String::new())
}
