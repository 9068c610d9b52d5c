//! The queue of a campaign: the stages that a promise passes on its way to its row, in order. A
//! user without a row is a lost promise only if the promise is in none of them.
//!
//! In order of time, each wait being a rule of `dev/model/src/attach`: a look sees the difference;
//! `in_flight`, in which a producer hands over what it holds; then for each stage its end is read
//! and must pass, and `in_flight` again, in which what was committed or popped is written or
//! reaches the next stage; the look that may name the difference. Nothing here waits: a round is a
//! state that each call moves as far as the clock and the stages allow.

pub(crate) mod kafka;
mod redis;

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_shared::kafka::Security;

use crate::error::{Answer, AttachError};
use crate::file::Stage;
use crate::look::query;
use crate::sql::{Cell, Columns, Session};
use crate::store::Store;
use crate::text::{Statement, Values};
use kafka::{Logs, Topic};
use redis::Id;

/// A stage that does not move for so long is stalled.
pub const STALLED: Duration = Duration::from_secs(300);

/// Their Kafka.
#[derive(Debug, Clone)]
pub struct Brokers {
    /// `host:port`, several separated by commas.
    pub addresses: String,
    pub security: Security,
}

/// The stores that hold the stages.
pub struct StageReader<'a> {
    pub store: Option<&'a mut Store>,
    pub brokers: Option<&'a Brokers>,
    /// Between passes there is none, and stages that are a SELECT wait for the next pass.
    pub session: Option<&'a mut Session>,
    pub values: Values<'a>,
}

/// The end of a stage that was read, and which the stage has to pass.
enum End {
    Topic(Topic, Logs),
    /// A list or a sorted set has no positions, so it must be seen empty.
    Empty(EmptyKey),
    Stream {
        stream: String,
        group: String,
        end: Id,
    },
    Nothing(Statement),
}

#[derive(Debug, Clone)]
struct EmptyKey {
    key: String,
    kind: EmptyKind,
}

#[derive(Debug, Clone, Copy)]
enum EmptyKind {
    List,
    SortedSet,
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Passed,
    Behind(Behind),
    /// It cannot be read now.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Behind {
    /// How much waits, in words.
    waits: String,
    mark: Mark,
    /// Its consumer seems to fail at one message.
    is_stuck: bool,
}

/// What changes while a stage's consumer works.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    Position(i64),
    /// Ids of a stream: delivered, first pending.
    Ids(String, String),
    Ends {
        length: u64,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    Number(i64),
}

impl Mark {
    /// Whether the consumer worked between two readings. A producer changes only one end of a list,
    /// and only lengthens it.
    fn has_moved_since(&self, before: &Self) -> bool {
        match (before, self) {
            (
                Self::Ends {
                    length: old_length,
                    first: old_first,
                    last: old_last,
                },
                Self::Ends {
                    length,
                    first,
                    last,
                },
            ) => length < old_length || (first != old_first && last != old_last),
            (Self::Number(old), Self::Number(now)) => now < old,
            _ => self != before,
        }
    }
}

/// A round that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedRound {
    pub began: Duration,
    pub ended: Duration,
}

/// The rounds of a campaign's queue, one after the other.
#[derive(Default)]
pub struct Rounds {
    running: Option<Round>,
    pub ended: Option<EndedRound>,
    /// Numbers of stages whose key was once seen with something in it.
    pub filled: BTreeSet<usize>,
}

struct Round {
    began: Duration,
    stage: usize,
    step: Step,
}

enum Step {
    ReadEnd,
    Await {
        end: End,
        mark: Option<Mark>,
        moved_at: Duration,
        waits: String,
        is_stuck: bool,
    },
    Rest {
        since: Duration,
    },
}

