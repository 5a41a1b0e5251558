//! `blockctl demo`: the main job on temporary state, step by step, with timings. Everything shown is done by the real
//! daemon over its real doors; what must be equal is compared byte by byte, and a difference fails the demo.

mod daemon;
mod image;
mod story;
mod tree;

use crate::cli::DemoOptions;
use crate::copy;
use crate::disk::connect;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{job, size};
use block::FileSource;
use block::linux::open_named;
use control::{
    BackupRequest, ChangesQuery, CreateDisk, DeletePointQuery, Job, Kind, Point, RestoreRequest, Tier,
};
use daemon::Daemon;
use image::Image;
use std::path::{Path, PathBuf};
use story::Story;
use tree::Tree;

const DISK: &str = "web-root";
const RESTORED: &str = "web-restored";

/// Tells the story.
pub fn run(options: &DemoOptions, output: &Output) -> Result<()> {
    image::check_programs()?;
    let dir = tempfile::Builder::new()
        .prefix("blockd-demo-")
        .tempdir()
        .map_err(|error| Failure::host("make a temporary directory", &error))?;
    let mut story = Story::begin(output, dir.path())?;
    let stage = Stage::set(&mut story, dir.path())?;
    let image = stage.fill(&mut story, options.size)?;
    let first = stage.back_up(&mut story)?;
    stage.change(&mut story, &image)?;
    stage.back_up(&mut story)?;
    stage.restore(&mut story, &first)?;
    stage.look_inside(&mut story, &first, &image)?;
    image.discard()?;
    story.end()?;
    if !options.exit {
        story.invite(&stage.daemon, &first)?;
        story.wait()?;
        end_mounts(dir.path(), output)?;
    }
    stage.daemon.stop()
}

/// Ends the mounts that a person made meanwhile: their recovery points are about to go.
fn end_mounts(dir: &Path, output: &Output) -> Result<()> {
    for at in mount::mounted_from(&dir.display().to_string())? {
        if let Err(error) = mount::umount(&at) {
            output.warn(&format!("{error}; end it with: blockctl umount {}", at.display()));
        }
    }
    Ok(())
}

/// Where the story plays.
struct Stage {
    dir: PathBuf,
    daemon: Daemon,
}

impl Stage {
    fn set(story: &mut Story<'_>, dir: &Path) -> Result<Self> {
        let daemon = story.step(|_| {
            let daemon = Daemon::start(&dir.join("state"))?;
            let version = daemon.client().status()?.daemon.version;
            Ok((daemon, format!("blockd {version} serves temporary state")))
        })?;
        Ok(Self { dir: dir.to_owned(), daemon })
    }

    /// A disk with a real filesystem of real files on it.
    fn fill(&self, story: &mut Story<'_>, limit_bytes: u64) -> Result<Image> {
        let client = self.daemon.client();
        let image = story.step(|_| {
            let tree = Tree::gather(&self.dir.join("tree"), limit_bytes)?;
            let text =
                format!("ext4 of {} files, {}, from {}", tree.files, size::show(tree.bytes), tree.from);
            Ok((Image::make(tree, &self.dir.join("image.raw"))?, text))
        })?;
        story.step(|_| {
            let disk = client.create_disk(&CreateDisk {
                name: DISK.to_owned(),
                size: image.size()?,
                fill: false,
                base: None,
            })?;
            Ok(((), format!("disk {DISK}, {}", size::show(disk.size.unwrap_or(0)))))
        })?;
        story.step(|output| {
            let disk = connect(client, DISK)?;
            let written = copy::to_device(
                &FileSource::new(open_named(image.path())?)?,
                &disk,
                &mut output.progress("fill"),
            )?;
            Ok(((), format!("filled over NBD, {} written", size::show(written))))
        })?;
        Ok(image)
    }

    /// A recovery point, then a second one that goes to the vault.
    fn back_up(&self, story: &mut Story<'_>) -> Result<Pair> {
        let client = self.daemon.client();
        let instant = story.step(|_| {
            let points = client.snapshot(&[DISK.to_owned()])?;
            let point =
                points.into_iter().next().ok_or_else(|| Failure::new(Kind::Io, "no point was made"))?;
            let held = point.seal_ns.unwrap_or(0) as f64 / 1e3;
            let text = format!("recovery point {}, writes held for {held:.0} µs", point.name);
            Ok((point, text))
        })?;
        let vault = story.step(|output| {
            let request = BackupRequest { item: DISK.to_owned(), ..BackupRequest::default() };
            let done = finish(job::follow(client, output, &client.backup(&request)?)?)?;
            let changed = size::show(done.bytes_changed);
            let text = match &done.base {
                Some(base) => format!(
                    "backup {}, incremental since {base}: {changed} changed, {} stored, compressed",
                    name(&done)?,
                    size::show(done.bytes_stored)
                ),
                None => format!(
                    "backup {}, full: {changed} of data, {} stored, encrypted",
                    name(&done)?,
                    size::show(done.bytes_stored)
                ),
            };
            Ok((client.point(name(&done)?)?, text))
        })?;
        Ok(Pair { instant, vault })
    }

