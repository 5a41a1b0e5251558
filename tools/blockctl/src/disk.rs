//! `blockctl disk …`.

use crate::cli::DiskVerb;
use crate::copy::{self, FileSource};
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use crate::size;
use block::BlockSource;
use control::{ChangeKind, Changes, ChangesQuery, Client, CreateDisk, Disk, DiskState};
use nbd::Uri;
use serde::Serialize;
use std::path::Path;

/// Connections to a daemon on this host.
pub const CONNECTIONS: usize = 2;

/// Runs the verb.
pub fn run(verb: DiskVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        DiskVerb::Create { name, size, from, format: _ } => {
            let disk = match from {
                None => client.create_disk(&CreateDisk { name, size: size.unwrap_or(0) })?,
                Some(from) => create_from(client, output, &name, size, &from)?,
            };
            output.answer(&disk, |disk| {
                format!("{}: {}\n{}", disk.name, disk.size.map(size::show).unwrap_or_default(), disk.uri)
            })
        }
        DiskVerb::List => output.answer(&client.disks()?, |disks| table_of(disks)),
        DiskVerb::Show { name } => output.answer(&client.disk(&name)?, show),
        DiskVerb::Uri { name } => {
            let uri = export_uri(client, &name)?;
            output.answer(&Named { name, uri: uri.to_string() }, |named| named.uri.clone())
        }
        DiskVerb::Changes { name, since, until } => {
            output.answer(&client.changes(&name, &ChangesQuery { since, until })?, changes)
        }
        DiskVerb::Export { name, file, format: _, yes } => {
            let written = export(client, output, &name, &file, yes)?;
            output.answer(&written, Written::show)
        }
        DiskVerb::Delete { name, yes } => {
            let disk = client.disk(&name)?;
            let what = format!("delete disk {name} with {} instant recovery points", disk.points);
            output.confirm(&what, yes)?;
            output.answer(&client.delete_disk(&name)?, |disk| format!("deleted {}", disk.name))
        }
    }
}

#[derive(Serialize)]
struct Named {
    name: String,
    uri: String,
}

/// A file written from an export.
#[derive(Serialize)]
pub struct Written {
    name: String,
    file: String,
    size: u64,
    bytes_written: u64,
}

impl Written {
    /// For people.
    pub fn show(&self) -> String {
        let written = size::show(self.bytes_written);
        format!("{}: {} as {}, {written} of it data", self.name, size::show(self.size), self.file)
    }
}

/// The NBD URI of a disk or a recovery point that exists.
pub fn export_uri(client: &Client, name: &str) -> Result<Uri> {
    let uri = if name.contains('@') { client.point(name)?.uri } else { client.disk(name)?.uri };
    Ok(uri.parse::<Uri>()?)
}

/// Opens an export.
pub fn connect(client: &Client, name: &str) -> Result<nbd::Client> {
    Ok(nbd::Client::connect(&export_uri(client, name)?, CONNECTIONS)?)
}

/// Writes a disk or a recovery point as a raw file.
pub fn export(client: &Client, output: &Output, name: &str, file: &Path, yes: bool) -> Result<Written> {
    let source = connect(client, name)?;
    if file.metadata().is_ok_and(|meta| meta.len() > 0) {
        output.confirm(&format!("replace the file {}", file.display()), yes)?;
    }
    let mut progress = output.progress(name);
    let bytes_written = copy::to_file(&source, file, &mut progress)?;
    let size = source.size().get();
    Ok(Written { name: name.to_owned(), file: file.display().to_string(), size, bytes_written })
}

fn create_from(client: &Client, output: &Output, name: &str, size: Option<u64>, from: &str) -> Result<Disk> {
    let source: Box<dyn BlockSource> = if from.contains("://") {
        Box::new(nbd::Client::connect(&from.parse()?, CONNECTIONS)?)
    } else {
        Box::new(FileSource::open(Path::new(from))?)
    };
    let least = source.size().get();
    let size = size.unwrap_or(least);
    if size < least {
        let sizes = format!("{} hold {from}, which has {least} bytes", size::show(size));
        return Err(Failure::usage(format!("disk {name}: {sizes}")).with_help("leave --size away"));
    }
    client.create_disk(&CreateDisk { name: name.to_owned(), size })?;
    let filled = connect(client, name)
        .and_then(|disk| copy::to_device(&*source, &disk, &mut output.progress(name)))
        .and_then(|_| Ok(client.disk(name)?));
    filled.map_err(|failure| {
        // a disk with half an image on it is worse than none
        match client.delete_disk(name) {
            Ok(_) => failure,
            Err(error) => {
                failure.with_help(format!("disk {name} is incomplete and could not be deleted: {error}"))
            }
        }
    })
}

/// Disks for people.
pub fn table_of(disks: &[Disk]) -> String {
    let row = |disk: &Disk| {
        vec![
            disk.name.clone(),
            disk.size.map_or_else(|| "?".to_owned(), size::show),
            disk.stored.map_or_else(|| "?".to_owned(), size::show),
            disk.points.to_string(),
            disk.writers.to_string(),
            match disk.state {
                DiskState::Ready => "ready".to_owned(),
                DiskState::Failed => "failed".to_owned(),
            },
        ]
    };
    table(&["disk", ">size", ">stored", ">points", ">clients", "state"], disks.iter().map(row).collect())
}

fn show(disk: &Disk) -> String {
    let mut rows = vec![
        ("name", disk.name.clone()),
        ("id", disk.id.clone()),
        (
            "size",
            disk.size
                .map_or_else(|| "?".to_owned(), |bytes| format!("{} ({bytes} bytes)", size::show(bytes))),
        ),
        ("stored", disk.stored.map_or_else(|| "?".to_owned(), size::show)),
        ("points", disk.points.to_string()),
        ("clients", disk.writers.to_string()),
        ("created", disk.created.clone()),
        ("opened", disk.opened.clone().unwrap_or_else(|| "failed".to_owned())),
        ("uri", disk.uri.clone()),
    ];
    if let Some(error) = &disk.error {
        rows.push(("error", error.message.clone()));
    }
    sheet(&rows)
}

fn changes(changes: &Changes) -> String {
    let row = |range: &control::Change| {
        let kind = match range.kind {
            ChangeKind::Data => "data",
            ChangeKind::Zero => "zero",
        };
        vec![range.offset.to_string(), range.length.to_string(), kind.to_owned()]
    };
    let since = changes.since.as_deref().unwrap_or("its making");
    let until = changes.until.as_deref().unwrap_or("now");
    let sum = format!("{} changed from {since} to {until}\n", size::show(changes.bytes));
    if changes.ranges.is_empty() {
        return sum;
    }
    table(&[">offset", ">length", "kind"], changes.ranges.iter().map(row).collect()) + &sum
}
