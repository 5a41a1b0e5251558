//! `blockctl restore …`: a recovery point as a disk, a file, or what another server holds.

mod elsewhere;

use crate::cli::{ImageOptions, RestoreVerb};
use crate::copy;
use crate::disk;
use crate::failure::{Failure, Result};
use crate::job;
use crate::mark::Mark;
use crate::output::{Output, sheet};
use crate::size;
use block::BlockSource;
use control::{Client, Job, Kind, Point, Preflight, RestoreRequest};
use formats::Format;
use nbd::Uri;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Runs the verb.
pub fn run(client: &Client, output: &Output, verb: RestoreVerb) -> Result<()> {
    let (point, target, image, undo, force_disconnect, verify, preflight, resume, yes) = match verb {
        RestoreVerb::Machine(options) => return crate::machine::restore(options, client, output),
        RestoreVerb::Disk {
            point,
            target,
            image,
            undo,
            force_disconnect,
            verify,
            preflight,
            resume,
            yes,
        } => (point, target, image, undo, force_disconnect, verify, preflight, resume, yes),
    };
    let point = point.unwrap_or_default();
    if let Some(to) = target.output {
        let point = client.point(&point)?;
        return match (to.to_str().filter(|text| text.contains("://")), preflight) {
            (uri, true) => elsewhere::foresee(client, output, &point, &to, uri, &image),
            (Some(uri), false) => onto_server(client, output, &point, uri, (resume, verify, yes)),
            (None, false) => as_file(client, output, &point, &to, &image, verify, yes),
        };
    }
    let replace = target.replace.clone();
    let request = RestoreRequest {
        point,
        to: target.to.unwrap_or_default(),
        replace: target.replace,
        undo,
        force_disconnect,
        verify,
    };
    if preflight {
        let found = client.preflight(&request)?;
        return told(output, &found);
    }
    if let Some(name) = &replace {
        let lost = client.preflight(&request)?.bytes_lost.map(size::show);
        let lost =
            lost.map_or_else(|| "all that it holds".to_owned(), |bytes| format!("{bytes} written since"));
        let what = if undo { "what it held before".to_owned() } else { request.point.clone() };
        output
            .confirm(&format!("replace disk {name} by {what}: {lost} stays in a recovery point only"), yes)?;
    }
    let done = job::follow(client, output, &client.restore(&request)?)?;
    job::answer(output, &done, |job| restored(job, replace.is_some()))
}

fn restored(job: &Job, in_place: bool) -> String {
    let (point, target) = (job.point.as_deref().unwrap_or("?"), job.target.as_deref().unwrap_or("?"));
    let (seconds, read) = (job.duration_ms as f64 / 1000.0, size::show(job.bytes_read));
    let to = if in_place { "in the place of disk" } else { "to disk" };
    let mut text = format!("{point} restored {to} {target}: {read} read, {seconds:.2} s");
    let Some(restore) = &job.restore else { return text };
    if in_place {
        let (unchanged, written) = (size::show(restore.bytes_unchanged), size::show(restore.bytes_written));
        text += &format!("; {unchanged} known to be as in the point, {written} written");
    }
    if let Some(safety) = &restore.safety_point {
        text += &format!(
            "\nwhat was there before: {safety}; `restore disk --replace {target} --undo` puts it back"
        );
    }
    if restore.bytes_verified > 0 {
        text += &format!("\nread back and compared: {}", size::show(restore.bytes_verified));
    }
    text
}

/// Says what was foreseen, and refuses if something stands in the way.
fn told(output: &Output, found: &Preflight) -> Result<()> {
    output.answer(found, foreseen)?;
    match found.obstacles.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(Kind::Refused, format!("restore {}: {first}", found.point))),
    }
}

