//! Finding the volumes of disks: what the parser tells, and what it takes to get at the bytes of encrypted and thin volumes.

use super::Disk;
use crate::luks::Passphrases;
use crate::parser::Parser;
use crate::parser::wire::{Answer, FIRST_OPENED, MAX_OPENED, Needs, PER_DISK, Question, Request, Volume};
use crate::volume::thin::Run;
use crate::volume::{Space, Stretch, Thin, Way};
use crate::{Error, Result};
use block::{BlockSource, ByteRange, Window};
use std::sync::Arc;

/// Decrypted and mapped volumes are laid out at multiples of this.
const ALIGN: u64 = 1 << 20;
/// Runs of all thin volumes together, 24 bytes each: what a guest scattered wider is not shown.
const MAX_STRETCHES: usize = 4 << 20;

/// All volumes, and the names of those that were decrypted or mapped. They, and what is put together, are added to the space.
pub(super) fn find(
    source: &Arc<Space>,
    disks: &[Disk],
    parser: &Parser,
    passphrases: &Passphrases,
) -> (Vec<Volume>, Vec<String>) {
    let mut finder = Finder {
        source,
        disks,
        parser,
        passphrases,
        opened: Vec::new(),
        shut: Vec::new(),
        tries: 0,
        stretches: 0,
    };
    let mut volumes = finder.probe();
    // what was decrypted may hold parts of volumes, and those may be encrypted in turn
    while source.has_room() && finder.open(&volumes) {
        volumes = finder.probe();
    }
    let names: Vec<String> = finder.opened.iter().map(|(name, _)| name.clone()).collect();
    // a thin volume that was mapped is there under its own name
    volumes
        .retain(|volume| !matches!(volume.needs, Some(Needs::Mapping(_))) || !names.contains(&volume.name));
    for volume in volumes.iter_mut().filter(|volume| volume.needs.is_some()) {
        let title = title(disks, &names, volume);
        if names.contains(&decrypted(&title)) {
            volume.content =
                Err(format!("it is encrypted with LUKS, and decrypted as {}", decrypted(&title)));
        } else if let Some((_, why)) = finder.shut.iter().find(|(shut, _)| *shut == title) {
            volume.content = Err(why.clone());
        }
    }
    (volumes, names)
}

/// The name of what an encrypted volume holds.
fn decrypted(title: &str) -> String {
    format!("luks-{title}")
}

/// What a volume is called: by its own name, by its number, or by its disk's name and its number.
pub(super) fn title(disks: &[Disk], opened: &[String], volume: &Volume) -> String {
    if !volume.name.is_empty() {
        return volume.name.clone();
    }
    if let Some(name) = volume.number.checked_sub(FIRST_OPENED).and_then(|place| opened.get(place as usize)) {
        return name.clone();
    }
    let (disk, number) = (volume.number / PER_DISK, volume.number % PER_DISK);
    match disks.get(disk as usize).map(|disk| disk.name.as_str()) {
        Some(name) if !name.is_empty() && number == 0 => name.to_owned(),
        name => format!("{}{number}", name.unwrap_or_default()),
    }
}

struct Finder<'a> {
    source: &'a Arc<Space>,
    disks: &'a [Disk],
    parser: &'a Parser,
    passphrases: &'a Passphrases,
    /// Names and addresses of decrypted and mapped volumes.
    opened: Vec<(String, ByteRange)>,
    /// Those that could not be, and why.
    shut: Vec<(String, String)>,
    tries: usize,
    stretches: usize,
}

