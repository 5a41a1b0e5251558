//! `blockctl disk …`.

use crate::bases;
use crate::cli::{DiskVerb, ImageOptions};
use crate::copy;
use crate::failure::{Failure, Result};
use crate::job;
use crate::mark::Mark;
use crate::output::{Output, sheet, table};
use crate::size;
use block::{BlockSource, ByteCount};
use control::{
    ChangeKind, Changes, ChangesQuery, Client, CreateDisk, DeleteDiskQuery, Disk, DiskAudit, DiskScrub,
    DiskState, Export, ExportCommand, Hurt, JobState, Kind, RecoverQuery, ResizeDisk, Tier,
};
use formats::{Format, Output as Image, Reach};
use nbd::Uri;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Connections to a daemon on this host.
pub const CONNECTIONS: usize = 2;

/// A disk that was just made, for people.
fn made(disk: &Disk) -> String {
    format!("{}: {}\n{}", disk.name, disk.size.map(size::show).unwrap_or_default(), disk.uri)
}

/// Runs the verb.
pub fn run(verb: DiskVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        DiskVerb::Create { name, size, from, format, follow, base } => {
            let size_or_base = size.unwrap_or(0);
            let disk = match (from, base) {
                (None, None) if format.is_some() || follow => {
                    let why = "--format and --follow say how to read an image";
                    return Err(Failure::usage(why).with_help("name one with --from or --base"));
                }
                (None, None) => {
                    client.create_disk(&CreateDisk { name, size: size_or_base, fill: false, base: None })?
                }
                (None, Some(base)) => {
                    let base = Some(bases::named(&base, format, follow)?);
                    client.create_disk(&CreateDisk { name, size: size_or_base, fill: false, base })?
                }
                (Some(from), _) => create_from(client, output, &name, size, &source(&from, format, follow)?)?,
            };
            output.answer(&disk, made)
        }
        DiskVerb::Adopt { name, file } => output.answer(&bases::adopt(client, name, &file)?, made),
        DiskVerb::Leave { name, file, yes } => {
            output.answer(&bases::leave(client, output, &name, &file, yes)?, Written::show)
        }
        DiskVerb::List => output.answer(&client.disks()?, |disks| table_of(disks)),
        DiskVerb::Show { name } => output.answer(&client.disk(&name)?, show),
        DiskVerb::Uri { name } => {
            let uri = export_uri(client, &name)?;
            output.answer(&Named { name, uri: uri.to_string() }, |named| named.uri.clone())
        }
        DiskVerb::Resize { name, size, attached, yes } => {
            let disk = client.disk(&name)?;
            if let Some(now) = disk.size.filter(|now| size < *now) {
                let (now, then) = (size::show(now), size::show(size));
                output.confirm(
                    &format!("shrink disk {name} from {now} to {then}, with what lies past that"),
                    yes,
                )?;
            }
            let resized = client.resize_disk(&name, &ResizeDisk { size, attached })?;
            output.answer(&resized, |disk| {
                format!("{}: {}", disk.name, disk.size.map(size::show).unwrap_or_default())
            })
        }
        DiskVerb::Changes { name, since, until } => {
            output.answer(&client.changes(&name, &ChangesQuery { since, until })?, changes)
        }
        DiskVerb::Export { name, file, image, yes } => {
            let written = export(client, output, &name, &file, &image, None, yes)?;
            output.answer(&written, Written::show)
        }
        DiskVerb::Scrub { name } => scrub(client, output, &name),
        DiskVerb::Recover { name, accept_base } => {
            output.answer(&client.recover_disk(&name, RecoverQuery { accept_base })?, show)
        }
        DiskVerb::Rename { name, to } => {
            output.answer(&client.rename_disk(&name, &to)?, |disk| format!("{name} is {} now", disk.name))
        }
        DiskVerb::Du { name } => {
            let disks = match name {
                Some(name) => vec![client.disk(&name)?],
                None => client.disks()?,
            };
            output.answer(&disks.iter().map(Taken::of).collect::<Vec<_>>(), |taken| taken_by(taken))
        }
        DiskVerb::Share { name, stop } => {
            let said = if stop { "takes one client" } else { "takes several clients" };
            output.answer(&client.share_disk(&name, !stop)?, |disk| format!("{}: {said}", disk.name))
        }
        DiskVerb::Release { name } => output.answer(&client.release_disk(&name)?, |disk| {
            format!("{}: remote clients may write again", disk.name)
        }),
        DiskVerb::Stats { name } => output.answer(&used(client, name.as_deref())?, |exports| stats(exports)),
        DiskVerb::Delete { name, adopted_file, yes } => {
            let disk = client.disk(&name)?;
            let points = size::count(disk.points, "instant recovery point");
            let adopted =
                disk.base.as_ref().filter(|_| adopted_file).map(|base| format!(" and {}", base.name));
            output
                .confirm(&format!("delete disk {name} with {points}{}", adopted.unwrap_or_default()), yes)?;
            let query = DeleteDiskQuery { adopted_file, ..DeleteDiskQuery::default() };
            output.answer(&client.delete_disk_if(&name, &query)?, |disk| bases::deleted(disk, adopted_file))
        }
    }
}

