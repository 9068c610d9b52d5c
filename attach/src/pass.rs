//! A pass over the campaigns of a file: each is looked at, compared, explained and, where it may
//! be, repaired. A pass never sleeps: a difference becomes older from pass to pass. An error stays
//! in its campaign, unless a store that others need, too, is away.

use std::collections::{BTreeMap, BTreeSet};

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{
    Cause, CouponJudged, DropReport, FailureCause, Judged, Kinds, Outcome, Run, RunJudged,
    recorded_user,
};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::error::{Answer, AttachError};
use crate::explain::{Found, blank, explain, report, stalled};
use crate::file::{Campaign, Mode};
use crate::judge::{Comparison, compare};
use crate::look::{Look, PromisedUser, Target, quantity};
use crate::memory::{Memories, Memory};
use crate::plan::{OurRows, Trust};
use crate::repair::Repairs;
use crate::sql::Cell;
use crate::text::{Field, Query, Values};
use crate::theirs::Theirs;
use crate::unasked::{Facts, Trouble};
use crate::users::Hasher;

/// Campaigns that one `each` may select.
const MOST_CAMPAIGNS: usize = 200;

/// A campaign rests for so many times what its look took.
const REST: u32 = 10;

/// Users whose second row their database has to refuse, so that it counts as proof.
const PROOFS: usize = 3;

/// Lines that are shown to operators.
const SHOWN: usize = 1_000;

/// What a pass is asked to do.
#[derive(Debug, Clone, Default)]
pub struct PassOptions {
    /// Only this campaign; `None`: all.
    pub campaign: Option<CouponId>,
    /// Change nothing, list the repairs.
    pub dry_run: bool,
    /// An operator asked for it: campaigns that rest are looked at, too.
    pub is_requested: bool,
    pub confirm: Confirm,
}

/// The users whose repairs an operator has confirmed, by name as a run records it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirm(BTreeSet<(DropId, String)>);

impl Confirm {
    /// Returns the users whose repairs a run has shown.
    pub fn shown_by(run: &Run) -> Self {
        let planned = run
            .all_findings()
            .filter(|it| it.result == Outcome::Planned);
        let named =
            planned.filter_map(|it| Some((it.drop_id?, recorded_user(it.user_id.as_ref()?))));
        Self(named.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, drop: DropId, user: &PromisedUser) -> bool {
        self.0.contains(&(drop, recorded_user(&user.name)))
    }
}

/// The process was told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

/// What a process remembers between passes.
#[derive(Default)]
pub struct State {
    pub blocks: BTreeMap<CouponId, Memories>,
    /// What only an operator may see of the last pass, since it has the values of users: commands
    /// that a person may run, the statements of the first repair that waits, and rows of checks.
    pub shown: Vec<String>,
}

pub struct Pass<'e> {
    pub engine: &'e Engine,
    pub options: &'e PassOptions,
    pub stop: &'e CancellationToken,
    pub shown: Vec<String>,
    pub theirs: Theirs,
}

