//! `files cat` and `files tar`: bytes for standard output.

use super::copy::{Onlooker, conclude};
use super::{Access, Named};
use crate::cli::TarOptions;
use crate::failure::{Failure, Result};
use crate::output::Output;
use mount::guest::NodeKind;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};

/// Holes are written so many bytes at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 20;

/// Writes the content of files to standard output.
pub fn cat(access: &Access<'_>, output: &Output, paths: &[OsString]) -> Result<()> {
    if output.is_json() {
        return Err(Failure::usage("files cat: bytes of files are no JSON")
            .with_help("leave --json out; `blockctl files ls --json` tells of a file"));
    }
    let stdout = std::io::stdout();
    let mut out = stdout.lock();
    for path in paths {
        let named = Named::parse(path)?;
        let files = named.open(access)?;
        let node = named.find(&files, true)?;
        if node.kind != NodeKind::File {
            let kind = super::show::kind(node.kind);
            return Err(Failure::usage(format!("{named}: is not a plain file, it is a {kind}")));
        }
        let mut at = 0;
        let mut broken = None;
        let mut put = |bytes: &[u8]| {
            out.write_all(bytes).map_err(|error| {
                let text = std::io::Error::from(error.kind());
                broken = Some(Failure::host("write the answer", &error));
                mount::Error::host("write", "standard output", text)
            })
        };
        let read = files.content(&node, &mut |offset, part| {
            zeros(offset - at, &mut put)?;
            at = offset + part.len() as u64;
            put(part)
        });
        let read = read.and_then(|()| zeros(node.size - at, &mut put));
        if let Err(error) = read {
            return Err(broken.unwrap_or_else(|| named.failed(error, &files)));
        }
    }
    out.flush().map_err(|error| Failure::host("write the answer", &error))
}

fn zeros(mut count: u64, put: &mut dyn FnMut(&[u8]) -> mount::Result<()>) -> mount::Result<()> {
    while count > 0 {
        let now = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
        put(&ZEROS[..now])?;
        count -= now as u64;
    }
    Ok(())
}

/// Writes an archive.
pub fn tar(access: &Access<'_>, output: &Output, options: &TarOptions) -> Result<()> {
    let stdout = std::io::stdout();
    if options.output.is_none() {
        if stdout.is_terminal() {
            return Err(Failure::usage("files tar: an archive is nothing for a terminal").with_help(
                "give --output FILE, or send it on: | tar -x --xattrs --xattrs-include='*' --acls",
            ));
        }
        if output.is_json() {
            return Err(Failure::usage("files tar: the archive takes the place of the answer")
                .with_help("give --output FILE with --json"));
        }
    }
    let named = Named::parse(&options.path)?;
    let files = named.open(access)?;
    let node = named.find(&files, false)?;
    let mut onlooker = Onlooker::new(output, &format!("pack {named}"));
    let name = named.name().unwrap_or(b".");
    let to: Box<dyn Write> = match &options.output {
        None => Box::new(stdout.lock()),
        Some(path) => {
            let made = File::create_new(path);
            Box::new(made.map_err(|error| Failure::host(format!("make {}", path.display()), &error))?)
        }
    };
    let mut to = BufWriter::with_capacity(GATHERED, to);
    let report = mount::files::tar::tar(&files, &node, name, &mut to, &mut onlooker)?;
    drop(onlooker);
    if let Some(path) = &options.output {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|error| Failure::host(format!("sync {}", path.display()), &error))?;
    }
    let quiet = options.output.is_none();
    conclude(output, &format!("pack {named}"), report, options.strict, quiet)
}
