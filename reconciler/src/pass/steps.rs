//! Runs the steps of one pass, and holds the state that they share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::kafka::{PositionFault, UnreadableAt};
use firstcome_shared::mysql::code_key::CodeKeyFault;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::life::Life;
use firstcome_shared::redis::reads::DropNumbers;
use firstcome_shared::redis::safety::Unsafe;
use tokio_util::sync::CancellationToken;

use super::findings;
use super::memory::{MARGIN, Memory, TopicAnswer};
use super::order::{Histories, most_urgent_first};
use super::request::{Aborted, PassSettings, Request};
use crate::collect::snapshot::DeadLetter;
use crate::collect::{self, PassContext};
use crate::execute::{self, CouponFence};
use crate::plan;
use crate::report::{ActionKind, FailureCause, Finding, FindingCase, Kind, Run, UnsafePart};
use crate::stores::Stores;
use crate::topic::WentBack;

/// Maximum difference between the clocks of two hosts. After a failover, a drop may have been open
/// by the clock of the previous server, but not yet by that of the current one.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// A pass in progress.
pub(super) struct Pass<'a> {
    /// The stores. The connection to Redis ends when its server process ends.
    pub(super) stores: &'a Stores,
    pub(super) settings: &'a PassSettings,
    pub(super) memory: &'a mut Memory,
    pub(super) request: &'a Request,
    pub(super) run: &'a mut Run,
    pub(super) stop: &'a CancellationToken,
    pub(super) context: PassContext,
    pub(super) gate: PassGate,
    pub(super) restored: execute::RestoredIn,
    /// Data to restore for coupons that were closed by a loss of Redis data.
    pub(super) histories: Histories,
    /// Number of claimants that open coupons still lack after this pass restored those with rows.
    pub(super) lacking: HashMap<CouponId, Option<i64>>,
    /// Drops whose repairs an earlier pass held back.
    pub(super) held_before: HashSet<DropId>,
    /// The lock of reopenings, while this pass reopens coupons.
    pub(super) reopening: Option<PassLock>,
}

/// The state of the admission gate in this pass.
#[derive(Default)]
pub(super) struct PassGate {
    /// The Redis servers on which the pass works, or `None` before they are read.
    pub(super) life: Option<Life>,
    /// The servers whose coupons were compared.
    pub(super) open: BTreeSet<usize>,
    /// Whether the gate was closed when the pass began.
    pub(super) was_closed: bool,
    /// Whether any drop in this pass has opened, so that users may have found the gate closed.
    pub(super) has_begun: bool,
}

