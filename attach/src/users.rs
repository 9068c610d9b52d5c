//! Sets of users, 7 bytes each. A user is a keyed hash of the bytes of the name; a name is only
//! looked up for the users that findings name.

use std::hash::{BuildHasher as _, RandomState};

/// A user. Two names have the same hash with a probability of 10⁻⁵ among a million, and nobody
/// outside this process can find two. With the kind of a difference it takes 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash([u8; 7]);

#[derive(Debug, Clone, Default)]
pub struct Hasher(RandomState);

impl Hasher {
    pub fn user(&self, name: &str) -> UserHash {
        let [hash @ .., _] = self.0.hash_one(name.as_bytes()).to_le_bytes();
        UserHash(hash)
    }
}

/// Names in the order in which they were read, each after its length.
#[derive(Debug, Default)]
pub struct Names(Vec<u8>);

/// The bytes of a length. No store has a longer name.
const LENGTH: usize = size_of::<u32>();

impl Names {
    pub fn push(&mut self, name: &[u8]) {
        let [length @ .., _, _, _, _] = name.len().to_le_bytes();
        self.0.extend(length);
        self.0.extend_from_slice(name);
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (length, names) = rest.split_first_chunk::<LENGTH>()?;
            let (name, others) = names.split_at(u32::from_le_bytes(*length) as usize);
            rest = others;
            Some(name)
        })
    }
}

/// Sorts users, or differences, so that the functions below can compare them.
pub fn sorted<T: Ord>(mut users: Vec<T>) -> Vec<T> {
    users.sort_unstable();
    users
}

/// Users of one sorted list that are not in the other, each once.
pub fn without<T: Ord + Copy>(users: &[T], others: &[T]) -> Vec<T> {
    let mut others = others.iter().peekable();
    let mut left: Vec<T> = Vec::new();
    for user in users {
        while others.next_if(|other| *other < user).is_some() {}
        if others.peek() != Some(&user) && left.last() != Some(user) {
            left.push(*user);
        }
    }
    left
}

/// Users who stand in a sorted list more than once.
pub fn repeated(users: &[UserHash]) -> Vec<UserHash> {
    let mut twice: Vec<UserHash> = users
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    twice.dedup();
    twice
}

/// Whether a sorted list has a user.
pub fn has<T: Ord + Copy>(users: &[T], user: T) -> bool {
    users.binary_search(&user).is_ok()
}

/// Adds users to a sorted list, each once.
pub fn merge(all: &mut Vec<UserHash>, users: &[UserHash]) {
    all.extend(without(users, all));
    all.sort_unstable();
    all.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashes(users: &[u8]) -> Vec<UserHash> {
        sorted(users.iter().map(|user| UserHash([*user; 7])).collect())
    }

    proptest! {
        #[test]
        fn names_are_returned_as_they_were_written(names in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut all = Names::default();
            for name in &names {
                all.push(name);
            }
            let read: Vec<&[u8]> = all.iter().collect();
            prop_assert_eq!(read, names.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn lists_are_compared_as_sets(a in prop::collection::vec(0..20_u8, 0..20), b in prop::collection::vec(0..20_u8, 0..20)) {
            let mut expected = a.clone();
            expected.retain(|user| !b.contains(user));
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(without(&hashes(&a), &hashes(&b)), hashes(&expected));
            let twice = a.iter().copied().filter(|user| a.iter().position(|it| it == user) != a.iter().rposition(|it| it == user));
            let mut twice: Vec<u8> = twice.collect();
            twice.sort_unstable();
            twice.dedup();
            prop_assert_eq!(repeated(&hashes(&a)), hashes(&twice));
        }

        #[test]
        fn whoever_was_seen_once_is_known_for_ever(looks in prop::collection::vec(prop::collection::vec(0..12_u8, 0..9), 0..6)) {
            let mut seen = Vec::new();
            for users in &looks {
                merge(&mut seen, &hashes(users));
            }
            let mut all = looks.concat();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(seen, hashes(&all));
        }
    }
}
