//! A pass over the campaigns of a file: each is looked at, compared, explained and, where it may
//! be, repaired. A pass never sleeps: a difference becomes older from pass to pass. An error stays
//! in its campaign, unless a store that others need, too, is away.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{
    Cause, CouponJudged, DropReport, FailureCause, Finding, Judged, Kind, Kinds, Outcome, Run,
    RunJudged,
};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::error::{Answer, AttachError};
use crate::explain::{Found, Looked, blank, explain, report};
use crate::file::{Campaign, Mode};
use crate::judge::compare;
use crate::look::{Look, Target, quantity};
use crate::memory::{Memories, Memory};
use crate::plan::{OurRows, Trust};
use crate::repair::{Repaired, Repairs};
use crate::sql::{Cell, Query};
use crate::text::Values;
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
    pub confirm: Option<Confirm>,
}

/// The users whose repairs an operator has confirmed, by name.
#[derive(Debug, Clone, Default)]
pub struct Confirm(BTreeSet<(DropId, String)>);

impl Confirm {
    /// Returns the users whose repairs a run has shown.
    pub fn shown_by(run: &Run) -> Self {
        let planned = run
            .all_findings()
            .filter(|it| it.result == Outcome::Planned);
        let named = planned.filter_map(|it| Some((it.drop_id?, it.user_id.clone()?)));
        Self(named.collect())
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

impl<'e> Pass<'e> {
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
            let report = self.target(target, memory, elsewhere, run).await?;
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
        let mut finding = stalled(error);
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
        elsewhere: Trouble,
        run: &mut Run,
    ) -> Answer<DropReport> {
        let began = self.engine.clock.now();
        if !self.options.is_requested && memory.rests(began) {
            return Ok(memory.last_report().unwrap_or_else(|| blank(target)));
        }
        let mut report = blank(target);
        match self.campaign(target, memory, elsewhere).await {
            Ok(report) => {
                memory.report(&report);
                return Ok(report);
            }
            Err(error) if is_of_all(&error) => return Err(error),
            Err(error @ AttachError::Away { .. }) => {
                self.report_error(run, report.coupon_id, &error);
            }
            Err(error) => report.findings.push(stalled(&error)),
        }
        Ok(report)
    }

    /// Looks at a campaign, and repairs what may be repaired.
    async fn campaign(
        &mut self,
        target: &Target<'_>,
        memory: &mut Memory,
        elsewhere: Trouble,
    ) -> Answer<DropReport> {
        let never_filled = memory.queue.never_filled(&mut self.theirs).await?;
        let looked = self.look(target, memory).await?;
        let trust = self.trust(&looked, memory).await?;
        let mut found = self.explain(&looked, memory);
        if target.block.mode == Mode::Repair && found.iter().any(|it| it.lost.is_some()) {
            let ours = match &self.engine.ours {
                Some(ours) => ours.rows(target.drop_id).await?,
                None => OurRows::default(),
            };
            let facts = Facts {
                trust,
                never_filled,
                ours,
                ..facts(&looked, memory, elsewhere, &self.engine.hasher)
            };
            self.show_plan(target, &found);
            match self.repair(&looked, facts, memory, &mut found).await {
                // What the look has found is told all the same.
                Err(AttachError::Lost(why)) => {
                    let lost = found.iter_mut().filter(|it| it.lost.is_some());
                    lost.for_each(|it| it.add(&why));
                }
                Err(error @ (AttachError::Misfit(_) | AttachError::Refused { .. })) => {
                    found.push(Found::stalled(Cause::NotCompared, error.to_string()));
                }
                repaired => repaired?,
            }
        }
        let mut report = report(&looked, memory, &found);
        for found in found {
            self.show(found.shown);
            report.findings.push(found.finding);
        }
        Ok(report)
    }

    /// Moves the round of its queue, reads its stores, and compares.
    async fn look<'t>(
        &mut self,
        target: &'t Target<'t>,
        memory: &mut Memory,
    ) -> Answer<Looked<'t>> {
        let Engine { clock, hasher, .. } = self.engine;
        let theirs = &mut self.theirs;
        memory.advance(theirs, clock.now()).await?;
        let look = theirs.look(target, hasher, clock, memory).await?;
        let compared = compare(target, &look, hasher);
        memory.add(&look, &compared);
        Self::rest(target, memory, &look);
        Ok(Looked {
            target,
            look,
            compared,
        })
    }

    /// Words what is old enough. If the queue stands, that is all there is to say.
    fn explain(&self, looked: &Looked<'_>, memory: &mut Memory) -> Vec<Found> {
        let hasher = &self.engine.hasher;
        let mut found = match memory.queue.stalled(looked.look.ended) {
            Some(why) => vec![Found::stalled(Cause::ConsumerStands, why)],
            None => explain(looked, memory, hasher),
        };
        let lost = found.iter().filter(|it| it.lost.is_some());
        memory.name(lost.map(|it| hasher.user(it.user())));
        let unchecked = looked.look.unchecked.iter();
        found.extend(unchecked.map(|why| Found::stalled(Cause::NotCompared, why)));
        found
    }

    /// Lets a campaign rest. A check of the whole file rests longer, but is repeated once its rows
    /// are old enough.
    fn rest(target: &Target<'_>, memory: &mut Memory, look: &Look) {
        let took = look.ended.saturating_sub(look.began) * REST;
        let every = target.block.whole.as_ref().map(|whole| whole.every);
        let mut rest = took.max(every.unwrap_or_default());
        if memory.young().next().is_some() {
            rest = took.max(rest.min(target.block.in_flight()));
        }
        memory.rest(look.ended + rest);
    }

    /// Returns what is recorded about the block, and notes that a user has left without a row.
    async fn trust(&self, looked: &Looked<'_>, memory: &mut Memory) -> Answer<Trust> {
        let block = looked.target.block;
        let has_left = memory.has_left(&looked.look);
        let Some(ours) = &self.engine.ours else {
            return Ok(Trust::None);
        };
        if has_left {
            ours.record(block, Trust::Left).await?;
        }
        Ok(ours.trust(block).await?)
    }

    fn confirmed(&self, drop: DropId) -> HashSet<&'e str> {
        let confirm = self.options.confirm.iter().flat_map(|confirm| &confirm.0);
        let here = confirm.filter(|(confirmed, _)| *confirmed == drop);
        here.map(|(_, user)| user.as_str()).collect()
    }

    /// Repairs what may be repaired, and says of the others why they wait.
    async fn repair(
        &mut self,
        looked: &Looked<'_>,
        mut facts: Facts,
        memory: &Memory,
        found: &mut [Found],
    ) -> Answer<()> {
        let engine = self.engine;
        let names = self.confirmed(looked.target.drop_id);
        let may_be_unasked = facts.why_all_wait().is_none();
        let lost = found.iter().filter(|it| it.lost.is_some());
        let is_confirmed = lost.into_iter().any(|it| names.contains(it.user()));
        let mut repairs = None;
        if !self.options.dry_run && (is_confirmed || may_be_unasked) {
            let database = &engine.database;
            let theirs = &mut self.theirs;
            let mut begun = Repairs::begin(database, &engine.hasher, theirs, looked).await?;
            if may_be_unasked {
                let users = self.with_rows_of_theirs(looked, &facts.ours, memory);
                facts.refuses_second_row = begun.refuses_second_row(&users).await?;
            }
            // From the next pass on, rows of other users may be written, too: then their database has
            // proved that it refuses a second row.
            if is_confirmed
                && facts.trust == Trust::None
                && let Some(ours) = &engine.ours
            {
                ours.record(looked.target.block, Trust::Confirmed).await?;
            }
            repairs = Some(begun);
        }
        for found in found.iter_mut() {
            let Some(lost) = found.lost.clone() else {
                continue;
            };
            if !names.contains(found.user())
                && let Some(waits) = facts.why_waits(&lost)
            {
                found.add(&format!("it waits for a confirmation: {waits}"));
                continue;
            }
            let Some(repairs) = repairs.as_mut().filter(|_| !self.stop.is_cancelled()) else {
                continue;
            };
            match repairs.repair(&lost).await {
                Ok(repaired) => {
                    facts.ours.today += u64::from(repaired == Repaired::Written);
                    found.ended(&repaired);
                    if repaired == Repaired::Unknown || repairs.have_failed() {
                        break;
                    }
                }
                // What was written before stays in the report.
                Err(error) => {
                    found.ended(&Repaired::Failed(error.to_string()));
                    break;
                }
            }
        }
        Ok(())
    }

    fn show(&mut self, line: Option<String>) {
        if self.shown.len() < SHOWN {
            self.shown.extend(line);
        }
    }

    /// Shows the statements of the first repair, with its values.
    fn show_plan(&mut self, target: &Target<'_>, found: &[Found]) {
        let Some(lost) = found.iter().find_map(|it| it.lost.as_ref()) else {
            return;
        };
        let values = Values {
            id: &target.id,
            user: &lost.user.name,
            failed: lost.event.as_deref().unwrap_or_default(),
        };
        let resolve = target.block.resolve.iter().filter(|_| lost.event.is_some());
        for statement in resolve.chain(&target.block.issue) {
            self.show(Some(format!("{};", statement.shown(values))));
        }
    }

    /// Returns users who have rows of theirs, for the proof that a second row is refused.
    fn with_rows_of_theirs(
        &self,
        looked: &Looked<'_>,
        ours: &OurRows,
        memory: &Memory,
    ) -> Vec<String> {
        let Looked { target, look, .. } = looked;
        let Some(promised) = &look.promised else {
            return Vec::new();
        };
        promised
            .named(target, &self.engine.hasher, |user| memory.is_theirs(user))
            .into_values()
            .map(|user| user.name)
            .filter(|name| !ours.may_have(name))
            .take(PROOFS)
            .collect()
    }
}

/// Returns what a look says about the repairs of all users. The proof that a second row is refused
/// comes later.
fn facts(looked: &Looked<'_>, memory: &Memory, elsewhere: Trouble, hasher: &Hasher) -> Facts {
    let Looked { look, compared, .. } = looked;
    let mut trouble = memory.trouble;
    trouble += elsewhere;
    let counter = compared.numbers.filter(|numbers| {
        // Between the readings of both, users may have claimed, so that it may count more.
        let rests = memory.is_repeated(numbers.difference(hasher), look);
        numbers.given < numbers.owed || (rests && numbers.given > numbers.owed)
    });
    Facts {
        is_counted: look.promised.as_ref().is_some_and(|it| it.size.is_some()),
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

fn stalled(error: &AttachError) -> Finding {
    Finding {
        cause: error.cause(),
        ..Finding::report(Kind::Stalled, error.to_string())
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
    let query = Query::new("each", each, Values::default());
    theirs.session().await?.read(query, &mut read).await?;
    Ok(targets)
}