impl PassGate {
    /// Whether the gate is open for the coupons of every server.
    pub(super) fn is_open(&self) -> bool {
        self.life
            .as_ref()
            .is_some_and(|life| life.servers() == self.open)
    }
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        stores: &'a Stores,
        settings: &'a PassSettings,
        memory: &'a mut Memory,
        request: &'a Request,
        run: &'a mut Run,
        stop: &'a CancellationToken,
    ) -> Self {
        let (context, gate, restored, histories, lacking, held_before, reopening) =
            Default::default();
        Self {
            stores,
            settings,
            memory,
            request,
            run,
            stop,
            context,
            gate,
            restored,
            histories,
            lacking,
            held_before,
            reopening,
        }
    }

    pub(super) async fn go(mut self) -> Result<(), Aborted> {
        self.reopening = self.wait_for_reopening().await?;
        let ended = self.steps().await;
        if let Some(lock) = self.reopening.take() {
            lock.release().await;
        }
        ended
    }

    async fn steps(&mut self) -> Result<(), Aborted> {
        let topic = if self.request.covers_everything() {
            self.memory.ask_topic(&self.stores.topic, self.run.trigger)
        } else {
            None
        };
        let mut drops = self.drops_in_question().await?;
        self.enter_life().await?;
        let fences = self.fences(&drops).await?;
        self.recover_settings(&mut drops, &fences).await?;
        if !self.request.dry_run {
            // A process that died after opening a coupon has not recorded it, so record it now.
            let open = fences.iter().filter(|(_, found)| found.is_verified);
            let open: Vec<CouponId> = open.map(|(coupon, _)| *coupon).collect();
            if let Some(life) = self.gate.life.clone() {
                self.note_compared(&life, life.servers_of(&open)).await?;
            }
            // Leave coupons without a fence, which cannot be repaired now, to the next pass.
            drops.retain(|(coupon, _)| {
                fences
                    .get(&coupon.id)
                    .is_some_and(|found| found.fence.is_some())
            });
        }
        if self.request.work == Work::Reopening {
            drops.retain(|(coupon, _)| !is_verified(&fences, coupon.id));
        }
        if !self.request.dry_run {
            execute::keep_unsealed(&self.stores.redis, &drops).await?;
        }
        self.read_context(&mut drops, fences).await?;
        self.report_stalled_consumer();
        if self.request.covers_everything() {
            self.report_unsafe_redis().await?;
        }
        let live = drops.iter().filter(|(_, drop)| drop.sealed_at.is_none());
        let live = live.map(|(coupon, _)| (coupon.id, coupon.clone()));
        let live = live.collect();
        self.compare_and_repair(drops).await?;
        // The rest of this pass must not delay the next reopening.
        if let Some(lock) = self.reopening.take() {
            lock.release().await;
        }
        self.settle_sizes(&live).await?;
        if self.request.work == Work::Pass {
            self.report_loose_dead_letters().await?;
        }
        if self.request.covers_everything() {
            self.report_code_key().await?;
            self.report_unsafe_topic(topic).await?;
        }
        if self.request.deep {
            self.compare_allow_lists().await?;
            self.count_sealed().await?;
        }
        if self.request.deep && self.covers_everything() {
            execute::delete_old_allow_lists(self.stores, self.settings.sealed_keys_ttl).await?;
            if let Some(kept) = self.settings.people_kept {
                execute::erase_old_people(self.stores, kept).await?;
            }
        }
        if self.covers_everything() {
            execute::delete_resolved_dead_letters(
                &self.stores.db,
                self.settings.failed_claims_kept,
            )
            .await?;
        }
        self.report_gate().await
    }

    /// Whether the pass compares and repairs every drop.
    pub(super) fn covers_everything(&self) -> bool {
        self.request.covers_everything() && !self.request.dry_run
    }

    /// Reads the data that all drops share. If Redis has lost data, first waits until every claim
    /// from before the loss has reached the topic or the dead-letter table, or never will.
    async fn read_context(
        &mut self,
        drops: &mut [(Coupon, Drop)],
        mut fences: HashMap<CouponId, CouponFence>,
    ) -> Result<(), Aborted> {
        self.context.unverified = fences
            .keys()
            .copied()
            .filter(|coupon| !is_verified(&fences, *coupon))
            .collect();
        let now_ms = self.stores.redis.time_ms().await?;
        if !self.context.unverified.is_empty() {
            let closed = self.context.unverified.iter().copied().collect();
            self.histories = self.stores.db.histories(closed).await?;
            most_urgent_first(drops, &self.histories, now_ms);
        }
        self.gate.has_begun = drops
            .iter()
            .any(|(_, drop)| drop.opens_at.timestamp_millis() <= now_ms);
        let claimants = self.claimants(drops).await?;
        // If Redis's clock is behind, the drops that it has open may not have opened yet by it.
        let latest_ms = now_ms.max(chrono::Utc::now().timestamp_millis());
        let numbers = self.opened_numbers(drops, latest_ms).await;
        self.context.claimants_in_doubt =
            self.compare_claimants(claimants, drops, &numbers).await?;
        let lost = numbers.iter().filter(|(_, numbers)| numbers.are_lost());
        self.context.lost = lost.map(|(drop, _)| *drop).collect();
        let wait = self.wait_for_claims(drops, &fences, now_ms);
        if !wait.is_zero() && !self.request.dry_run {
            tracing::warn!(
                ?wait,
                "Redis may have lost data: waiting for what may still be on its way"
            );
            self.sleep(wait).await?;
            fences = self.fences(drops).await?;
        }
        // Read the eras before the topic, and keep them for the whole pass. If Redis loses data
        // from here on, the next pass rebuilds it after waiting for claims in flight.
        self.context.fences = fences
            .into_iter()
            .filter_map(|(coupon, found)| Some((coupon, found.fence?)))
            .collect();
        self.context = self.fresh_context().await?;
        Ok(())
    }

    /// Reads the numbers of the drops that have opened from Redis. Skips unreadable ones.
    async fn opened_numbers(
        &self,
        drops: &[(Coupon, Drop)],
        now_ms: i64,
    ) -> HashMap<DropId, DropNumbers> {
        let opened: Vec<_> = drops
            .iter()
            .filter(|(_, drop)| drop.opens_at.timestamp_millis() <= now_ms)
            .collect();
        let keys: Vec<_> = opened
            .iter()
            .map(|(coupon, drop)| self.stores.redis.keys(coupon.id, drop.id))
            .collect();
        let numbers = self.stores.redis.drop_numbers(&keys).await;
        let with_numbers = opened.iter().zip(numbers);
        with_numbers
            .filter_map(|((_, drop), numbers)| Some((drop.id, numbers.ok()?)))
            .collect()
    }

    /// Returns how long to wait until no claim from before a loss can be in flight.
    fn wait_for_claims(
        &self,
        drops: &[(Coupon, Drop)],
        fences: &HashMap<CouponId, CouponFence>,
        now_ms: i64,
    ) -> Duration {
        let is_closed = |coupon: &Coupon| self.context.unverified.contains(&coupon.id);
        // The drop may already have been open by the clock of the previous server.
        let maybe_open = now_ms.max(chrono::Utc::now().timestamp_millis()) + CLOCKS_DIFFER_MS;
        let was_open = |(coupon, drop): &(Coupon, Drop)| {
            is_closed(coupon) && drop.opens_at.timestamp_millis() <= maybe_open
        };
        let longest_in_flight = self.settings.longest_in_flight();
        // If the coupon is still open although this drop is lost, the loss may be very recent, so
        // wait for the full time. Ignore a drop that closed long ago: none of its claims is in
        // flight, and its keys may have expired after it was sealed, before a revocation unsealed
        // it.
        let closed_lately = |drop: &Drop| {
            let claims_end = drop.closes_at.map(|at| at + longest_in_flight + MARGIN);
            claims_end.is_none_or(|at| at.timestamp_millis() > now_ms - CLOCKS_DIFFER_MS)
        };
        let is_lost = |drop: &Drop| self.context.lost.contains(&drop.id) && closed_lately(drop);
        if drops
            .iter()
            .any(|(coupon, drop)| is_lost(drop) && !is_closed(coupon))
        {
            return longest_in_flight + MARGIN;
        }
        let wait = |(coupon, _): &(Coupon, Drop)| {
            let fence: &Fence = fences.get(&coupon.id)?.fence.as_ref()?;
            let losses = &self.memory.losses;
            Some(losses.wait_needed(coupon.id, fence, longest_in_flight))
        };
        let closed = drops.iter().filter(|one| was_open(one));
        closed.filter_map(wait).max().unwrap_or_default()
    }

    /// Reads the context again but keeps the known fences. If the topic cannot be read, reports
    /// this and continues without it.
    pub(super) async fn fresh_context(&mut self) -> Result<PassContext, Aborted> {
        // Drop the old tail first, since two tails would take twice the memory.
        self.context.tail = None;
        let (mut context, kafka) = collect::context(self.stores).await?;
        context.fences = std::mem::take(&mut self.context.fences);
        context.unverified = std::mem::take(&mut self.context.unverified);
        context.lost = std::mem::take(&mut self.context.lost);
        context.claimants_in_doubt = std::mem::take(&mut self.context.claimants_in_doubt);
        if let Some(error) = kafka {
            let detail =
                format!("the topic cannot be read, so what is on its way is not known: {error:#}");
            self.run.error = Some(detail.clone());
            self.run.findings.push(Finding {
                case: FindingCase::RunFailed(FailureCause::Kafka),
                ..Finding::general(Kind::Stalled, ActionKind::Report, detail)
            });
        }
        Ok(context)
    }

    pub(super) async fn sleep(&self, wait: Duration) -> Result<(), Aborted> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.stop.cancelled() => Err(Aborted::Stopped),
        }
    }

    /// Reports partitions on which the consumer makes no progress although messages are unread,
    /// partitions that cannot be read, and partitions that are read again.
    fn report_stalled_consumer(&mut self) {
        let Some(tail) = &self.context.tail else {
            return;
        };
        let went_back = read_again(&tail.went_back);
        let unreadable: Vec<Finding> = tail.unreadable.iter().map(unreadable).collect();
        let limit = self.settings.stall_after;
        let (stuck, longest) =
            self.memory
                .stuck_partitions(&tail.partitions, limit, tokio::time::Instant::now());
        if !stuck.is_empty() {
            let unread: i64 = stuck.iter().map(|at| at.end - at.from).sum();
            let is_some =
                stuck.len() < tail.partitions.iter().filter(|at| at.from < at.end).count();
            let names: Vec<String> = stuck.iter().map(|at| at.partition.to_string()).collect();
            let place = if is_some {
                format!("partition {} of the topic", names.join(", "))
            } else {
                "the topic".into()
            };
            let seconds = longest.as_secs();
            let detail = format!(
                "{unread} messages wait on {place} and the consumer has not moved for {seconds} s"
            );
            let stands = Finding::general(Kind::Stalled, ActionKind::Report, detail);
            self.run.findings.push(Finding {
                case: FindingCase::ConsumerStands,
                ..stands
            });
        }
        self.run
            .findings
            .extend(unreadable.into_iter().chain(went_back));
    }

    /// Reports settings of Redis that start-up would reject and that have changed since, for
    /// example a new replica without fencing.
    async fn report_unsafe_redis(&mut self) -> Result<(), Aborted> {
        match self.stores.redis.check_settings().await {
            Ok(()) => {}
            Err(Unsafe::Unreachable(error)) => return Err(error.into()),
            Err(Unsafe::Setting(detail)) => self.report_unsafe(UnsafePart::Redis, detail),
        }
        Ok(())
    }

    /// Reports settings of the topic that start-up would reject, if the topic can be read.
    async fn report_unsafe_topic(&mut self, answer: Option<TopicAnswer>) -> Result<(), Aborted> {
        if self.context.tail.is_none() {
            return Ok(());
        }
        let told = tokio::select! {
            told = self.memory.unsafe_topic(answer) => told,
            () = self.stop.cancelled() => return Err(Aborted::Stopped),
        };
        if let Some(detail) = told {
            self.report_unsafe(UnsafePart::Topic, detail);
        }
        Ok(())
    }

    /// Reports a lost or changed code key. If the key has changed, rows that are written again get
    /// other codes than their users were shown.
    async fn report_code_key(&mut self) -> Result<(), Aborted> {
        let detail = match self.stores.db.check_code_key().await? {
            None => return Ok(()),
            Some(CodeKeyFault::Lost) => "the table code_key is empty although there are coupons",
            Some(CodeKeyFault::Replaced) => {
                "the key in the table code_key was lost, and another was drawn in its place"
            }
            Some(CodeKeyFault::Other) => {
                "the key in the table code_key does not make the codes of older coupons"
            }
        };
        let detail = format!(
            "{detail}: a row that is written again gets another code than its person was shown. Put the key back from a \
             backup of MySQL, see \"The key of the codes\" in OPERATIONS.md"
        );
        self.report_unsafe(UnsafePart::CodeKey, detail);
        Ok(())
    }

    fn report_unsafe(&mut self, part: UnsafePart, detail: String) {
        let finding = Finding::general(Kind::UnsafeSetting, ActionKind::Report, detail);
        self.run.findings.push(Finding {
            case: FindingCase::Unsafe(part),
            ..finding
        });
    }

    /// Reports dead letters that name no drop of this pass. Lists them individually if they are
    /// few, otherwise reports their number.
    async fn report_loose_dead_letters(&mut self) -> Result<(), Aborted> {
        for loose in self
            .stores
            .db
            .loose_dead_letters(self.request.coupon, self.request.drop)
            .await?
        {
            self.run.unlisted.examined.failed_claims += loose.number;
            if loose.number <= loose.examples.len() as u64 {
                let letters = loose.examples.into_iter().map(DeadLetter::from);
                let loose = letters.map(|it| {
                    findings::of_no_drop(&plan::loose(&it, &loose.why), it.coupon, it.drop)
                });
                self.run.findings.extend(loose);
            } else {
                let examples: Vec<i64> = loose
                    .examples
                    .iter()
                    .map(|letter| letter.id)
                    .take(3)
                    .collect();
                let detail = plan::many_loose(loose.number, &loose.why, &examples);
                let many = Finding::general(Kind::FailedClaim, ActionKind::Report, detail);
                self.run.findings.push(Finding {
                    case: FindingCase::NamesNoDrop(loose.number),
                    ..many
                });
            }
        }
        Ok(())
    }
}

