//! What a process remembers of a campaign between looks: whom it has seen, which differences are
//! open since when, how far the queue is, and when the next look is due.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::report::{DropReport, Judged, Outcome};

use crate::error::Answer;
use crate::file::Failed;
use crate::judge::{Comparison, Difference};
use crate::kafka::DeadLetters;
use crate::look::{CheckRow, Look, Target};
use crate::queue::Queue;
use crate::theirs::Theirs;
use crate::unasked::Trouble;
use crate::users::{UserHash, has, merge, sorted, without};

/// How long a queue cannot be read before it is reported.
const PATIENCE: Duration = Duration::from_secs(30);

/// Users whose rows came before any process could write them, as many as are remembered.
const CAME: usize = 100;

/// Open differences of one age.
pub struct Cohort {
    /// When the look ended that saw them first. Each look since has seen them.
    first: Duration,
    /// This process saw their users arrive: an earlier look saw them in neither store.
    pub is_new: bool,
    /// They are old enough to be findings: each look for `in_flight` saw them and, with stages, a
    /// round began after that and ended before the last look.
    pub is_ripe: bool,
    /// Sorted.
    pub differences: Vec<Difference>,
}

#[derive(Default)]
pub struct Memory {
    /// Users whom any look saw promised; sorted.
    seen: Vec<UserHash>,
    /// Users of whom any look saw a row; sorted.
    with_row: Vec<UserHash>,
    /// When the first look ended.
    first_look: Option<Duration>,
    /// Users of both stores who came with their row between two looks, so that it is theirs.
    pub came: HashSet<UserHash>,
    /// The oldest first.
    pub open: Vec<Cohort>,
    pub queue: Queue,
    pub letters: Option<DeadLetters>,
    /// When the last look began.
    looked_at: Duration,
    pub rests_until: Duration,
    /// Since when the queue cannot be read.
    unread_since: Option<Duration>,
    /// The rows of checks, which stay if a check cannot run.
    pub check_rows: Vec<CheckRow>,
    /// Users whom a finding has named as unissued.
    pub named: HashSet<UserHash>,
    pub trouble: Trouble,
    /// In the other campaigns of the block.
    pub elsewhere: Trouble,
    pub last_report: Option<DropReport>,
}

/// The memories of a block's campaigns.
pub type Memories = BTreeMap<DropId, Memory>;

impl Memory {
    pub fn new(target: &Target<'_>) -> Self {
        let letters = match &target.block.failed {
            Some(Failed::Topic(topic)) => Some(DeadLetters::new(topic)),
            Some(Failed::Select(_)) | None => None,
        };
        Self {
            queue: Queue::new(target),
            letters,
            ..Self::default()
        }
    }

    /// Adds a look. Differences that it did not see are closed.
    pub fn add(&mut self, compared: &Comparison<'_>) {
        let Comparison {
            look, differences, ..
        } = compared;
        self.note_who_came(look);
        let mut known = Vec::new();
        for cohort in &mut self.open {
            cohort.is_ripe |= self.queue.is_over(cohort.first, look.began);
            cohort.differences.retain(|it| has(differences, *it));
            known.extend(&cohort.differences);
        }
        let is_new = |it: &Difference| {
            self.first_look.is_some()
                && matches!(*it, Difference::Unissued(user) if !self.knows(user))
        };
        let mut others = without(differences, &sorted(known));
        let new = others.extract_if(.., |it| is_new(it)).collect();
        for (is_new, differences) in [(true, new), (false, others)] {
            self.open.push(Cohort {
                first: look.ended,
                is_new,
                is_ripe: false,
                differences,
            });
        }
        self.open.retain(|cohort| !cohort.differences.is_empty());
        let had_row = |it: &&Difference| matches!(**it, Difference::Unissued(user) if has(&self.with_row, user));
        let vanished = differences.iter().filter(had_row).count() as u64;
        self.first_look.get_or_insert(look.ended);
        self.looked_at = look.began;
        self.check_rows.clone_from(&look.check_rows);
        merge(&mut self.seen, &look.promised.users);
        merge(&mut self.with_row, &look.rows.counted);
        merge(&mut self.with_row, &look.rows.uncounted);
        self.trouble = Trouble {
            strangers: compared.strangers,
            // For ever: whoever deletes rows may have deleted some that no look has seen.
            vanished: self.trouble.vanished.max(vanished),
            twice: compared.twice,
        };
    }

