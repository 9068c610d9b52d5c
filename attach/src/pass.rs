//! A pass over the campaigns of a file. It never sleeps: a difference becomes older from pass to
//! pass. An error stays in its campaign, unless a store that others need, too, is away.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{
    CouponJudged, DropReport, FailureCause, Finding, Judged, Kind, Kinds, Outcome, Run, RunJudged,
};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::checks::{self, CheckMemory};
use crate::error::{Answer, AttachError};
use crate::file::{Campaign, FileCheck};
use crate::found::{Found, blank};
use crate::look::{Target, query};
use crate::memory::{Memories, Memory, Trouble};
use crate::sql::{Cell, Columns, Database, Purpose, Session};
use crate::text::{Statement, Values};

/// Campaigns that one `each` may select.
const MOST_CAMPAIGNS: usize = 200;

/// A look that fails although the stores answer is a finding after so long.
const PATIENCE: Duration = Duration::from_secs(30);

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
pub struct Confirm(pub BTreeSet<(DropId, String)>);

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

/// What only an operator may see: it has the values of users.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Commands that a person may run, the statements of the first repair that waits, and rows of
    /// checks.
    pub lines: Vec<String>,
}

impl Shown {
    pub(crate) fn show(&mut self, line: String) {
        if self.lines.len() < SHOWN {
            self.lines.push(line);
        }
    }
}

/// The process was told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

/// What a process remembers between passes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) memories: Memories,
    pub(crate) checks: BTreeMap<CouponId, CheckMemory>,
    is_kafka_away: bool,
    /// What the last pass showed.
    pub(crate) shown: Shown,
}

pub(crate) struct Pass<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) options: &'e PassOptions,
    pub(crate) stop: &'e CancellationToken,
    pub(crate) shown: Shown,
    /// Stores that are away: campaigns that need them are left out.
    away: HashSet<&'static str>,
}

impl<'e> Pass<'e> {
    pub(crate) fn new(
        engine: &'e Engine,
        options: &'e PassOptions,
        stop: &'e CancellationToken,
    ) -> Self {
        Self {
            engine,
            options,
            stop,
            shown: Shown::default(),
            away: HashSet::new(),
        }
    }

    /// Looks at everything that was asked for.
    pub(crate) async fn run(mut self, run: &mut Run, state: &mut State) -> Result<Shown, Stopped> {
        run.partial = self.options.campaign.is_some();
        run.judged = RunJudged::default();
        let engine = self.engine;
        for block in &engine.file.campaigns {
            if !self.is_asked(block.coupon_id()) {
                continue;
            }
            match self.block(block, run, state).await {
                Ok(()) => judge_coupon(run, block.coupon_id(), Kinds::All),
                Err(AttachError::Stopped) => return Err(Stopped),
                Err(error) => {
                    run.partial = true;
                    self.report_error(run, block.coupon_id(), &error);
                    if is_of_all(&error) {
                        return Ok(self.shown);
                    }
                }
            }
        }
        for check in &engine.file.checks {
            if self.is_asked(check.coupon_id()) {
                self.file_check(check, run, state).await;
            }
        }
        self.judge_whole(run, state).await;
        Ok(self.shown)
    }

    /// Says what the pass judged outside its campaigns. Kafka is only asked when something differs,
    /// so one that was away is asked again.
    async fn judge_whole(&mut self, run: &mut Run, state: &mut State) {
        let kafka = FailureCause::Kafka.as_str();
        if state.is_kafka_away && !self.away.contains(kafka) {
            let answered = match &self.engine.brokers {
                Some(brokers) => brokers.ping().await,
                None => Ok(()),
            };
            if let Err(error) = answered {
                self.report_error(run, CouponId(0), &error);
            }
        }
        state.is_kafka_away = self.away.contains(kafka);
        if !run.partial {
            run.judged.whole = Judged::of(Kinds::All);
        }
    }

    fn is_asked(&self, coupon: CouponId) -> bool {
        self.options.campaign.is_none_or(|asked| asked == coupon)
    }

