//! A small map that forgets what was not used for longest.

use std::collections::HashMap;
use std::hash::Hash;

/// Holds at most `limit` values. Forgetting costs a look at all of them, so limits are small.
pub(crate) struct Cache<K, V> {
    limit: usize,
    now: u64,
    kept: HashMap<K, (u64, V)>,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), now: 0, kept: HashMap::with_capacity(limit) }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        self.now += 1;
        let (used, value) = self.kept.get_mut(key)?;
        *used = self.now;
        Some(value.clone())
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        self.now += 1;
        if self.kept.len() >= self.limit && !self.kept.contains_key(&key) {
            let oldest = self.kept.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.kept.remove(&oldest);
            }
        }
        self.kept.insert(key, (self.now, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let mut cache = Cache::new(2);
        cache.put(1, 'a');
        cache.put(2, 'b');
        assert_eq!(cache.get(&1), Some('a'));
        cache.put(3, 'c');
        assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some('a'), None, Some('c')));
    }
}
