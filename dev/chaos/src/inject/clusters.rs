//! One server of a cluster dies or is suspended, and another server takes over.

use anyhow::Result;

use super::effect::Effect;
use crate::fault::FaultyStore;
use crate::system::SystemUnderTest;
use crate::wait::lasting;

/// Kills or suspends the primary of one of the coupons.
pub(super) async fn redis_primary(
    system: &SystemUnderTest,
    number: usize,
    frozen: bool,
    ms: u64,
) -> Result<Effect> {
    let servers = system.clusters()?;
    let _alone = servers.alone(FaultyStore::Redis).await;
    let coupons = system.coupons();
    let cluster = &servers.stack.redis;
    let slot = cluster
        .slot_of(
            &system
                .world
                .redis
                .claimants(coupons[number % coupons.len()].id),
        )
        .await?;
    let primary = cluster.primary_of_slot(slot).await?;
    if frozen {
        primary.freeze().await
    } else {
        primary.kill().await
    }?;
    let during = lasting(ms).await;
    let successor = cluster.primary_of_slot(slot).await;
    let note = match &successor {
        Ok(now) if now.port() != primary.port() => "its replica took over",
        _ => "returned before its replica took over",
    };
    if frozen {
        primary.thaw().await
    } else {
        primary.start_again().await
    }?;
    cluster.wait_until_whole().await?;
    Ok(Effect::of(during, true, note))
}

pub(super) async fn broker(
    system: &SystemUnderTest,
    id: i32,
    frozen: bool,
    ms: u64,
) -> Result<Effect> {
    let servers = system.clusters()?;
    let _alone = servers.alone(FaultyStore::Kafka).await;
    let broker = servers.stack.kafka.broker(id)?;
    if frozen {
        broker.freeze().await
    } else {
        broker.kill().await
    }?;
    let during = lasting(ms).await;
    if frozen {
        broker.thaw().await
    } else {
        broker.start_again().await
    }?;
    servers.stack.kafka.wait_until_whole().await?;
    Ok(Effect::of(
        during,
        true,
        if frozen {
            "suspended"
        } else {
            "killed and restarted"
        },
    ))
}

/// Fails over MySQL. Once this returns, the former primary is the replica of the new one.
pub(super) async fn mysql_fail_over(
    system: &SystemUnderTest,
    frozen: bool,
    ms: u64,
) -> Result<Effect> {
    let servers = system.clusters()?;
    let _alone = servers.alone(FaultyStore::Mysql).await;
    let pair = &servers.stack.mysql;
    if frozen {
        pair.lose_primary().await
    } else {
        pair.in_office().kill().await
    }?;
    let during = lasting(ms).await;
    pair.fail_over().await?;
    servers.follow_mysql();
    pair.take_back().await?;
    Ok(Effect::of(during, true, "its replica took over"))
}
