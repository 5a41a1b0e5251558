//! Backups into a vault beside restic, borg and qemu-img: time, stored bytes, restores, memory of the worker.
//!
//! The image is an ext4 filesystem of real files. Every subject backs the same raw file up into an empty store on the same
//! filesystem, then again after one block in a hundred was overwritten at random, then restores the second state. A restore, and the
//! copy it is compared with, counts until its file is on the disk.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::appliance::now;
use crate::report::spread;
use crate::server::{Server, run as run_program};

const BLOCK: u64 = 4096;
/// One block in this many is changed for the increment.
const CHANGED: u64 = 100;
/// What the peers encrypt with: the strength of a password does not matter to their speed.
const PASSWORD: (&str, &str) = ("bench", "bench");

#[derive(clap::Args)]
pub struct Options {
    /// Folder with blockd and blockctl
    #[arg(long, env = "BLOCKD_BIN_DIR", default_value = "target/release")]
    bin_dir: PathBuf,
    /// Folder on the filesystem to measure on
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Folder whose files the image holds
    #[arg(long, default_value = "/usr")]
    tree: PathBuf,
    /// A raw image to take instead, which is only read
    #[arg(long)]
    image: Option<PathBuf>,
    /// Rounds, of which the medians are reported
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only subjects whose name contains this, besides blockd
    #[arg(long)]
    only: Option<String>,
}

/// A way to back a file up.
trait Subject {
    fn name(&self) -> &'static str;
    /// An empty store in a folder of its own. `original` holds the same as `image`, and stays as it is.
    fn prepare(&mut self, image: &Path, original: &Path, place: &Path) -> Result<()>;
    /// The image changed and these blocks of it are others now.
    fn change(&mut self, _blocks: &[u64]) -> Result<()> {
        Ok(())
    }
    fn backup(&mut self) -> Result<()>;
    /// Restores the newest state into a file.
    fn restore(&mut self, to: &Path) -> Result<()>;
    /// Where the stored bytes are.
    fn store(&self) -> PathBuf;
    /// Memory of the worker, at its peak above rest, where that can be said.
    fn peak_bytes(&self) -> Option<u64> {
        None
    }
}

/// What one subject took.
#[derive(Default)]
struct Taken {
    full_s: Vec<f64>,
    increment_s: Vec<f64>,
    restore_s: Vec<f64>,
    full_bytes: u64,
    increment_bytes: u64,
    peak_bytes: Option<u64>,
}

/// Runs the workload and prints its table.
///
/// # Errors
/// A program is missing or fails, or a restore gives other bytes.
pub fn run(options: &Options) -> Result<()> {
    let place = tempfile::TempDir::with_prefix_in("blockd-bench-", &options.dir)?;
    let image = match &options.image {
        Some(given) => given.canonicalize()?,
        None => make_image(&options.tree, place.path().join("disk.raw"))?,
    };
    let size = fs::metadata(&image)?.len();
    let data = fs::metadata(&image)?.blocks() * 512;
    println!("- image: {size} bytes, of which {data} are allocated");
    let mut subjects = subjects(options);
    let mut taken: Vec<Taken> = subjects.iter().map(|_| Taken::default()).collect();
    let (mut copies, mut copies_alone) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let blocks = chosen(round as u64, size / BLOCK);
        let (durable, alone) = copy(&image, &place.path().join("copy"))?;
        copies.push(durable);
        copies_alone.push(alone);
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let store = place.path().join("store");
            fs::create_dir(&store)?;
            measure(&mut *subjects[at], &image, &store, &blocks, &mut taken[at])?;
            fs::remove_dir_all(&store)?;
        }
    }
    print(&subjects, &taken, &copies, &copies_alone);
    Ok(())
}

