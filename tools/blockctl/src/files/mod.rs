//! `blockctl files …`: files of a recovery point, without a mount and without root.

mod bytes;
mod check;
mod copy;
mod find;
mod glob;
mod ls;
mod show;

pub use show::{Shown, escaped, parse_time};

use crate::cli::{FilesOptions, FilesVerb};
use crate::failure::{Failure, Result};
use crate::output::Output;
use control::Client;
use mount::Passphrases;
use mount::files::Files;
use mount::guest::Node;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Where points are, and what opens the encrypted volumes in them.
struct Access<'a> {
    client: &'a Client,
    passphrases: Passphrases,
}

/// `blockctl files …`.
pub fn run(options: FilesOptions, client: &Client, output: &Output) -> Result<()> {
    let access = &Access { client, passphrases: options.passphrases.read()? };
    match options.verb {
        FilesVerb::Ls { path } => ls::run(access, output, &path),
        FilesVerb::Cat { paths } => bytes::cat(access, output, &paths),
        FilesVerb::Cp(options) => copy::run(access, output, &options),
        FilesVerb::History { path } => {
            let named = Named::parse(&path)?;
            let item = named.point.split('@').next().unwrap_or_default();
            let volume = named.number(access, item)?;
            let passphrases = access.passphrases.clone();
            crate::history::versions(client, output, item, volume, &named.path, passphrases)
        }
        FilesVerb::Check { points } => check::run(access, output, &points),
        FilesVerb::Find(options) => find::run(access, output, &options),
        FilesVerb::Tar(options) => bytes::tar(access, output, &options),
    }
}

/// A file of a recovery point, as the command line names it.
struct Named {
    point: String,
    volume: String,
    path: Vec<u8>,
}

impl Named {
    /// `POINT:N:/path`, split at the last `:N:/`: names of points have colons in their times, and a path may hold
    /// anything, so what is behind the last one is the shortest path there can be. Without a number, the first part
    /// before `:/` is the name of a volume, which is never only digits.
    fn parse(text: &OsStr) -> Result<Self> {
        Self::split(text.as_bytes()).ok_or_else(|| {
            Failure::usage(format!("{}: is not of the form POINT:N:/path", text.display())).with_help(
                "N is the number of the partition, 0 for a disk without a table, or the name of an LVM or MD volume: \
                 web-root@3:1:/etc/fstab, web@3:vg0-root:/etc/fstab; `blockctl files ls POINT` shows them",
            )
        })
    }

