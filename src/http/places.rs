//! Places of which everybody has a number: connections of an address, requests of a station.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many places each holds; who holds none is not remembered.
#[derive(Debug)]
pub struct Places<K: Clone + Eq + Hash>(Mutex<HashMap<K, usize>>);

/// One place, from its taking until it is dropped.
#[derive(Debug)]
pub struct Place<K: Clone + Eq + Hash> {
    places: Arc<Places<K>>,
    whose: K,
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// All places are free.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// A place for `whose`; `None` when they hold `most`.
    pub fn enter(self: &Arc<Self>, whose: K, most: usize) -> Option<Place<K>> {
        let mut held = self.held();
        let count = held.get(&whose).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        held.insert(whose.clone(), count + 1);
        let places = self.clone();
        Some(Place { places, whose })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.places.held();
        if let Some(count) = held.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn each_has_a_number_of_places_and_gets_one_back_when_it_is_dropped() {
        let places = Places::new();
        let first = places.enter("a", 2).unwrap();
        let second = places.enter("a", 2).unwrap();
        assert!(places.enter("a", 2).is_none());
        let other = places.enter("b", 2).unwrap();
        drop(first);
        let third = places.enter("a", 2).unwrap();
        assert!(places.enter("a", 2).is_none());
        drop((second, other, third));
        assert!(places.held().is_empty(), "nobody is remembered");
    }
}