fn measure(
    subject: &mut dyn Subject,
    image: &Path,
    place: &Path,
    blocks: &[u64],
    taken: &mut Taken,
) -> Result<()> {
    let raw = place.join("disk.raw");
    run_program(Command::new("cp").arg("--sparse=always").arg(image).arg(&raw))?;
    run_program(Command::new("sync").arg("--file-system").arg(place))?;
    subject.prepare(&raw, image, place)?;
    taken.full_s.push(timed(|| subject.backup())?);
    taken.full_bytes = stored(&subject.store())?;
    overwrite(&raw, blocks)?;
    subject.change(blocks)?;
    taken.increment_s.push(timed(|| subject.backup())?);
    taken.increment_bytes = stored(&subject.store())?.saturating_sub(taken.full_bytes);
    let back = place.join("back.raw");
    taken.restore_s.push(timed(|| subject.restore(&back).and_then(|()| sync(&back)))?);
    taken.peak_bytes = subject.peak_bytes();
    run_program(Command::new("cmp").arg(&raw).arg(&back))
        .with_context(|| format!("{} restored other bytes", subject.name()))?;
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Copies a file as `cp` does, and waits until the copy is on the disk. Gives the seconds of both, and of `cp` alone.
fn copy(from: &Path, to: &Path) -> Result<(f64, f64)> {
    let mut alone = 0.0;
    let took = timed(|| {
        alone = timed(|| run_program(Command::new("cp").arg(from).arg(to)).map(drop))?;
        sync(to)
    })?;
    run_program(Command::new("rm").arg(to))?;
    Ok((took, alone))
}

fn sync(file: &Path) -> Result<()> {
    run_program(Command::new("sync").arg(file)).map(drop)
}

fn make_image(tree: &Path, image: PathBuf) -> Result<PathBuf> {
    let used =
        run_program(Command::new("du").args(["--summarize", "--bytes", "--one-file-system"]).arg(tree))?;
    let used: u64 =
        used.split_whitespace().next().and_then(|n| n.parse().ok()).context("du gave no number")?;
    fs::File::create(&image)?.set_len((used + used / 2).next_multiple_of(1 << 30))?;
    run_program(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(&image))?;
    Ok(image)
}

/// Every so many blocks one, anywhere among them.
fn chosen(round: u64, blocks: u64) -> Vec<u64> {
    let mut state = round.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..blocks / CHANGED).map(|group| group * CHANGED + next() % CHANGED).collect()
}

/// A block that nobody has: half of it compresses.
fn content(block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    let mut state = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in bytes[..BLOCK as usize / 2].chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn overwrite(raw: &Path, blocks: &[u64]) -> Result<()> {
    let file = fs::File::options().write(true).open(raw)?;
    blocks.iter().try_for_each(|block| file.write_all_at(&content(*block), block * BLOCK))?;
    Ok(file.sync_all()?)
}

/// Allocated bytes below a folder.
fn stored(folder: &Path) -> Result<u64> {
    let shown = run_program(Command::new("du").args(["--summarize", "--block-size=1"]).arg(folder))?;
    shown.split_whitespace().next().and_then(|n| n.parse().ok()).context("du gave no number")
}

fn subjects(options: &Options) -> Vec<Box<dyn Subject>> {
    let peers: Vec<Box<dyn Subject>> =
        vec![Box::new(Restic::default()), Box::new(Borg::default()), Box::new(QemuImg::default())];
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let blockd = Blockd { bin_dir: options.bin_dir.clone(), ..Blockd::default() };
    let mut all: Vec<Box<dyn Subject>> = vec![Box::new(blockd)];
    all.extend(peers.into_iter().filter(|peer| wanted(peer.name())));
    all
}

fn print(subjects: &[Box<dyn Subject>], taken: &[Taken], copies: &[f64], copies_alone: &[f64]) {
    let median = |values: &[f64]| spread(values.to_vec()).map_or(f64::NAN, |(_, median, _)| median);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    println!(
        "- cp of the image: {:.1} s until it is on the disk, {:.1} s without",
        median(copies),
        median(copies_alone)
    );
    println!("\n| | full, s | full, MiB | 1 % changed, s | MiB | restore, s | peak memory above rest, MiB |");
    println!("|---|---|---|---|---|---|---|");
    for (subject, taken) in subjects.iter().zip(taken) {
        println!(
            "| {} | {:.1} | {} | {:.2} | {} | {:.1} | {} |",
            subject.name(),
            median(&taken.full_s),
            mib(taken.full_bytes),
            median(&taken.increment_s),
            mib(taken.increment_bytes),
            median(&taken.restore_s),
            taken.peak_bytes.map_or("–".to_owned(), mib),
        );
    }
    println!(
        "\n| the peer's, of blockd's | full, time | full, bytes | 1 % changed, time | bytes | restore, time |"
    );
    println!("|---|---|---|---|---|---|");
    let Some((own, peers)) = taken.split_first() else { return };
    let ratio = |peer: &[f64], own: &[f64]| {
        let rounds = peer.iter().zip(own).map(|(peer, own)| peer / own).collect();
        spread(rounds)
            .map_or("–".to_owned(), |(low, mid, high)| format!("**{mid:.2}** ({low:.2}–{high:.2})"))
    };
    let bytes = |peer: u64, own: u64| format!("{:.3}", peer as f64 / own.max(1) as f64);
    for (subject, peer) in subjects.iter().skip(1).zip(peers) {
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            subject.name(),
            ratio(&peer.full_s, &own.full_s),
            bytes(peer.full_bytes, own.full_bytes),
            ratio(&peer.increment_s, &own.increment_s),
            bytes(peer.increment_bytes, own.increment_bytes),
            ratio(&peer.restore_s, &own.restore_s),
        );
    }
    println!("| cp until it is on the disk | | | | | {} |", ratio(copies, &own.restore_s));
    println!("| cp alone | | | | | {} |", ratio(copies_alone, &own.restore_s));
}