impl Rounds {
    /// Moves the round as far as possible. Begins one if a difference was first seen at `first` and
    /// no round that runs or has ended covers it.
    pub async fn advance(
        &mut self,
        stages: &[Stage],
        in_flight: Duration,
        first: Option<Duration>,
        now: Duration,
        reader: &mut StageReader<'_>,
    ) -> Answer<()> {
        if self.running.is_none() && self.is_wanted(first, in_flight, now) {
            self.running = Some(Round {
                began: now,
                stage: 0,
                step: Step::ReadEnd,
            });
        }
        while let Some(round) = &mut self.running {
            let Some(stage) = stages.get(round.stage) else {
                let began = round.began;
                self.ended = Some(EndedRound { began, ended: now });
                self.running = None;
                return Ok(());
            };
            match &mut round.step {
                Step::ReadEnd => {
                    round.step = Step::Await {
                        end: reader.end(stage).await?,
                        mark: None,
                        moved_at: now,
                        waits: String::new(),
                        is_stuck: false,
                    };
                }
                Step::Await {
                    end,
                    mark,
                    moved_at,
                    waits,
                    is_stuck,
                } => match reader.progress(end).await? {
                    Progress::Passed => round.step = Step::Rest { since: now },
                    Progress::Unknown => return Ok(()),
                    Progress::Behind(behind) => {
                        if matches!(behind.mark, Mark::Ends { .. }) {
                            self.filled.insert(round.stage);
                        }
                        let has_moved = mark
                            .as_ref()
                            .is_none_or(|before| behind.mark.has_moved_since(before));
                        if has_moved {
                            *moved_at = now;
                        }
                        *mark = Some(behind.mark);
                        *waits = behind.waits;
                        *is_stuck = behind.is_stuck;
                        return Ok(());
                    }
                },
                Step::Rest { since } => {
                    if now.saturating_sub(*since) < in_flight {
                        return Ok(());
                    }
                    round.stage += 1;
                    round.step = Step::ReadEnd;
                }
            }
        }
        Ok(())
    }

    fn is_wanted(&self, first: Option<Duration>, in_flight: Duration, now: Duration) -> bool {
        first.is_some_and(|first| {
            let may_begin = first + in_flight;
            may_begin <= now && self.ended.is_none_or(|round| round.began < may_begin)
        })
    }

    /// Returns what stands, if a stage has not moved for five minutes.
    pub fn stalled(&self, stages: &[Stage], now: Duration) -> Option<String> {
        let round = self.running.as_ref()?;
        let Step::Await {
            moved_at,
            waits,
            is_stuck,
            ..
        } = &round.step
        else {
            return None;
        };
        if now.saturating_sub(*moved_at) < STALLED {
            return None;
        }
        let to_do = if *is_stuck {
            "its consumer fails at that entry: acknowledge it, or move it elsewhere"
        } else {
            "start its consumer, or correct the name in queue"
        };
        let number = round.stage + 1;
        let stage = stages.get(round.stage)?;
        Some(format!(
            "queue stage {number}, {stage}, has not moved for five minutes: {waits}. Its claims \
            wait there and are not lost: {to_do}"
        ))
    }

    /// Notes whether the keys of stages hold anything, so that a wrong name is not taken for an
    /// empty queue for ever.
    pub async fn note_filled(
        &mut self,
        stages: &[Stage],
        reader: &mut StageReader<'_>,
    ) -> Answer<()> {
        for (number, stage) in stages.iter().enumerate() {
            if let Some(key) = empty_key(stage)
                && !self.filled.contains(&number)
                && let Progress::Behind(_) = reader.store()?.empty_progress(&key).await?
            {
                self.filled.insert(number);
            }
        }
        Ok(())
    }

    /// Returns a list or sorted set of the queue that was never seen filled.
    pub fn never_filled(&self, stages: &[Stage]) -> Option<String> {
        let mut never = stages
            .iter()
            .enumerate()
            .filter(|(number, stage)| empty_key(stage).is_some() && !self.filled.contains(number));
        never.next().map(|(_, stage)| stage.to_string())
    }
}

fn empty_key(stage: &Stage) -> Option<EmptyKey> {
    let (key, kind) = match stage {
        Stage::List(key) => (key, EmptyKind::List),
        Stage::SortedSet(key) => (key, EmptyKind::SortedSet),
        Stage::Topic { .. } | Stage::Stream { .. } | Stage::Sql(_) => return None,
    };
    Some(EmptyKey {
        key: key.clone(),
        kind,
    })
}

