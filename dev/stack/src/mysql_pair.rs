//! A MySQL primary, its semi-synchronous replica, and an address that leads to the current primary.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::mysql::{MysqlOptions, MysqlServer};
use crate::proxy::{FaultProxy, ProxyFault};
use crate::wait::within;

const LIMIT: Duration = Duration::from_secs(60);

/// A commit is acknowledged once the replica has it (`AFTER_SYNC`, the default). The timeout is
/// long, because a primary without a replica would continue alone when it expires.
const SEMI_SYNCHRONOUS: [&str; 6] = [
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--plugin-load-add=semisync_source.so",
    "--plugin-load-add=semisync_replica.so",
    "--rpl-semi-sync-replica-enabled=ON",
    "--rpl-semi-sync-source-timeout=3600000",
];

/// A primary and its replica, behind one address that a failover redirects.
#[derive(Debug)]
pub struct MysqlPair {
    pub primary: MysqlServer,
    /// The replica, read-only until it is promoted.
    pub replica: MysqlServer,
    /// The address, which initially leads to the primary.
    pub address: FaultProxy,
}

impl MysqlPair {
    pub async fn start() -> Result<Self> {
        let server = |number: u32, waits: &str| {
            let mut extra_args: Vec<String> = SEMI_SYNCHRONOUS.map(Into::into).into();
            extra_args.push(format!("--server-id={number}"));
            extra_args.push(format!("--rpl-semi-sync-source-enabled={waits}"));
            MysqlServer::start(MysqlOptions::with(extra_args))
        };
        // The replica has no replica to wait for and would wait forever.
        let (primary, replica) = tokio::try_join!(server(1, "ON"), server(2, "OFF"))?;
        let address = primary.proxy().await?;
        let pair = Self {
            primary,
            replica,
            address,
        };
        let source = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'root', \
             GET_SOURCE_PUBLIC_KEY = 1, SOURCE_AUTO_POSITION = 1",
            pair.primary.port()
        );
        for sql in [&*source, "START REPLICA", "SET GLOBAL super_read_only = ON"] {
            pair.replica.query(sql).await?;
        }
        let waits = "SELECT variable_value FROM performance_schema.global_status \
                     WHERE variable_name = 'Rpl_semi_sync_source_clients'";
        within(LIMIT, async || {
            let clients = pair.primary.query(waits).await?;
            ensure!(
                clients == [["1"]],
                "the primary does not wait for the replica"
            );
            Ok(())
        })
        .await?;
        Ok(pair)
    }

    /// Makes the primary's host unreachable: connections stay open without traffic, and new ones
    /// hang.
    pub async fn lose_primary(&self) -> Result<()> {
        self.address.set(ProxyFault::BlackHole).await?;
        self.primary.freeze().await
    }

    /// Lets the replica apply everything it received, and promotes it to primary.
    pub async fn promote(&self) -> Result<()> {
        self.replica.query("STOP REPLICA IO_THREAD").await?;
        let received =
            "SELECT received_transaction_set FROM performance_schema.replication_connection_status";
        let received = self.replica.query(received).await?.concat().concat();
        let wait = format!(
            "SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', {})",
            received.replace('\n', ""),
            LIMIT.as_secs()
        );
        let timed_out = self.replica.query(&wait).await?;
        ensure!(timed_out == [["0"]], "the replica lags");
        for sql in [
            "STOP REPLICA",
            "RESET REPLICA ALL",
            "SET GLOBAL read_only = OFF",
        ] {
            self.replica.query(sql).await?;
        }
        Ok(())
    }

    /// Promotes the replica and redirects the address to it.
    pub async fn fail_over(&self) -> Result<()> {
        self.promote().await?;
        self.lead_to(&self.replica).await
    }

    /// Redirects new connections to this server. Existing connections hang forever.
    pub async fn lead_to(&self, server: &MysqlServer) -> Result<()> {
        self.address.strand_now();
        self.address.set_upstream(server.port());
        self.address.set(ProxyFault::Pass).await
    }
}
