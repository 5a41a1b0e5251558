//! Numbers for files of more than one point: given out as they are met, and forgotten with the kernel.

use block::sync::{Mutex, lock};
use std::collections::HashMap;
use std::hash::Hash;

/// Things that have numbers, from 1 on.
pub(super) struct Table<K> {
    state: Mutex<State<K>>,
}

struct State<K> {
    numbers: HashMap<K, u64>,
    held: HashMap<u64, (K, u64)>,
    next: u64,
}

impl<K: Hash + Eq + Clone> Table<K> {
    /// With one thing, number 1, which is never forgotten.
    pub(super) fn new(first: K) -> Self {
        let numbers = HashMap::from([(first.clone(), 1)]);
        let held = HashMap::from([(1, (first, 1))]);
        Self { state: Mutex::new(State { numbers, held, next: 2 }) }
    }

    /// The number of a thing; a new one if it has none.
    pub(super) fn number(&self, thing: &K) -> u64 {
        let mut state = lock(&self.state);
        if let Some(number) = state.numbers.get(thing) {
            return *number;
        }
        let number = state.next;
        state.next += 1;
        state.numbers.insert(thing.clone(), number);
        state.held.insert(number, (thing.clone(), 0));
        number
    }

    /// The thing of a number.
    pub(super) fn thing(&self, number: u64) -> Option<K> {
        lock(&self.state).held.get(&number).map(|(thing, _)| thing.clone())
    }

    /// Somebody holds the number once more.
    pub(super) fn remember(&self, number: u64) {
        if let Some((_, held)) = lock(&self.state).held.get_mut(&number) {
            *held += 1;
        }
    }

    /// Somebody holds the number so many times less; at last it goes.
    pub(super) fn forget(&self, number: u64, times: u64) {
        let mut state = lock(&self.state);
        let Some((_, held)) = state.held.get_mut(&number) else { return };
        *held = held.saturating_sub(times);
        if *held == 0
            && number != 1
            && let Some((thing, _)) = state.held.remove(&number)
        {
            state.numbers.remove(&thing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_lives_as_long_as_it_is_held() {
        let table = Table::new("top");
        let number = table.number(&"a");
        assert_eq!((table.number(&"top"), number, table.number(&"a")), (1, 2, 2));
        table.remember(number);
        table.remember(number);
        table.forget(number, 1);
        assert_eq!(table.thing(number), Some("a"));
        table.forget(number, 1);
        assert_eq!(table.thing(number), None);
        // never given out again: whoever still has it must not see another file
        assert_eq!(table.number(&"a"), 3);
        table.forget(1, 5);
        assert_eq!(table.thing(1), Some("top"));
    }
}
