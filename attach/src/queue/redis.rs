//! Stages in Redis: a list or a sorted set, which has passed once it is seen empty, and a stream
//! with its group, which has passed once all entries up to its end are delivered and none of them is
//! pending. The stream's `lag` is not enough: it is unknown after XDEL and XTRIM.

use std::collections::HashMap;

use redis::{Value, from_redis_value_ref};

use super::{Behind, EmptyKey, EmptyKind, Mark, Progress};
use crate::error::{Answer, AttachError};
use crate::forms::Form;
use crate::store::Store;

/// Pending entries read per page.
const PENDING: usize = 100;

/// If an entry was delivered more often than this, its consumer probably cannot process it.
const MANY: u64 = 10;

/// The id of a stream's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    ms: u64,
    sequence: u64,
}

/// The fields of a stream or a group in a reply of XINFO.
type Fields = HashMap<String, Value>;

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let (ms, sequence) = text.split_once('-')?;
        Some(Self {
            ms: ms.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }

    fn text(self) -> String {
        format!("{}-{}", self.ms, self.sequence)
    }
}

fn id_of(fields: &Fields, name: &str) -> Answer<Id> {
    let id = fields
        .get(name)
        .and_then(|value| from_redis_value_ref::<String>(value).ok())
        .and_then(|text| Id::parse(&text));
    id.ok_or_else(|| AttachError::Misfit(format!("queue: their Redis tells no {name} of a stream")))
}

fn is_named(group: &Fields, name: &str) -> bool {
    let found = group.get("name");
    found.is_some_and(|value| from_redis_value_ref::<String>(value).is_ok_and(|it| it == name))
}

impl Store {
    /// # Errors
    /// If the key has another type. A missing key is an empty one: Redis deletes empty lists.
    pub(super) async fn empty_progress(&mut self, empty: &EmptyKey) -> Answer<Progress> {
        let EmptyKey { key, kind } = empty;
        let (wanted, length, ends) = match kind {
            EmptyKind::List => ("list", "LLEN", "LRANGE"),
            EmptyKind::SortedSet => ("zset", "ZCARD", "ZRANGE"),
        };
        if !self.must_be(key, Form::Plain, wanted).await? {
            return Ok(Progress::Passed);
        }
        let length: u64 = self.query((length, key)).await?;
        let mut end = [Vec::new(), Vec::new()];
        for (at, found) in [0, -1].into_iter().zip(&mut end) {
            let element: Vec<Vec<u8>> = self.query((ends, key, at, at)).await?;
            *found = element.concat();
        }
        let [first, last] = end;
        if length == 0 {
            return Ok(Progress::Passed);
        }
        Ok(Progress::Behind(Behind {
            waits: format!("{length} claims are in it"),
            mark: Mark::Ends {
                length,
                first,
                last,
            },
            is_stuck: false,
        }))
    }

    /// Refuses a key that is no stream, and a group that does not exist.
    pub(super) async fn check_group(&mut self, stream: &str, group: &str) -> Answer<()> {
        let kind: String = self.query(("TYPE", stream)).await?;
        if kind != "stream" {
            let why = format!("queue: key {stream:?} in Redis is no stream: it is a {kind}");
            return Err(AttachError::Misfit(why.replace("a none", "missing")));
        }
        self.group(stream, group).await.map(drop)
    }

    async fn group(&mut self, stream: &str, name: &str) -> Answer<Fields> {
        let groups: Vec<Fields> = self.query(("XINFO", "GROUPS", stream)).await?;
        let found = groups.into_iter().find(|group| is_named(group, name));
        let missing =
            || AttachError::Misfit(format!("queue: stream {stream:?} has no group {name:?}"));
        found.ok_or_else(missing)
    }

    pub(super) async fn last_id(&mut self, stream: &str) -> Answer<Id> {
        let fields: Fields = self.query(("XINFO", "STREAM", stream)).await?;
        id_of(&fields, "last-generated-id")
    }

    pub(super) async fn stream_progress(
        &mut self,
        stream: &str,
        group: &str,
        end: Id,
    ) -> Answer<Progress> {
        let fields = self.group(stream, group).await?;
        let delivered = id_of(&fields, "last-delivered-id")?;
        if delivered < end {
            let after = format!("({}", delivered.text());
            let asked = ("XRANGE", stream, after, end.text(), "COUNT", 1);
            let entries: Vec<Value> = self.query(asked).await?;
            // Deleted entries are delivered to nobody.
            if !entries.is_empty() {
                let lag = fields.get("lag").map(from_redis_value_ref::<u64>);
                let number = lag
                    .and_then(Result::ok)
                    .map_or("some".into(), |it| it.to_string());
                return Ok(Progress::Behind(Behind {
                    waits: format!("{number} claims are not delivered"),
                    mark: Mark::Ids(delivered.text(), String::new()),
                    is_stuck: false,
                }));
            }
        }
        let mut from = "-".to_owned();
        loop {
            let asked = ("XPENDING", stream, group, &from, end.text(), PENDING);
            let pending: Vec<(String, String, u64, u64)> = self.query(asked).await?;
            let is_last = pending.len() < PENDING;
            for (at, (id, owner, _, deliveries)) in pending.iter().enumerate() {
                // Deleted entries stay pending, and nobody can read them.
                let entry: Vec<Value> = self.query(("XRANGE", stream, id, id)).await?;
                if entry.is_empty() {
                    continue;
                }
                let or_more = if is_last { "" } else { " or more" };
                return Ok(Progress::Behind(Behind {
                    waits: format!(
                        "{}{or_more} claims are delivered and not acknowledged, the first ({id}) \
                        {deliveries} times, the last time to consumer {owner:?}",
                        pending.len() - at
                    ),
                    mark: Mark::Ids(delivered.text(), id.clone()),
                    is_stuck: *deliveries > MANY,
                }));
            }
            match pending.last() {
                Some((id, ..)) if !is_last => from = format!("({id}"),
                _ => return Ok(Progress::Passed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_stream_entries_are_read_written_and_compared_as_numbers() {
        let [a, b] = ["9-10", "10-2"].map(|text| Id::parse(text).unwrap());
        assert!(a < b);
        assert_eq!(a.text(), "9-10");
        assert_eq!(Id::parse("10"), None);
    }
}
