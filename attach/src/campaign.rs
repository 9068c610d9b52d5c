//! One campaign in a pass: its look, what is old enough to be a finding, which repairs need nobody
//! or were confirmed, and the repairs.

use std::collections::{HashMap, HashSet};

use firstcome_shared::domain::DropId;
use firstcome_shared::report::{ActionKind, DropReport, Kind, Outcome};

use crate::checks::{self, CheckRow};
use crate::dead_letters::DeadLetters;
use crate::error::{Answer, AttachError};
use crate::file::{Failed, KeyKind, Mode, Promised};
use crate::found::{Events, Found, Looked, failed_claim, hold, limit, report, unissued};
use crate::judge::{Difference, compare};
use crate::look::{PromisedUser, Reader, Target, query};
use crate::memory::{Memory, Trouble};
use crate::pass::Pass;
use crate::plan::{OurRows, Record};
use crate::queue::StageReader;
use crate::repair::{Repaired, Repairs};
use crate::says;
use crate::sql::Session;
use crate::text::Values;
use crate::unasked::{
    BlockFacts, CampaignFacts, Contradiction, Source, UserFacts, why_all_wait, why_waits,
};
use crate::users::UserHash;

impl Pass<'_> {
    /// Looks at a campaign, and repairs what may be repaired.
    pub(crate) async fn campaign(
        &mut self,
        target: &Target<'_>,
        session: &mut Session,
        memory: &mut Memory,
        elsewhere: Trouble,
    ) -> Answer<DropReport> {
        self.prepare(target, memory)?;
        self.move_queue(target, session, memory).await?;
        let looked = self.look(target, session, memory).await?;
        memory.add(&looked.look, &looked.compared);
        let left = memory.left_without_row(&looked.look);
        let record = self.record(target, left).await?;
        let mut found = match memory.rounds.stalled(&memory.stages, looked.look.ended) {
            Some(why) => vec![Found::stands(why)],
            None => self.found(&looked, memory),
        };
        let unchecked = looked.unchecked.iter();
        found.extend(unchecked.map(Found::not_compared));
        let mut written = 0;
        if target.block.mode == Mode::Repair && found.iter().any(|it| it.lost.is_some()) {
            let mut plan = Plan {
                record,
                trouble: memory.trouble.and(elsewhere),
                looked: &looked,
                ours: self.our_rows(target).await?,
                never_filled: memory.rounds.never_filled(&memory.stages),
            };
            written = match self.repair(&mut plan, session, &mut found).await {
                // What the look has found is told all the same.
                Err(error @ (AttachError::Misfit(_) | AttachError::Refused { .. })) => {
                    found.push(Found::not_compared(error.to_string()));
                    0
                }
                written => written?,
            };
        }
        let unissued = found.iter().filter(|it| it.lost.is_some());
        let named = unissued.filter_map(|it| it.finding.user_id.as_deref());
        memory.name(named.map(|name| self.engine.hasher.user(name)));
        Ok(report(&looked, memory, found, written))
    }

    fn prepare(&self, target: &Target<'_>, memory: &mut Memory) -> Answer<()> {
        let stages = target.block.stages().iter();
        memory.stages = stages.map(|stage| stage.for_campaign(&target.id)).collect();
        memory.in_flight = target.block.in_flight();
        memory.id.clone_from(&target.id);
        if let (Some(Failed::Topic(topic)), None) = (&target.block.failed, &memory.letters) {
            let missing = || AttachError::misfit("kafka: its address is missing");
            let brokers = self.engine.brokers.as_ref().ok_or_else(missing)?;
            memory.letters = Some(DeadLetters::new(topic, brokers));
        }
        Ok(())
    }

    async fn move_queue(
        &mut self,
        target: &Target<'_>,
        session: &mut Session,
        memory: &mut Memory,
    ) -> Answer<()> {
        let now = self.engine.clock.now();
        let mut store = self.engine.store();
        let mut reader = StageReader {
            store: store.as_mut(),
            brokers: self.engine.brokers.as_ref(),
            session: Some(session),
            values: target.values(),
        };
        memory
            .rounds
            .note_filled(&memory.stages, &mut reader)
            .await?;
        memory.advance(&mut reader, now).await
    }

    async fn look<'t>(
        &mut self,
        target: &'t Target<'t>,
        session: &mut Session,
        memory: &mut Memory,
    ) -> Answer<Looked<'t>> {
        let hasher = &self.engine.hasher;
        let mut store = self.engine.store();
        let mut reader = Reader {
            session,
            store: store.as_mut(),
            hasher,
            clock: &self.engine.clock,
        };
        let look = reader.look(target, memory.letters.as_mut()).await?;
        let mut check_rows = Vec::new();
        let mut unchecked = Vec::new();
        for (at, statement) in target.block.checks().iter().enumerate() {
            let number = at + 1;
            let field = format!("check {number}");
            let query = query(&field, statement, target.values());
            match checks::run(session, number, query, hasher).await {
                Ok(rows) => check_rows.extend(rows),
                Err(refused @ (AttachError::Refused { .. } | AttachError::Misfit(_))) => {
                    unchecked.push(format!("check {number} cannot run: {refused}"));
                    *session = self.engine.reading().await?;
                }
                Err(error) => return Err(error),
            }
        }
        let events = look.events.iter().map(|event| hasher.user(&event.id));
        let rows = check_rows.iter().map(|row| row.identity);
        let compared = compare(target, &look, events, rows);
        let is_at_rest = memory.numbers == compared.numbers;
        memory.numbers = compared.numbers;
        Ok(Looked {
            target,
            look,
            check_rows,
            compared,
            unchecked,
            is_at_rest,
        })
    }

    /// Reads what is recorded about the block, and notes users who left without a row.
    async fn record(&self, target: &Target<'_>, left: u64) -> Answer<Record> {
        let Some(ours) = &self.engine.ours else {
            return Ok(Record::default());
        };
        let mut record = ours.record(target.block).await?;
        if left > 0 {
            record.left += left;
            ours.write_record(target.block, record).await?;
        }
        Ok(record)
    }

    async fn our_rows(&self, target: &Target<'_>) -> Answer<OurRows> {
        match &self.engine.ours {
            Some(ours) => Ok(ours.rows(target.drop_id).await?),
            None => Ok(OurRows::default()),
        }
    }

    /// Returns the findings of differences that are old enough.
    fn found(&mut self, looked: &Looked<'_>, memory: &Memory) -> Vec<Found> {
        let Looked { look, compared, .. } = looked;
        let differences = compared.differences.iter().copied();
        let ripe: HashSet<Difference> = differences
            .filter(|difference| memory.is_ripe(*difference, look.began))
            .collect();
        let users = self.named(looked, &ripe);
        let mut found = Vec::new();
        let mut events = Events::new(&look.events, &self.engine.hasher);
        for difference in &compared.differences {
            if ripe.contains(difference) {
                found.extend(self.finding(*difference, looked, &users, &mut events, memory));
            }
        }
        limit(found)
    }

    /// Returns the names of the users whom findings need.
    fn named(
        &self,
        looked: &Looked<'_>,
        ripe: &HashSet<Difference>,
    ) -> HashMap<UserHash, PromisedUser> {
        let Some(promised) = &looked.look.promised else {
            return HashMap::new();
        };
        let is_wanted = |user: UserHash| {
            ripe.contains(&Difference::Unissued(user))
                || ripe.contains(&Difference::DuplicateRow(user))
        };
        if ripe.is_empty() {
            return HashMap::new();
        }
        promised.named(looked.target, &self.engine.hasher, is_wanted)
    }

    fn finding(
        &mut self,
        difference: Difference,
        looked: &Looked<'_>,
        users: &HashMap<UserHash, PromisedUser>,
        events: &mut Events<'_>,
        memory: &Memory,
    ) -> Option<Found> {
        let Looked {
            target,
            look,
            compared,
            ..
        } = looked;
        let quantity = target.quantity.unwrap_or(u64::MAX);
        match difference {
            Difference::Unissued(user) => {
                if compared.is_over_promised() {
                    return None;
                }
                let is_new = memory.open(difference).is_some_and(|open| open.is_new);
                Some(unissued(
                    looked,
                    users.get(&user)?,
                    events.of_user(user),
                    is_new,
                ))
            }
            Difference::MissingAdmission(user) => {
                let name = look.rows.stranger(user)?;
                self.show_add(looked, name);
                let said = says::missing_admission(target);
                Some(Found::report(Kind::MissingAdmission, said).of_user(name))
            }
            Difference::DuplicateRow(user) => {
                let name = users
                    .get(&user)
                    .map(|user| user.name.as_str())
                    .or_else(|| look.rows.stranger(user))?;
                Some(Found::report(Kind::DuplicateRow, says::DUPLICATE_ROW).of_user(name))
            }
            Difference::FailedClaim(event) => {
                failed_claim(looked, events.by_id(event)?, &self.engine.hasher)
            }
            Difference::OverPromised => {
                let said = says::over_promised(compared, quantity);
                Some(Found::report(Kind::OverAdmitted, said))
            }
            Difference::OverIssued => {
                let said = says::over_issued(look.rows.coupons, quantity);
                Some(Found::report(Kind::OverIssued, said))
            }
            Difference::CountMismatch(numbers) => {
                let count = target.block.count.as_ref()?;
                let said = says::count_mismatch(target, count, &numbers);
                Some(Found::report(Kind::CountMismatch, said))
            }
            Difference::Check(identity) => {
                let mut rows = looked.check_rows.iter();
                let row = rows.find(|row| row.identity == identity)?;
                Some(self.check_finding(row, &target.name))
            }
            Difference::Apart => {
                let [promised, issued] = self.examples(looked);
                let said = says::apart(compared, &promised, &issued);
                Some(Found::not_compared(said))
            }
            Difference::KeyGone => {
                let said = says::key_gone(target, look.rows.coupons);
                Some(Found::not_compared(said))
            }
        }
    }

    fn check_finding(&mut self, row: &CheckRow, campaign: &str) -> Found {
        self.shown
            .show(format!("{campaign}: check {}: {}", row.check, row.text));
        Found::of_check(row, None)
    }

    /// Returns three names of each side.
    fn examples(&self, looked: &Looked<'_>) -> [Vec<String>; 2] {
        let rows = &looked.look.rows;
        let mut promised = Vec::new();
        if let Some(users) = &looked.look.promised {
            let lacking = users.users.iter().copied().filter(|user| !rows.has(*user));
            let some: HashSet<UserHash> = lacking.take(3).collect();
            let named = users.named(looked.target, &self.engine.hasher, |user| {
                some.contains(&user)
            });
            promised.extend(named.into_values().map(|user| user.name));
        }
        [promised, rows.some_strangers(3)]
    }

    /// Shows the command that adds a user to Redis.
    fn show_add(&mut self, looked: &Looked<'_>, user: &str) {
        let Promised::Keys(keys) = &looked.target.block.promised else {
            return;
        };
        let example = looked
            .look
            .promised
            .as_ref()
            .and_then(|promised| promised.example());
        if let Some(key) = keys.first()
            && let Some(command) = says::add_user(key, looked.target, example, user)
        {
            self.shown.show(command);
        }
    }

    /// Repairs what may be repaired, and says of the others why they wait. Returns how many rows
    /// were written.
    async fn repair(
        &mut self,
        plan: &mut Plan<'_>,
        session: &mut Session,
        found: &mut [Found],
    ) -> Answer<u64> {
        let target = plan.looked.target;
        let with_repair = |it: &&mut Found| it.lost.is_some();
        for found in found.iter_mut().filter(with_repair) {
            found.finding.needs_person = false;
            found.finding.action = ActionKind::Issue;
            found.finding.result = Outcome::Planned;
        }
        self.show_plan(target, found);
        let confirmed = self.confirmed(target.drop_id);
        let is_confirmed = |it: &Found| {
            it.finding
                .user_id
                .as_deref()
                .is_some_and(|user| confirmed.contains(user))
        };
        let block = plan.block_facts();
        let mut campaign = plan.campaign_facts();
        let may_be_unasked = why_all_wait(&block, &campaign).is_none();
        let any_confirmed = found.iter().any(|it| it.lost.is_some() && is_confirmed(it));
        if self.options.dry_run || !(any_confirmed || may_be_unasked) {
            hold(found, |it| {
                why_waits(&block, &campaign, plan.user_facts(it))
            });
            return Ok(0);
        }
        let engine = self.engine;
        let begun = Repairs::begin(
            target,
            &engine.hasher,
            &engine.database,
            session,
            engine.store(),
        );
        let mut repairs = begun.await?;
        repairs.limit(&plan.looked.look, &plan.looked.compared);
        if may_be_unasked {
            let users = self.proof_users(plan);
            campaign.refuses_second_row = repairs.refuses_second_row(&users).await?;
        }
        if any_confirmed && let Some(ours) = &engine.ours {
            plan.record.is_confirmed = true;
            ours.write_record(target.block, plan.record).await?;
        }
        let mut written = 0;
        for found in found.iter_mut() {
            let Some(lost) = found.lost.clone() else {
                continue;
            };
            if self.stop.is_cancelled() {
                break;
            }
            let waits = why_waits(&block, &campaign, plan.user_facts(found));
            if let Some(waits) = waits.filter(|_| !is_confirmed(found)) {
                found.hold(&waits);
                continue;
            }
            match repairs.repair(&lost).await {
                Ok(repaired) => {
                    let is_written = repaired == Repaired::Written;
                    let is_unknown = repaired == Repaired::Unknown;
                    written += u64::from(is_written);
                    campaign.made_today += u64::from(is_written);
                    found.ended(repaired);
                    if is_unknown {
                        break;
                    }
                }
                // What was written before stays in the report.
                Err(error) => {
                    found.ended(Repaired::Failed(error.to_string()));
                    break;
                }
            }
        }
        Ok(written)
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
            self.shown.show(format!("{};", statement.shown(values)));
        }
    }

    fn confirmed(&self, drop: DropId) -> HashSet<String> {
        let confirm = self.options.confirm.iter().flat_map(|confirm| &confirm.0);
        let ours = confirm.filter(|(confirmed, _)| *confirmed == drop);
        ours.map(|(_, user)| user.clone()).collect()
    }

    /// Returns users who have rows of theirs.
    fn proof_users(&self, plan: &Plan<'_>) -> Vec<String> {
        let Looked {
            target,
            look,
            compared,
            ..
        } = plan.looked;
        let Some(promised) = &look.promised else {
            return Vec::new();
        };
        let is_wanted = |user: UserHash| compared.with_rows.contains(&user);
        let named = promised.named(target, &self.engine.hasher, is_wanted);
        let names = named.into_values().map(|user| user.name);
        names
            .filter(|name| !plan.ours.users.contains(name))
            .collect()
    }
}

