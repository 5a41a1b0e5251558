//! What is kept of a machine beside its disks: a small disk of its own, `vm/NAME/definition`, that holds a tar archive. It is brought
//! up to date just before a recovery point is made and sealed with the others, so it is in every tier that they are in.

use super::record::Protected;
use crate::daemon::Daemon;
use crate::disks::Named;
use crate::error::{Doing, Error, Result};
use crate::names::{DEFINITION, is_definition};
use crate::points::Held;
use block::sync::lock;
use block::{BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Provision};
use control::Kind;
use machines::{Domain, Piece, Uri, Virsh};
use rustix::fs::{Mode, OFlags};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The size of the disk. It is sparse, and larger than any bundle.
const SIZE: ByteCount = ByteCount::new(64 << 20);
/// Firmware variables and a TPM's state are smaller.
const FILE_LIMIT_BYTES: u64 = 16 << 20;
/// How long a point waits for libvirt. Longer, and it has the definition that was known last.
const PATIENCE: Duration = Duration::from_secs(10);

/// The machine's own files in a bundle.
pub const DOMAIN_XML: &str = "domain.xml";
/// Its record.
pub const MACHINE_TOML: &str = "machine.toml";
/// Its firmware's variables.
pub const NVRAM: &str = "nvram";
/// The directory of its TPM's state.
pub const TPM: &str = "tpm";

/// The name of the disk that holds a machine's definition.
pub fn disk_of(machine: &str) -> String {
    format!("{machine}/{DEFINITION}")
}

impl Daemon {
    /// Brings a machine's definition up to date, and refuses what would leave a disk of it out.
    ///
    /// # Errors
    /// `Conflict` naming a protected disk that is not one of ours; what the disk of the definition reports. A libvirt that does not
    /// answer is none: the definition that was known last stays, and a warning says so.
    pub(super) fn refresh(&self, machine: &Protected) -> Result<()> {
        let record = &machine.record;
        let virsh = Virsh::new(record.uri()?).patient(PATIENCE);
        let xml = match virsh.definition(&record.domain, true) {
            Ok(xml) => xml,
            Err(error) => {
                let why = Error::below(format!("look at machine {}", record.domain), error).body().message;
                tracing::warn!(machine = machine.name, "its definition is the last known one: {why}");
                *lock(&machine.trouble) = Some(why);
                return Ok(());
            }
        };
        *lock(&machine.trouble) = None;
        let domain = Domain::parse(&xml).doing(|| format!("read machine {}", record.domain))?;
        self.check_served(machine, &domain)?;
        let bundle = bundle(machine, &domain, &xml)?;
        write(&*self.definition_disk(&machine.name)?, &bundle)
            .doing(|| format!("keep the definition of {}", machine.name))
    }

    /// The disk that holds a machine's definition; made if it is not there.
    fn definition_disk(&self, machine: &str) -> Result<Arc<Named>> {
        let (disks, name) = (&self.tiers().disks, disk_of(machine));
        match disks.get(&name) {
            Err(error) if error.kind() == Kind::NotFound => {
                disks.create(disks.fresh_id()?, &name, SIZE, |_| Ok(()))
            }
            found => found,
        }
    }

    /// The member of a machine's recovery point that holds its definition.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(super) fn definition_point(&self, point: &str) -> Result<Held> {
        let members = self.tiers().members(point)?;
        members.into_iter().find(|member| is_definition(&member.item)).ok_or_else(|| {
            Error::said(
                Kind::NotFound,
                format!("definition of {point}"),
                "was not kept: the machine was not protected",
            )
            .with_help("its disks are restored one by one: `blockctl restore disk`")
        })
    }

    /// What was kept of a machine, by the recovery point of its definition.
    ///
    /// # Errors
    /// As [`Held::source`]; `Corrupt` if it is none.
    pub(super) fn kept(&self, point: &Held) -> Result<Vec<Piece>> {
        let source = point.source()?;
        let doing = || format!("read the definition {}", point.name);
        let size = source.size().get().min(machines::BUNDLE_LIMIT_BYTES as u64) as usize;
        let mut bytes = vec![0; size];
        source.read_at(ByteOffset::ZERO, &mut bytes).doing(doing)?;
        machines::unpack(&bytes).doing(doing)
    }
}