    /// A process that writes rows sees them lost for `in_flight` first, and a person who confirms a
    /// plan needs two such processes.
    fn note_who_came(&mut self, look: &Look) {
        let promised = &look.promised;
        let rows = &look.rows.counted;
        let is_in_both = |user: &UserHash| promised.has(*user) && has(rows, *user);
        self.came.retain(is_in_both);
        let gap = look.ended.saturating_sub(self.looked_at);
        if self.first_look.is_none() || gap >= self.queue.in_flight * 2 {
            return;
        }
        let users = promised.users.iter().copied();
        let came: Vec<UserHash> = users
            .filter(|user| is_in_both(user) && !self.knows(*user))
            .take(CAME - self.came.len())
            .collect();
        self.came.extend(came);
    }

    /// Whether an earlier look saw a user.
    fn knows(&self, user: UserHash) -> bool {
        has(&self.seen, user) || has(&self.with_row, user)
    }

    /// Whether an earlier look saw a difference, too.
    pub fn is_repeated(&self, difference: Difference, look: &Look) -> bool {
        let mut earlier = self.open.iter().filter(|it| it.first < look.ended);
        earlier.any(|it| has(&it.differences, difference))
    }

    /// Returns the differences that are too young.
    pub fn young(&self) -> impl Iterator<Item = &Cohort> {
        self.open.iter().filter(|it| !it.is_ripe)
    }

    /// Returns the beginnings of those for which a run waits that began with a pass until this time:
    /// also those of each campaign's first look, which a later pass may have made.
    fn waited_for(&self, until: Duration) -> impl Iterator<Item = Duration> {
        let until = until.max(self.first_look.unwrap_or_default());
        let firsts = self.young().map(|it| it.first);
        firsts.filter(move |first| *first <= until)
    }

    /// Whether the last pass, which began at this time, left a difference too young that is waited
    /// for; a round may have ended since. A pass that could not look, or that found the queue
    /// stalled, has said so, and nothing more comes.
    pub fn waits(&self, until: Duration, passed: Duration) -> bool {
        self.looked_at >= passed
            && self.queue.stalled(self.looked_at).is_none()
            && self.waited_for(until).next().is_some()
    }

    /// Whether one of them becomes old enough by itself. If the queue stands, or cannot be read,
    /// only a pass can tell more.
    pub fn ripens(&self, until: Duration, now: Duration) -> bool {
        let since = self.unread_since;
        let is_unread = since.is_some_and(|since| now.saturating_sub(since) >= PATIENCE);
        !is_unread
            && self.queue.stalled(now).is_none()
            && self
                .waited_for(until)
                .any(|first| !self.queue.is_over(first, now))
    }

    /// Moves the round of the queue as far as possible.
    pub async fn advance(&mut self, theirs: &mut Theirs, now: Duration) -> Answer<()> {
        let firsts = self.open.iter().map(|it| it.first);
        let advanced = self.queue.advance(firsts, now, theirs).await;
        let since = self.unread_since.unwrap_or(now);
        self.unread_since = advanced.is_err().then_some(since);
        advanced
    }

    /// Returns the last report again, for a pass in which the campaign rests: it judges nothing,
    /// and shows nothing new.
    pub fn repeated_report(&self) -> Option<DropReport> {
        let mut report = self.last_report.clone()?;
        report.judged = Judged {
            is_repeated: true,
            ..Judged::default()
        };
        report.before = report.after;
        report.findings.retain(|it| it.result != Outcome::Applied);
        Some(report)
    }

    /// Forgets named users who were answered. Returns whether one has left Redis without ever
    /// having had a row.
    pub fn has_left(&mut self, look: &Look) -> bool {
        self.named.retain(|user| !look.rows.has(*user));
        let named = self.named.len();
        self.named.retain(|user| look.promised.has(*user));
        self.named.len() < named
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{AttachFile, Campaign};
    use crate::judge::compare;
    use crate::look::{PromisedUsers, Rows};
    use crate::users::{Hasher, sorted};

    /// A campaign over a queue, and its looks.
    struct Looks {
        block: Campaign,
        hasher: Hasher,
    }

    impl Looks {
        fn new(queue: &str) -> Self {
            let text = format!(
                "database = 'mysql://x/y'
                redis = 'redis://x'
                [[campaign]]
                name = 'Winter'
                quantity = 100
                promised = {{ set = 'users' }}
                issued = 'SELECT user_id FROM coupon'
                queue = {queue}
                in_flight = '10s'"
            );
            Self {
                block: AttachFile::parse(&text).unwrap().campaigns.remove(0),
                hasher: Hasher::default(),
            }
        }

        fn target(&self) -> Target<'_> {
            Target {
                block: &self.block,
                id: String::new(),
                name: "Winter".to_owned(),
                quantity: Some(100),
                drop_id: DropId(1),
            }
        }

        /// Adds a look of a second that saw these users promised, and these with a row.
        fn look(&self, memory: &mut Memory, began: u64, promised: &[&str], rows: &[&str]) {
            let users = |names: &[&str]| {
                let users = names.iter().map(|name| self.hasher.user(name));
                sorted(users.collect())
            };
            let mut of_look = PromisedUsers::default();
            of_look.users = users(promised);
            let look = Look {
                began: Duration::from_secs(began),
                ended: Duration::from_secs(began + 1),
                promised: of_look,
                rows: Rows {
                    counted: users(rows),
                    coupons: rows.len() as u64,
                    ..Rows::default()
                },
                ..Look::default()
            };
            memory.add(&compare(&self.target(), look, &self.hasher));
        }
    }

