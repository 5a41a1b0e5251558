//! The names of the directory looked into last, for readers of directories that are lists: each look-up reads half of the list,
//! and whoever looks up all its names reads it as often as it has names.

use crate::Result;
use block::sync::{Mutex, lock};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Names kept, and bytes in them: some MiB of the parser's memory for each filesystem. Larger directories are read each time.
const MAX_NAMES: usize = 1 << 15;
const MAX_BYTES: usize = 2 << 20;

/// Takes a name and its inode, and says whether the walk goes on.
pub(super) type Visit<'a> = dyn FnMut(Vec<u8>, u64) -> ControlFlow<()> + 'a;

#[derive(Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Default)]
struct Known {
    dir: u64,
    state: State,
}

#[derive(Default)]
enum State {
    /// Nothing was looked up yet.
    #[default]
    None,
    Once,
    All(HashMap<Vec<u8>, u64>),
    TooMany,
}

impl Names {
    /// The inode of a name. `walk` visits the names of the directory in their order, of which the first of a kind counts. They
    /// are kept from the second look into the same directory on.
    pub(super) fn lookup(
        &self,
        dir: u64,
        name: &[u8],
        walk: impl Fn(&mut Visit<'_>) -> Result<()>,
    ) -> Result<Option<u64>> {
        let mut known = lock(&self.0);
        if known.dir != dir || matches!(known.state, State::None) {
            *known = Known { dir, state: State::Once };
        } else if matches!(known.state, State::Once) {
            known.state = all(&walk).map_or(State::TooMany, State::All);
        }
        if let State::All(names) = &known.state {
            return Ok(names.get(name).copied());
        }
        drop(known);
        let mut found = None;
        walk(&mut |its, ino| {
            if its == name {
                found = Some(ino);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}

/// All names, if they are not too many and can all be read.
fn all(walk: impl Fn(&mut Visit<'_>) -> Result<()>) -> Option<HashMap<Vec<u8>, u64>> {
    let (mut names, mut bytes) = (HashMap::new(), 0);
    let walked = walk(&mut |name, ino| {
        bytes += name.len();
        names.entry(name).or_insert(ino);
        match names.len() <= MAX_NAMES && bytes <= MAX_BYTES {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    (walked.is_ok() && names.len() <= MAX_NAMES && bytes <= MAX_BYTES).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::cell::Cell;

    /// A directory of so many names, of which two are alike, and how many of them were looked at.
    fn walk(count: u64, seen: &Cell<u64>, visit: &mut Visit<'_>) -> Result<()> {
        for ino in 0..count {
            seen.set(seen.get() + 1);
            let name = if ino + 1 == count { 3 } else { ino };
            if visit(format!("name {name}").into_bytes(), ino).is_break() {
                break;
            }
        }
        Ok(())
    }

    #[test]
    fn all_names_of_a_directory_are_found_in_two_walks() {
        let (names, seen) = (Names::default(), Cell::new(0));
        let find = |dir, count, number: u64| {
            names.lookup(dir, format!("name {number}").as_bytes(), |visit| walk(count, &seen, visit)).unwrap()
        };
        assert!((0..999).all(|number| find(1, 1000, number) == Some(number)));
        assert_eq!((find(1, 1000, 2000), find(1, 1000, 3)), (None, Some(3)));
        assert!(seen.get() <= 2000, "{}", seen.get());
        // another directory, and one that is too large to be kept
        assert_eq!((find(2, 10, 12), find(2, 10, 12), find(2, 10, 8)), (None, None, Some(8)));
        let large = MAX_NAMES as u64 + 10;
        assert!((0..5).all(|number| find(3, large, large - 3 - number) == Some(large - 3 - number)));
    }

    #[test]
    fn what_lies_before_damage_is_found() {
        let (names, seen) = (Names::default(), Cell::new(0));
        for number in [3, 4, 5, 20] {
            let found = names.lookup(2, format!("name {number}").as_bytes(), |visit| {
                let mut broke = false;
                walk(10, &seen, &mut |name, ino| {
                    let flow = visit(name, ino);
                    broke = flow.is_break();
                    flow
                })?;
                if broke { Ok(()) } else { Err(Error::corrupt("a directory", "damaged")) }
            });
            assert_eq!(found.ok().flatten(), (number < 9).then_some(number), "{number}");
        }
    }
}
