//! A MySQL primary, its replica, and an address that leads to the current primary.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::mysql::{MysqlOptions, MysqlServer};
use crate::proxy::{FaultProxy, ProxyFault};
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// The time at which the primary acknowledges a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// The primary acknowledges a commit only after the replica has it, however long that takes.
    SemiSynchronous,
    /// The primary commits without waiting for the replica, so a failover can lose the transaction.
    Asynchronous,
}

/// Two servers and one address.
#[derive(Debug)]
pub struct MysqlPair {
    /// The initial primary.
    pub primary: MysqlServer,
    /// The initial replica, read-only until it is promoted.
    pub replica: MysqlServer,
    /// The address, which initially leads to the primary.
    pub address: FaultProxy,
    replication: Replication,
    second_in_office: AtomicBool,
    /// The server ID that was assigned last.
    ids: AtomicU32,
}

impl MysqlPair {
    pub async fn start(replication: Replication) -> Result<Self> {
        let server = |number: u32| {
            let mut extra_args = vec![format!("--server-id={number}")];
            extra_args.extend(["--gtid-mode=ON", "--enforce-gtid-consistency=ON"].map(Into::into));
            if replication == Replication::SemiSynchronous {
                extra_args.extend(SEMI_SYNCHRONOUS.map(Into::into));
                // Disabled on the replica, which has no replica to wait for and would wait forever.
                extra_args.push(format!(
                    "--rpl-semi-sync-source-enabled={}",
                    if number == 1 { "ON" } else { "OFF" }
                ));
            }
            MysqlServer::start(MysqlOptions { extra_args })
        };
        let (primary, replica) = tokio::try_join!(server(1), server(2))?;
        let address = primary.proxy().await?;
        let second_in_office = AtomicBool::new(false);
        let ids = AtomicU32::new(2);
        let pair = Self {
            primary,
            replica,
            address,
            replication,
            second_in_office,
            ids,
        };
        pair.follow().await?;
        pair.waits_for_replica().await;
        Ok(pair)
    }

    /// Returns the current primary.
    pub fn in_office(&self) -> &MysqlServer {
        if self.second_in_office.load(Ordering::Relaxed) {
            &self.replica
        } else {
            &self.primary
        }
    }

    /// Returns the other server: the replica, or the former primary.
    fn other(&self) -> &MysqlServer {
        if self.second_in_office.load(Ordering::Relaxed) {
            &self.primary
        } else {
            &self.replica
        }
    }