    const LIST: &str = "[{ list = 'queue' }]";

    #[test]
    fn user_whose_row_was_purged_is_never_new_and_counts_for_ever() {
        let looks = Looks::new(LIST);
        let mut memory = Memory::new(&looks.target());
        looks.look(&mut memory, 0, &["lacking", "purged"], &["purged"]);
        looks.look(&mut memory, 2, &["lacking", "purged", "new"], &[]);
        let is_new = |user| {
            let lacking = Difference::Unissued(looks.hasher.user(user));
            let mut new = memory.open.iter().filter(|it| it.is_new);
            new.any(|it| has(&it.differences, lacking))
        };
        let found = ["lacking", "purged", "new"].map(is_new);
        assert_eq!(found, [false, false, true]);
        looks.look(&mut memory, 4, &["new"], &[]);
        assert_eq!(memory.trouble.vanished, 1, "purged from both stores");
    }

    /// Any other row may be one that a process has written, also if nothing of it is recorded.
    #[test]
    fn row_is_theirs_only_if_its_user_came_with_it_between_two_looks() {
        let looks = Looks::new(LIST);
        let mut memory = Memory::new(&looks.target());
        let mut theirs = |began, promised: &[&str], rows: &[&str]| {
            looks.look(&mut memory, began, promised, rows);
            let users = promised.iter().copied();
            users
                .filter(|user| memory.came.contains(&looks.hasher.user(user)))
                .collect::<Vec<_>>()
                .concat()
        };
        assert_eq!(theirs(0, &["a", "b"], &["a"]), "", "the first look");
        assert_eq!(theirs(2, &["a", "b", "c"], &["a", "b", "c"]), "c");
        assert_eq!(theirs(4, &["a", "c", "d"], &["a", "d"]), "d", "c is gone");
        assert_eq!(theirs(6, &["c", "d"], &["c", "d"]), "d", "c is back");
        assert_eq!(theirs(40, &["d", "e"], &["d", "e"]), "d", "nobody looked");
    }

    #[tokio::test]
    async fn queue_that_cannot_be_read_for_half_a_minute_is_not_waited_for() {
        let looks = Looks::new("[{ sql = 'SELECT 0' }, { list = 'queue' }]");
        let mut memory = Memory::new(&looks.target());
        let mut theirs = Theirs::default();
        looks.look(&mut memory, 0, &["a"], &[]);
        let seconds = Duration::from_secs;
        memory.queue.begin_at(1);
        memory.advance(&mut theirs, seconds(20)).await.unwrap_err();
        assert!(memory.ripens(seconds(1), seconds(49)));
        assert!(!memory.ripens(seconds(1), seconds(50)));
        memory.queue.begin_at(0);
        memory.advance(&mut theirs, seconds(61)).await.unwrap();
        assert!(memory.ripens(seconds(1), seconds(70)), "it was read");
    }

    /// Its store was away, or `each` selected it only then.
    #[test]
    fn campaign_that_a_later_pass_looks_at_first_is_waited_for_as_long() {
        let looks = Looks::new(LIST);
        let mut memory = Memory::new(&looks.target());
        let [until, passed, later] = [1, 30, 60].map(Duration::from_secs);
        looks.look(&mut memory, 30, &["1"], &[]);
        assert!(memory.waits(until, passed) && memory.ripens(until, passed));
        looks.look(&mut memory, 60, &["2"], &[]);
        assert!(!memory.waits(until, later) && !memory.ripens(until, later));
    }

    /// A round that ends after the last look says nothing about what it has seen.
    #[test]
    fn pass_that_named_every_old_difference_is_the_last_one_while_a_sale_runs() {
        let looks = Looks::new(LIST);
        let mut memory = Memory::new(&looks.target());
        let [until, passed] = [1, 22].map(Duration::from_secs);
        looks.look(&mut memory, 0, &["1"], &[]);
        assert!(memory.waits(until, Duration::ZERO));
        memory.queue.end_round(11, 21);
        looks.look(&mut memory, 22, &["1", "2"], &[]);
        assert!(!memory.waits(until, passed));
        memory.queue.end_round(33, 43);
        assert!(!memory.waits(until, passed));
    }
}
