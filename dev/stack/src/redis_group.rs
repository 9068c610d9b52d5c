//! Shared code for groups of Redis servers.

use std::future::Future;
use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue};
use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::redis::RedisServer;
use crate::server::{Server, ServerKind};

/// Time limit until a group reaches its desired state.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Time limit of a response. A frozen server accepts connections and never responds.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The product's requirement for a Redis with replicas (docs/decisions/0009-replicas.md).
pub(crate) const FENCE: [&str; 4] = [
    "--min-replicas-to-write",
    "1",
    "--min-replicas-max-lag",
    "10",
];

/// Awaits all futures concurrently.
pub(crate) async fn together<T: Send + 'static>(
    starts: impl IntoIterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    let mut running: JoinSet<_> = starts.into_iter().collect();
    let mut started = Vec::with_capacity(running.len());
    while let Some(one) = running.join_next().await {
        started.push(one??);
    }
    Ok(started)
}

/// Returns the addresses of several servers in the format of `REDIS_URL`.
pub(crate) fn urls<K: ServerKind>(servers: &[Server<K>]) -> String {
    servers
        .iter()
        .map(|server| format!("redis://127.0.0.1:{}", server.port()))
        .collect::<Vec<_>>()
        .join(",")
}

/// Creates a command whose words contain no blanks.
pub(crate) fn words(text: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in text.split(' ') {
        command.arg(word);
    }
    command
}

/// Sends one command on a new connection.
pub(crate) async fn ask<T: FromRedisValue>(port: u16, command: &Cmd) -> Result<T> {
    ask_within(ANSWER_LIMIT, port, command).await
}

/// Does the same as [`ask`], with a different timeout.
pub(crate) async fn ask_within<T: FromRedisValue>(
    limit: Duration,
    port: u16,
    command: &Cmd,
) -> Result<T> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_LIMIT))
        .set_response_timeout(Some(limit));
    let answer = async {
        let client = Client::open(("127.0.0.1", port))?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        command.query_async(&mut connection).await
    };
    answer
        .await
        .with_context(|| format!("Redis at port {port}"))
}

/// Returns the latest log lines of the servers, for an error message.
pub(crate) fn logs<'a, K: ServerKind>(servers: impl IntoIterator<Item = &'a Server<K>>) -> String {
    let log = |server: &Server<K>| {
        format!(
            "--- {} at port {} ---\n{}",
            K::NAME,
            server.port(),
            server.log_tail(15)
        )
    };
    servers.into_iter().map(log).collect::<Vec<_>>().join("\n")
}

/// Returns a field of `INFO` or `CLUSTER INFO`.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

/// Fails until the master has a replica that allows it to write, or the replica has its master's
/// data.
pub(crate) async fn replicates(server: &RedisServer) -> Result<()> {
    let info: String = ask(server.port(), &words("INFO replication")).await?;
    let said = |name| field(&info, name).unwrap_or("missing");
    if said("role") == "slave" {
        ensure!(
            said("master_link_status") == "up",
            "the replica at port {} has no link",
            server.port()
        );
    } else {
        let good = said("min_slaves_good_slaves").parse().unwrap_or(0);
        ensure!(
            good > 0,
            "the master at port {} has no replica to write with",
            server.port()
        );
    }
    Ok(())
}
