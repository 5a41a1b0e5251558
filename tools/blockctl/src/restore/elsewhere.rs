//! What a restore onto a file or another server takes and loses, before it begins: what the daemon knows of the point, and what this host
//! knows of the target.

use super::told;
use crate::cli::ImageOptions;
use crate::disk;
use crate::failure::Result;
use crate::output::Output;
use crate::size;
use block::linux::LinuxMedia;
use block::{BlockSource, Media};
use control::{Client, Point, Preflight, RestoreRequest};
use nbd::Uri;
use std::path::Path;

/// Says it, and does nothing.
pub fn foresee(
    client: &Client,
    output: &Output,
    point: &Point,
    to: &Path,
    uri: Option<&str>,
    image: &ImageOptions,
) -> Result<()> {
    let request = RestoreRequest { point: point.name.clone(), ..RestoreRequest::default() };
    let found = client.preflight(&request)?;
    let mut found = Preflight { target: to.display().to_string(), elsewhere: true, ..found };
    match uri {
        Some(uri) => onto_server(&mut found, uri)?,
        None => as_file(&mut found, to, image)?,
    }
    if found.space_needed > found.space_available {
        found.obstacles.push(format!(
            "{} are needed, and {} has {}",
            size::show(found.space_needed),
            found.target,
            size::show(found.space_available)
        ));
    }
    told(output, &found)
}

/// The server's export is as large as it is: what the front of it holds is replaced.
fn onto_server(found: &mut Preflight, uri: &str) -> Result<()> {
    found.space_needed = found.size;
    match nbd::Client::connect(&uri.parse::<Uri>()?, 1) {
        Ok(server) => {
            found.space_available = server.size().get();
            found.bytes_lost = Some(found.size.min(found.space_available));
        }
        Err(error) => {
            // nothing is known of its room
            found.space_available = found.space_needed;
            found.obstacles.push(format!("{uri}: {error}"));
        }
    }
    Ok(())
}

/// The file is written beside what is there, which it then replaces.
fn as_file(found: &mut Preflight, file: &Path, image: &ImageOptions) -> Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let bytes = disk::file_size(found.size, file, image)?;
    let holes = found.size - found.bytes_to_read.min(found.size);
    found.space_needed = bytes - holes.min(bytes);
    match LinuxMedia::new(dir, dir).and_then(|media| media.space()) {
        Ok(space) => found.space_available = space.available,
        Err(error) => {
            found.space_available = found.space_needed;
            found.obstacles.push(error.to_string());
        }
    }
    if let Ok(meta) = file.metadata() {
        found.bytes_lost = Some(meta.len());
        if !meta.is_file() {
            found.obstacles.push(format!("{}: is not a regular file", file.display()));
        }
    }
    Ok(())
}
