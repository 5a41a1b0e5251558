//! `files find`.

use super::show::{Shown, escaped};
use super::{Access, Named, glob, ls};
use crate::cli::{FindOptions, KindName};
use crate::failure::{Failure, Result};
use crate::output::Output;
use control::Kind;
use mount::files::{Files, Found, Step};
use mount::guest::NodeKind;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

/// Prints every file below a directory that fits, as it is found.
pub fn run(access: &Access<'_>, output: &Output, options: &FindOptions) -> Result<()> {
    let named = Named::parse(&options.path)?;
    let files = named.open(access)?;
    let start = named.find(&files, false)?;
    let stdout = std::io::stdout();
    let is_terminal = stdout.is_terminal();
    let mut printer = Printer {
        out: BufWriter::new(stdout.lock()),
        json: output.is_json(),
        null: options.null,
        escape: is_terminal && !options.null,
        any: false,
    };
    let (mut walk, mut failed) = (files.walk(&start), 0);
    while let Some(step) = walk.next() {
        match step {
            Step::At(found) => {
                if options.depth.is_some_and(|depth| found.depth() >= depth) {
                    walk.leave_out();
                }
                if fits(&found, &named, options) {
                    printer.print(&path(&named, &found.path), &found, &files)?;
                }
            }
            Step::Left(_) => {}
            Step::Failed { path: at, error } => {
                failed += 1;
                output.warn(&format!("{}: {}", escaped(&path(&named, &at)), error.with_causes()));
            }
        }
    }
    printer.end()?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(Kind::Corrupt, format!("find in {named}: {failed} could not be read"))),
    }
}

/// The path within the partition.
fn path(named: &Named, below: &[u8]) -> Vec<u8> {
    let start = named.path.strip_suffix(b"/").unwrap_or(&named.path);
    match below {
        [] => named.path.clone(),
        below => [start, b"/", below].concat(),
    }
}

fn fits(found: &Found, named: &Named, options: &FindOptions) -> bool {
    let node = &found.node;
    let name = if found.path.is_empty() { named.name().unwrap_or(b"/") } else { found.name() };
    let kind = match node.kind {
        NodeKind::File => KindName::File,
        NodeKind::Directory => KindName::Directory,
        NodeKind::Symlink => KindName::Link,
        _ => KindName::Special,
    };
    let is_file = node.kind == NodeKind::File;
    options.name.as_ref().is_none_or(|pattern| glob::matches(pattern.as_bytes(), name))
        && options.kind.is_none_or(|wanted| wanted == kind)
        && options.larger.is_none_or(|size| is_file && node.size >= size)
        && options.smaller.is_none_or(|size| is_file && node.size <= size)
        && options.newer.is_none_or(|time| node.mtime.seconds > time)
        && options.older.is_none_or(|time| node.mtime.seconds < time)
}

struct Printer<W: Write> {
    out: W,
    json: bool,
    null: bool,
    escape: bool,
    any: bool,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, path: &[u8], found: &Found, files: &Files) -> Result<()> {
        let line = if self.json {
            let shown = Shown::new(path, &found.node, ls::target(files, &found.node).as_deref());
            let json = serde_json::to_string(&shown)
                .map_err(|error| Failure::new(Kind::Io, format!("write JSON: {error}")))?;
            let before = if self.any { ",\n" } else { "[\n" };
            format!("{before}{json}").into_bytes()
        } else {
            let end = if self.null { b'\0' } else { b'\n' };
            let mut line = if self.escape { escaped(path).into_bytes() } else { path.to_vec() };
            line.push(end);
            line
        };
        self.any = true;
        self.put(&line)
    }

    fn end(&mut self) -> Result<()> {
        match (self.json, self.any) {
            (true, true) => self.put(b"\n]\n")?,
            (true, false) => self.put(b"[]\n")?,
            (false, _) => {}
        }
        self.out.flush().map_err(|error| Failure::host("write the answer", &error))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Failure::host("write the answer", &error))
    }
}
