//! A bounded cache with two generations. When the young generation is full, it replaces the old
//! one. A lookup moves an entry back to the young generation.

use std::collections::HashMap;
use std::hash::Hash;

pub(crate) struct BoundedCache<K, V> {
    generation: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V> BoundedCache<K, V> {
    /// Keeps at least the last `generation` entries, and at most twice as many.
    pub(crate) fn new(generation: usize) -> Self {
        Self {
            generation,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.insert(key.clone(), value);
        }
        self.young.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_keeps_recent_and_requested_entries_in_at_most_two_generations() {
        let mut cache = BoundedCache::new(10);
        for key in 0..1_000 {
            cache.insert(key, key);
            assert_eq!(
                cache.get(&7.min(key)),
                Some(&7.min(key)),
                "an entry in use stays"
            );
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert!((991..1_000).all(|key| cache.get(&key).is_some()));
        assert_eq!(cache.get(&500), None);
        cache.clear();
        assert_eq!(cache.get(&999), None);
    }
}