impl Pass<'_> {
    /// Looks at everything that was asked for.
    pub async fn run(mut self, run: &mut Run, state: &mut State) -> Result<(), Stopped> {
        run.drops.clear();
        run.findings.clear();
        run.partial = self.options.campaign.is_some();
        run.judged = RunJudged::default();
        self.ping_kafka(run).await;
        for block in &self.engine.file.campaigns {
            let coupon = block.coupon_id();
            if self.options.campaign.is_some_and(|asked| asked != coupon) {
                continue;
            }
            let memories = state.blocks.entry(coupon).or_default();
            match self.block(block, run, memories).await {
                Ok(()) => {}
                Err(AttachError::Stopped) => return Err(Stopped),
                Err(error) => {
                    run.partial = true;
                    self.report_error(run, coupon, &error);
                    if is_of_all(&error) {
                        break;
                    }
                }
            }
        }
        if !run.partial {
            run.judged.whole = Judged::of(Kinds::All);
            // Campaigns that have left the file.
            run.judged.others = about(given_up());
        }
        self.shown.truncate(SHOWN);
        state.shown = self.shown;
        Ok(())
    }

    /// Says whether Kafka is away, which looks only ask when something differs.
    async fn ping_kafka(&mut self, run: &mut Run) {
        let mut campaigns = self.engine.file.campaigns.iter();
        if let Some(brokers) = &self.engine.brokers
            && campaigns.any(Campaign::needs_kafka)
            && let Err(error) = brokers.ping().await
        {
            self.report_error(run, CouponId(0), &error);
        }
    }

    async fn block(
        &mut self,
        block: &Campaign,
        run: &mut Run,
        memories: &mut Memories,
    ) -> Answer<()> {
        self.theirs.database = Some(self.engine.database_of(block).clone());
        self.theirs.session = None;
        let targets = targets(block, &mut self.theirs).await?;
        memories.retain(|drop, _| targets.iter().any(|target| target.drop_id == *drop));
        for target in &targets {
            if self.stop.is_cancelled() {
                return Err(AttachError::Stopped);
            }
            let mut elsewhere = Trouble::default();
            let others = memories.iter();
            for (_, memory) in others.filter(|(drop, _)| **drop != target.drop_id) {
                elsewhere += memory.trouble;
            }
            let memory = memories
                .entry(target.drop_id)
                .or_insert_with(|| Memory::new(target));
            memory.elsewhere = elsewhere;
            let report = self.target(target, memory, run).await?;
            add(run, target, report);
        }
        if block.whole.is_none() {
            let judged = about(Judged::of(Kinds::All));
            run.judged.coupons.insert(block.coupon_id(), judged);
        }
        Ok(())
    }

    /// Reports an error of a whole block. That a store is away concerns no block, and is told once.
    fn report_error(&mut self, run: &mut Run, coupon: CouponId, error: &AttachError) {
        let mut finding = stalled(error.cause(), error.to_string());
        finding.coupon_id = Some(coupon);
        if let AttachError::Away { store, .. } = error {
            finding.coupon_id = None;
            if !self.theirs.away.insert(*store) {
                return;
            }
        }
        run.findings.push(finding);
    }

    /// Looks at one campaign if it is due, and reports an error that is its own.
    async fn target(
        &mut self,
        target: &Target<'_>,
        memory: &mut Memory,
        run: &mut Run,
    ) -> Answer<DropReport> {
        if !self.options.is_requested && self.engine.clock.now() < memory.rests_until {
            return Ok(memory.repeated_report().unwrap_or_else(|| blank(target)));
        }
        let mut report = blank(target);
        match self.campaign(target, memory).await {
            Ok(report) => {
                memory.last_report = Some(report.clone());
                return Ok(report);
            }
            Err(error) if is_of_all(&error) => return Err(error),
            Err(error @ AttachError::Away { .. }) => {
                self.report_error(run, report.coupon_id, &error);
            }
            Err(error) => {
                let finding = stalled(error.cause(), error.to_string());
                report.findings.push(finding);
            }
        }
        Ok(report)
    }

    /// Looks at a campaign, and repairs what may be repaired.
    async fn campaign(&mut self, target: &Target<'_>, memory: &mut Memory) -> Answer<DropReport> {
        let never_filled = memory.queue.never_filled(&mut self.theirs).await?;
        let compared = self.look(target, memory).await?;
        let trust = self.trust(&compared, memory).await?;
        let mut found = self.explain(&compared, memory);
        let lost = found.iter().find_map(|it| it.lost.as_ref());
        if let Some(lost) = lost.filter(|_| target.block.mode == Mode::Repair) {
            let plan = target.writes(lost);
            self.shown
                .extend(plan.map(|query| format!("{};", query.shown())));
            let ours = match &self.engine.ours {
                Some(ours) => ours.rows(target.drop_id).await?,
                None => OurRows::default(),
            };
            let facts = Facts {
                trust,
                never_filled,
                ours,
                ..facts(&compared, memory, &self.engine.hasher)
            };
            match self.repair(&compared, facts, memory, &mut found).await {
                // What the look has found is told all the same.
                Err(AttachError::Lost(why)) => {
                    let lost = found.iter_mut().filter(|it| it.lost.is_some());
                    lost.for_each(|it| it.add(&why));
                }
                Err(error @ (AttachError::Misfit(_) | AttachError::Refused { .. })) => {
                    found.push(stalled(Cause::NotCompared, error.to_string()).into());
                }
                repaired => repaired?,
            }
        }
        let mut report = report(&compared, memory, &found);
        for found in found {
            self.shown.extend(found.shown);
            report.findings.push(found.finding);
        }
        Ok(report)
    }

    /// Moves the round of its queue, reads its stores, and compares.
    async fn look<'t>(
        &mut self,
        target: &'t Target<'t>,
        memory: &mut Memory,
    ) -> Answer<Comparison<'t>> {
        let Engine { clock, hasher, .. } = self.engine;
        let theirs = &mut self.theirs;
        memory.advance(theirs, clock.now()).await?;
        let look = theirs.look(target, hasher, clock, memory).await?;
        let compared = compare(target, look, hasher);
        memory.add(&compared);
        Self::rest(target, memory, &compared.look);
        Ok(compared)
    }

    /// Words what is old enough. If the queue stands, that is all there is to say.
    fn explain(&self, compared: &Comparison<'_>, memory: &mut Memory) -> Vec<Found> {
        let hasher = &self.engine.hasher;
        let mut found = match memory.queue.stalled(compared.look.ended) {
            Some(why) => vec![stalled(Cause::ConsumerStands, why).into()],
            None => explain(compared, memory, hasher),
        };
        let lost = found.iter().filter_map(|it| it.lost.as_ref());
        memory.named.extend(lost.map(|it| hasher.user(&it.name)));
        let unchecked = compared.look.unchecked.iter();
        found.extend(unchecked.map(|why| stalled(Cause::NotCompared, why).into()));
        found
    }

    /// Lets a campaign rest. A check of the whole file rests longer, but is repeated once its rows
    /// are old enough, and in the next pass if it could not run.
    fn rest(target: &Target<'_>, memory: &mut Memory, look: &Look) {
        let took = look.ended.saturating_sub(look.began) * REST;
        let whole = target.block.whole.as_ref();
        let every = whole
            .filter(|_| look.unchecked.is_empty())
            .map(|whole| whole.every);
        let mut rest = took.max(every.unwrap_or_default());
        if memory.young().next().is_some() {
            rest = took.max(rest.min(target.block.in_flight()));
        }
        memory.rests_until = look.ended + rest;
    }

    /// Returns what is recorded about the block, and notes that a user has left without a row.
    async fn trust(&self, compared: &Comparison<'_>, memory: &mut Memory) -> Answer<Trust> {
        let block = compared.target.block;
        let has_left = memory.has_left(&compared.look);
        let Some(ours) = &self.engine.ours else {
            return Ok(Trust::None);
        };
        if has_left {
            ours.record(block, Trust::Left).await?;
        }
        Ok(ours.trust(block).await?)
    }

    /// Repairs what may be repaired, and says of the others why they wait.
    async fn repair(
        &mut self,
        compared: &Comparison<'_>,
        mut facts: Facts,
        memory: &Memory,
        found: &mut [Found],
    ) -> Answer<()> {
        let Engine { hasher, ours, .. } = self.engine;
        let Comparison { target, look, .. } = compared;
        let is_confirmed = |lost: &PromisedUser| self.options.confirm.has(target.drop_id, lost);
        let may_be_unasked = facts.why_all_wait().is_none();
        let mut lost = found.iter().filter_map(|it| it.lost.as_ref());
        let is_any_confirmed = lost.any(is_confirmed);
        let mut repairs = None;
        if !self.options.dry_run && (is_any_confirmed || may_be_unasked) {
            let database = &self.engine.database;
            let theirs = &mut self.theirs;
            let mut begun = Repairs::begin(database, hasher, theirs, compared).await?;
            if may_be_unasked {
                let came = look.promised.named(target, hasher, &memory.came);
                let proofs: Vec<_> = came
                    .into_values()
                    .filter(|user| !facts.ours.has(&user.name))
                    .take(PROOFS)
                    .collect();
                facts.refuses_second_row = begun.refuses_second_row(&proofs).await?;
            }
            // From the next pass on, rows of other users may be written, too: then their database has
            // proved that it refuses a second row.
            if is_any_confirmed
                && facts.trust == Trust::None
                && let Some(ours) = ours
            {
                ours.record(target.block, Trust::Confirmed).await?;
            }
            repairs = Some(begun);
        }
        for found in found.iter_mut() {
            let Some(lost) = found.lost.clone() else {
                continue;
            };
            if !is_confirmed(&lost)
                && let Some(waits) = facts.why_waits(&lost)
            {
                found.add(&format!("it waits for a confirmation: {waits}"));
                continue;
            }
            let Some(repairs) = repairs.as_mut().filter(|_| !self.stop.is_cancelled()) else {
                continue;
            };
            let (outcome, why) = repairs.repair(&lost).await;
            facts.ours.today += u64::from(outcome == Outcome::Applied);
            found.finding.result = outcome;
            if let Some(why) = why {
                found.add(&why);
            }
            if repairs.have_failed() {
                break;
            }
        }
        Ok(())
    }
}

