//! A disk as the API shows it.

use super::{Disks, Named};
use crate::bases::{BaseRecord, On};
use crate::disk_file::Stage;
use block::Failure;
use control::{DiskState, ErrorBody};
use layers::{FoldProgress, Opened, Usage};
use std::sync::atomic::Ordering;

impl Disks {
    /// A disk as the API shows it, with the disks that stand on it.
    pub fn show(&self, named: &Named, uri: String) -> control::Disk {
        control::Disk { children: self.children(named.id), ..named.show(uri) }
    }
}

impl Named {
    /// Bytes its layers take, if it is open.
    pub fn stored(&self) -> Option<u64> {
        self.usage()?.ok().map(stored)
    }

    /// What it takes of the host, if it is open.
    fn usage(&self) -> Option<layers::Result<Usage>> {
        self.served().ok().map(|disk| disk.usage())
    }

    /// The disk as the API shows it.
    fn show(&self, uri: String) -> control::Disk {
        let disk = self.open.as_ref().ok();
        let usage = self.usage();
        let unknown = usage.as_ref().and_then(|usage| usage.as_ref().err()).map(|error| ErrorBody {
            kind: crate::error::wire_kind(Failure::kind(error)),
            message: control::with_causes(error),
            help: None,
        });
        let usage = usage.and_then(Result::ok);
        control::Disk {
            name: self.name.clone(),
            id: self.id.to_string(),
            size: disk.map(|disk| block::BlockSource::size(&**disk).get()),
            stored: usage.map(stored),
            maps: usage.map(|usage| usage.maps.get()),
            index: usage.map(|usage| usage.index.get()),
            uri,
            created: self.created.clone(),
            state: match (self.trouble(), self.stage()) {
                (Some(_), _) => DiskState::Failed,
                (None, Stage::Disk) => DiskState::Ready,
                (None, _) => DiskState::Filling,
            },
            error: self.trouble().or(unknown),
            opened: disk.map(|disk| opened(disk.opened()).to_owned()),
            points: disk.map_or(0, |disk| disk.points().len() as u64),
            writers: self.writers.load(Ordering::Relaxed),
            consolidation: disk
                .map(|disk| disk.fold_progress())
                .filter(|left| left.layers > 0)
                .map(left_to_fold),
            damage: disk.map_or_else(Vec::new, |disk| {
                let blocks = disk.damage_met();
                let blocks = blocks.iter().map(|hurt| crate::scrub::met(&self.name, hurt));
                blocks.chain(disk.changes_damaged().into_iter().map(crate::scrub::met_map)).collect()
            }),
            clients: self.claim.clients(),
            shared: self.claim.is_shared(),
            awaits_release: self.claim.awaits_release(),
            base: self.base.as_ref().map(shown_base),
            children: Vec::new(),
            audits: Vec::new(),
        }
    }
}

const fn stored(usage: Usage) -> u64 {
    usage.data.get() + usage.maps.get()
}

fn shown_base(record: &BaseRecord) -> control::Base {
    let (kind, name) = match &record.on {
        On::Point { name, .. } => ("point", name.clone()),
        On::Stored { name, .. } => ("stored-point", name.clone()),
        On::Image(image) => {
            let first = image.files.first().map(|file| file.path.clone());
            (if image.adopted { "adopted" } else { "image" }, first.unwrap_or_default())
        }
    };
    let image = record.image();
    control::Base {
        kind: kind.to_owned(),
        name,
        format: image.map(|image| image.format.clone()),
        files: image
            .map_or_else(Vec::new, |image| image.files.iter().map(|file| file.path.clone()).collect()),
    }
}

fn left_to_fold(left: FoldProgress) -> control::Consolidation {
    let (bytes_total, bytes_done) = (left.bytes_total.get(), left.bytes_done.get());
    control::Consolidation { layers: left.layers as u64, bytes_total, bytes_done }
}

const fn opened(how: Opened) -> &'static str {
    match how {
        Opened::Created => "created",
        Opened::Clean => "clean",
        Opened::LiveMap => "live-map",
        Opened::Committed => "committed",
    }
}
