//! Several listings as one: a thread lists each copy, and at most a page of each is in memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};

use block::{BlobStore, ByteCount, Result};

/// Names of one copy that wait for the others.
const AHEAD: usize = 512;

/// What the copies say of one name: each copy that lists it, by its place in the list, with the length.
pub(super) type Said = Vec<(usize, ByteCount)>;

/// Visits every name that any copy lists, ascending. Gives what kept copies from being listed to the end.
pub(super) fn each_name(
    copies: &[&dyn BlobStore],
    prefix: &str,
    visit: &mut dyn FnMut(&str, &Said) -> ControlFlow<()>,
) -> Vec<Result<()>> {
    std::thread::scope(|scope| {
        let (listings, ends): (Vec<_>, Vec<_>) = copies
            .iter()
            .map(|copy| {
                let (to, from) = sync_channel(AHEAD);
                let list = move || {
                    copy.list(prefix, &mut |name, size| match to.send((name.to_owned(), size)) {
                        Ok(()) => ControlFlow::Continue(()),
                        // nobody wants more
                        Err(_) => ControlFlow::Break(()),
                    })
                };
                (from, scope.spawn(list))
            })
            .unzip();
        merge(listings, visit);
        ends.into_iter()
            .map(|end| end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn merge(
    listings: Vec<Receiver<(String, ByteCount)>>,
    visit: &mut dyn FnMut(&str, &Said) -> ControlFlow<()>,
) {
    let mut heads: BTreeMap<String, Said> = BTreeMap::new();
    let pull = |heads: &mut BTreeMap<String, Said>, copy: usize| {
        if let Ok((name, size)) = listings[copy].recv() {
            heads.entry(name).or_default().push((copy, size));
        }
    };
    for copy in 0..listings.len() {
        pull(&mut heads, copy);
    }
    while let Some((name, mut said)) = heads.pop_first() {
        said.sort_unstable_by_key(|(copy, _)| *copy);
        if visit(&name, &said).is_break() {
            return;
        }
        for (copy, _) in said {
            pull(&mut heads, copy);
        }
    }
}
