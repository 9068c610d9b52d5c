//! Compatibility with releases up to 0eab1da9, whose admission relies on the keys `fc:epoch`,
//! `verified` and `generation`. While an epoch of such a release is valid, a coupon that either
//! release has verified is open to both, so that programs can be upgraded in any order under load.
//! This release starts no such epoch. The next loss ends it, and older APIs stay closed from then
//! on.
//!
//! Delete this file, `scripts/bridge.lua`, the keys `epoch`, `verified` and `generation`, and the
//! uses of [`ServerGate::older`](super::gate) when upgrades from releases before 0.2.0 are no
//! longer supported.

use std::sync::{Arc, LazyLock};

use redis::RedisError;

use super::Redis;
use super::client::Script;
use super::keys;
use super::router::Shard;
use crate::domain::CouponId;

static BRIDGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/bridge.lua")));

/// Returns the epoch of an older release, if it is open and belongs to the server that `is_this`
/// accepts. `text` is the value of `fc:epoch`: `EPOCH SERVER new` or `EPOCH SERVER open`.
pub(super) fn older_epoch(text: &str, is_this: impl Fn(&str) -> bool) -> Option<String> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        [epoch, of, "open"] if is_this(of) && !epoch.is_empty() => Some(epoch.to_owned()),
        _ => None,
    }
}

impl Redis {
    /// Opens a coupon in this release if an older release has verified it, and in the older release
    /// if it is open here. Returns whether it is open in both.
    pub async fn bridge(&self, coupon: CouponId, era: u64) -> Result<bool, RedisError> {
        let shard = self
            .conn
            .shard_of(&keys::gate(&self.prefix, coupon))
            .await?;
        self.bridge_on(&shard, coupon, era).await
    }

    pub(super) async fn bridge_on(
        &self,
        shard: &Arc<Shard>,
        coupon: CouponId,
        era: u64,
    ) -> Result<bool, RedisError> {
        let gate = self.gate_of(shard).await?;
        let Some(epoch) = gate.older else {
            return Ok(false);
        };
        let names = [
            keys::gate(&self.prefix, coupon),
            keys::verified(&self.prefix, coupon),
            keys::generation(&self.prefix, coupon),
        ];
        let args = [
            gate.server.id(),
            era.to_string(),
            epoch,
            format!("{:032x}", rand::random::<u128>()),
        ];
        BRIDGE
            .run(
                &mut self.conn.to(shard),
                &[&names[0], &names[1], &names[2]],
                &args,
            )
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_epoch_is_valid_only_if_open_and_on_this_server() {
        let life = |text: &str| older_epoch(text, |of| of == "0a:0b");
        assert_eq!(
            life("0123456789abcdef 0a:0b open").unwrap(),
            "0123456789abcdef"
        );
        for text in [
            "",
            " 0a:0b open",
            "0123456789abcdef 0a:0b new",
            "0123456789abcdef 0a:0c open",
            "0123456789abcdef 0a:0b open more",
        ] {
            assert_eq!(life(text), None, "{text}");
        }
    }
}
