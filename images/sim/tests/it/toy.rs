//! The simplest disk over a media: one file, written in place. It keeps every promise of its seam, so cuts of it must
//! agree with the model; and with a bug planted into it, they must not.

use block::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Media,
    MediaFile, OpenHow, Provision, Result, Visit, check_range,
};
use sim::{Action, Cut, Effect, Fault, ModelDisk, Op, Rng, SimMedia, conformance, for_seeds};
use std::ops::ControlFlow;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bug {
    None,
    FlushWithoutSync,
    RetryAfterFailedSync,
    ZeroPastTheEnd,
    NameNotSynced,
}

struct Toy {
    file: Arc<dyn MediaFile>,
    size: ByteCount,
    bug: Bug,
}

impl Toy {
    fn create(media: &dyn Media, size: ByteCount, bug: Bug) -> Result<Self> {
        let file = media.open("disk", OpenHow::Create)?;
        file.set_len(size.get())?;
        file.sync()?;
        if bug != Bug::NameNotSynced {
            media.sync_dir("")?;
        }
        Ok(Self { file, size, bug })
    }

    fn open(media: &dyn Media, bug: Bug) -> Result<Self> {
        let file = media.open("disk", OpenHow::Write)?;
        Ok(Self { size: ByteCount::new(file.size()?), file, bug })
    }
}

impl BlockSource for Toy {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        self.file.read_at(offset.get(), buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let mut at = range.start();
        let mut tile = |end: u64, kind| {
            let range = ByteRange::between(at, end);
            at = at.max(end);
            if range.is_empty() { ControlFlow::Continue(()) } else { visit(Extent { range, kind }) }
        };
        for data in self.file.data_ranges(range)? {
            if tile(data.start(), ExtentKind::Hole).is_break()
                || tile(data.end(), ExtentKind::Data).is_break()
            {
                return Ok(());
            }
        }
        // the last tile: nothing follows that could be stopped
        let _stop = tile(range.end(), ExtentKind::Hole);
        Ok(())
    }
}

impl BlockDevice for Toy {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        self.file.write_at(offset.get(), buf)
    }

    fn zero(&self, range: ByteRange, how: Provision) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let mut end = range.end();
        if self.bug == Bug::ZeroPastTheEnd {
            end = end.next_multiple_of(BLOCK_SIZE).min(self.size.get());
        }
        self.file.punch(ByteRange::between(range.start(), end))?;
        match how {
            Provision::Sparse => Ok(()),
            Provision::Allocated => self.file.allocate(range),
        }
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let end = range.end();
        let end = if end == self.size.get() { end } else { end / BLOCK_SIZE * BLOCK_SIZE };
        self.file.punch(ByteRange::between(range.start().next_multiple_of(BLOCK_SIZE), end))
    }

    fn flush(&self) -> Result<()> {
        match self.bug {
            Bug::FlushWithoutSync => Ok(()),
            Bug::RetryAfterFailedSync => self.file.sync().or_else(|_| self.file.sync()),
            _ => self.file.sync(),
        }
    }
}

const SIZE: ByteCount = ByteCount::new(64 * 1024 + 512);

#[test]
fn the_toy_conforms() {
    conformance::block_device(|size| {
        let media = SimMedia::new();
        Arc::new(Toy::create(&media, size, Bug::None).unwrap()) as Arc<dyn BlockDevice>
    });
}

/// Runs random requests until they end or the power goes off; tells the model everything.
fn run(rng: &mut Rng, disk: &Toy, model: &mut ModelDisk) {
    for _ in 0..rng.below(25) {
        let action = Action::random(rng, SIZE);
        match action.run(disk) {
            Ok(()) => model.done(&action),
            Err(_) => return model.failed(&action),
        }
    }
}

/// One life of a toy with two crashes. The error says where disk and model disagree.
fn live(rng: &mut Rng, bug: Bug) -> std::result::Result<(), String> {
    let media = SimMedia::new();
    let disk = Toy::create(&media, SIZE, bug).map_err(|error| error.to_string())?;
    let mut model = ModelDisk::new(SIZE);
    media.crash_after(rng.below(30), *rng.pick(&[Cut::BeforeEffect, Cut::AfterEffect]));
    if rng.chance(1, 2) {
        media.inject(Fault::new(Op::Sync, Effect::Eio).after(rng.below(3)));
    }
    run(rng, &disk, &mut model);
    // a toy forgets that a sync failed: what readers still see after a restart is not what a power cut leaves
    let power = media.faults_fired() > 0 || rng.chance(2, 3);
    for _ in 0..4 {
        let next = if power { media.power_cut(rng) } else { media.process_crash() };
        let disk = Toy::open(&next, bug).map_err(|error| format!("the disk is gone: {error}"))?;
        let mut model = model.clone();
        let agreed = if power { model.recovered(&disk) } else { model.restarted(&disk) };
        agreed.map_err(|why| format!("first crash: {why}"))?;
        run(rng, &disk, &mut model);
        let disk = Toy::open(&next.power_cut(rng), bug).map_err(|error| format!("gone at last: {error}"))?;
        model.check_after_power_cut(&disk).map_err(|why| format!("second crash: {why}"))?;
    }
    Ok(())
}

#[test]
fn cuts_of_an_honest_disk_agree_with_the_model() {
    for_seeds(0..400, |rng| live(rng, Bug::None).unwrap());
}

#[test]
fn planted_bugs_are_caught() {
    for bug in [Bug::FlushWithoutSync, Bug::RetryAfterFailedSync, Bug::ZeroPastTheEnd, Bug::NameNotSynced] {
        let caught = (0..200).filter(|&seed| live(&mut Rng::new(seed), bug).is_err()).count();
        assert!(caught > 5, "{bug:?} was caught in {caught} of 200 lives");
    }
}

/// Every subset of what is pending, at every step of a short history.
#[test]
fn short_histories_are_exhausted() {
    let write = |block: u64, byte: u8| Action::Write { offset: block * BLOCK_SIZE, bytes: vec![byte; 4096] };
    let history = [
        write(0, 1),
        write(1, 1),
        Action::Flush,
        write(0, 2),
        Action::Discard(ByteRange::between(0, 8192)),
        write(0, 3),
        Action::Zero(ByteRange::between(100, 5000), Provision::Sparse),
        Action::Flush,
        write(1, 4),
    ];
    let mut states = 0;
    for calls in 0.. {
        let media = SimMedia::new();
        let disk = Toy::create(&media, SIZE, Bug::None).unwrap();
        let mut model = ModelDisk::new(SIZE);
        media.crash_after(calls, Cut::AfterEffect);
        let mut went_well = true;
        for action in &history {
            match action.run(&disk) {
                Ok(()) => model.done(action),
                Err(_) => {
                    model.failed(action);
                    went_well = false;
                    break;
                }
            }
        }
        for after in media.power_cut_all(1 << 10) {
            model.check_after_power_cut(&Toy::open(&after, Bug::None).unwrap()).unwrap();
            states += 1;
        }
        if went_well {
            break;
        }
    }
    assert!(states > 50, "only {states} states");
}
