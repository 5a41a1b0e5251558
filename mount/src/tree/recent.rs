//! A cache that forgets what was not used lately, in two generations: no order is kept, so a hit costs one look-up.

use block::sync::{Mutex, lock};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Up to twice `limit` values.
pub(crate) struct Recent<K, V> {
    limit: usize,
    generations: Mutex<[HashMap<K, Arc<V>>; 2]>,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, generations: Mutex::new([HashMap::new(), HashMap::new()]) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut generations = lock(&self.generations);
        let [young, old] = &mut *generations;
        if let Some(value) = young.get(key) {
            return Some(Arc::clone(value));
        }
        let (key, value) = old.remove_entry(key)?;
        young.insert(key, Arc::clone(&value));
        Some(value)
    }

    /// Forgets what was not used since this was called last.
    pub(crate) fn age(&self) {
        let [young, old] = &mut *lock(&self.generations);
        *old = std::mem::take(young);
    }

    pub(crate) fn insert(&self, key: K, value: Arc<V>) {
        let mut generations = lock(&self.generations);
        let [young, old] = &mut *generations;
        if young.len() >= self.limit {
            *old = std::mem::take(young);
        }
        young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays() {
        let recent = Recent::new(4);
        for i in 0..100 {
            recent.insert(i, Arc::new(i));
            assert_eq!(recent.get(&0).as_deref(), Some(&0), "{i}");
        }
        assert!(recent.get(&50).is_none());
        assert!(recent.get(&99).is_some());
        recent.age();
        assert!(recent.get(&99).is_some());
        recent.age();
        assert!(recent.get(&99).is_some() && recent.get(&0).is_none());
    }
}
