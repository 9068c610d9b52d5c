//! The stages of a campaign's queue.

use std::fmt;

use serde::Deserialize;

use super::Target;

/// A stage of a queue, as the file names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "write { topic = \"…\", group = \"…\" }, { list = \"…\" }, or { stream = \"…\", \
        group = \"…\" }"
)]
pub enum Stage {
    Topic { topic: String, group: String },
    List { list: String },
    Stream { stream: String, group: String },
}

/// One stage or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "write queue = { topic = \"…\", group = \"…\" }, { list = \"…\" }, \
                 { stream = \"…\", group = \"…\" }, or a list of these"
)]
pub enum Stages {
    One(Stage),
    Several(Vec<Stage>),
}

impl From<Stages> for Vec<Stage> {
    fn from(stages: Stages) -> Self {
        match stages {
            Stages::One(stage) => vec![stage],
            Stages::Several(stages) => stages,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { topic, group } => write!(f, "topic {topic:?}, group {group:?}"),
            Self::List { list } => write!(f, "list {list:?}"),
            Self::Stream { stream, group } => write!(f, "stream {stream:?}, group {group:?}"),
        }
    }
}

impl Stage {
    pub(crate) fn is_topic(&self) -> bool {
        matches!(self, Self::Topic { .. })
    }

    /// Returns the stage with the day of the target filled into its names.
    pub(crate) fn for_target(&self, target: &Target<'_>) -> Self {
        match self {
            Self::Topic { topic, group } => Self::Topic {
                topic: target.fill(topic),
                group: target.fill(group),
            },
            Self::List { list } => Self::List {
                list: target.fill(list),
            },
            Self::Stream { stream, group } => Self::Stream {
                stream: target.fill(stream),
                group: target.fill(group),
            },
        }
    }
}
