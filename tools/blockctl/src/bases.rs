//! Disks on files and points: `disk adopt`, `disk create --base`, `disk leave`.
//!
//! A base is the one thing whose path the daemon gets: it reads the file for as long as the disk is there.

use crate::cli::ImageOptions;
use crate::disk::{Written, export};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::size;
use control::{Base, Client, CreateDisk, DeleteDiskQuery, Disk, Kind, NewBase};
use formats::Format;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What `--base` names: a recovery point, or a file. A path that begins with `/` or `.` is never a point.
pub fn named(base: &str, format: Option<Format>, follow: bool) -> Result<NewBase> {
    let is_path = base.starts_with(['/', '.']) || !base.contains('@');
    if is_path {
        let path = absolute(Path::new(base))?;
        return Ok(NewBase::Image { path, format: format.map(|format| format.name().to_owned()), follow });
    }
    if format.is_some() || follow {
        let why = format!("{base} is a recovery point, which has no format");
        return Err(Failure::usage(why).with_help(format!("a file of that name is called ./{base}")));
    }
    Ok(NewBase::Point(base.to_owned()))
}

/// Makes a raw file a disk.
pub fn adopt(client: &Client, name: String, file: &Path) -> Result<Disk> {
    let base = Some(NewBase::Adopt(absolute(file)?));
    Ok(client.create_disk(&CreateDisk { name, size: 0, fill: false, base })?)
}

/// The path as the daemon, which runs elsewhere, finds it.
fn absolute(file: &Path) -> Result<String> {
    let found = file.canonicalize().map_err(|error| Failure::host(file.display(), &error))?;
    let text = found.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(format!("{}: is not UTF-8", found.display())))
}

/// Hands a disk back as a raw file and forgets it. The file is whole, and on the disk, before the daemon is asked to forget;
/// and the daemon does so only if nothing was written since the recovery point that the file was made of.
pub fn leave(client: &Client, output: &Output, name: &str, file: &Path, yes: bool) -> Result<Written> {
    let disk = client.disk(name)?;
    if !disk.children.is_empty() {
        let why = format!("disk {name}: disks stand on it: {}", disk.children.join(", "));
        return Err(Failure::new(Kind::Conflict, why).with_help("delete them, or let them leave first"));
    }
    if disk.writers > 0 {
        let why = format!("disk {name}: a client is connected to it");
        return Err(Failure::new(Kind::Conflict, why).with_help("shut the machine down first"));
    }
    refuse_bases(client, file)?;
    let points = size::count(disk.points, "instant recovery point");
    output
        .confirm(&format!("hand disk {name} back as {} and forget it with {points}", file.display()), yes)?;
    let point = client.snapshot(&[name.to_owned()])?.pop();
    let point =
        point.ok_or_else(|| Failure::new(Kind::NotFound, format!("disk {name}: no recovery point")))?;
    let raw = ImageOptions { format: Some(Format::Raw), compress: false, fixed: false };
    let kept = |failure: Failure| {
        let help = failure.help.clone().map(|help| help + "; ").unwrap_or_default();
        failure.with_help(format!("{help}disk {name} is still there, with the recovery point {}", point.name))
    };
    let written = export(client, output, &point.name, file, &raw, None, true).map_err(kept)?;
    let query = DeleteDiskQuery { unchanged_since: Some(point.name.clone()), ..DeleteDiskQuery::default() };
    client.delete_disk_if(name, &query).map_err(|error| kept(error.into()))?;
    Ok(written)
}

/// A file that a disk stands on is not written.
fn refuse_bases(client: &Client, file: &Path) -> Result<()> {
    let number = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let Some(ours) = number(file) else { return Ok(()) };
    for disk in client.disks()? {
        let files = disk.base.iter().flat_map(|base| &base.files);
        if files.map(PathBuf::from).any(|path| number(&path) == Some(ours)) {
            let why = format!("{}: disk {} stands on this file", file.display(), disk.name);
            return Err(
                Failure::new(Kind::Conflict, why).with_help("name another file; rename it afterwards")
            );
        }
    }
    Ok(())
}

/// A base for people.
pub fn shown(base: &Base) -> String {
    let format = base.format.as_ref().map(|format| format!(" ({format})")).unwrap_or_default();
    let more = base.files.len().saturating_sub(1);
    let more =
        if more > 0 { format!(", with {}", size::count(more as u64, "other file")) } else { String::new() };
    format!("{} {}{format}{more}", base.kind, base.name)
}

/// What was deleted, for people, and what of it stays.
pub fn deleted(disk: &Disk, adopted_file: bool) -> String {
    match &disk.base {
        Some(base) if base.kind == "adopted" && adopted_file => {
            format!("deleted {} and {}", disk.name, base.name)
        }
        Some(base) if base.kind == "adopted" => {
            format!("deleted {}; {} stays, as it was adopted", disk.name, base.name)
        }
        _ => format!("deleted {}", disk.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_path_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("web@3");
        std::fs::write(&file, "x").expect("written");
        let path = file.to_str().expect("text");
        assert!(matches!(named(path, None, false), Ok(NewBase::Image { .. })));
        assert_eq!(named("vm/web/vda@3", None, false).ok(), Some(NewBase::Point("vm/web/vda@3".to_owned())));
        assert!(named("web@3", Some(Format::Raw), false).is_err(), "a point has no format");
        assert!(named("/no/such/file", None, false).is_err());
    }
}
