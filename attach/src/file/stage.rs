//! Stages: what stands between their answer and the row.

use std::fmt;

use serde::Deserialize;

use super::keys::fill;
use crate::text::Statement;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "StageWords")]
pub enum Stage {
    Topic {
        topic: String,
        group: String,
    },
    List(String),
    SortedSet(String),
    Stream {
        stream: String,
        group: String,
    },
    /// Selects how many claims wait, such as in an outbox.
    Sql(Statement),
}

impl Stage {
    /// Returns the stage of one campaign.
    #[must_use]
    pub fn for_campaign(&self, id: &str) -> Self {
        match self.clone() {
            Self::Topic { topic, group } => Self::Topic {
                topic: fill(&topic, id),
                group,
            },
            Self::List(key) => Self::List(fill(&key, id)),
            Self::SortedSet(key) => Self::SortedSet(fill(&key, id)),
            Self::Stream { stream, group } => Self::Stream {
                stream: fill(&stream, id),
                group,
            },
            Self::Sql(statement) => Self::Sql(statement),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { topic, group } => write!(f, "topic {topic:?} of group {group:?}"),
            Self::List(key) => write!(f, "list {key:?}"),
            Self::SortedSet(key) => write!(f, "sorted set {key:?}"),
            Self::Stream { stream, group } => write!(f, "stream {stream:?} of group {group:?}"),
            Self::Sql(_) => f.write_str("the SELECT"),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageWords {
    kafka: Option<String>,
    list: Option<String>,
    sorted_set: Option<String>,
    stream: Option<String>,
    sql: Option<Statement>,
    group: Option<String>,
}

impl TryFrom<StageWords> for Stage {
    type Error = String;

    fn try_from(words: StageWords) -> Result<Self, String> {
        let StageWords {
            kafka,
            list,
            sorted_set,
            stream,
            sql,
            group,
        } = words;
        match (kafka, list, sorted_set, stream, sql, group) {
            (Some(topic), None, None, None, None, Some(group)) => Ok(Self::Topic { topic, group }),
            (None, Some(key), None, None, None, None) => Ok(Self::List(key)),
            (None, None, Some(key), None, None, None) => Ok(Self::SortedSet(key)),
            (None, None, None, Some(stream), None, Some(group)) => {
                Ok(Self::Stream { stream, group })
            }
            (None, None, None, None, Some(statement), None) => Ok(Self::Sql(statement)),
            _ => Err(
                "queue: a stage is { kafka = …, group = … }, { list = … }, { sorted_set = … }, \
                { stream = …, group = … } or { sql = … }"
                    .to_owned(),
            ),
        }
    }
}
