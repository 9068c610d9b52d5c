//! Stages in Redis: a list or a sorted set, which has passed once it is seen empty, and a stream
//! with its group, which has passed once all entries up to its end are delivered and none of them is
//! pending. The stream's `lag` is not enough: it is unknown after XDEL and XTRIM.

use std::collections::HashMap;

use redis::{Value, from_redis_value_ref};

use crate::error::{Answer, AttachError};
use crate::queue::Behind;
use crate::store::Store;

/// Pending entries read per page.
const PENDING: usize = 100;

/// The fields of a stream or a group in a reply of XINFO.
type Fields = HashMap<String, Value>;

fn text(fields: &Fields, name: &str) -> Option<String> {
    from_redis_value_ref(fields.get(name)?).ok()
}

impl Store {
    /// Reads a list or a sorted set by its commands. A missing key is an empty one: Redis deletes
    /// empty lists.
    pub async fn key_behind(
        &mut self,
        key: &str,
        [length, range]: [&str; 2],
    ) -> Answer<Option<Behind>> {
        let length: u64 = self.query((length, key)).await?;
        let first: Vec<Vec<u8>> = self.query((range, key, 0, 0)).await?;
        let last: Vec<Vec<u8>> = self.query((range, key, -1, -1)).await?;
        Ok((length > 0).then(|| Behind {
            waits: format!("{length} claims are in it"),
            left: length,
            ends: [first.concat(), last.concat()],
        }))
    }

    /// Returns the last id of a stream.
    pub async fn last_id(&mut self, stream: &str) -> Answer<String> {
        let fields: Fields = self.query(("XINFO", "STREAM", stream)).await?;
        let misfit = || AttachError::Misfit(format!("queue: stream {stream:?} tells no last id"));
        text(&fields, "last-generated-id").ok_or_else(misfit)
    }

    async fn group(&mut self, stream: &str, name: &str) -> Answer<Fields> {
        let groups: Vec<Fields> = self.query(("XINFO", "GROUPS", stream)).await?;
        let mut named = groups
            .into_iter()
            .filter(|it| text(it, "name").as_deref() == Some(name));
        let missing =
            || AttachError::Misfit(format!("queue: stream {stream:?} has no group {name:?}"));
        named.next().ok_or_else(missing)
    }

    pub async fn stream_behind(
        &mut self,
        stream: &str,
        group: &str,
        end: &str,
    ) -> Answer<Option<Behind>> {
        let fields = self.group(stream, group).await?;
        let delivered = text(&fields, "last-delivered-id").unwrap_or_default();
        let behind = |waits: String, place: String| {
            let place = place.into_bytes();
            Ok(Some(Behind {
                waits,
                left: 0,
                ends: [place.clone(), place],
            }))
        };
        // Deleted entries are delivered to nobody.
        let after = format!("({delivered}");
        let next: Vec<Value> = self
            .query(("XRANGE", stream, &after, end, "COUNT", 1))
            .await?;
        if !next.is_empty() {
            let lag = text(&fields, "lag").unwrap_or_else(|| "some".to_owned());
            return behind(format!("{lag} claims are not delivered"), after);
        }
        let mut from = "-".to_owned();
        loop {
            let asked = ("XPENDING", stream, group, &from, end, PENDING);
            let pending: Vec<(String, String, u64, u64)> = self.query(asked).await?;
            for (id, owner, _, deliveries) in &pending {
                // Deleted entries stay pending, and nobody can read them.
                let entry: Vec<Value> = self.query(("XRANGE", stream, id, id)).await?;
                if !entry.is_empty() {
                    let waits = format!(
                        "claims are delivered and not acknowledged, the first ({id}) {deliveries} \
                        times, the last time to consumer {owner:?}"
                    );
                    // Later entries may be delivered all the time.
                    return behind(waits, id.clone());
                }
            }
            match pending.last() {
                Some((id, ..)) if pending.len() == PENDING => from = format!("({id}"),
                _ => return Ok(None),
            }
        }
    }
}