    /// Makes the other server a replica of the primary and waits until it has caught up.
    async fn follow(&self) -> Result<()> {
        let source = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'root', \
             GET_SOURCE_PUBLIC_KEY = 1, SOURCE_AUTO_POSITION = 1",
            self.in_office().port()
        );
        for sql in [&*source, "START REPLICA", "SET GLOBAL super_read_only = ON"] {
            self.other().query(sql).await?;
        }
        self.catch_up().await
    }

    async fn waits_for_replica(&self) {
        if self.replication == Replication::SemiSynchronous {
            let waits = "SELECT variable_value FROM performance_schema.global_status \
                         WHERE variable_name = 'Rpl_semi_sync_source_clients'";
            eventually("the primary waits for the replica", LIMIT, async || {
                self.in_office()
                    .query(waits)
                    .await
                    .is_ok_and(|rows| rows == [["1"]])
            })
            .await;
        }
    }

    /// Waits until the replica has caught up with the primary.
    pub async fn catch_up(&self) -> Result<()> {
        let all = &self
            .in_office()
            .query("SELECT @@global.gtid_executed")
            .await?[0][0];
        self.replica_has(all).await
    }

    async fn replica_has(&self, transactions: &str) -> Result<()> {
        let replica = self.other();
        let transactions = transactions.replace('\n', "");
        let wait = format!(
            "SELECT WAIT_FOR_EXECUTED_GTID_SET('{transactions}', {})",
            LIMIT.as_secs()
        );
        let timed_out = replica.query(&wait).await?;
        ensure!(
            timed_out == [["0"]],
            "the replica lags: {:?}",
            replica.query("SHOW REPLICA STATUS").await
        );
        Ok(())
    }

    /// Stops replication. The replica lacks all later writes when it is promoted.
    pub async fn stop_replication(&self) -> Result<()> {
        self.catch_up().await?;
        self.other().query("STOP REPLICA").await.map(drop)
    }

    /// Makes the primary's host unreachable: connections stay open without traffic, and new ones
    /// hang.
    pub async fn lose_primary(&self) -> Result<()> {
        self.address.set(ProxyFault::BlackHole).await?;
        self.in_office().freeze().await
    }

    /// Lets the replica apply everything it received, and promotes it to primary.
    pub async fn promote(&self) -> Result<()> {
        let replica = self.other();
        replica.query("STOP REPLICA IO_THREAD").await?;
        let received =
            "SELECT received_transaction_set FROM performance_schema.replication_connection_status";
        if replica
            .query("SELECT service_state FROM performance_schema.replication_applier_status")
            .await?
            == [["ON"]]
        {
            self.replica_has(&replica.query(received).await?[0][0])
                .await?;
        }
        for sql in [
            "STOP REPLICA",
            "RESET REPLICA ALL",
            "SET GLOBAL read_only = OFF",
        ] {
            replica.query(sql).await?;
        }
        self.second_in_office.fetch_xor(true, Ordering::Relaxed);
        Ok(())
    }

    /// Performs a complete failover: promotes the replica and redirects the address to it.
    pub async fn fail_over(&self) -> Result<()> {
        self.promote().await?;
        self.lead_to(self.in_office()).await
    }

    /// Restarts the former primary as a read-only replica of the current one. If it has commits
    /// that were never acknowledged, its data is discarded. Afterwards the pair can fail over
    /// again.
    pub async fn take_back(&self) -> Result<()> {
        let now = self.in_office();
        let before = self.other();
        if before.pid().is_some() {
            before.kill().await?;
        }
        before.start_again().await?;
        let had = before.query("SELECT @@global.gtid_executed").await?[0][0].replace('\n', "");
        let known = now
            .query(&format!(
                "SELECT GTID_SUBSET('{had}', @@global.gtid_executed)"
            ))
            .await?;
        if known != [["1"]] {
            before.kill().await?;
            before.start_empty().await?;
            // The server gets a new ID. With its old ID, it would skip the events of that ID, which
            // it has just lost.
            let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
            before
                .query(&format!("SET GLOBAL server_id = {id}"))
                .await?;
        }
        let semi_synchronous = self.replication == Replication::SemiSynchronous;
        if semi_synchronous {
            before
                .query("SET GLOBAL rpl_semi_sync_source_enabled = OFF")
                .await?;
        }
        self.follow().await?;
        if semi_synchronous {
            now.query("SET GLOBAL rpl_semi_sync_source_enabled = ON")
                .await?;
            // The primary waits for the replica only once the replica has reconnected.
            before.query("STOP REPLICA IO_THREAD").await?;
            before.query("START REPLICA IO_THREAD").await?;
            self.waits_for_replica().await;
        }
        Ok(())
    }

    /// Redirects new connections to this server. Existing connections hang forever.
    pub async fn lead_to(&self, server: &MysqlServer) -> Result<()> {
        self.address.strand_now();
        self.address.set_upstream(server.port());
        self.address.set(ProxyFault::Pass).await
    }
}

/// A commit is acknowledged once the replica has it (`AFTER_SYNC`, the default). The timeout is
/// long, because a primary without a replica would continue alone when it expires.
const SEMI_SYNCHRONOUS: [&str; 4] = [
    "--plugin-load-add=semisync_source.so",
    "--plugin-load-add=semisync_replica.so",
    "--rpl-semi-sync-replica-enabled=ON",
    "--rpl-semi-sync-source-timeout=3600000",
];
