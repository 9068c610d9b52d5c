//! The queue of a campaign: the stages that a promise passes on its way to its row, in order. A
//! user without a row is a lost promise only if the promise is in none of them.
//!
//! In order of time, each wait being a rule of `dev/model/src/attach`: the first look; `in_flight`,
//! in which a producer hands over what it holds; then for each stage its end is read and must pass,
//! and `in_flight` again, in which what was committed or popped is written or reaches the next
//! stage; the second look.

mod kafka;
mod redis;

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::config::{KafkaArgs, TlsArgs};
use firstcome_shared::kafka::Security;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{AttachFile, Stage, Target};
use crate::keys::Keys;
use crate::{Answer, AttachError};
use kafka::{Logs, Topic};

/// How long the campaigns of a pass wait for their queues. All wait at the same time.
pub const PATIENCE: Duration = Duration::from_secs(240);

const POLL: Duration = Duration::from_millis(250);

/// Their Kafka.
#[derive(Debug, Clone)]
pub struct Brokers {
    /// `host:port`, several separated by commas.
    pub addresses: String,
    pub security: Security,
}

/// How a pass waits for queues.
#[derive(Debug, Clone)]
pub struct Queues {
    pub brokers: Option<Brokers>,
    pub patience: Duration,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            brokers: None,
            patience: PATIENCE,
        }
    }
}

impl Queues {
    pub(crate) fn new(file: &AttachFile, tls: &TlsArgs) -> anyhow::Result<Self> {
        let brokers = file.kafka.as_ref().map(|addresses| {
            let properties = file.kafka_properties.clone().unwrap_or_default();
            let security = KafkaArgs::at(addresses, &properties.into(), tls).context("kafka")?;
            anyhow::Ok(Brokers {
                addresses: addresses.clone(),
                security,
            })
        });
        Ok(Self {
            brokers: brokers.transpose()?,
            ..Self::default()
        })
    }
}

/// A stage whose end was read, and which has to pass that end.
enum Awaited {
    Topic(Topic, Logs),
    /// A list has no positions, so it must be seen empty.
    List(String),
    Stream {
        stream: String,
        group: String,
        end: redis::Id,
    },
}

const START: &str = "start its consumer, or give it more workers";

/// How far a stage is.
enum Progress {
    Passed,
    /// Not yet: the reason, and what the operator has to do.
    Behind(String, &'static str),
}

/// Returns when a stage whose end was just read stands. While the pass repairs another campaign,
/// nothing continues this wait, so that an end may be read after the deadline: a consumer that
/// works may hold a message for `in_flight` then, too.
fn patient_until(read: Instant, in_flight: Duration, deadline: Instant) -> Instant {
    deadline.max(read + in_flight)
}

/// Reads the queue of a target.
pub struct Queue {
    stages: Vec<Stage>,
    in_flight: Duration,
    keys: Keys,
    brokers: Option<Brokers>,
}

impl Queue {
    pub fn new(target: &Target<'_>, keys: Keys, queues: &Queues) -> Self {
        let stages = target.campaign.queue.iter();
        Self {
            stages: stages.map(|stage| stage.for_target(target)).collect(),
            in_flight: target.campaign.in_flight(),
            keys,
            brokers: queues.brokers.clone(),
        }
    }

    /// Refuses topics, streams and groups that do not exist. Returns a note for each list: a wrong
    /// name looks like an empty list.
    pub async fn check(&mut self) -> Answer<Vec<String>> {
        let mut lists = Vec::new();
        for stage in &self.stages {
            match stage {
                Stage::Topic { topic, group } => {
                    Topic::new(self.brokers.as_ref(), topic, group)?
                        .check()
                        .await?;
                }
                Stage::List { list } => {
                    self.keys.check_list(list).await?;
                    lists.push(format!(
                        "queue: while list {list:?} is empty, a wrong name looks the same; \
                         compare it with your program"
                    ));
                }
                Stage::Stream { stream, group } => self.keys.check_group(stream, group).await?,
            }
        }
        Ok(lists)
    }

    /// Waits from the first look, which ended at `looked`, until the second one may begin.
    ///
    /// # Errors
    /// [`AttachError::Stands`] with stage and number, if a stage has passed neither at `deadline`
    /// nor within `in_flight`.
    pub async fn pass(mut self, looked: Instant, deadline: Instant) -> Answer<Passed> {
        sleep_until(looked + self.in_flight).await;
        let mut ends = Vec::new();
        for number in 0..self.stages.len() {
            let awaited = self.end(number).await?;
            let patient_until = patient_until(Instant::now(), self.in_flight, deadline);
            while let Progress::Behind(by, to_do) = self.progress(&awaited).await? {
                if Instant::now() >= patient_until {
                    let stage = &self.stages[number];
                    return Err(AttachError::Stands(format!(
                        "queue stage {} ({stage}) stands: {by}, although the pass waited; \
                         nothing was compared or repaired: {to_do}",
                        number + 1
                    )));
                }
                sleep(POLL).await;
            }
            sleep(self.in_flight).await;
            ends.push(awaited);
        }
        Ok(Passed {
            keys: self.keys,
            ends,
        })
    }

    /// Reads the end of a stage.
    async fn end(&mut self, number: usize) -> Answer<Awaited> {
        Ok(match self.stages[number].clone() {
            Stage::Topic { topic, group } => {
                let topic = Topic::new(self.brokers.as_ref(), &topic, &group)?;
                let logs = topic.logs().await?;
                Awaited::Topic(topic, logs)
            }
            Stage::List { list } => Awaited::List(list),
            Stage::Stream { stream, group } => {
                self.keys.check_group(&stream, &group).await?;
                let end = self.keys.last_id(&stream).await?;
                Awaited::Stream { stream, group, end }
            }
        })
    }

    async fn progress(&mut self, awaited: &Awaited) -> Answer<Progress> {
        match awaited {
            Awaited::Topic(topic, ends) => topic.progress(ends).await,
            Awaited::List(list) => self.keys.list_progress(list).await,
            Awaited::Stream { stream, group, end } => {
                self.keys.stream_progress(stream, group, *end).await
            }
        }
    }
}

/// A queue whose stages have passed the ends that were read.
pub struct Passed {
    keys: Keys,
    ends: Vec<Awaited>,
}

impl Passed {
    /// Whether a message may have come to a stage since its end was read. A list has no end, so it
    /// cannot show that none came.
    pub async fn has_grown(&mut self) -> Answer<bool> {
        for end in &self.ends {
            let has_grown = match end {
                Awaited::Topic(topic, logs) => topic.has_grown(logs).await?,
                Awaited::List(_) => true,
                Awaited::Stream { stream, end, .. } => self.keys.last_id(stream).await? != *end,
            };
            if has_grown {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, patient_until};

    #[test]
    fn consumer_has_the_time_in_flight_even_if_the_end_is_read_after_the_deadline() {
        let [second, minute] = [1, 60].map(Duration::from_secs);
        let deadline = Instant::now() + minute;
        for (read, expected) in [
            (deadline - minute, deadline),
            (deadline, deadline + second),
            (deadline + minute, deadline + minute + second),
        ] {
            assert_eq!(patient_until(read, second, deadline), expected);
        }
    }
}