/// What a disk takes of the host, in bytes.
#[derive(Serialize)]
struct Taken {
    disk: String,
    size: Option<u64>,
    points: u64,
    // layers, maps and journals, of the live disk and its points
    stored: Option<u64>,
    // the part of that which is no data
    maps: Option<u64>,
}

impl Taken {
    fn of(disk: &Disk) -> Self {
        Self {
            disk: disk.name.clone(),
            size: disk.size,
            points: disk.points,
            stored: disk.stored,
            maps: disk.maps,
        }
    }
}

fn taken_by(disks: &[Taken]) -> String {
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), size::show);
    let row = |taken: &Taken| {
        vec![
            taken.disk.clone(),
            shown(taken.size),
            taken.points.to_string(),
            shown(taken.stored),
            shown(taken.maps),
        ]
    };
    table(&["disk", ">size", ">points", ">takes", ">of it maps"], disks.iter().map(row).collect())
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
    format: &'static str,
    size: u64,
    // zeros behind the disk's end, where a format holds whole sectors only
    bytes_added: u64,
    bytes_written: u64,
}

impl Written {
    /// For people.
    pub fn show(&self) -> String {
        let written = size::show(self.bytes_written);
        let (size, file, format) = (size::show(self.size), &self.file, self.format);
        let mut text = format!("{}: {size} as {file} ({format}), {written} of it data", self.name);
        if self.bytes_added > 0 {
            let added = size::count(self.bytes_added, "zero byte");
            text.push_str(&format!("\nnote: {added} at the end, as {format} holds whole sectors only"));
        }
        text
    }
}

/// The NBD URI of a disk or a recovery point that exists.
pub fn export_uri(client: &Client, name: &str) -> Result<Uri> {
    let uri = if name.contains('@') { client.point(name)?.uri } else { client.disk(name)?.uri };
    Ok(uri.parse::<Uri>()?)
}

/// Opens an export.
pub fn connect(client: &Client, name: &str) -> Result<nbd::Client> {
    let uri = export_uri(client, name)?;
    nbd::Client::connect(&uri, CONNECTIONS).map_err(|error| explained(client, name, error.into()))
}

