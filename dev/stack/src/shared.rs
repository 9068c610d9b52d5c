//! Servers that all tests of a process share. They start at first use and end with the process.

use anyhow::Result;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::kafka::{KafkaOptions, KafkaServer};
use crate::proxy::{FaultProxy, ProxyFault};
use crate::stack::{Stack, StackOptions};

impl Stack {
    /// Returns the servers that no test may break.
    pub async fn shared() -> Result<&'static Self> {
        static STACK: OnceCell<Stack> = OnceCell::const_new();
        STACK
            .get_or_try_init(|| Self::start(StackOptions::without_fsync()))
            .await
    }
}

/// A Kafka that one test at a time may break.
#[derive(Debug)]
pub struct BreakableKafka {
    pub server: &'static KafkaServer,
    /// All clients reach the broker through it. After `Cut` they see a dead broker, which costs
    /// less than a restart.
    pub proxy: &'static FaultProxy,
    _turn: MutexGuard<'static, ()>,
}

impl KafkaServer {
    /// Waits until no other test has the Kafka that tests may break, and returns it in order.
    pub async fn breakable() -> Result<BreakableKafka> {
        static KAFKA: OnceCell<(KafkaServer, FaultProxy)> = OnceCell::const_new();
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let (server, proxy) = KAFKA
            .get_or_try_init(|| Self::start_behind_proxy(KafkaOptions::default()))
            .await?;
        // A failed test may have left it dead or frozen.
        if server.pid().is_none() {
            server.start_again().await?;
        }
        server.thaw().await?;
        proxy.set(ProxyFault::Pass).await?;
        Ok(BreakableKafka {
            server,
            proxy,
            _turn: turn,
        })
    }
}