/// The daemon, with the image adopted as a disk.
#[derive(Default)]
struct Blockd {
    bin_dir: PathBuf,
    state: PathBuf,
    server: Option<Server>,
    rest_bytes: u64,
}

impl Blockd {
    fn ctl(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(self.bin_dir.join("blockctl"));
        run_program(command.arg("--state").arg(&self.state).args(args)).map(drop)
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let pid = self.server.as_ref().context("the daemon is gone")?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).context("no number")?;
        Ok(kib * 1024)
    }
}

impl Subject for Blockd {
    fn name(&self) -> &'static str {
        "blockd"
    }

    fn prepare(&mut self, _image: &Path, original: &Path, place: &Path) -> Result<()> {
        self.server = None;
        self.state = place.join("state");
        fs::create_dir(&self.state)?;
        self.server = Some(Server::blockd(&self.bin_dir.join("blockd"), &self.state, "disk")?);
        self.ctl(&["disk", "adopt", "disk", &original.display().to_string()])?;
        self.server.as_ref().context("the daemon is gone")?.wait_until_idle()?;
        self.rest_bytes = self.memory("VmRSS:")?;
        Ok(())
    }

    fn change(&mut self, blocks: &[u64]) -> Result<()> {
        let uri = self.server.as_ref().context("the daemon is gone")?.uri().to_owned();
        let device = nbd::Client::connect(&uri.parse()?, 1)?;
        for block in blocks {
            block::BlockDevice::write_at(&device, block::ByteOffset::new(block * BLOCK), &content(*block))?;
        }
        Ok(block::BlockDevice::flush(&device)?)
    }

    fn backup(&mut self) -> Result<()> {
        self.ctl(&["backup", "disk"])
    }

    fn restore(&mut self, to: &Path) -> Result<()> {
        self.ctl(&["point", "delete", "disk@2", "--tier", "instant", "--yes"])?;
        self.ctl(&["restore", "disk", "disk@2", "--output", &to.display().to_string()])
    }

    fn store(&self) -> PathBuf {
        self.state.join("vaults")
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.memory("VmHWM:").ok().map(|peak| peak.saturating_sub(self.rest_bytes))
    }
}

/// restic with its defaults: zstd, AES-256.
#[derive(Default)]
struct Restic {
    image: PathBuf,
    repository: PathBuf,
}

impl Restic {
    fn run(&self, args: &[&str]) -> Result<()> {
        let (cache, repository) =
            (self.repository.with_extension("cache"), self.repository.display().to_string());
        let mut command = Command::new("restic");
        command.args(["--quiet", "--repo", &repository, "--cache-dir"]).arg(cache).args(args);
        run_program(command.env("RESTIC_PASSWORD", PASSWORD.0)).map(drop)
    }
}