/// A failure that came over NBD, which has one error number for everything that is wrong with a disk: the daemon knows
/// whether it is damage.
pub fn explained(client: &Client, name: &str, failure: Failure) -> Failure {
    if !matches!(failure.kind, Kind::Io | Kind::Unavailable | Kind::NotFound) {
        return failure;
    }
    if let Some(in_vault) = damaged_in_vault(client, name).filter(|_| failure.kind == Kind::Io) {
        let message = format!("{}: the copy in vault {in_vault} is damaged", failure.message);
        return Failure::new(Kind::Corrupt, message).with_help(format!(
            "`blockctl vault check {in_vault}` names every point that is hurt; others restore"
        ));
    }
    let item = name.split_once('@').map_or(name, |(item, _)| item);
    let Ok(disk) = client.disk(item) else { return failure };
    if let Some(body) = disk.error {
        return Failure::from(body);
    }
    match disk.damage.iter().find(|hurt| !hurt.is_record_of_changes()) {
        Some(hurt) if failure.kind == Kind::Io => {
            let points = if hurt.points.is_empty() { "none".to_owned() } else { hurt.points.join(", ") };
            let what = format!("{} bytes at {} ({}; points: {points})", hurt.length, hurt.offset, hurt.why);
            Failure::new(Kind::Corrupt, format!("{}: {} damages {what}", failure.message, hurt.file))
                .with_help(format!("`blockctl disk scrub {item}` names everything that is damaged"))
        }
        _ => failure,
    }
}

/// The vault whose copy of a point that only vaults hold is known to be damaged: a read that met it is known too.
fn damaged_in_vault(client: &Client, name: &str) -> Option<String> {
    let point = name.contains('@').then(|| client.point(name).ok())??;
    (!point.tiers.contains(&Tier::Instant)).then(|| point.damaged.first().cloned())?
}

fn scrub(client: &Client, output: &Output, name: &str) -> Result<()> {
    let begun = client.scrub_disk(name)?;
    let job = job::follow(client, output, &begun)?;
    if let Some(found) = &job.scrub {
        output.answer(found, scrubbed)?;
    }
    if job.state == JobState::Done { Ok(()) } else { Err(job::failure(&job)) }
}

fn scrubbed(found: &DiskScrub) -> String {
    let verdict = if found.ok { "all as it was sealed" } else { "DAMAGED" };
    let read = size::show(found.bytes_read);
    let sum = format!("disk {}: {} sealed layers, {read} read: {verdict}\n", found.disk, found.layers);
    if found.hurt.is_empty() {
        return sum;
    }
    let row = |hurt: &Hurt| {
        let mut who = hurt.points.clone();
        who.extend(hurt.live.then(|| "live".to_owned()));
        who.extend(hurt.is_record_of_changes().then(|| "changes".to_owned()));
        vec![
            hurt.offset.to_string(),
            hurt.length.to_string(),
            who.join(" "),
            hurt.file.clone(),
            hurt.why.clone(),
        ]
    };
    let titles = [">offset", ">length", "hurts", "file", "why"];
    sum + &table(&titles, found.hurt.iter().map(row).collect())
}

/// Writes a disk or a recovery point as an image file.
pub fn export(
    client: &Client,
    output: &Output,
    name: &str,
    file: &Path,
    options: &ImageOptions,
    mark: Option<&Mark>,
    yes: bool,
) -> Result<Written> {
    let source = connect(client, name)?;
    write(&source, output, name, file, options, mark, yes, |failure| explained(client, name, failure))
}

/// Writes a source that is called `name` as an image file. `explain` adds to a failure what is known of the source, `mark` says how far
/// an earlier attempt came.
#[expect(clippy::too_many_arguments, reason = "what a person says, and what is known of the source")]
pub fn write(
    source: &dyn BlockSource,
    output: &Output,
    name: &str,
    file: &Path,
    options: &ImageOptions,
    mark: Option<&Mark>,
    yes: bool,
    explain: impl FnOnce(Failure) -> Failure,
) -> Result<Written> {
    let format = options.format.unwrap_or_else(|| Format::of_name(file));
    let image = image(format, options)?;
    if file.is_dir() {
        let inside = file.join(format!("{}.{format}", name.replace('/', "-")));
        return Err(Failure::usage(format!("{}: is a directory, and this writes a file", file.display()))
            .with_help(format!("name a file in it, such as {}", inside.display())));
    }
    let size = image.size(source.size())?.get();
    if file.metadata().is_ok_and(|meta| meta.len() > 0) {
        output.confirm(&format!("replace the file {}", file.display()), yes)?;
    }
    let mut progress = output.progress(name);
    let bytes_written = copy::to_file(source, file, image, mark, &mut progress).map_err(explain)?;
    let (name, file) = (name.to_owned(), file.display().to_string());
    let bytes_added = size.saturating_sub(source.size().get());
    Ok(Written { name, file, format: format.name(), size, bytes_added, bytes_written })
}

