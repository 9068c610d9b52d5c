//! Repairs in Redis.

use std::collections::{HashMap, HashSet};

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::Resolution;
use firstcome_shared::redis::keys::DropMeta;
use firstcome_shared::redis::repair::{Done, DropOfChanges, SlotChange, SlotSet, Wanted};
use firstcome_shared::trace::TraceContext;
use futures_util::future::join_all;

use super::rows::CHANGED_LETTER;
use super::{AT_ONCE, ExecuteError, Executor, RepairAttempt};
use crate::plan::{Action, LetterChange, LetterEnd, Planned};

const CHANGED: &str = "it had changed meanwhile; the next pass looks again";
const NO_REVISION: &str =
    "the drop is gone, or its coupon is being changed; the next pass looks again";

/// Number of users promoted per script and statement.
const PROMOTED_AT_ONCE: u32 = 1_000;

/// The outcome of promotions from a waiting list so far.
#[derive(Default)]
struct PromotedSoFar {
    /// Slots of the users who were promoted.
    slots: HashMap<UserId, Slot>,
    /// Number of invalid user IDs removed from the list.
    no_user_ids: u32,
}

const EMPTIED: &str = "Redis was emptied meanwhile; the next pass looks again";

impl Executor<'_> {
    pub(super) async fn write_meta(&self) -> Result<RepairAttempt, ExecuteError> {
        let Some((revision, meta)) = self.settings_in_force().await? else {
            return Ok(RepairAttempt::Changed(NO_REVISION.into()));
        };
        Ok(
            match self.redis.write_meta(&self.keys, revision, &meta).await? {
                Done::Applied(()) => RepairAttempt::Done(None),
                Done::Changed | Done::Stale => RepairAttempt::Changed(CHANGED.into()),
            },
        )
    }

    /// Returns the current settings in MySQL, with a new revision that permits writing them to
    /// Redis. If an operator changes the coupon concurrently, the operator's request is retried.
    async fn settings_in_force(&self) -> Result<Option<(u64, DropMeta)>, ExecuteError> {
        let id = self.facts.coupon.id;
        let seen = self.redis.revision(id).await?;
        let taken = match self.db.take_revision(id, seen).await {
            // The coupon is locked, for example while an operator empties a large allow list. Skip
            // it, so that it does not delay other coupons.
            Err(error) if error.is_lock_wait() => None,
            taken => taken?,
        };
        let Some((coupon, drops)) = taken else {
            return Ok(None);
        };
        let drop = drops.iter().find(|drop| drop.id == self.drop_id());
        Ok(drop.map(|drop| (coupon.revision, DropMeta::of(&coupon, drop))))
    }

    /// Restores the coupon's claimants once per pass, because this reads all rows of the coupon.
    async fn restore_claimants(&self) -> Result<(), ExecuteError> {
        let this = (self.facts.coupon.id, self.fence.clone());
        if !self.restored.lock().contains(&this) {
            super::restore_claimants(
                self.db,
                self.redis,
                &self.facts.coupon,
                super::Restored::Missing,
            )
            .await?;
            self.restored.lock().insert(this);
        }
        Ok(())
    }

    /// Unloads a lost drop and restores its revocations. Must precede restoring the first user.
    pub(crate) async fn begin_rebuild(&self) -> Result<(), ExecuteError> {
        // If the rebuild is interrupted, the next pass continues it. If the era has changed, the
        // next step detects this.
        self.redis.unload_drop(&self.keys, &self.fence).await?;
        super::revocations::restore_revocations(self.db, self.redis, &self.facts.coupon).await
    }

    /// Restores users in a lost drop, which admission cannot use before [`Executor::rebuild`] ends.
    /// Returns the number of changes that Redis refused because the slot already had another user
    /// or the user had changed. Returns `None` if Redis has lost data since.
    pub(crate) async fn rebuild_some(
        &self,
        holdings: &[SlotChange],
    ) -> Result<Option<usize>, ExecuteError> {
        let mut taken = 0;
        for chunk in holdings.chunks(AT_ONCE) {
            if self.stop.is_cancelled() {
                return Err(ExecuteError::Stopped);
            }
            let Some(set) = self.change_slots(chunk, None).await? else {
                return Ok(None);
            };
            let is_refused = |set: &&SlotSet| matches!(set, SlotSet::Taken | SlotSet::Changed);
            taken += set.iter().filter(is_refused).count();
        }
        Ok(Some(taken))
    }

    /// Restores a lost drop: revocations, allow list, users and claimants, then `meta`, which makes
    /// the drop visible to admission, and last the counter. A wrong counter keeps the drop closed
    /// until then.
    pub(super) async fn rebuild(
        &self,
        holdings: &[SlotChange],
        before: usize,
    ) -> Result<RepairAttempt, ExecuteError> {
        self.begin_rebuild().await?;
        let coupon = std::iter::once(&self.facts.coupon);
        if let Some(why) = super::allow_lists::restore(self.db, self.redis, coupon)
            .await?
            .into_values()
            .next()
        {
            return Ok(RepairAttempt::Changed(why));
        }
        let Some(taken) = self.rebuild_some(holdings).await? else {
            return Ok(RepairAttempt::Changed(EMPTIED.into()));
        };
        crash_point(Point::PeopleRebuilt);
        // Do this before admission sees the drop, because these users get the slots that are left
        // first.
        if !self.put_to_front(&self.facts.promises.out_of_line).await? {
            return Ok(RepairAttempt::Changed(EMPTIED.into()));
        }
        self.restore_claimants().await?;
        let Some((revision, meta)) = self.settings_in_force().await? else {
            return Ok(RepairAttempt::Changed(NO_REVISION.into()));
        };
        let loaded = match self
            .redis
            .load_drop(&self.keys, &self.fence, revision, &meta)
            .await?
        {
            // `meta` exists, but could not be read.
            Done::Applied(false) => self.redis.write_meta(&self.keys, revision, &meta).await?,
            Done::Applied(true) => Done::Applied(()),
            Done::Changed => Done::Changed,
            Done::Stale => Done::Stale,
        };
        match loaded {
            Done::Applied(()) => {}
            Done::Changed => return Ok(RepairAttempt::Changed(CHANGED.into())),
            Done::Stale => return Ok(RepairAttempt::Changed(EMPTIED.into())),
        }
        crash_point(Point::DropLoaded);
        let counted = self.repair_count_now().await?;
        Ok(match counted {
            RepairAttempt::Done(_) if taken > 0 => {
                RepairAttempt::Done(Some(format!("{taken} slots were another's already")))
            }
            RepairAttempt::Done(_) => {
                RepairAttempt::Done(Some(format!("{} people put back", before + holdings.len())))
            }
            other => other,
        })
    }

    /// Repairs the counter now, unless a later step does so. A wrong counter keeps the drop closed
    /// to admission.
    pub(super) async fn repair_count(&self) -> Result<RepairAttempt, ExecuteError> {
        if self.counts_later {
            Ok(RepairAttempt::Done(None))
        } else {
            self.repair_count_now().await
        }
    }

    async fn repair_count_now(&self) -> Result<RepairAttempt, ExecuteError> {
        // Some users may return their slots in the meantime, but not half of them. In that case
        // `users` was lost after it was read, and all of its slots would become free.
        let least = self.facts.users.saturating_sub(self.withdrawn) / 2;
        let counted = self.redis.repair_count(&self.keys, &self.fence, least);
        Ok(match counted.await? {
            Done::Applied(0) => RepairAttempt::Done(None),
            Done::Applied(freed) => {
                RepairAttempt::Done(Some(format!("{freed} slots are free again")))
            }
            Done::Changed => {
                RepairAttempt::Changed("two people are on one slot; that is repaired first".into())
            }
            Done::Stale => RepairAttempt::Changed(EMPTIED.into()),
        })
    }

    /// Puts users on their slots, takes them off slots of other users, or moves them to the head of
    /// the waiting list. One script makes all changes.
    pub(super) async fn set_slots(
        &self,
        run: &[Planned],
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        let change = |item: &Planned| match &item.action {
            Some(Action::Slot(change)) => Some(change.clone()),
            _ => None,
        };
        let changes: Vec<SlotChange> = run.iter().filter_map(change).collect();
        self.list_lost_promises(&changes).await?;
        let attempt = |(set, change): (_, &SlotChange)| match (attempt_of(set), change.wanted) {
            (RepairAttempt::Done(_), Wanted::Front(_)) => {
                RepairAttempt::Done(Some("first on the waiting list again".into()))
            }
            (attempt, _) => attempt,
        };
        Ok(match self.change_slots(&changes, None).await? {
            Some(all) => all.into_iter().zip(&changes).map(attempt).collect(),
            None => vec![RepairAttempt::Changed(EMPTIED.into()); run.len()],
        })
    }

    /// Lists the promises that MySQL has lost of users who belong at the head of the waiting list.
    async fn list_lost_promises(&self, changes: &[SlotChange]) -> Result<(), ExecuteError> {
        let promised = changes.iter().filter_map(|change| match change.wanted {
            Wanted::Front(slot) => Some((&change.user, slot)),
            _ => None,
        });
        let promised: Vec<(&UserId, i64)> = promised.collect();
        if promised.is_empty() {
            return Ok(());
        }
        let people: Vec<UserId> = promised.iter().map(|(user, _)| (*user).clone()).collect();
        let known = self
            .db
            .people_with_promises(self.drop_id(), &people)
            .await?;
        for (user, slot) in promised {
            if !known.contains(user) {
                self.list_as_broken(user, slot, "no slot was left for them")
                    .await?;
            }
        }
        Ok(())
    }

    /// Moves a user to another slot and inserts the row. If no slot is free, moves the user to the
    /// head of the waiting list and lists the promise as broken.
    pub(super) async fn move_person(
        &self,
        change: &SlotChange,
        trace: Option<TraceContext>,
        attempts: &mut Vec<RepairAttempt>,
    ) -> Result<RepairAttempt, ExecuteError> {
        let user = &change.user;
        let quantity = Some(self.facts.drop.quantity);
        let set = match self.change_slot(change.clone(), quantity).await? {
            Some(SlotSet::Applied(Some(given))) => {
                crash_point(Point::PersonMoved);
                let claim = Claim {
                    trace,
                    ..self.given(user, given)
                };
                let moved = format!("moved to slot {}", given.slot);
                return match self.write_row(&claim).await {
                    // Report the move now, because no later pass can detect it.
                    Err(ExecuteError::Mysql(error)) if error.is_lock_wait() => {
                        attempts.push(RepairAttempt::Done(Some(format!(
                            "{moved}, without a row so far"
                        ))));
                        Err(error.into())
                    }
                    Ok(RepairAttempt::Done(_)) => Ok(RepairAttempt::Done(Some(moved))),
                    other => other,
                };
            }
            Some(SlotSet::Full) => {
                let from = change.seen.map_or(0, |seen| seen.slot);
                // List the promise first. After a crash in between, the user is listed but still
                // has the slot, which the next pass repairs.
                self.list_as_broken(user, from, "no slot was left for them")
                    .await?;
                crash_point(Point::BrokenListed);
                let to_front = SlotChange {
                    wanted: Wanted::Front(from),
                    ..change.clone()
                };
                self.change_slot(to_front, None).await?
            }
            set => set,
        };
        Ok(match set {
            Some(SlotSet::Applied(_)) => RepairAttempt::Left(
                "no slot is left: first on the waiting list, promise broken".into(),
            ),
            Some(set) => attempt_of(set),
            None => RepairAttempt::Changed(EMPTIED.into()),
        })
    }

    /// Moves users to the head of the waiting list. Returns `false` if Redis was emptied in the
    /// meantime.
    async fn put_to_front(&self, people: &[(UserId, i64)]) -> Result<bool, ExecuteError> {
        let to_front = |(user, slot): &(UserId, i64)| SlotChange {
            user: user.clone(),
            seen: None,
            wanted: Wanted::Front(*slot),
        };
        let changes: Vec<SlotChange> = people.iter().map(to_front).collect();
        for some in changes.chunks(AT_ONCE) {
            if self.change_slots(some, None).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives free slots to the users at the head of the waiting list, until no user waits or no
    /// slot is left. It must not stop earlier: while any user waits, admission adds new users to
    /// the end of the list. Uses the current order of the waiting list, which may be longer than
    /// planned.
    pub(super) async fn promote(
        &mut self,
        run: &[Planned],
        attempts: &mut Vec<RepairAttempt>,
    ) -> Result<(), ExecuteError> {
        let mut promoted = PromotedSoFar::default();
        let ended = self.promote_all(&mut promoted).await;
        let PromotedSoFar {
            mut slots,
            no_user_ids,
        } = promoted;
        let attempt = |item: &Planned| match item.user.as_ref().and_then(|user| slots.remove(user))
        {
            Some(slot) => RepairAttempt::Done(Some(format!("promoted to slot {slot}"))),
            None if no_user_ids > 0
                && !item
                    .user
                    .as_ref()
                    .is_some_and(|user| UserId::has_form(user.as_str())) =>
            {
                RepairAttempt::Done(Some(
                    "taken off the waiting list: nobody can claim by such a name".into(),
                ))
            }
            None => RepairAttempt::Changed("the waiting list has changed meanwhile".into()),
        };
        let mut own: Vec<RepairAttempt> = run.iter().map(attempt).collect();
        if ended.is_err() {
            // The others were not attempted, since users are promoted in the order of the waiting
            // list.
            own.truncate(
                own.iter()
                    .take_while(|attempt| matches!(attempt, RepairAttempt::Done(_)))
                    .count(),
            );
        }
        if let Some(RepairAttempt::Done(Some(detail))) = own.first_mut() {
            let beyond = slots.len();
            if beyond > 0 {
                *detail += format!("; with them {beyond} more people of the line").as_str();
            }
            if no_user_ids > 1 {
                *detail += format!("; {no_user_ids} names that nobody can have left it").as_str();
            }
        }
        attempts.append(&mut own);
        ended
    }

    async fn promote_all(&mut self, promoted: &mut PromotedSoFar) -> Result<(), ExecuteError> {
        while self.left > 0 && !self.stop.is_cancelled() {
            let limit = u32::try_from(self.left)
                .unwrap_or(u32::MAX)
                .min(PROMOTED_AT_ONCE);
            let Done::Applied(some) = self
                .redis
                .promote(&self.keys, &self.fence, self.drop_id(), limit)
                .await?
            else {
                break;
            };
            promoted.no_user_ids += some.no_user_ids;
            let people = some.people;
            if people.is_empty() {
                if some.left_without == 0 {
                    break;
                }
                continue;
            }
            crash_point(Point::PersonPromoted);
            self.left = self.left.saturating_sub(people.len() as u64);
            let claims: Vec<_> = people
                .iter()
                .map(|(user, given)| (self.given(user, *given), None))
                .collect();
            promoted
                .slots
                .extend(people.into_iter().map(|(user, given)| (user, given.slot)));
            self.write_rows(&claims).await?;
        }
        Ok(())
    }

    /// Readmits the users of dead letters to other slots. For each batch, gives away all slots and
    /// then inserts all rows.
    pub(super) async fn readmit(
        &self,
        run: &[Planned],
    ) -> Result<Vec<RepairAttempt>, ExecuteError> {
        let mut attempts = Vec::with_capacity(run.len());
        for some in run.chunks(AT_ONCE) {
            self.must_go_on()?;
            // Send only a few at a time, so that Redis serves other clients between the searches
            // for a free slot.
            let mut slots = Vec::with_capacity(some.len());
            let letters = some.iter().filter_map(|item| match &item.action {
                Some(Action::Letter(LetterChange { id, user, .. })) => Some((*id, user)),
                _ => None,
            });
            let open = self.still_open(&letters.collect::<Vec<_>>()).await?;
            for few in some.chunks(8) {
                let few = few.iter().map(|item| self.slot_for_letter(item, &open));
                slots.extend(join_all(few).await);
            }
            crash_point(Point::PersonMoved);
            let slots: Vec<_> = slots.into_iter().collect::<Result<_, _>>()?;
            let rows: Vec<_> = slots
                .iter()
                .flatten()
                .map(|(_, claim)| (claim.clone(), None))
                .collect();
            let mut written = self.write_rows(&rows).await?.into_iter();
            let mut resolutions = Vec::new();
            for slot in slots {
                attempts.push(match slot {
                    Err(refused) => refused,
                    Ok((id, claim)) => match written.next() {
                        Some(RepairAttempt::Done(_)) => {
                            let detail = format!("readmitted in slot {}", claim.slot);
                            resolutions.push(Resolution {
                                id,
                                how: "readmitted",
                                detail: detail.clone(),
                            });
                            RepairAttempt::Done(Some(detail))
                        }
                        left => left.unwrap_or_else(|| {
                            RepairAttempt::Changed("nothing was written".into())
                        }),
                    },
                });
            }
            self.db
                .resolve_dead_letters(resolutions, self.run_id)
                .await?;
        }
        Ok(attempts)
    }

    /// Gives the user of a dead letter a slot in Redis. Returns the ID of the dead letter with the
    /// new claim, or the outcome if the user got no slot. A repair that a store rejects does not
    /// stop the others.
    async fn slot_for_letter(
        &self,
        item: &Planned,
        open: &HashSet<i64>,
    ) -> Result<Result<(i64, Claim), RepairAttempt>, ExecuteError> {
        let Some(Action::Letter(LetterChange {
            id,
            user,
            end: LetterEnd::Readmitted { claimed_at },
        })) = &item.action
        else {
            return Ok(Err(RepairAttempt::Changed("planned out of order".into())));
        };
        if !open.contains(id) {
            return Ok(Err(RepairAttempt::Changed(CHANGED_LETTER.into())));
        }
        let change = SlotChange {
            user: user.clone(),
            seen: None,
            wanted: Wanted::Any,
        };
        let changed = self.change_slots(&[change], None).await;
        let set = changed.map(|all| all.map(|all| all.first().copied()));
        Ok(match set {
            Ok(Some(Some(SlotSet::Applied(Some(given))))) => {
                let claim = self.given(user, given);
                Ok((
                    *id,
                    Claim {
                        claimed_at: claimed_at.or(claim.claimed_at),
                        trace: item.trace,
                        ..claim
                    },
                ))
            }
            Ok(Some(Some(SlotSet::Full))) => Err(RepairAttempt::Left("no slot is left".into())),
            Ok(Some(_)) => Err(RepairAttempt::Changed(
                "its person has been admitted; the next pass looks again".into(),
            )),
            Ok(None) => Err(RepairAttempt::Changed(EMPTIED.into())),
            Err(error) => Err(RepairAttempt::Changed(error.about_data().ok_or(error)?)),
        })
    }

    /// Changes slots and returns the result of each change, or `None` if Redis was emptied in the
    /// meantime.
    pub(super) async fn change_slots(
        &self,
        changes: &[SlotChange],
        quantity: Option<Slot>,
    ) -> Result<Option<Vec<SlotSet>>, ExecuteError> {
        let of = DropOfChanges {
            drop: self.drop_id(),
            once_per: self.facts.once_per(),
            quantity,
        };
        let set = self.redis.set_slots(&self.keys, &self.fence, of, changes);
        Ok(match set.await? {
            Done::Applied(set) => Some(set),
            _ => None,
        })
    }

    async fn change_slot(
        &self,
        change: SlotChange,
        quantity: Option<Slot>,
    ) -> Result<Option<SlotSet>, ExecuteError> {
        let all = self.change_slots(&[change], quantity).await?;
        Ok(all.and_then(|all| all.first().copied()))
    }
}

fn attempt_of(set: SlotSet) -> RepairAttempt {
    let why = match set {
        SlotSet::Applied(_) | SlotSet::Same => return RepairAttempt::Done(None),
        SlotSet::Full => return RepairAttempt::Left("no slot is left".into()),
        SlotSet::Taken => "another person is on this slot now",
        SlotSet::Revoked => "it has been revoked",
        SlotSet::Changed => CHANGED,
    };
    RepairAttempt::Changed(why.into())
}
