//! The queue of a campaign: the stages that a promise passes on its way to its row, in order. A
//! user without a row is a lost promise only if the promise is in none of them.
//!
//! In order of time, each wait being a rule of `dev/model/src/attach`: a look sees the difference;
//! `in_flight`, in which a producer hands over what it holds; then for each stage its end is read
//! and must pass, and `in_flight` again, in which what was committed or popped is written or
//! reaches the next stage; the look that may name the difference. Nothing here waits: a round is a
//! state that each call moves as far as the clock and the stages allow.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_shared::kafka::Logs;

use crate::error::{Answer, AttachError};
use crate::file::{Stage, fill};
use crate::look::Target;
use crate::sql::whole;
use crate::text::{Field, Query, Values};
use crate::theirs::Theirs;

/// A stage that does not move for so long is stalled.
const STALLED: Duration = Duration::from_secs(300);

/// And one that does not pass for so long: a list that is always filled may never do so, and nothing
/// lost is found meanwhile.
const LONGEST: Duration = Duration::from_hours(1);

/// The end of a stage that was read, and which the stage has to pass. One without positions must be
/// seen empty.
#[derive(Default)]
struct End {
    /// Of a topic.
    logs: Logs,
    /// Of a stream.
    last_id: String,
}

/// A stage that has not passed yet, with what changes while its consumer works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// How much waits, in words.
    pub waits: String,
    pub left: u64,
    /// The first claim and the last one.
    pub ends: [Vec<u8>; 2],
}

impl Behind {
    /// Whether the consumer worked between two readings. A producer changes only one end, and only
    /// lengthens it.
    fn has_moved_since(&self, before: &Self) -> bool {
        let mut ends = self.ends.iter().zip(&before.ends);
        self.left < before.left || ends.all(|(now, before)| now != before)
    }
}

