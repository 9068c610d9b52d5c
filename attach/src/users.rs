//! Sets of users, 8 bytes each. A user is a keyed hash of the bytes of the name; a name is only
//! looked up for the few users that differ.

use std::hash::{BuildHasher as _, RandomState};

/// A user. Two names have the same hash with a probability of 10⁻⁷ among a million, and nobody
/// outside this process can find two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash(u64);

/// The lowest bit is free for a mark.
const MARK: u64 = 1;

#[derive(Debug, Clone, Default)]
pub struct Hasher(RandomState);

impl Hasher {
    pub fn user(&self, name: &str) -> UserHash {
        UserHash(self.0.hash_one(name.as_bytes()) & !MARK)
    }
}

/// Names in the order in which they were read, each with its length before it.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
}

impl Names {
    pub fn push(&mut self, name: &[u8]) {
        let mut length = name.len();
        while length >= 0x80 {
            self.bytes.push(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        self.bytes.push(length.to_le_bytes()[0]);
        self.bytes.extend_from_slice(name);
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let mut length = 0;
            let mut shift = 0;
            loop {
                let (byte, after) = rest.split_first()?;
                rest = after;
                length |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
            }
            let (name, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(name)
        })
    }
}

/// Sorts users, so that the functions below can compare them.
pub fn sorted(mut users: Vec<UserHash>) -> Vec<UserHash> {
    users.sort_unstable();
    users
}

/// Users of one sorted list that are not in the other, each once.
pub fn without(users: &[UserHash], others: &[UserHash]) -> Vec<UserHash> {
    let mut others = others.iter().peekable();
    let mut left: Vec<UserHash> = Vec::new();
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

/// Whom any look of this process saw, and whether with a row.
#[derive(Debug, Default)]
pub struct Seen {
    /// Sorted; the mark says that a row was seen.
    users: Vec<u64>,
}

/// What earlier looks saw of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Never,
    WithoutRow,
    WithRow,
}

impl Seen {
    pub fn before(&self, user: UserHash) -> Before {
        let at = self.users.partition_point(|seen| seen & !MARK < user.0);
        match self.users.get(at).filter(|seen| *seen & !MARK == user.0) {
            None => Before::Never,
            Some(seen) if seen & MARK == 0 => Before::WithoutRow,
            Some(_) => Before::WithRow,
        }
    }

    /// Adds the users of a look; all lists are sorted.
    pub fn add(&mut self, promised: &[UserHash], with_row: &[&[UserHash]]) {
        let new = |users: &[UserHash], mark: u64, seen: &Self| -> Vec<u64> {
            let is_new = |user: &UserHash| match seen.before(*user) {
                Before::Never => true,
                Before::WithoutRow => mark == MARK,
                Before::WithRow => false,
            };
            users
                .iter()
                .copied()
                .filter(is_new)
                .map(|user| user.0 | mark)
                .collect()
        };
        let mut added = new(promised, 0, self);
        for rows in with_row {
            added.extend(new(rows, MARK, self));
        }
        if added.is_empty() {
            return;
        }
        self.users.extend(added);
        self.users.sort_unstable();
        // Of the same user, the marked entry is the last one.
        let mut kept = 0;
        for at in 0..self.users.len() {
            let next = self.users.get(at + 1).map(|next| next & !MARK);
            if next != Some(self.users[at] & !MARK) {
                self.users[kept] = self.users[at];
                kept += 1;
            }
        }
        self.users.truncate(kept);
        self.users.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hashes(users: &[u8]) -> Vec<UserHash> {
        sorted(
            users
                .iter()
                .map(|user| UserHash(u64::from(*user) << 1))
                .collect(),
        )
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
        fn whoever_was_seen_once_is_known_for_ever(
            looks in prop::collection::vec((prop::collection::vec(0..12_u8, 0..9), prop::collection::vec(0..12_u8, 0..9)), 0..6),
        ) {
            let mut seen = Seen::default();
            let mut model: BTreeMap<u8, bool> = BTreeMap::new();
            for (promised, rows) in &looks {
                seen.add(&hashes(promised), &[&hashes(rows)]);
                for user in promised {
                    model.entry(*user).or_default();
                }
                for user in rows {
                    model.insert(*user, true);
                }
            }
            for user in 0..12_u8 {
                let expected = match model.get(&user) {
                    None => Before::Never,
                    Some(false) => Before::WithoutRow,
                    Some(true) => Before::WithRow,
                };
                prop_assert_eq!(seen.before(hashes(&[user])[0]), expected);
            }
        }
    }
}