impl StageReader<'_> {
    fn store(&mut self) -> Answer<&mut Store> {
        let missing = || AttachError::misfit("redis: its address is missing");
        self.store.as_deref_mut().ok_or_else(missing)
    }

    /// Refuses topics, streams and groups that do not exist.
    pub async fn check(&mut self, stages: &[Stage]) -> Answer<()> {
        for stage in stages {
            match stage {
                Stage::Topic { topic, group } => {
                    Topic::new(self.brokers, topic, group)?.check().await?;
                }
                Stage::Stream { stream, group } => {
                    self.store()?.check_group(stream, group).await?;
                }
                Stage::List(_) | Stage::SortedSet(_) => {
                    if let Some(key) = empty_key(stage) {
                        self.store()?.empty_progress(&key).await?;
                    }
                }
                Stage::Sql(statement) => {
                    if let Some(session) = self.session.as_deref_mut() {
                        session.describe("queue.sql", statement).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self, stage: &Stage) -> Answer<End> {
        Ok(match stage {
            Stage::Topic { topic, group } => {
                let topic = Topic::new(self.brokers, topic, group)?;
                let logs = topic.logs().await?;
                End::Topic(topic, logs)
            }
            Stage::List(key) => End::Empty(EmptyKey {
                key: key.clone(),
                kind: EmptyKind::List,
            }),
            Stage::SortedSet(key) => End::Empty(EmptyKey {
                key: key.clone(),
                kind: EmptyKind::SortedSet,
            }),
            Stage::Stream { stream, group } => {
                let store = self.store()?;
                store.check_group(stream, group).await?;
                End::Stream {
                    end: store.last_id(stream).await?,
                    stream: stream.clone(),
                    group: group.clone(),
                }
            }
            Stage::Sql(statement) => End::Nothing(statement.clone()),
        })
    }

    async fn progress(&mut self, end: &End) -> Answer<Progress> {
        match end {
            End::Topic(topic, ends) => topic.progress(ends).await,
            End::Empty(key) => self.store()?.empty_progress(key).await,
            End::Stream { stream, group, end } => {
                self.store()?.stream_progress(stream, group, *end).await
            }
            End::Nothing(statement) => self.rows_left(statement).await,
        }
    }

    async fn rows_left(&mut self, statement: &Statement) -> Answer<Progress> {
        let Some(session) = self.session.as_deref_mut() else {
            return Ok(Progress::Unknown);
        };
        let mut number = None;
        let mut each = |_: &Columns, row: &[Cell]| {
            number = row.first().and_then(Cell::number);
            Ok(true)
        };
        let query = query("queue.sql", statement, self.values);
        session.read(query, &mut each).await?;
        match number {
            Some(0) => Ok(Progress::Passed),
            Some(number) => Ok(Progress::Behind(Behind {
                waits: format!("{number} claims are in it"),
                mark: Mark::Number(number),
                is_stuck: false,
            })),
            None => Err(AttachError::misfit(
                "queue.sql selects no whole number: SELECT COUNT(*) …",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(length: u64, first: u8, last: u8) -> Mark {
        Mark::Ends {
            length,
            first: vec![first],
            last: vec![last],
        }
    }

    #[test]
    fn list_has_moved_if_it_is_shorter_or_both_ends_changed() {
        for (before, now, has_moved) in [
            (ends(3, 1, 3), ends(2, 2, 3), true),
            (ends(3, 1, 3), ends(3, 2, 4), true),
            (ends(3, 1, 3), ends(4, 1, 4), false),
            (ends(3, 1, 3), ends(4, 0, 3), false),
            (ends(3, 1, 3), ends(3, 1, 3), false),
            (Mark::Number(5), Mark::Number(4), true),
            (Mark::Number(5), Mark::Number(6), false),
            (Mark::Position(5), Mark::Position(6), true),
        ] {
            assert_eq!(
                now.has_moved_since(&before),
                has_moved,
                "{before:?} {now:?}"
            );
        }
    }

    /// Without stages that can be read, a round only follows the clock.
    #[tokio::test]
    async fn round_begins_in_flight_after_the_difference_and_covers_no_younger_one() {
        let mut rounds = Rounds::default();
        let [at_0, at_20, at_30] = [0, 20, 30].map(Duration::from_secs);
        let mut reader = StageReader {
            store: None,
            brokers: None,
            session: None,
            values: Values::default(),
        };
        let in_flight = at_20;
        for (first, now, expected) in [
            (None, at_20, None),
            (Some(at_0), Duration::from_secs(19), None),
            (Some(at_0), at_20, Some(at_20)),
            // Of a younger difference, that round knows nothing.
            (Some(at_20), at_30, Some(at_20)),
            (Some(at_20), at_20 * 2, Some(at_20 * 2)),
        ] {
            let advanced = rounds
                .advance(&[], in_flight, first, now, &mut reader)
                .await;
            advanced.unwrap();
            assert_eq!(
                rounds.ended.map(|round| round.began),
                expected,
                "{first:?} {now:?}"
            );
        }
    }
}