impl Subject for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn prepare(&mut self, image: &Path, _original: &Path, place: &Path) -> Result<()> {
        (self.image, self.repository) = (image.to_owned(), place.join("restic"));
        self.run(&["init"])
    }

    fn backup(&mut self) -> Result<()> {
        self.run(&["backup", &self.image.display().to_string()])
    }

    fn restore(&mut self, to: &Path) -> Result<()> {
        let target = to.with_extension("restic");
        self.run(&["restore", "latest", "--target", &target.display().to_string()])?;
        let inside = self.image.strip_prefix("/").unwrap_or(&self.image);
        run_program(Command::new("mv").arg(target.join(inside)).arg(to)).map(drop)
    }

    fn store(&self) -> PathBuf {
        self.repository.clone()
    }
}

/// borg with lz4 and its usual encryption.
#[derive(Default)]
struct Borg {
    image: PathBuf,
    repository: PathBuf,
    number: u32,
}

impl Borg {
    fn run(&self, dir: &Path, args: &[&str]) -> Result<()> {
        let home = self.repository.with_extension("home");
        let mut command = Command::new("borg");
        command.current_dir(dir).args(args).env("BORG_PASSPHRASE", PASSWORD.1).env("BORG_BASE_DIR", home);
        run_program(&mut command).map(drop)
    }

    fn archive(&self) -> String {
        format!("{}::{}", self.repository.display(), self.number)
    }
}

impl Subject for Borg {
    fn name(&self) -> &'static str {
        "borg"
    }

    fn prepare(&mut self, image: &Path, _original: &Path, place: &Path) -> Result<()> {
        (self.image, self.repository, self.number) = (image.to_owned(), place.join("borg"), 0);
        self.run(place, &["init", "--encryption=repokey-blake2", &self.repository.display().to_string()])
    }

    fn backup(&mut self) -> Result<()> {
        self.number += 1;
        let (folder, name) = (self.image.parent(), self.image.file_name());
        let (folder, name) = folder.zip(name).context("the image is no file")?;
        self.run(
            folder,
            &["create", "--compression=lz4", "--sparse", &self.archive(), &name.to_string_lossy()],
        )
    }

    fn restore(&mut self, to: &Path) -> Result<()> {
        let target = to.with_extension("borg");
        fs::create_dir(&target)?;
        self.run(&target, &["extract", "--sparse", &self.archive()])?;
        let name = self.image.file_name().context("the image is no file")?;
        run_program(Command::new("mv").arg(target.join(name)).arg(to)).map(drop)
    }

    fn store(&self) -> PathBuf {
        self.repository.clone()
    }
}

/// `qemu-img convert` to a compressed qcow2. It knows no increments: each backup is a whole one.
#[derive(Default)]
struct QemuImg {
    image: PathBuf,
    folder: PathBuf,
    number: u32,
}

impl Subject for QemuImg {
    fn name(&self) -> &'static str {
        "qemu-img"
    }

    fn prepare(&mut self, image: &Path, _original: &Path, place: &Path) -> Result<()> {
        (self.image, self.folder, self.number) = (image.to_owned(), place.join("qcow2"), 0);
        Ok(fs::create_dir(&self.folder)?)
    }

    fn backup(&mut self) -> Result<()> {
        self.number += 1;
        let mut command = Command::new("qemu-img");
        command.args([
            "convert",
            "-c",
            "-m",
            "16",
            "-W",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd",
            "-f",
            "raw",
        ]);
        let to = self.folder.join(self.number.to_string());
        run_program(command.arg(&self.image).arg(to)).map(drop)
    }

    fn restore(&mut self, to: &Path) -> Result<()> {
        let from = self.folder.join(self.number.to_string());
        let mut command = Command::new("qemu-img");
        run_program(command.args(["convert", "-O", "raw"]).arg(from).arg(to)).map(drop)
    }

    fn store(&self) -> PathBuf {
        self.folder.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn one_block_in_a_hundred_is_chosen_and_no_two_are_alike() -> Result<()> {
        let blocks = chosen(3, 10_000);
        ensure!(blocks.len() == 100 && blocks.is_sorted() && blocks.iter().all(|block| *block < 10_000));
        ensure!(content(blocks[0]) != content(blocks[1]));
        Ok(())
    }
}
