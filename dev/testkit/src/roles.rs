//! Starts the processes of the product by role.

use std::ops::Deref;

use firstcome_reconciler::report::Run;

use crate::http::{ApiClient, Http, ReconcilerClient};
use crate::process::Process;
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
    /// The end of stderr and stdout.
    pub log: String,
}

impl Once {
    /// The run that it printed with `--json`.
    pub fn run(&self) -> Run {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: code {}\n{}", self.code, self.log))
    }
}

impl World {
    /// `firstcome-api serve`, started and listening (the reconciler opens the gate).
    pub async fn serve(&self) -> Running<ApiClient> {
        self.serve_with(&[]).await
    }

    /// [`Self::serve`] with additional settings.
    pub async fn serve_with(&self, env: &[(&str, &str)]) -> Running<ApiClient> {
        let process = self.start("firstcome-api", &["serve"], env);
        let base = process.line("listening on ").await;
        Running {
            client: ApiClient::new(&base, self.claims.recorder.clone()),
            process,
        }
    }

    /// `firstcome-api consume`, joined to its group; the client is for its health and metrics.
    pub async fn consume(&self) -> Running<Http> {
        self.consume_with(&[]).await
    }

    /// [`Self::consume`] with additional settings.
    pub async fn consume_with(&self, env: &[(&str, &str)]) -> Running<Http> {
        let process = self.start("firstcome-api", &["consume"], env);
        let base = process.line("listening on ").await;
        process.line("consuming ").await;
        Running {
            client: Http::new(&base),
            process,
        }
    }

    /// `firstcome-reconciler daemon` with these settings. Its first passes may still be running:
    /// for tests of these passes, or of a daemon that cannot finish them.
    pub async fn daemon_with(&self, env: &[(&str, &str)]) -> Running<ReconcilerClient> {
        let process = self.start("firstcome-reconciler", &["daemon"], env);
        let base = process.line("listening on ").await;
        Running {
            client: ReconcilerClient::new(&base),
            process,
        }
    }

    /// `firstcome-reconciler daemon` after its first passes, so that they do not repair what a test
    /// breaks from now on.
    pub async fn daemon(&self) -> Running<ReconcilerClient> {
        let daemon = self.daemon_with(&[]).await;
        eventually("the daemon has nothing more to do", LIMIT, async || {
            let running = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
            let log = daemon.process.log();
            // Another daemon may run the passes.
            let has_begun = log.contains("pass ended") || log.contains("the pass must wait");
            has_begun && self.redis.is_compared().await && self.sql.number(running).await == 0
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
        // The pipe may hold the last line for an instant after the process ended.
        let stdout = process.all_stdout().await;
        Once {
            code,
            stdout,
            log: process.log(),
        }
    }

    /// Opens the gate for the first time. Nothing was admitted yet, so nothing can be in flight to
    /// the topic, and the pass need not wait for the publishing deadline.
    pub async fn open(&self) {
        let once = self
            .once_with(
                &[],
                &[
                    ("PUBLISH_DEADLINE_MS", "100"),
                    ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "100"),
                ],
            )
            .await;
        assert_eq!(once.code, 0, "{}", once.log);
    }

    /// Runs one pass by the command line, which must leave nothing.
    pub async fn pass(&self) -> Run {
        let once = self.once_with(&[], &[]).await;
        assert_eq!(once.code, 0, "{}", once.log);
        once.run()
    }
}
