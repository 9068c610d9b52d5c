//! A selection of the first users among more than a pass can name (top k). Redis lists members in
//! no order, so all of them are seen, and the last ones are dropped from time to time. Pure.

use std::cmp::Ordering;

/// A member without a row.
#[derive(Debug)]
pub struct Unissued {
    pub user: String,
    /// In a sorted set.
    pub score: Option<f64>,
    /// The member, if it is in a spelling that [`Members::all`](crate::forms::Members::all) does
    /// not list.
    pub odd: Option<Vec<u8>>,
}

impl Unissued {
    /// Compares by score, and users with the same score by name, as
    /// [`UserSets::unissued_in_order`](crate::facts::UserSets::unissued_in_order) does.
    fn compare(&self, other: &Self) -> Ordering {
        let [own, others] = [self, other].map(|it| it.score.unwrap_or_default());
        let by_score = own.total_cmp(&others);
        by_score.then_with(|| self.user.cmp(&other.user))
    }
}

/// The first members without a row, up to a limit.
#[derive(Debug)]
pub struct First {
    limit: usize,
    members: Vec<Unissued>,
    /// Some members were dropped.
    is_cut: bool,
}

impl First {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            members: Vec::new(),
            is_cut: false,
        }
    }

    pub fn add(&mut self, member: Unissued) {
        self.members.push(member);
        if self.members.len() >= self.limit * 2 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.members.len() > self.limit {
            let members = &mut self.members;
            members.select_nth_unstable_by(self.limit, Unissued::compare);
            members.truncate(self.limit);
            self.is_cut = true;
        }
    }

    /// Returns the first members, in no order, and whether others were dropped.
    pub fn end(mut self) -> (Vec<Unissued>, bool) {
        self.cut();
        (self.members, self.is_cut)
    }
}

#[cfg(test)]
mod tests {
    use super::{First, Unissued};

    #[test]
    fn lowest_scores_are_kept_in_whatever_order_redis_lists_them() {
        for (scores, expected, expects_cut) in [
            (
                &[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0][..],
                &[1.0, 2.0, 3.0][..],
                true,
            ),
            (&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0], true),
            (&[3.0, 1.0, 2.0], &[1.0, 2.0, 3.0], false),
            (&[], &[], false),
        ] {
            let mut first = First::new(3);
            for score in scores {
                first.add(Unissued {
                    user: format!("user{score}"),
                    score: Some(*score),
                    odd: None,
                });
            }
            let (members, is_cut) = first.end();
            let mut kept: Vec<f64> = members.iter().filter_map(|it| it.score).collect();
            kept.sort_by(f64::total_cmp);
            assert_eq!(kept, expected, "{scores:?}");
            assert_eq!(is_cut, expects_cut, "{scores:?}");
        }
    }

    #[test]
    fn first_names_are_kept_if_members_have_no_scores() {
        let mut first = First::new(1);
        for user in ["lee", "kim", "ann", "park"] {
            first.add(Unissued {
                user: user.to_owned(),
                score: None,
                odd: None,
            });
        }
        assert_eq!(first.end().0[0].user, "ann");
    }
}
