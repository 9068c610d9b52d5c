//! A MySQL primary, its replica, and the address that leads to whichever of them is in office.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::mysql::{MysqlOptions, MysqlServer};
use crate::proxy::{FaultProxy, ProxyFault};
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Once the replica has it, and no sooner however long that takes.
    SemiSynchronous,
    /// At once: what a fail-over may lose.
    Asynchronous,
}

/// Two servers and one address.
#[derive(Debug)]
pub struct MysqlPair {
    pub primary: MysqlServer,
    /// It takes no writes before it is promoted.
    pub replica: MysqlServer,
    /// Leads to the primary at first.
    pub address: FaultProxy,
}

impl MysqlPair {
    pub async fn start(replication: Replication) -> Result<Self> {
        let server = |number: u32| {
            let mut extra_args = vec![format!("--server-id={number}")];
            extra_args.extend(["--gtid-mode=ON", "--enforce-gtid-consistency=ON"].map(Into::into));
            if replication == Replication::SemiSynchronous {
                extra_args.extend(SEMI_SYNCHRONOUS.map(Into::into));
                // One without a replica of its own would wait for good.
                extra_args.push(format!("--rpl-semi-sync-source-enabled={}", if number == 1 { "ON" } else { "OFF" }));
            }
            MysqlServer::start(MysqlOptions { extra_args })
        };
        let (primary, replica) = tokio::try_join!(server(1), server(2))?;
        let source = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'root', \
             GET_SOURCE_PUBLIC_KEY = 1, SOURCE_AUTO_POSITION = 1",
            primary.port()
        );
        for sql in [&*source, "START REPLICA", "SET GLOBAL super_read_only = ON"] {
            replica.query(sql).await?;
        }
        let address = primary.proxy().await?;
        let pair = Self { primary, replica, address };
        pair.catch_up().await?;
        if replication == Replication::SemiSynchronous {
            let waits = "SELECT variable_value FROM performance_schema.global_status \
                         WHERE variable_name = 'Rpl_semi_sync_source_clients'";
            eventually("the primary waits for the replica", LIMIT, async || {
                pair.primary.query(waits).await.is_ok_and(|rows| rows == [["1"]])
            })
            .await;
        }
        Ok(pair)
    }

    /// Waits until the replica has all that the primary has.
    pub async fn catch_up(&self) -> Result<()> {
        let all = &self.primary.query("SELECT @@global.gtid_executed").await?[0][0];
        self.replica_has(all).await
    }

    async fn replica_has(&self, transactions: &str) -> Result<()> {
        let transactions = transactions.replace('\n', "");
        let wait = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{transactions}', {})", LIMIT.as_secs());
        let timed_out = self.replica.query(&wait).await?;
        ensure!(timed_out == [["0"]], "the replica lags: {:?}", self.replica.query("SHOW REPLICA STATUS").await);
        Ok(())
    }

    /// From here on the replica gets nothing: it lacks what is written until it is promoted.
    pub async fn stop_replication(&self) -> Result<()> {
        self.catch_up().await?;
        self.replica.query("STOP REPLICA").await.map(drop)
    }

    /// The primary's host is out of reach: connections stay open and nothing passes on them, and
    /// new ones hang.
    pub async fn lose_primary(&self) -> Result<()> {
        self.address.set(ProxyFault::BlackHole).await?;
        self.primary.freeze().await
    }

    /// The replica carries out all that it received, and takes writes.
    pub async fn promote(&self) -> Result<()> {
        self.replica.query("STOP REPLICA IO_THREAD").await?;
        let received = "SELECT received_transaction_set FROM performance_schema.replication_connection_status";
        if self.replica.query("SELECT service_state FROM performance_schema.replication_applier_status").await?
            == [["ON"]]
        {
            self.replica_has(&self.replica.query(received).await?[0][0]).await?;
        }
        for sql in ["STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL read_only = OFF"] {
            self.replica.query(sql).await?;
        }
        Ok(())
    }

    /// New connections go to the other server. Those that are open hang for good.
    pub async fn lead_to(&self, server: &MysqlServer) -> Result<()> {
        self.address.strand_now();
        self.address.set_upstream(server.port());
        self.address.set(ProxyFault::Pass).await
    }
}

/// A commit is answered after the replica has it (`AFTER_SYNC`, the default), and a primary that
/// hears nothing of its replica waits: with a short timeout it would go on alone.
const SEMI_SYNCHRONOUS: [&str; 4] = [
    "--plugin-load-add=semisync_source.so",
    "--plugin-load-add=semisync_replica.so",
    "--rpl-semi-sync-replica-enabled=ON",
    "--rpl-semi-sync-source-timeout=3600000",
];