/// Returns what a look says about the repairs of all users. The proof that a second row is refused
/// comes later.
fn facts(compared: &Comparison<'_>, memory: &Memory, hasher: &Hasher) -> Facts {
    let look = &compared.look;
    let mut trouble = memory.trouble;
    trouble += memory.elsewhere;
    let counter = compared.numbers.filter(|numbers| {
        // Between the readings of both, users may have claimed, so that it may count more.
        let rests = memory.is_repeated(numbers.difference(hasher), look);
        numbers.given < numbers.owed || (rests && numbers.given > numbers.owed)
    });
    Facts {
        is_counted: look.promised.size.is_some(),
        check: look.check_rows.first().map(|row| row.check),
        counter: counter.map(|numbers| {
            format!(
                "the counter says {}, and {} are owed: were some refused?",
                numbers.given, numbers.owed
            )
        }),
        trouble,
        in_both: compared.in_both,
        lacking: compared.lacking,
        refuses_second_row: true,
        ..Facts::default()
    }
}

/// Adds a report. A check of the whole file has no campaign.
fn add(run: &mut Run, target: &Target<'_>, mut report: DropReport) {
    let is_whole = target.block.whole.is_some();
    for finding in &mut report.findings {
        finding.coupon_id = Some(report.coupon_id);
        finding.drop_id = Some(report.drop_id).filter(|_| !is_whole);
    }
    if is_whole {
        let judged = about(report.judged);
        run.judged.coupons.insert(report.coupon_id, judged);
        run.findings.append(&mut report.findings);
    } else {
        run.drops.push(report);
    }
}