fn unreadable(at: &UnreadableAt) -> Finding {
    let detail = format!(
        "{at}. No promise is lost: within a minute a consumer leaves the batch out and keeps a dead letter in its place"
    );
    Finding {
        case: FindingCase::Unreadable,
        ..Finding::general(Kind::Stalled, ActionKind::Report, detail)
    }
}

/// Returns one finding for all partitions that are read again from an earlier offset.
fn read_again(partitions: &[WentBack]) -> Option<Finding> {
    let WentBack {
        partition,
        fault,
        offset,
    } = partitions.first()?;
    let why = match fault {
        PositionFault::Gap => format!(
            "it had been read up to offset {offset}, which MySQL does not know; MySQL was restored, or \
             offsets were moved"
        ),
        PositionFault::OtherLog => format!(
            "the message before offset {offset} is another one, as after the topic was recreated"
        ),
        PositionFault::BeyondEnd => format!("it ends before offset {offset}, where reading was"),
        PositionFault::Expired => format!("unread messages from offset {offset} on were deleted"),
    };
    let more = match partitions.len() - 1 {
        0 => String::new(),
        1 => "; 1 more partition is read again".to_owned(),
        more => format!("; {more} more partitions are read again"),
    };
    let detail = format!("partition {partition} of the topic is read again: {why}{more}");
    let case = FindingCase::ReadAgain(partitions.iter().map(|at| at.partition).collect());
    Some(Finding {
        case,
        ..Finding::general(Kind::Stalled, ActionKind::Report, detail)
    })
}

pub(super) fn is_verified(fences: &HashMap<CouponId, CouponFence>, coupon: CouponId) -> bool {
    fences.get(&coupon).is_some_and(|found| found.is_verified)
}