/// How long an image file of a disk of this size is, holes and all.
pub fn file_size(size: u64, file: &Path, options: &ImageOptions) -> Result<u64> {
    let format = options.format.unwrap_or_else(|| Format::of_name(file));
    Ok(image(format, options)?.size(ByteCount::new(size))?.get())
}

/// What the options ask to write.
fn image(format: Format, options: &ImageOptions) -> Result<Image> {
    let refuse = |option: &str, only: Format| {
        Err(Failure::usage(format!("{option}: is for --format {only}, not {format}")))
    };
    match (Image::plain(format), options) {
        (Image::Qcow2 { .. }, options) if !options.fixed => Ok(Image::Qcow2 { compressed: options.compress }),
        (Image::Vhd { .. }, options) if !options.compress => Ok(Image::Vhd { fixed: options.fixed }),
        (_, ImageOptions { compress: true, .. }) => refuse("--compress", Format::Qcow2),
        (_, ImageOptions { fixed: true, .. }) => refuse("--fixed", Format::Vhd),
        (plain, _) => Ok(plain),
    }
}

/// An image to fill a disk from.
struct Source {
    name: String,
    disk: Arc<dyn BlockSource>,
}

/// Opens an image: a file, or an NBD URI.
fn source(from: &str, format: Option<Format>, follow: bool) -> Result<Source> {
    let name = from.to_owned();
    if from.contains("://") {
        let export = Arc::new(nbd::Client::connect(&from.parse()?, CONNECTIONS)?);
        return Ok(Source { disk: formats::read(from, export, format.unwrap_or(Format::Raw))?, name });
    }
    let reach = if follow { Reach::Anywhere } else { Reach::Below };
    Ok(Source { disk: formats::open(Path::new(from), format, reach)?.disk, name })
}

fn create_from(
    client: &Client,
    output: &Output,
    name: &str,
    size: Option<u64>,
    from: &Source,
) -> Result<Disk> {
    let least = from.disk.size().get();
    let size = size.unwrap_or(least);
    if size < least {
        let sizes = format!("{} hold {}, which has {least} bytes", size::show(size), from.name);
        return Err(Failure::usage(format!("disk {name}: {sizes}")).with_help("leave --size away"));
    }
    client.create_disk(&CreateDisk { name: name.to_owned(), size, fill: true, base: None })?;
    // the connections end before the disk is ready
    let filled = connect(client, name)
        .and_then(|disk| copy::to_device(&*from.disk, &disk, &mut output.progress(name)))
        .and_then(|_| Ok(client.disk_ready(name)?));
    filled.map_err(|failure| {
        // half an image is worse than none
        match client.delete_disk(name) {
            Ok(_) => failure,
            Err(error) => {
                failure.with_help(format!("disk {name} is incomplete and could not be deleted: {error}"))
            }
        }
    })
}

fn state(disk: &Disk) -> &'static str {
    match disk.state {
        DiskState::Ready => "ready",
        DiskState::Filling => "filling",
        DiskState::Failed => "failed",
    }
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
            state(disk).to_owned(),
        ]
    };
    table(&["disk", ">size", ">stored", ">points", ">clients", "state"], disks.iter().map(row).collect())
}