impl Finder<'_> {
    /// Asks the parser what is on the disks and in what was decrypted.
    fn probe(&self) -> Vec<Volume> {
        let disks = self.disks.iter().map(|disk| disk.range.count().get()).collect();
        let opened = self.opened.iter().map(|(_, range)| *range).collect();
        let volume = ByteRange::whole(self.source.size());
        let volumes = match self.parser.ask(&Request { volume, question: Question::Probe { disks, opened } })
        {
            Ok(Answer::Probe { volumes, remarks, .. }) => {
                // the same ones every time
                let once = remarks.iter().filter(|_| self.opened.is_empty());
                once.for_each(|remark| tracing::warn!("{remark}"));
                volumes
            }
            Ok(_) => Vec::new(),
            // the disks themselves can still be read
            Err(error) => self.unknown(&error),
        };
        let assembled = volumes.iter().filter(|volume| !volume.parts.is_empty());
        self.source.add(assembled.map(|volume| (volume.range, volume.parts.clone())));
        volumes
    }

    fn unknown(&self, error: &Error) -> Vec<Volume> {
        let why = format!("what is on the disk cannot be told: {error}");
        let unknown = |(place, disk): (u32, &Disk)| Volume {
            number: place * PER_DISK,
            name: String::new(),
            range: disk.range,
            parts: Vec::new(),
            content: Err(why.clone()),
            needs: None,
        };
        (0..).zip(self.disks).map(unknown).collect()
    }

    /// Decrypts and maps what was not tried yet; whether there is anything new.
    fn open(&mut self, volumes: &[Volume]) -> bool {
        let mut found = Vec::new();
        let names: Vec<String> = self.opened.iter().map(|(name, _)| name.clone()).collect();
        let mut end = self.source.size().get();
        for volume in volumes {
            let title = title(self.disks, &names, volume);
            let name = match volume.needs {
                None => continue,
                Some(Needs::Key) if self.passphrases.is_empty() => continue,
                Some(Needs::Key) => decrypted(&title),
                Some(Needs::Mapping(_)) => title.clone(),
            };
            let known = names.contains(&name) || self.shut.iter().any(|(shut, _)| *shut == title);
            if known || self.opened.len() >= MAX_OPENED {
                continue;
            }
            let opened = match volume.needs {
                Some(Needs::Mapping(thin)) => self.map(thin),
                _ => self.decrypt(volume),
            };
            match opened {
                Ok((way, len)) => {
                    let start = end.next_multiple_of(ALIGN);
                    let range = ByteRange::between(start, start + len);
                    end = range.end();
                    self.opened.push((name, range));
                    found.push((range, way));
                }
                Err(error) => self.shut.push((title, error.to_string())),
            }
        }
        let any = !found.is_empty();
        self.source.add_opened(found);
        any
    }

    /// What decrypts a volume, and how long its content is.
    fn decrypt(&mut self, volume: &Volume) -> Result<(Way, u64)> {
        let encrypted = |error: Error| Error::Reported {
            kind: error.kind(),
            text: format!("it is encrypted with LUKS: {error}"),
        };
        let question = Request { volume: volume.range, question: Question::Luks };
        let Answer::Luks(luks) = self.parser.ask(&question).map_err(encrypted)? else {
            return Err(super::unexpected());
        };
        let bytes = Window::new(Arc::clone(self.source) as Arc<dyn BlockSource>, volume.range)?;
        let opened = self.passphrases.open(&luks, &bytes, volume.range.start(), &mut self.tries);
        let opened = opened.and_then(|opened| {
            opened.ok_or_else(|| Error::unsupported("its content", "none of the passphrases opens it"))
        });
        Ok((Way::Opened(Box::new(opened.map_err(encrypted)?)), luks.content.count().get()))
    }

    /// What maps a thin volume, and how long it is.
    fn map(&mut self, thin: Thin) -> Result<(Way, u64)> {
        let Thin { metadata, data, device, len } = thin;
        if data.end() > self.source.size().get() {
            return Err(Error::invalid("the thin volume", "its data lies outside all there is"));
        }
        let (mut stretches, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let question = Question::Mapping { device, from: at };
            let Answer::Mapping(mapping) = self.parser.ask(&Request { volume: metadata, question })? else {
                return Err(super::unexpected());
            };
            for run in &mapping.runs {
                // what is behind the volume's end was there before it shrank
                if let Some(stretch) = stretch(run, mapping.block, data, len)? {
                    stretches.push(stretch);
                }
            }
            self.stretches += mapping.runs.len();
            if self.stretches > MAX_STRETCHES {
                let why = format!("thin volumes in more than {MAX_STRETCHES} pieces are not read");
                return Err(Error::unsupported("the thin volume", why));
            }
            from = mapping.next;
        }
        Ok((Way::Mapped(stretches), len))
    }
}

/// Some bytes of a thin volume of this length, as addresses in its pool's data.
fn stretch(run: &Run, block: u64, data: ByteRange, len: u64) -> Result<Option<Stretch>> {
    let bytes = |blocks: u64| blocks.checked_mul(block);
    let place = || {
        let (at, below, count) = (bytes(run.at)?, bytes(run.data)?, bytes(run.count)?);
        let inside = below.checked_add(count).is_some_and(|end| end <= data.count().get());
        inside.then(|| (at, data.start() + below, count))
    };
    let (at, below, count) = place().ok_or_else(|| {
        Error::corrupt("the metadata of the thin pool", format!("block {} lies outside its data", run.data))
    })?;
    let count = count.min(len.saturating_sub(at));
    Ok((count > 0).then_some(Stretch { at, len: count, below }))
}
