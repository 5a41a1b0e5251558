//! Opening a store with parity: which sets there are, and what is in none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use block::sync::atomic::AtomicU64;
use block::sync::{Arc, Mutex};
use block::{BlobStore, ByteRange, Entropy, Error, Kind, Result};

use super::set::{GONE, Head, MAX_HEAD, OWN, SCHEME, SETS, Scheme, SetId, TWINS, gone_name, hex};
use super::table::{Table, Waiting};
use super::{KEPT_SUMS, LARGE, ParityStore};
use crate::cache::Cache;

/// Longest text of a mark: a name.
const MAX_MARK: u64 = 200;

/// The names of a store, by what they are.
#[derive(Default)]
struct Names {
    sets: BTreeMap<SetId, BTreeMap<usize, u64>>,
    marks: Vec<(String, u64)>,
    twins: BTreeSet<String>,
    large: Vec<(String, u64)>,
}

impl Names {
    fn of(store: &dyn BlobStore) -> Result<Self> {
        let mut names = Self::default();
        store.list("", &mut |name, size| {
            let size = size.get();
            if let Some((set, number)) = name.strip_prefix(SETS).and_then(set_and_number) {
                names.sets.entry(set).or_default().insert(number, size);
            } else if name.starts_with(GONE) {
                names.marks.push((name.to_owned(), size));
            } else if let Some(of) = name.strip_prefix(TWINS) {
                names.twins.insert(of.to_owned());
            } else if !name.starts_with(OWN) && size >= LARGE {
                names.large.push((name.to_owned(), size));
            }
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }
}

fn set_and_number(text: &str) -> Option<(SetId, usize)> {
    let (id, number) = text.split_once('/')?;
    let mut set = [0; 16];
    for (at, byte) in set.iter_mut().enumerate() {
        *byte = u8::from_str_radix(id.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    (hex(&set) == id).then_some((set, number.parse().ok()?))
}

impl ParityStore {
    /// Opens a store that keeps parity.
    ///
    /// # Errors
    /// `NotFound` if it keeps none; what the store reports.
    pub fn open(store: Arc<dyn BlobStore>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let scheme = Scheme::load(&*store)?.ok_or_else(|| Error::NotFound { what: SCHEME.to_owned() })?;
        let names = Names::of(&*store)?;
        let mut table = Table::default();
        for name in marked(&*store, &names.marks)? {
            table.bury(&name);
            // of a deletion that was cut off; a reader finds it gone by its mark
            match store.delete(&name) {
                Err(error) if !matches!(error.kind(), Kind::NotFound | Kind::ReadOnly) => return Err(error),
                _ => {}
            }
        }
        for (set, numbers) in &names.sets {
            if let Some((head, present)) = head_of(&*store, set, numbers)? {
                table.add(&head, present);
            }
        }
        for (name, len) in names.large {
            if table.seat(&name).is_none() && !table.is_gone(&name) && !names.twins.contains(&name) {
                table.waiting.insert(name, Waiting { len, sums: None });
            }
        }
        Ok(Self {
            store,
            scheme,
            entropy,
            table: Mutex::new(table),
            sums: Mutex::new(Cache::new(KEPT_SUMS)),
            making: Mutex::new(()),
            mending: Mutex::new(()),
            given: Mutex::new(None),
            mended: AtomicU64::new(0),
        })
    }
}

/// What marks call deleted.
fn marked(store: &dyn BlobStore, marks: &[(String, u64)]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (mark, size) in marks {
        let text = store.get(mark, ByteRange::between(0, (*size).min(MAX_MARK)))?;
        let name = String::from_utf8_lossy(&text).into_owned();
        if gone_name(&name) == *mark {
            names.push(name);
        }
    }
    Ok(names)
}

/// The head of a set, by the first of its parities that tells it, and how many of them are there.
fn head_of(
    store: &dyn BlobStore,
    set: &SetId,
    numbers: &BTreeMap<usize, u64>,
) -> Result<Option<(Head, usize)>> {
    for (number, size) in numbers {
        let name = super::set::set_name(set, *number);
        let read = store.get(&name, ByteRange::between(0, (*size).min(MAX_HEAD)));
        let head = match read.and_then(|bytes| Head::decode(&name, &bytes)) {
            Ok(head) if head.set == *set && usize::from(head.number) == *number => head,
            // the others of the set say the same; without any, its members are in none
            Ok(_) => continue,
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Io) => continue,
            Err(error) => return Err(error),
        };
        let present = numbers.iter().filter(|(n, size)| **n < head.parity.into() && **size == head.total());
        let present = present.count();
        return Ok(Some((head, present)));
    }
    Ok(None)
}