fn show(disk: &Disk) -> String {
    let mut rows = vec![
        ("name", disk.name.clone()),
        ("id", disk.id.clone()),
        ("state", state(disk).to_owned()),
        (
            "size",
            disk.size
                .map_or_else(|| "?".to_owned(), |bytes| format!("{} ({bytes} bytes)", size::show(bytes))),
        ),
        ("stored", disk.stored.map_or_else(|| "?".to_owned(), size::show)),
        ("maps", disk.maps.map_or_else(|| "?".to_owned(), size::show)),
        ("index", disk.index.map_or_else(|| "?".to_owned(), size::show)),
        ("points", disk.points.to_string()),
        ("clients", clients(disk)),
        ("created", disk.created.clone()),
        ("opened", disk.opened.clone().unwrap_or_else(|| "failed".to_owned())),
        ("uri", disk.uri.clone()),
    ];
    rows.extend(disk.base.as_ref().map(|base| ("base", bases::shown(base))));
    rows.extend((!disk.children.is_empty()).then(|| ("stood on by", disk.children.join(", "))));
    rows.extend(disk.audits.iter().map(|audit| ("audit", audited(audit))));
    if let Some(left) = &disk.consolidation {
        let (done, total) = (size::show(left.bytes_done), size::show(left.bytes_total));
        rows.push(("consolidating", format!("{} layers, {done} of {total} copied", left.layers)));
    }
    if let Some(error) = &disk.error {
        rows.push(("error", error.message.clone()));
    }
    rows.extend(disk.damage.first().map(|first| {
        let more = disk.damage.len() - 1;
        let more =
            if more == 0 { String::new() } else { format!(", and {more} more; `disk scrub` names all") };
        ("damage", format!("{}{more}", first.why))
    }));
    sheet(&rows)
}

fn audited(audit: &DiskAudit) -> String {
    let since = match &audit.compared_since {
        Some(since) => format!("every block compared since {since}"),
        None => format!("compared up to byte {}", audit.next_byte),
    };
    let missed = match &audit.missed_at {
        Some(at) => format!("; {} missed by change tracking, found {at}", size::count(audit.missed, "block")),
        None => String::new(),
    };
    format!("vault {}: {since}{missed}", audit.vault)
}

fn clients(disk: &Disk) -> String {
    let mut text: Vec<String> = disk
        .clients
        .iter()
        .map(|client| format!("{} ({} connections)", client.client, client.connections))
        .collect();
    if text.is_empty() {
        text.push("none".to_owned());
    }
    if disk.shared {
        text.push("shared: others may write too".to_owned());
    }
    if disk.awaits_release {
        text.push(format!("remote clients wait for `blockctl disk release {}`", disk.name));
    }
    text.join("; ")
}

/// The exports that were used: all, or a disk and its points.
fn used(client: &Client, name: Option<&str>) -> Result<Vec<Export>> {
    let mut exports = client.exports()?;
    if let Some(name) = name {
        let of_disk = format!("{name}@");
        exports.retain(|export| export.name == name || export.name.starts_with(&of_disk));
        if exports.is_empty() {
            // nobody used it, if there is one
            export_uri(client, name)?;
        }
    }
    Ok(exports)
}

/// `850 µs`, `41.9 ms`, `1.20 s`.
fn duration(ns: u64) -> String {
    match ns as f64 / 1e3 {
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 999_950.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// How exports are used, for people.
fn stats(exports: &[Export]) -> String {
    let time = |ns: Option<u64>| ns.map_or_else(|| "?".to_owned(), duration);
    let row = |export: &Export, command: &ExportCommand| {
        vec![
            export.name.clone(),
            command.command.clone(),
            command.requests.to_string(),
            size::show(command.bytes),
            command.errors.to_string(),
            time(command.p50_ns),
            time(command.p99_ns),
            time(command.p999_ns),
        ]
    };
    let rows =
        exports.iter().flat_map(|export| export.commands.iter().map(move |command| row(export, command)));
    let head = ["export", "command", ">requests", ">bytes", ">errors", ">p50", ">p99", ">p99.9"];
    table(&head, rows.collect())
}

/// Changed ranges for people.
pub fn changes(changes: &Changes) -> String {
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