/// What was foreseen, for people.
fn foreseen(found: &Preflight) -> String {
    let estimate = found
        .estimate_ms
        .map(|ms| format!("{:.1} s, as the last {} restores went", ms as f64 / 1000.0, found.measured_jobs));
    let tier = match &found.vault {
        Some(vault) => format!("vault {vault}{}", if found.unlocked { "" } else { ", which is locked" }),
        None => found.tier.name().to_owned(),
    };
    let mut rows = vec![
        ("point", found.point.clone()),
        ("target", found.target.clone()),
        ("size", size::show(found.size)),
        ("from", tier),
        ("to read", size::show(found.bytes_to_read)),
        ("unchanged", size::show(found.bytes_unchanged)),
        (
            "space",
            format!(
                "{} of {} that are free",
                size::show(found.space_needed),
                size::show(found.space_available)
            ),
        ),
        ("time", estimate.unwrap_or_else(|| "not known before the first restore".to_owned())),
    ];
    rows.extend(found.bytes_lost.map(|bytes| {
        let bytes = size::show(bytes);
        let lost = match found.elsewhere {
            true => format!("{bytes} that {} holds now", found.target),
            false => format!("{bytes} written since; the safety point keeps them"),
        };
        ("lost", lost)
    }));
    if !found.clients.is_empty() {
        rows.push(("clients", found.clients.join(", ")));
    }
    rows.extend(found.obstacles.iter().map(|obstacle| ("obstacle", obstacle.clone())));
    sheet(&rows)
}

fn as_file(
    client: &Client,
    output: &Output,
    point: &Point,
    file: &Path,
    image: &ImageOptions,
    verify: bool,
    yes: bool,
) -> Result<()> {
    let mark = Mark::beside(file, &point.state, point.size);
    let point = point.name.as_str();
    let written = disk::export(client, output, point, file, image, mark.as_ref(), yes)
        .map_err(|failure| cut_short(mark.as_ref(), "", failure))?;
    if verify {
        let format = image.format.unwrap_or_else(|| Format::of_name(file));
        let back = formats::open(file, Some(format), formats::Reach::Below)?.disk;
        same(output, &disk::connect(client, point)?, &*back, &file.display().to_string())?;
    }
    output.answer(&written, disk::Written::show)
}

/// What was written onto another server.
#[derive(Serialize)]
struct Sent {
    name: String,
    uri: String,
    size: u64,
    bytes_written: u64,
    verified: bool,
}

fn onto_server(
    client: &Client,
    output: &Output,
    point: &Point,
    uri: &str,
    (resume, verify, yes): (bool, bool, bool),
) -> Result<()> {
    let mark = Mark::of_server(uri, &point.state, point.size);
    if let Some(mark) = mark.as_ref().filter(|_| !resume) {
        // others may have written there since
        mark.remove();
    }
    let point = point.name.as_str();
    let to = Arc::new(nbd::Client::connect(&uri.parse::<Uri>()?, disk::CONNECTIONS)?);
    let source = disk::connect(client, point)?;
    let (size, room) = (source.size().get(), to.size().get());
    if room < size {
        let why = format!("{uri}: has {room} bytes, and {point} has {size}");
        return Err(Failure::usage(why).with_help("name an export that is at least as large"));
    }
    output.confirm(&format!("replace what {uri} holds"), yes)?;
    let bytes_written = copy::over_device(&source, &*to, mark.as_ref(), &mut output.progress(point))
        .map_err(|failure| {
            cut_short(mark.as_ref(), " with --resume", disk::explained(client, point, failure))
        })?;
    if verify {
        let back = block::Window::new(to, block::ByteRange::whole(source.size()))?;
        same(output, &source, &back, uri)?;
    }
    let (name, uri) = (point.to_owned(), uri.to_owned());
    output.answer(&Sent { name, uri, size, bytes_written, verified: verify }, |sent| {
        let read_back = if sent.verified { ", read back and equal" } else { "" };
        format!(
            "{}: {} onto {}, {} of it data{read_back}",
            sent.name,
            size::show(sent.size),
            sent.uri,
            size::show(sent.bytes_written)
        )
    })
}

/// A failure that left something an earlier attempt need not do again.
fn cut_short(mark: Option<&Mark>, with: &str, failure: Failure) -> Failure {
    match mark.map_or(0, Mark::until) {
        0 => failure,
        until => failure.with_help(format!("the same command{with} goes on from {}", size::show(until))),
    }
}

fn same(output: &Output, expected: &dyn BlockSource, found: &dyn BlockSource, what: &str) -> Result<()> {
    match copy::compare(expected, found, &mut output.progress("verify"))? {
        Ok(_) => Ok(()),
        Err(at) => Err(Failure::new(
            Kind::Corrupt,
            format!("{what}: reads otherwise than what was written, at byte {at}"),
        )
        .with_help("write it again; if it fails again, the medium is at fault")),
    }
}
