//! `files cp`.

use super::show::{escaped, text};
use super::{Access, Named};
use crate::cli::CopyOptions;
use crate::failure::{Failure, Result};
use crate::output::{Counter, Output};
use crate::size;
use control::Kind;
use mount::files::copy::{Report, Taken, Target, Watch, copy};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A copy as JSON.
#[derive(Serialize)]
struct Copied {
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    failed: u64,
    not_kept: Vec<NotKept>,
}

#[derive(Serialize)]
struct NotKept {
    what: &'static str,
    count: u64,
    example: String,
    why: String,
}

/// Shows how far it is, and what failed.
pub struct Onlooker<'a> {
    output: &'a Output,
    counter: Counter,
}

impl<'a> Onlooker<'a> {
    /// For something that may take long.
    pub fn new(output: &'a Output, what: &str) -> Self {
        Self { output, counter: output.counter(what) }
    }
}

impl Watch for Onlooker<'_> {
    fn at(&mut self, files: u64, bytes: u64) {
        self.counter.at(files, bytes);
    }

    fn failed(&mut self, path: &[u8], error: &mount::Error) {
        let path = if path.is_empty() { ".".to_owned() } else { escaped(path) };
        self.counter.aside(|| self.output.warn(&format!("{path}: {}", error.with_causes())));
    }
}

/// Copies files out of points.
pub fn run(access: &Access<'_>, output: &Output, options: &CopyOptions) -> Result<()> {
    let Some((to, paths)) = options.paths.split_last() else {
        return Err(Failure::usage("files cp: names nothing to copy"));
    };
    let taken = if options.replace { Taken::Replace } else { Taken::Keep };
    let named = paths.iter().map(|path| Named::parse(path)).collect::<Result<Vec<_>>>()?;
    raise_descriptors();
    let mut total = Report::default();
    for named in &named {
        let files = named.open(access)?;
        let node = named.find(&files, false)?;
        let (target, name) = place(to, named, paths)?;
        let mut onlooker = Onlooker::new(output, &format!("copy {named}"));
        let copied = copy(&files, &node, &target, name.as_deref(), taken, &mut onlooker);
        let report = copied.map_err(|error| named.failed(error, &files))?;
        add(&mut total, report);
    }
    conclude(output, &format!("copy to {}", Path::new(to).display()), total, options.strict, false)
}

/// Where a copy goes, and the name it gets there; none for the content of a root, which has no name.
fn place(to: &OsStr, named: &Named, paths: &[OsString]) -> Result<(Target, Option<Vec<u8>>)> {
    let path = Path::new(to);
    if path.is_dir() {
        return Ok((Target::open(path)?, named.name().map(<[u8]>::to_vec)));
    }
    let missing = |why: &str| {
        Failure::new(Kind::NotFound, format!("copy to {}: {why}", path.display()))
            .with_help("`mkdir -p` makes a directory")
    };
    if paths.len() > 1 {
        return Err(missing("several copies need a directory that exists"));
    }
    if named.name().is_none() {
        return Err(missing("what is in a directory needs a directory that exists"));
    }
    let name = path.file_name().filter(|_| !to.as_bytes().ends_with(b"/"));
    let name = name.ok_or_else(|| missing("it is not there"))?;
    let around = path.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((Target::open(around)?, Some(name.as_bytes().to_vec())))
}

fn add(total: &mut Report, one: Report) {
    total.files += one.files;
    total.directories += one.directories;
    total.others += one.others;
    total.bytes += one.bytes;
    total.failed += one.failed;
    for lost in one.not_kept {
        match total.not_kept.iter_mut().find(|known| known.kind == lost.kind) {
            Some(known) => known.count += lost.count,
            None => total.not_kept.push(lost),
        }
    }
}

/// Answers, and fails if something failed, or was not kept although it had to be.
pub fn conclude(output: &Output, what: &str, report: Report, strict: bool, quiet: bool) -> Result<()> {
    for lost in &report.not_kept {
        output.warn(&lost.to_string());
    }
    let not_kept = report.not_kept.iter().map(|lost| NotKept {
        what: lost.kind.name(),
        count: lost.count,
        example: text(&lost.example).0,
        why: lost.why.clone(),
    });
    let Report { files, directories, others, bytes, failed, .. } = report;
    let copied = Copied { files, directories, others, bytes, failed, not_kept: not_kept.collect() };
    if !quiet {
        output.answer(&copied, |copied| {
            let count = |number, noun: &str| size::count(number, noun);
            format!(
                "{}, {}, {} of other kinds, {}",
                count(copied.files, "file"),
                count(copied.directories, "directory").replace("directorys", "directories"),
                copied.others,
                size::show(copied.bytes),
            )
        })?;
    }
    if failed > 0 {
        let why = format!("{what}: {} could not be read or written whole", size::count(failed, "file"));
        return Err(Failure::new(Kind::Io, why).with_help("the warnings above name them; the rest is there"));
    }
    if strict && !copied.not_kept.is_empty() {
        let kinds: Vec<_> = copied.not_kept.iter().map(|lost| lost.what).collect();
        return Err(Failure::new(Kind::Io, format!("{what}: not kept: {}", kinds.join(", ")))
            .with_help("the copies are there without it; root keeps everything, and so does `files tar`"));
    }
    Ok(())
}

/// A copy holds every directory around a file open, so as many as may be are asked for.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // with fewer, what is nested deeper fails by name
    let _as_before = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