    async fn block(&mut self, block: &Campaign, run: &mut Run, state: &mut State) -> Answer<()> {
        let mut session = self.engine.reading().await?;
        let targets = targets(block, &mut session).await?;
        let kept: HashSet<DropId> = targets.iter().map(|target| target.drop_id).collect();
        let of_block: HashSet<DropId> = state
            .memories
            .iter()
            .filter(|(_, memory)| memory.block == Some(block.coupon_id()))
            .map(|(drop, _)| *drop)
            .collect();
        state
            .memories
            .retain(|drop, _| kept.contains(drop) || !of_block.contains(drop));
        for target in &targets {
            if self.stop.is_cancelled() {
                return Err(AttachError::Stopped);
            }
            let elsewhere = trouble_elsewhere(&state.memories, &kept, target.drop_id);
            let memory = state.memories.entry(target.drop_id).or_default();
            memory.block = Some(block.coupon_id());
            let report = self
                .target(target, &mut session, memory, elsewhere, run)
                .await?;
            run.drops.push(report);
        }
        Ok(())
    }

    /// Looks at one campaign, and reports an error that is its own.
    async fn target(
        &mut self,
        target: &Target<'_>,
        session: &mut Session,
        memory: &mut Memory,
        elsewhere: Trouble,
        run: &mut Run,
    ) -> Answer<DropReport> {
        let now = self.engine.clock.now();
        if !self.options.is_requested && now < memory.rests_until {
            return Ok(memory.last_report(blank(target)));
        }
        let error = match self.campaign(target, session, memory, elsewhere).await {
            Ok(report) => {
                memory.report(&report);
                return Ok(report);
            }
            Err(error) => error,
        };
        if matches!(error, AttachError::Stopped) || is_of_all(&error) {
            return Err(error);
        }
        // The connection may have an answer that was not read.
        *session = self.engine.reading().await?;
        let mut report = blank(target);
        match &error {
            AttachError::Away { .. } => self.report_error(run, report.coupon_id, &error),
            AttachError::Lost(_) if !self.has_lasted(memory, now) => {}
            _ => report.findings.push(Finding {
                coupon_id: Some(report.coupon_id),
                drop_id: Some(report.drop_id),
                cause: error.cause(),
                ..Finding::report(Kind::Stalled, error.to_string())
            }),
        }
        Ok(report)
    }

    /// Whether looks of a campaign have failed for so long that it is a finding.
    fn has_lasted(&self, memory: &mut Memory, now: Duration) -> bool {
        let since = *memory.failing_since.get_or_insert(now);
        self.options.is_requested || now.saturating_sub(since) >= PATIENCE
    }

    fn report_error(&mut self, run: &mut Run, coupon: CouponId, error: &AttachError) {
        let coupon = match error {
            AttachError::Away { store, .. } if !self.away.insert(store.as_str()) => return,
            AttachError::Away { .. } => None,
            _ => Some(coupon),
        };
        run.findings.push(Finding {
            coupon_id: coupon,
            cause: error.cause(),
            ..Finding::report(Kind::Stalled, error.to_string())
        });
    }

    /// Runs a check of the file if it is due, and reports its rows that were returned before.
    async fn file_check(&mut self, check: &FileCheck, run: &mut Run, state: &mut State) {
        let memory = state.checks.entry(check.coupon_id()).or_default();
        let began = self.engine.clock.now();
        if self.options.is_requested || memory.is_due(began) {
            match self.run_check(check).await {
                Ok(rows) => memory.add(rows, began, self.engine.clock.now(), check.every()),
                Err(error @ AttachError::Away { .. }) => {
                    self.report_error(run, check.coupon_id(), &error);
                }
                Err(error) => {
                    let said = format!("check {:?} cannot run: {error}", check.name);
                    memory.failed(said, began, check.every());
                }
            }
        }
        judge_coupon(run, check.coupon_id(), memory.judges());
        if let Some(why) = &memory.cannot_run {
            run.findings.push(Finding {
                coupon_id: Some(check.coupon_id()),
                ..Finding::report(Kind::Stalled, why)
            });
        }
        for row in memory.ripe() {
            self.shown.show(format!("{}: {}", check.name, row.text));
            let mut found = Found::of_check(row, Some(&check.to_do));
            found.finding.coupon_id = Some(check.coupon_id());
            run.findings.push(found.finding);
        }
    }

