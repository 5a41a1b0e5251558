//! Measures how many crash states a second one core looks at: a random history on a small file, a power cut, and the
//! whole file read again. `cargo run --release -p blockd-sim --example rate`.

use block::{Media, OpenHow, Result};
use sim::{Rng, SimMedia};
use std::time::Instant;

/// Crash states looked at per size.
const STATES: u64 = 20_000;
/// Cuts of each history.
const CUTS: u64 = 8;

fn history(rng: &mut Rng, len: u64) -> Result<SimMedia> {
    let media = SimMedia::new();
    let file = media.open("disk", OpenHow::Create)?;
    file.set_len(len)?;
    file.sync()?;
    media.sync_dir("")?;
    for _ in 0..16 {
        file.write_at(rng.below(len / 4096) * 4096, &[rng.below(256) as u8; 4096])?;
        if rng.chance(1, 6) {
            file.sync()?;
        }
    }
    Ok(media)
}

#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn main() -> Result<()> {
    for len in [64 << 10, 1 << 20] {
        let (mut rng, start) = (Rng::new(1), Instant::now());
        let mut buf = vec![0; len as usize];
        for _ in 0..STATES / CUTS {
            let media = history(&mut rng, len)?;
            for _ in 0..CUTS {
                media.power_cut(&mut rng).open("disk", OpenHow::Read)?.read_at(0, &mut buf)?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{} KiB: {:.0} states a second", len >> 10, STATES as f64 / seconds);
    }
    Ok(())
}
