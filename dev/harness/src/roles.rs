//! Starts the processes of the product by role.

use std::ops::Deref;

use firstcome_reconciler::report::Run;

use crate::http::{ApiClient, Http, ReconcilerClient};
use crate::process::Process;
use crate::system::Role;
use crate::world::World;
use crate::{LIMIT, eventually};

/// A process and its client.
#[derive(Debug)]
pub struct Running<C> {
    pub process: Process,
    client: C,
}

impl<C> Deref for Running<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

/// The result of `firstcome-reconciler once`.
#[derive(Debug)]
pub struct Once {
    /// Exit code: 0 clean or repaired, 1 drift left, 2 could not run.
    pub code: i32,
    pub stdout: String,
    /// Stderr and stdout.
    pub log: String,
}

impl Once {
    /// Parses the run that the process printed with `--json`.
    pub fn run(&self) -> Run {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: code {}\n{}", self.code, self.log))
    }
}

impl World {
    /// Starts a process and does not wait until it is ready.
    pub fn begin(&self, role: Role, env: &[(&str, &str)]) -> Process {
        let name = format!("{role:?}").to_lowercase();
        Process(self.system.begin(&name, role, env).unwrap())
    }

    /// Starts a process, waits until it is ready, and creates its client.
    async fn running<C>(
        &self,
        role: Role,
        env: &[(&str, &str)],
        client: impl FnOnce(&str) -> C,
    ) -> Running<C> {
        let name = format!("{role:?}").to_lowercase();
        let service = self.system.start(&name, role, env).await.unwrap();
        Running {
            client: client(&service.url),
            process: Process(service.program),
        }
    }

    /// Returns a client that records its claims, for the API at this address.
    pub fn client(&self, base: &str) -> ApiClient {
        ApiClient::new(base, self.claims.recorder.clone(), self.apis.clone())
    }

    /// Starts `firstcome-api serve` and waits until it listens. The API opens the coupons that it
    /// creates, but only a reconciler reopens a coupon that was closed.
    pub async fn serve(&self) -> Running<ApiClient> {
        self.serve_with(&[]).await
    }

    /// Like [`Self::serve`], with additional settings.
    pub async fn serve_with(&self, env: &[(&str, &str)]) -> Running<ApiClient> {
        self.running(Role::Api, env, |url| self.client(url)).await
    }

    /// Starts `firstcome-api consume` and waits until it listens and is about to join its group.
    /// The client reads its health and metrics.
    pub async fn consume(&self) -> Running<Http> {
        self.consume_with(&[]).await
    }

    /// Like [`Self::consume`], with additional settings.
    pub async fn consume_with(&self, env: &[(&str, &str)]) -> Running<Http> {
        self.running(Role::Consumer, env, Http::new).await
    }

    /// Starts `firstcome-reconciler daemon` with these settings. Its first passes may still be
    /// running. Use it to test these passes, or a daemon that cannot finish them.
    pub async fn daemon_with(&self, env: &[(&str, &str)]) -> Running<ReconcilerClient> {
        self.running(Role::Reconciler, env, ReconcilerClient::new)
            .await
    }

    /// Starts `firstcome-reconciler daemon` and waits for its first passes. Otherwise, they might
    /// repair the damage that a test does afterwards.
    pub async fn daemon(&self) -> Running<ReconcilerClient> {
        let ids = "SELECT id FROM reconcile_runs";
        let before = self.sql.query(ids).await.concat();
        let daemon = self.daemon_with(&[]).await;
        // Only a full pass writes this time at its end. At the start, the daemon writes it if it is
        // missing, which is earlier than the end of any of its runs.
        let ended = "SELECT id FROM reconcile_runs WHERE finished_at <= (SELECT \
                     CAST(SUBSTRING_INDEX(value, '+', 1) AS DATETIME(3)) FROM reconciler_state \
                     WHERE name = 'last_run:reconcile')";
        eventually("the daemon has nothing more to do", LIMIT, async || {
            let running = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
            let ended = self.sql.query(ended).await.concat();
            daemon.process.log().contains("pass ended")
                && ended.iter().any(|run| !before.contains(run))
                && self.redis.gates_are_open().await
                && self.sql.number(running).await == 0
        })
        .await;
        daemon
    }

    /// Runs `firstcome-reconciler once --json ARGS` to its end.
    pub async fn once_with(&self, args: &[&str], env: &[(&str, &str)]) -> Once {
        let mut all = vec!["once", "--json"];
        all.extend(args);
        let process = self.start("firstcome-reconciler", &all, env);
        let code = process.ended(LIMIT).await;
        // The last line may still be in the pipe for a moment after the process has ended.
        let stdout = process.all_stdout().await;
        Once {
            code,
            stdout,
            log: process.log(),
        }
    }

    /// Runs one pass on the command line, which must leave no drift.
    pub async fn pass(&self) -> Run {
        let once = self.once_with(&[], &[]).await;
        assert_eq!(once.code, 0, "{}", once.log);
        once.run()
    }
}