    /// What a day does to files.
    fn change(&self, story: &mut Story<'_>, image: &Image) -> Result<()> {
        let client = self.daemon.client();
        story.step(|output| {
            let added = image.change()?;
            let disk = connect(client, DISK)?;
            let mut progress = output.progress("change");
            let written =
                copy::update_device(&FileSource::new(open_named(image.path())?)?, &disk, &mut progress)?;
            let victim = short(&image.victim().path);
            let text = format!("removed {victim}, added {added} files: {} written", size::show(written));
            Ok(((), text))
        })?;
        story.step(|_| {
            let since = client.points(Some(DISK))?.points.pop().map(|point| point.name);
            let changes = client.changes(DISK, &ChangesQuery { since: since.clone(), until: None })?;
            let since = since.unwrap_or_default();
            let (count, bytes) = (changes.ranges.len(), size::show(changes.bytes));
            Ok(((), format!("changed since {since}: {count} ranges, {bytes}, known without reading")))
        })
    }

    /// Back from the vault, compared with the instant tier.
    fn restore(&self, story: &mut Story<'_>, first: &Pair) -> Result<()> {
        let client = self.daemon.client();
        story.step(|_| {
            let query = DeletePointQuery::from(Tier::Instant);
            let deleted = client.delete_point(&first.vault.name, &query)?;
            Ok(((), format!("{} deleted from the disk: only the vault holds it now", deleted.name)))
        })?;
        story.step(|output| {
            let request = RestoreRequest {
                point: first.vault.name.clone(),
                to: RESTORED.to_owned(),
                ..Default::default()
            };
            let done = finish(job::follow(client, output, &client.restore(&request)?)?)?;
            let read = size::show(done.bytes_read);
            Ok(((), format!("{} restored to disk {RESTORED}, {read} read from the vault", name(&done)?)))
        })?;
        story.step(|output| {
            let (before, restored) = (connect(client, &first.instant.name)?, connect(client, RESTORED)?);
            match copy::compare(&before, &restored, &mut output.progress("compare"))? {
                Ok(bytes) => {
                    let text =
                        format!("compared with {} over NBD: {bytes} bytes, all equal", first.instant.name);
                    Ok(((), text))
                }
                Err(at) => {
                    let why = format!("{} and {RESTORED} differ at byte {at}", first.instant.name);
                    Err(Failure::new(Kind::Corrupt, why))
                }
            }
        })
    }

    /// A file that is gone from the disk, read from the point before.
    fn look_inside(&self, story: &mut Story<'_>, first: &Pair, image: &Image) -> Result<()> {
        let client = self.daemon.client();
        let victim = image.victim();
        let latest = client.point(&format!("{DISK}@latest"))?;
        story.step(|_| {
            let now = Mounted::at(&latest, &self.dir.join("now"))?;
            let found = now.file(&victim.path).exists();
            let neighbour = now.file(image::ADDED).exists();
            now.end()?;
            if found || !neighbour {
                let why = format!("{} is not as the change left it", latest.name);
                return Err(Failure::new(Kind::Corrupt, why));
            }
            Ok(((), format!("mounted {}: {} is gone", latest.name, short(&victim.path))))
        })?;
        story.step(|_| {
            let then = Mounted::at(&first.vault, &self.dir.join("then"))?;
            let file = then.file(&victim.path);
            let read = std::fs::read(&file).map_err(|error| Failure::host(file.display(), &error));
            then.end()?;
            if read? != victim.content {
                let why = format!("{} does not hold {} as it was", first.vault.name, victim.path);
                return Err(Failure::new(Kind::Corrupt, why));
            }
            let text = format!(
                "mounted {} from the vault: there it is, {} bytes",
                first.vault.name,
                victim.content.len()
            );
            Ok(((), text))
        })
    }
}

/// Two points of the same content: one only in the instant tier, one that went to the vault.
struct Pair {
    instant: Point,
    vault: Point,
}

/// A mount that ends when it is no longer needed, whatever happens.
struct Mounted {
    dir: Option<PathBuf>,
}

impl Mounted {
    fn at(point: &Point, dir: &Path) -> Result<Self> {
        std::fs::create_dir(dir).map_err(|error| Failure::host(dir.display(), &error))?;
        mount::run(&mount::Options::new(&point.uri, dir))?;
        Ok(Self { dir: Some(dir.to_owned()) })
    }

    /// A file of the only filesystem, which has the whole disk and so the number 0.
    fn file(&self, path: &str) -> PathBuf {
        self.dir.iter().fold(PathBuf::new(), |_, dir| dir.join("files/0").join(path.trim_start_matches('/')))
    }

    fn end(mut self) -> Result<()> {
        match self.dir.take() {
            Some(dir) => Ok(mount::umount(&dir)?),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir
            && let Err(error) = mount::umount(dir)
        {
            eprintln!("warning: {} stays mounted: {error}", dir.display());
        }
    }
}

fn finish(job: Job) -> Result<Job> {
    if job.state == control::JobState::Done { Ok(job) } else { Err(job::failure(&job)) }
}

fn name(job: &Job) -> Result<&str> {
    job.point.as_deref().ok_or_else(|| Failure::new(Kind::Io, "the job names no point"))
}

/// The end of a path, for a line that should stay short.
fn short(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