/// What decides about the repairs of a campaign in a pass.
struct Plan<'p> {
    record: Record,
    trouble: Trouble,
    looked: &'p Looked<'p>,
    ours: OurRows,
    never_filled: Option<String>,
}

impl Plan<'_> {
    fn block_facts(&self) -> BlockFacts {
        let block = self.looked.target.block;
        let promised = match &block.promised {
            Promised::Keys(keys) if keys.iter().all(|key| key.kind != KeyKind::Keys) => {
                Source::Keys
            }
            Promised::Keys(_) | Promised::Select(_) | Promised::NotDescribed => Source::Uncounted,
        };
        BlockFacts {
            is_confirmed: self.record.is_confirmed,
            left: self.record.left,
            strangers: self.trouble.strangers,
            vanished: self.trouble.vanished,
            twice: self.trouble.twice,
            promised,
            describes_checks: block.check.is_some(),
            describes_queue: block.queue.is_some(),
        }
    }

    fn campaign_facts(&self) -> CampaignFacts {
        let compared = &self.looked.compared;
        let first_check = self.looked.check_rows.first();
        CampaignFacts {
            in_both: compared.in_both,
            lacking: compared.lacking,
            check: first_check.map(|row| row.check),
            counter: self.contradiction(),
            never_filled: self.never_filled.clone(),
            refuses_second_row: true,
            made_today: self.ours.today,
        }
    }

    /// Returns how the counter contradicts what is owed. Between the readings of both, users may
    /// have claimed, so that it may count more.
    fn contradiction(&self) -> Option<Contradiction> {
        let numbers = self.looked.compared.numbers?;
        let agrees = if self.looked.is_at_rest {
            numbers.given == numbers.owed
        } else {
            numbers.given >= numbers.owed
        };
        (!agrees).then_some(Contradiction {
            given: numbers.given,
            owed: numbers.owed,
        })
    }

    fn user_facts(&self, found: &Found) -> UserFacts {
        let user = found.finding.user_id.as_deref().unwrap_or_default();
        UserFacts {
            is_new: found.is_new,
            got_ours: self.ours.users.contains(user),
            is_recordable: found.finding.recorded_user().is_some(),
        }
    }
}