    async fn run_check(&self, check: &FileCheck) -> Answer<Vec<checks::CheckRow>> {
        let mut session = match &check.database {
            None => self.engine.reading().await?,
            Some(url) => {
                let database = Database::new(url, &self.engine.tls, self.engine.timeout_ms)
                    .map_err(|error| AttachError::Misfit(format!("{error:#}")))?;
                database.open(Purpose::Read).await?
            }
        };
        let query = query("sql", &check.sql, Values::default());
        checks::run(&mut session, 1, query, &self.engine.hasher).await
    }
}

fn judge_coupon(run: &mut Run, coupon: CouponId, kinds: Kinds) {
    let judged = CouponJudged {
        whole: Judged::of(kinds),
        // Its campaigns that `each` selects no longer.
        other_drops: given_up(),
    };
    run.judged.coupons.insert(coupon, judged);
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
        AttachError::Ours(_) => true,
        AttachError::Lost(_)
        | AttachError::Refused { .. }
        | AttachError::Misfit(_)
        | AttachError::Stopped => false,
    }
}

/// Sums what stands against repairs in the other campaigns of a block.
fn trouble_elsewhere(memories: &Memories, block: &HashSet<DropId>, own: DropId) -> Trouble {
    let others = memories
        .iter()
        .filter(|(drop, _)| **drop != own && block.contains(drop));
    others.fold(Trouble::default(), |sum, (_, memory)| {
        sum.and(memory.trouble)
    })
}

/// Returns the campaigns of a block.
pub(crate) async fn targets<'f>(
    block: &'f Campaign,
    session: &mut Session,
) -> Answer<Vec<Target<'f>>> {
    let Some(each) = &block.each else {
        return Ok(vec![Target {
            block,
            id: String::new(),
            name: block.name.clone(),
            quantity: block.quantity,
            drop_id: DropId::of_campaign(&block.name, None),
        }]);
    };
    let targets = rows_of_each(block, each, session).await?;
    let mut ids = HashSet::new();
    if let Some(twice) = targets
        .iter()
        .find(|target| !ids.insert(target.id.as_str()))
    {
        let id = &twice.id;
        return Err(AttachError::Misfit(format!("each selects id {id} twice")));
    }
    if targets.len() > MOST_CAMPAIGNS {
        let number = targets.len();
        return Err(AttachError::Misfit(format!(
            "each selects {number} campaigns: select those that are sold, or ended lately \
            ({MOST_CAMPAIGNS} at most)"
        )));
    }
    Ok(targets)
}

async fn rows_of_each<'f>(
    block: &'f Campaign,
    each: &Statement,
    session: &mut Session,
) -> Answer<Vec<Target<'f>>> {
    let mut targets = Vec::new();
    let mut read = |columns: &Columns, row: &[Cell]| {
        let [id, name, quantity] = row else {
            let number = columns.number;
            return Err(AttachError::Misfit(format!(
                "each selects {number} columns: id, name and quantity"
            )));
        };
        let id = id
            .text()
            .ok_or_else(|| AttachError::misfit("each selects NULL as an id"))?;
        let name = name.text().unwrap_or_else(|| id.clone());
        let quantity = match quantity {
            Cell::Null => None,
            cell => Some(
                cell.number()
                    .and_then(|it| u64::try_from(it).ok())
                    .ok_or_else(|| {
                        AttachError::misfit(
                            "each: its third column is the quantity, from 0 on, or NULL",
                        )
                    })?,
            ),
        };
        targets.push(Target {
            block,
            drop_id: DropId::of_campaign(&format!("{}\n{id}", block.name), None),
            name: format!("{}: {name}", block.name),
            id,
            quantity,
        });
        Ok(true)
    };
    session
        .read(query("each", each, Values::default()), &mut read)
        .await?;
    Ok(targets)
}