    fn split(text: &[u8]) -> Option<Self> {
        let ends = || text.windows(2).enumerate().filter(|(_, pair)| pair == b":/").map(|(end, _)| end);
        let is_number =
            |volume: &str| volume.bytes().all(|byte| byte.is_ascii_digit()) && volume.parse::<u32>().is_ok();
        let is_name = |volume: &str| {
            volume.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte))
                && volume.contains('-')
                && volume.bytes().any(|byte| byte.is_ascii_alphabetic())
        };
        let number =
            ends().rev().filter_map(|end| Self::at(text, end)).find(|named| is_number(&named.volume));
        number.or_else(|| {
            ends().filter_map(|end| Self::at(text, end)).next().filter(|named| is_name(&named.volume))
        })
    }

    /// The three parts around the colon before `end` and the one at it.
    fn at(text: &[u8], end: usize) -> Option<Self> {
        let before = text.get(..end)?;
        let start = before.iter().rposition(|byte| *byte == b':')?;
        let volume =
            std::str::from_utf8(before.get(start + 1..)?).ok().filter(|volume| !volume.is_empty())?;
        let point = std::str::from_utf8(before.get(..start)?).ok().filter(|point| !point.is_empty())?;
        Some(Self { point: point.to_owned(), volume: volume.to_owned(), path: text.get(end + 1..)?.to_vec() })
    }

    /// The last name of its path; none of the root, and of `.` and `..`, which name what they are not called.
    fn name(&self) -> Option<&[u8]> {
        let name = self.path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty())?;
        (name != b"." && name != b"..").then_some(name)
    }

    /// The number of its volume; a name is looked up in the newest point of the disk.
    fn number(&self, access: &Access<'_>, disk: &str) -> Result<u32> {
        if let Ok(number) = self.volume.parse() {
            return Ok(number);
        }
        let newest = format!("{disk}@latest");
        open(access, &newest)?.volume_named(&self.volume).ok_or_else(|| {
            Failure::from(mount::Error::not_found(format!("volume {} of {newest}", self.volume)))
        })
    }

    fn open(&self, access: &Access<'_>) -> Result<Files> {
        open(access, &self.point)
    }

    fn find(&self, files: &Files, follow: bool) -> Result<Node> {
        let number = files.volume_named(&self.volume);
        let number = number.ok_or_else(|| mount::Error::not_found(format!("partition {}", self.volume)));
        let found = number.and_then(|number| files.find(number, &self.path, follow));
        found.map_err(|error| self.failed(error, files))
    }

    /// What failed, with what helps where the partition is the trouble.
    fn failed(&self, error: mount::Error, files: &Files) -> Failure {
        let failure = Failure::from(error).while_doing(format!("{self}"));
        let volumes = files.volumes();
        let unreadable =
            |volume: &mount::files::Volume| volume.name == self.volume && volume.content.is_err();
        match volumes.iter().any(|volume| volume.name == self.volume) {
            false => failure.with_help(format!(
                "partitions and volumes of {} are {}",
                self.point,
                volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>().join(", ")
            )),
            true if volumes.iter().any(unreadable) => failure.with_help(
                "`blockctl mount POINT DIR` still shows its bytes as partitions/N.raw, or disk.raw for N = 0",
            ),
            true => failure,
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.point, self.volume, show::escaped(&self.path))
    }
}

fn open(access: &Access<'_>, point: &str) -> Result<Files> {
    if !point.contains('@') {
        return Err(Failure::usage(format!("{point}: only files of a recovery point can be read"))
            .with_help(format!("`blockctl snapshot {point}` makes one; {point}@latest is its newest")));
    }
    Ok(Files::open(&access.client.point(point)?.uri, &access.passphrases)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_the_last_number() {
        let split = |text: &str| {
            Named::split(text.as_bytes())
                .map(|named| (named.point, named.volume, String::from_utf8(named.path).expect("text")))
        };
        let is = |point: &str, volume: u32, path: &str| {
            Some((point.to_owned(), volume.to_string(), path.to_owned()))
        };
        assert_eq!(split("web@3:1:/etc/fstab"), is("web@3", 1, "/etc/fstab"));
        assert_eq!(split("web@2026-11-20T12:00:0:/"), is("web@2026-11-20T12:00", 0, "/"));
        assert_eq!(split("vm/web/vda@latest:12:/a:b/c"), is("vm/web/vda@latest", 12, "/a:b/c"));
        assert_eq!(split("a@1:1:/x:2:/y"), is("a@1:1:/x", 2, "/y"));
        let named = |point: &str, volume: &str, path: &str| {
            Some((point.to_owned(), volume.to_owned(), path.to_owned()))
        };
        assert_eq!(split("web@3:vg0-root:/etc"), named("web@3", "vg0-root", "/etc"));
        assert_eq!(
            split("web@2026-11-20T12:00:a--b-c.2:/x:d-e:/y"),
            named("web@2026-11-20T12:00", "a--b-c.2", "/x:d-e:/y")
        );
        for bad in ["web@3", "web@3:/x", "web@3:x:/y", "web@3:1:etc", ":1:/x", "web@3:99999999999:/x"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_root_has_no_name() {
        let name = |path: &str| {
            let named = Named { point: String::new(), volume: "0".to_owned(), path: path.into() };
            named.name().map(<[u8]>::to_vec)
        };
        assert_eq!(name("/etc/fstab"), Some(b"fstab".to_vec()));
        assert_eq!(name("/etc/"), Some(b"etc".to_vec()));
        for none in ["/", "//", "/etc/.", "/etc/.."] {
            assert_eq!(name(none), None, "{none}");
        }
    }
}