/// The queue of a campaign, and its rounds, one after the other.
#[derive(Default)]
pub struct Queue {
    id: String,
    stages: Vec<Stage>,
    pub in_flight: Duration,
    running: Option<Round>,
    ended: Option<EndedRound>,
    /// Numbers of stages whose key was once seen with something in it.
    filled: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EndedRound {
    began: Duration,
    ended: Duration,
}

struct Round {
    began: Duration,
    stage: usize,
    step: Phase,
}

enum Phase {
    ReadEnd,
    Await {
        end: End,
        behind: Option<Behind>,
        since: Duration,
        moved_at: Duration,
    },
    Rest {
        since: Duration,
    },
}

impl Queue {
    pub fn new(target: &Target<'_>) -> Self {
        Self {
            id: target.id.clone(),
            stages: target.block.stages().to_vec(),
            in_flight: target.block.in_flight(),
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub fn end_round(&mut self, began: u64, ended: u64) {
        let [began, ended] = [began, ended].map(Duration::from_secs);
        self.ended = Some(EndedRound { began, ended });
    }

    #[cfg(test)]
    pub fn begin_at(&mut self, stage: usize) {
        let began = Duration::ZERO;
        let step = Phase::ReadEnd;
        self.running = Some(Round { began, stage, step });
    }

    /// Whether a difference that each look since then has seen may be named by a look that began at
    /// this time.
    pub fn is_over(&self, first: Duration, began: Duration) -> bool {
        let may_begin = first + self.in_flight;
        if self.stages.is_empty() {
            return began >= may_begin;
        }
        let round = self.ended;
        round.is_some_and(|round| round.began >= may_begin && round.ended <= began)
    }

    /// Moves the round as far as possible. Begins one if a difference is old enough that no round
    /// covers; `firsts` are the times at which differences were first seen.
    pub async fn advance(
        &mut self,
        firsts: impl Iterator<Item = Duration>,
        now: Duration,
        theirs: &mut Theirs,
    ) -> Answer<()> {
        if self.running.is_none() {
            let covered = self.ended.map(|round| round.began);
            let mut due = firsts.map(|first| first + self.in_flight);
            if due.any(|due| due <= now && covered.is_none_or(|began| began < due)) {
                let step = Phase::ReadEnd;
                let stage = 0;
                self.running = Some(Round {
                    began: now,
                    stage,
                    step,
                });
            }
        }
        while let Some(round) = &mut self.running {
            let Some(stage) = self.stages.get(round.stage) else {
                let began = round.began;
                self.ended = Some(EndedRound { began, ended: now });
                self.running = None;
                break;
            };
            // Between passes no session is open.
            if matches!(stage, Stage::Sql { .. }) && theirs.database.is_none() {
                break;
            }
            match &mut round.step {
                Phase::ReadEnd => {
                    round.step = Phase::Await {
                        end: theirs.end(stage, &self.id).await?,
                        behind: None,
                        since: now,
                        moved_at: now,
                    };
                }
                Phase::Await {
                    end,
                    behind,
                    moved_at,
                    ..
                } => {
                    let Some(found) = theirs.behind(stage, &self.id, end).await? else {
                        round.step = Phase::Rest { since: now };
                        continue;
                    };
                    self.filled.insert(round.stage);
                    let before = behind.as_ref();
                    if before.is_none_or(|before| found.has_moved_since(before)) {
                        *moved_at = now;
                    }
                    *behind = Some(found);
                    break;
                }
                Phase::Rest { since } if now.saturating_sub(*since) < self.in_flight => break,
                Phase::Rest { .. } => {
                    round.stage += 1;
                    round.step = Phase::ReadEnd;
                }
            }
        }
        Ok(())
    }

    /// Returns what stands, if a stage has not moved for five minutes, or has not passed for an hour.
    pub fn stalled(&self, now: Duration) -> Option<String> {
        let round = self.running.as_ref()?;
        let Phase::Await {
            behind: Some(behind),
            since,
            moved_at,
            ..
        } = &round.step
        else {
            return None;
        };
        let stands = if now.saturating_sub(*moved_at) >= STALLED {
            "has not moved for five minutes"
        } else if now.saturating_sub(*since) >= LONGEST {
            "has not passed for an hour"
        } else {
            return None;
        };
        let number = round.stage + 1;
        let stage = self.stages.get(round.stage)?;
        Some(format!(
            "queue stage {number}, {stage}, {stands}: {}. Its claims wait there and are not lost: \
            start its consumer, see where it fails, or correct the name in queue",
            behind.waits
        ))
    }

    /// Notes whether the keys of stages hold anything, so that a wrong name is not taken for an
    /// empty queue for ever. Returns a stage of which that was never seen.
    pub async fn never_filled(&mut self, theirs: &mut Theirs) -> Answer<Option<String>> {
        let mut never = None;
        for (number, stage) in self.stages.iter().enumerate() {
            if !stage.must_be_empty() || self.filled.contains(&number) {
                continue;
            }
            let found = theirs.behind(stage, &self.id, &End::default()).await?;
            if found.is_some() {
                self.filled.insert(number);
            } else {
                never = Some(stage.to_string());
            }
        }
        Ok(never)
    }
}

impl Theirs {
    /// Reads the end that a stage has to pass. Refuses topics and streams that do not exist.
    async fn end(&mut self, stage: &Stage, id: &str) -> Answer<End> {
        let mut end = End::default();
        match stage {
            Stage::Topic { kafka, .. } => end.logs = self.brokers()?.logs(&fill(kafka, id)).await?,
            Stage::Stream { stream, .. } => {
                end.last_id = self.redis()?.last_id(&fill(stream, id)).await?;
            }
            Stage::List { .. } | Stage::SortedSet { .. } | Stage::Sql { .. } => {}
        }
        Ok(end)
    }

    /// Returns what is left before the end; `None`: the stage has passed it.
    async fn behind(&mut self, stage: &Stage, id: &str, end: &End) -> Answer<Option<Behind>> {
        match stage {
            Stage::Topic { kafka, group } => {
                let topic = fill(kafka, id);
                self.brokers()?.progress(&topic, group, &end.logs).await
            }
            Stage::Stream { stream, group } => {
                let stream = fill(stream, id);
                let redis = self.redis()?;
                redis.stream_behind(&stream, group, &end.last_id).await
            }
            Stage::List { list } => {
                let commands = ["LLEN", "LRANGE"];
                self.redis()?.key_behind(&fill(list, id), commands).await
            }
            Stage::SortedSet { sorted_set } => {
                let commands = ["ZCARD", "ZRANGE"];
                let key = fill(sorted_set, id);
                self.redis()?.key_behind(&key, commands).await
            }
            Stage::Sql { sql } => {
                let values = Values {
                    id,
                    ..Values::default()
                };
                self.rows_left(Query::new(Field::Stage, sql, values)).await
            }
        }
    }

    async fn rows_left(&mut self, query: Query<'_>) -> Answer<Option<Behind>> {
        let mut number = None;
        let session = self.session().await?;
        session
            .read(query, &mut |row| {
                number = row.first().and_then(|cell| whole(cell.as_deref()?));
                Ok(true)
            })
            .await?;
        let misfit = "queue.sql selects no whole number: SELECT COUNT(*) …";
        let left = number.ok_or_else(|| AttachError::misfit(misfit))?;
        Ok((left != 0).then(|| Behind {
            waits: format!("{left} claims are in it"),
            left: left.unsigned_abs(),
            ..Behind::default()
        }))
    }
}
