//! The active layer: the one that takes the guest's writes.

use crate::committed::CommittedFile;
use crate::data_file;
use crate::frozen::FrozenMap;
use crate::gate::InFlight;
use crate::identity::Identity;
use crate::journal::{Entry, Journal};
use crate::live_map::LiveMap;
use crate::names::{self, Numbered, must_exist};
use crate::state::page_count;
use block::sync::atomic::AtomicBool;
use block::sync::{Arc, Mutex};
use block::{ByteCount, DiskId, Entropy, Generation, Media, MediaFile, Memory, OpenHow, Result, planted};

/// Blocks that share a lock: 1 MiB. A page of the map is exactly [`STRIPES`] such groups.
pub(crate) const STRIPE_BLOCKS: u64 = 256;
/// Locks a layer has.
pub(crate) const STRIPES: usize = 64;

/// A layer with a live map. It stays one from its making until its seal is durable and its blocks are in the owner
/// index.
pub(crate) struct Active {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn MediaFile>,
    pub(crate) map: LiveMap,
    pub(crate) committed: Arc<CommittedFile>,
    pub(crate) log: Mutex<Log>,
    /// Held from check to map update by whoever changes a block's state.
    pub(crate) stripes: [Mutex<()>; STRIPES],
    pub(crate) in_flight: InFlight,
    /// Set when the layer is sealed and its last writer has left: its content is final.
    pub(crate) is_final: AtomicBool,
}

/// The journal and what it holds since the last checkpoint.
pub(crate) struct Log {
    pub(crate) journal: Journal,
    pub(crate) since_checkpoint: Vec<Entry>,
}

/// Where a disk's files are and what they must say.
pub(crate) struct Place<'a> {
    pub(crate) media: &'a dyn Media,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) journal_room: ByteCount,
    pub(crate) dir: &'a str,
    pub(crate) disk: DiskId,
    pub(crate) size: ByteCount,
}

impl Place<'_> {
    pub(crate) fn path(&self, file: Numbered) -> String {
        file.path(self.dir)
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.size.blocks()
    }
}

impl Active {
    /// Makes an empty layer with all its files, durable but for their names.
    ///
    /// # Errors
    /// `NoSpace` if the journal or the map's top level does not fit.
    pub(crate) fn create(place: &Place<'_>, number: u64) -> Result<Arc<Self>> {
        let name = names::live_map(place.disk, number);
        Self::create_in(place, number, || {
            place.media.remove_volatile(&name)?;
            place.media.volatile(&name, LiveMap::memory_words(place.blocks()))
        })
    }

    /// As [`create`](Self::create), of a layer whose live map nobody needs after this process.
    pub(crate) fn create_unnamed(place: &Place<'_>, number: u64) -> Result<Arc<Self>> {
        Self::create_in(place, number, || place.media.scratch(LiveMap::memory_words(place.blocks())))
    }

    fn create_in(
        place: &Place<'_>,
        number: u64,
        memory: impl FnOnce() -> Result<Arc<dyn Memory>>,
    ) -> Result<Arc<Self>> {
        let (media, disk) = (place.media, place.disk);
        let file = data_file::create(place, number)?;
        let path = place.path(Numbered::Committed(number));
        let committed = Arc::new(CommittedFile::create(media, path, disk, number, place.blocks())?);
        let journal =
            Journal::create(media, &place.path(Numbered::Journal(number)), disk, number, place.journal_room)?;
        let map = LiveMap::attach(memory()?, place.blocks(), committed.clone())?;
        Self::assemble(place, number, file, map, committed, journal)
    }

    /// Opens a layer as it is committed, with a live map that nobody needs after this process.
    pub(crate) fn open_committed(place: &Place<'_>, number: u64) -> Result<Arc<Self>> {
        let Stored { file, committed, journal, states } = Stored::open(place, number, None)?;
        let memory = place.media.scratch(LiveMap::memory_words(place.blocks()))?;
        let map = LiveMap::attach(memory, place.blocks(), committed.clone())?;
        map.load(&states)?;
        Self::assemble(place, number, file, map, committed, journal)
    }

    /// Puts the parts of a layer together; the journal's entries must be in the committed file.
    pub(crate) fn assemble(
        place: &Place<'_>,
        number: u64,
        file: Arc<dyn MediaFile>,
        map: LiveMap,
        committed: Arc<CommittedFile>,
        journal: Arc<dyn MediaFile>,
    ) -> Result<Arc<Self>> {
        let journal = Journal::open(journal, place.entropy)?;
        Ok(Arc::new(Self {
            number,
            file,
            map,
            committed,
            log: Mutex::new(Log { journal, since_checkpoint: Vec::new() }),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            in_flight: InFlight::default(),
            is_final: AtomicBool::new(false),
        }))
    }

    /// Signs the live map, so that a later process may believe it.
    pub(crate) fn sign(&self, identity: Identity, generation: Generation) {
        Identity { layer: self.number, ..identity }.sign(self.map.memory(), generation);
    }

    /// The lock of a block.
    pub(crate) fn stripe(&self, block: u64) -> &Mutex<()> {
        &self.stripes[(block / STRIPE_BLOCKS) as usize % STRIPES]
    }
}

/// The files of a layer with a journal, and what is committed in them.
pub(crate) struct Stored {
    pub(crate) file: Arc<dyn MediaFile>,
    pub(crate) committed: Arc<CommittedFile>,
    pub(crate) journal: Arc<dyn MediaFile>,
    pub(crate) states: FrozenMap,
}

impl Stored {
    /// Opens them, after whatever happened; `clean` is the checksum of an orderly close.
    pub(crate) fn open(place: &Place<'_>, number: u64, clean: Option<u32>) -> Result<Self> {
        let file = data_file::open(place, number, place.blocks(), OpenHow::Write)?;
        let path = place.path(Numbered::Committed(number));
        let committed = Arc::new(CommittedFile::open(place.media, path, place.disk, number, place.blocks())?);
        let path = place.path(Numbered::Journal(number));
        let journal = must_exist(&path, place.media.open(&path, OpenHow::Write))?;
        let mut entries = Journal::replay(&*journal, &path, place.disk, number, page_count(place.blocks()))?;
        if let Some(crc) = clean {
            committed.check_top(crc)?;
            entries.clear();
        }
        let states = committed.load(place.media, &entries)?;
        // the journal begins again at its start, so what it holds goes into the map first; a daemon that died may have
        // left records that no sync reached, and a checkpoint cut short is healed by nothing else
        if !planted!("replayed-without-journal-sync") {
            journal.sync()?;
        }
        committed.checkpoint(&entries)?;
        Ok(Self { file, committed, journal, states })
    }
}