/// The machine's definition among what is kept.
///
/// # Errors
/// `Corrupt` if it is not there.
pub fn xml(pieces: &[Piece], point: &str) -> Result<String> {
    let found = pieces.iter().find(|piece| piece.name == DOMAIN_XML);
    let text = found.and_then(|piece| String::from_utf8(piece.bytes.clone()).ok());
    text.ok_or_else(|| {
        Error::said(Kind::Corrupt, format!("definition {point}"), "holds no definition of a machine")
    })
}

/// All that is kept.
fn bundle(machine: &Protected, domain: &Domain, xml: &str) -> Result<Vec<u8>> {
    let doing = || format!("keep the definition of {}", machine.name);
    let record = toml::to_string(&machine.record)
        .map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
    let mut pieces = vec![Piece::new(DOMAIN_XML, xml), Piece::new(MACHINE_TOML, record)];
    let uri = machine.record.uri()?;
    // what lies on another host cannot be read here
    if !uri.is_elsewhere() {
        if let Some(path) = &domain.nvram
            && let Some(bytes) = file(path)?
        {
            pieces.push(Piece::new(NVRAM, bytes));
        }
        if let Some(dir) = domain.uuid.as_deref().filter(|_| domain.has_tpm).map(|uuid| tpm_dir(&uri, uuid)) {
            pieces.extend(tpm_state(&dir)?);
        }
    }
    machines::pack(&pieces).doing(doing)
}

/// Where a libvirt of this host keeps the firmware variables of machines.
pub fn nvram_dir(uri: &Uri) -> PathBuf {
    if uri.is_session() { session_dir().join("nvram") } else { PathBuf::from("/var/lib/libvirt/qemu/nvram") }
}

/// Where a libvirt of this host keeps the state of a machine's TPM.
pub fn tpm_dir(uri: &Uri, uuid: &str) -> PathBuf {
    let root = if uri.is_session() { session_dir() } else { PathBuf::from("/var/lib/libvirt") };
    root.join("swtpm").join(uuid).join("tpm2")
}

/// Where the libvirt of a user keeps the files of machines.
fn session_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let config = || std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home().join(".config"), PathBuf::from);
    config().join("libvirt/qemu")
}

fn tpm_state(dir: &Path) -> Result<Vec<Piece>> {
    let failed = |error| Error::host(format!("read {}", dir.display()), error);
    let mut names: Vec<String> = match std::fs::read_dir(dir) {
        // it has not been started yet
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries
            .map_err(failed)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()
            .map_err(failed)?,
    };
    // a lock is no state
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    let piece =
        |name: &String| Ok(file(&dir.join(name))?.map(|bytes| Piece::new(format!("{TPM}/{name}"), bytes)));
    names.iter().filter_map(|name| piece(name).transpose()).collect()
}

/// A small file; none if there is none. Neither a link nor anything that is no file is followed.
fn file(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |error| Error::host(format!("read {}", path.display()), error);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => std::fs::File::from(opened.map_err(|error| failed(error.into()))?),
    };
    let is_small = |meta: &std::fs::Metadata| meta.is_file() && meta.len() <= FILE_LIMIT_BYTES;
    if !opened.metadata().is_ok_and(|meta| is_small(&meta)) {
        let why = format!("is not a file of at most {FILE_LIMIT_BYTES} bytes");
        return Err(Error::said(Kind::Refused, path.display().to_string(), why));
    }
    let mut bytes = Vec::new();
    opened.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Writes a bundle over what the disk holds: only blocks that differ, so that nothing new is no change.
fn write(named: &Named, bundle: &[u8]) -> Result<()> {
    let disk = named.disk()?;
    let doing = || format!("write disk {}", named.name);
    let block = BLOCK_SIZE as usize;
    let mut old = vec![0; bundle.len().next_multiple_of(block)];
    disk.read_at(ByteOffset::ZERO, &mut old).doing(doing)?;
    let mut new = bundle.to_vec();
    new.resize(old.len(), 0);
    for (at, (new, old)) in new.chunks(block).zip(old.chunks(block)).enumerate() {
        if new != old {
            disk.write_at(ByteOffset::new(at as u64 * BLOCK_SIZE), new).doing(doing)?;
        }
    }
    // what a longer one left
    let end = ByteRange::between(new.len() as u64, disk.size().get());
    let mut left = Vec::new();
    disk.extents(end, &mut |extent| {
        left.extend((extent.kind == block::ExtentKind::Data).then_some(extent.range));
        std::ops::ControlFlow::Continue(())
    })
    .doing(doing)?;
    left.into_iter().try_for_each(|range| disk.zero(range, Provision::Sparse)).doing(doing)
}