/// What is said about a coupon. Its campaigns that `each` selects no longer are given up.
fn about(whole: Judged) -> CouponJudged {
    CouponJudged {
        whole,
        other_drops: given_up(),
    }
}

fn given_up() -> Judged {
    Judged {
        given_up: Kinds::All,
        ..Judged::default()
    }
}

/// Whether no other campaign can be compared either.
fn is_of_all(error: &AttachError) -> bool {
    match error {
        AttachError::Away { store, .. } => *store == FailureCause::Mysql,
        AttachError::Ours(_) | AttachError::Stopped => true,
        AttachError::Lost(_) | AttachError::Refused { .. } | AttachError::Misfit(_) => false,
    }
}

/// Returns the campaigns of a block.
pub async fn targets<'f>(block: &'f Campaign, theirs: &mut Theirs) -> Answer<Vec<Target<'f>>> {
    let mut targets: Vec<Target<'f>> = Vec::new();
    let Some(each) = &block.each else {
        targets.push(Target {
            block,
            id: String::new(),
            name: block.name.clone(),
            quantity: block.quantity,
            drop_id: DropId::of_campaign(&block.name, None),
        });
        return Ok(targets);
    };
    let mut read = |row: &[Cell]| {
        let [Some(id), name, number] = row else {
            let why = "each selects three columns: id, name and quantity. No id is NULL";
            return Err(AttachError::misfit(why));
        };
        let number = number.as_ref().map(|text| {
            let why = "each: its third column is the quantity, from 0 on, or NULL";
            quantity(text).ok_or_else(|| AttachError::misfit(why))
        });
        if targets.iter().any(|target| target.id == *id) {
            return Err(AttachError::Misfit(format!("each selects id {id} twice")));
        }
        if targets.len() == MOST_CAMPAIGNS {
            return Err(AttachError::Misfit(format!(
                "each selects more than {MOST_CAMPAIGNS} campaigns: select those that are sold, \
                or ended lately"
            )));
        }
        targets.push(Target {
            block,
            drop_id: DropId::of_campaign(&format!("{}\n{id}", block.name), None),
            name: format!("{}: {}", block.name, name.as_ref().unwrap_or(id)),
            id: id.clone(),
            quantity: number.transpose()?,
        });
        Ok(true)
    };
    let query = Query::new(Field::Each, each, Values::default());
    theirs.session().await?.read(query, &mut read).await?;
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Utc;
    use firstcome_shared::report::Trigger;

    use super::*;
    use crate::file::AttachFile;

    const FILE: &str = "database = 'mysql://x/y'
        [[check]]
        name = 'used twice'
        sql = 'SELECT 1'
        to_do = 'Cancel it.'
        every = '24h'";

    fn target(file: &AttachFile) -> Target<'_> {
        Target {
            block: &file.campaigns[0],
            id: String::new(),
            name: String::new(),
            quantity: None,
            drop_id: DropId(1),
        }
    }

    #[test]
    fn check_that_could_not_run_does_not_rest_until_its_next_time() {
        let file = AttachFile::parse(FILE).unwrap();
        let target = target(&file);
        let mut memory = Memory::new(&target);
        let [began, ended] = [1, 2].map(Duration::from_secs);
        for (unchecked, rests_until) in [(vec![], 86_402), (vec!["3024".to_owned()], 12)] {
            let look = Look {
                began,
                ended,
                unchecked,
                ..Look::default()
            };
            Pass::rest(&target, &mut memory, &look);
            assert_eq!(memory.rests_until, Duration::from_secs(rests_until));
        }
    }

    #[test]
    fn check_that_rests_is_no_second_look() {
        let file = AttachFile::parse(FILE).unwrap();
        let target = target(&file);
        let mut memory = Memory::new(&target);
        memory.last_report = Some(blank(&target));
        let mut run = Run::begun("run", Trigger::Cron, Utc::now());
        add(&mut run, &target, memory.repeated_report().unwrap());
        let coupon = target.block.coupon_id();
        assert!(run.judged_about(Some(coupon), None).is_repeated);
    }
}
