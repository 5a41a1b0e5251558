//! Finding the volumes of disks: what the parser tells, and what passphrases open of it.

use super::Disk;
use crate::luks::{Opened, Passphrases};
use crate::parser::Parser;
use crate::parser::wire::{Answer, FIRST_OPENED, MAX_OPENED, PER_DISK, Question, Request, Volume};
use crate::volume::Space;
use crate::{Error, Result};
use block::{BlockSource, ByteRange, Window};
use std::sync::Arc;

/// Decrypted volumes are laid out at multiples of this.
const ALIGN: u64 = 1 << 20;

/// All volumes, and the names of those that were decrypted. What is put together and what is decrypted is added to the space.
pub(super) fn find(
    source: &Arc<Space>,
    disks: &[Disk],
    parser: &Parser,
    passphrases: &Passphrases,
) -> (Vec<Volume>, Vec<String>) {
    let mut finder =
        Finder { source, disks, parser, passphrases, opened: Vec::new(), shut: Vec::new(), tries: 0 };
    let mut volumes = finder.probe();
    // what was decrypted may hold parts of volumes, and those may be encrypted in turn
    while !passphrases.is_empty() && source.has_room() && finder.open(&volumes) {
        volumes = finder.probe();
    }
    let names: Vec<String> = finder.opened.iter().map(|(name, _)| name.clone()).collect();
    for volume in volumes.iter_mut().filter(|volume| volume.locked) {
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
    /// Names and addresses of decrypted volumes.
    opened: Vec<(String, ByteRange)>,
    /// Encrypted volumes that none of the passphrases opens, and why.
    shut: Vec<(String, String)>,
    tries: usize,
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
            locked: false,
        };
        (0..).zip(self.disks).map(unknown).collect()
    }

    /// Tries the passphrases on what was not tried yet; whether one opened anything.
    fn open(&mut self, volumes: &[Volume]) -> bool {
        let mut found = Vec::new();
        let names: Vec<String> = self.opened.iter().map(|(name, _)| name.clone()).collect();
        let mut end = self.source.size().get();
        for volume in volumes.iter().filter(|volume| volume.locked) {
            let title = title(self.disks, &names, volume);
            let known =
                names.contains(&decrypted(&title)) || self.shut.iter().any(|(shut, _)| *shut == title);
            if known || self.opened.len() >= MAX_OPENED {
                continue;
            }
            match self.open_one(volume) {
                Ok((opened, len)) => {
                    let start = end.next_multiple_of(ALIGN);
                    let range = ByteRange::between(start, start + len);
                    end = range.end();
                    self.opened.push((decrypted(&title), range));
                    found.push((range, opened));
                }
                Err(error) => self.shut.push((title, format!("it is encrypted with LUKS: {error}"))),
            }
        }
        let any = !found.is_empty();
        self.source.add_opened(found);
        any
    }

    /// What decrypts a volume, and how long its content is.
    fn open_one(&mut self, volume: &Volume) -> Result<(Opened, u64)> {
        let question = Request { volume: volume.range, question: Question::Luks };
        let Answer::Luks(luks) = self.parser.ask(&question)? else { return Err(super::unexpected()) };
        let bytes = Window::new(Arc::clone(self.source) as Arc<dyn BlockSource>, volume.range)?;
        let opened = self.passphrases.open(&luks, &bytes, volume.range.start(), &mut self.tries)?;
        let opened =
            opened.ok_or_else(|| Error::unsupported("its content", "none of the passphrases opens it"))?;
        Ok((opened, luks.content.count().get()))
    }
}
