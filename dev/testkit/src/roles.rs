//! The processes of the product, each by what it does.

use std::ops::Deref;

use firstcome_reconciler::report::Run;

use crate::http::{ApiClient, Http, ReconcilerClient};
use crate::process::Process;
use crate::world::World;
use crate::{LIMIT, eventually};

/// A process and how to talk to it.
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

/// What `firstcome-reconciler once` did.
#[derive(Debug)]
pub struct Once {
    /// Exit code: 0 clean or repaired, 1 drift left, 2 could not run.
    pub code: i32,
    pub stdout: String,
    /// The end of stderr and stdout.
    pub log: String,
}

impl Once {
    /// The run it printed with `--json`.
    pub fn run(&self) -> Run {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: code {}\n{}", self.code, self.log))
    }
}

impl World {
    /// `firstcome-api serve`, ready to take claims as far as it is concerned (the reconciler opens
    /// the gate).
    pub async fn serve(&self) -> Running<ApiClient> {
        self.serve_with(&[]).await
    }

    /// The same with settings of its own.
    pub async fn serve_with(&self, env: &[(&str, &str)]) -> Running<ApiClient> {
        let process = self.start("firstcome-api", &["serve"], env);
        let base = process.line("listening on ").await;
        Running {
            client: ApiClient::new(&base, self.claims.recorder.clone()),
            process,
        }
    }

    /// `firstcome-api consume`, joined to its group; the client is that of its health and metrics.
    pub async fn consume(&self) -> Running<Http> {
        self.consume_with(&[]).await
    }

    /// The same with settings of its own.
    pub async fn consume_with(&self, env: &[(&str, &str)]) -> Running<Http> {
        let process = self.start("firstcome-api", &["consume"], env);
        let base = process.line("listening on ").await;
        process.line("consuming ").await;
        Running {
            client: Http::new(&base),
            process,
        }
    }

    /// `firstcome-reconciler daemon` with these settings. It may still run the passes with which it
    /// begins: for tests of these passes, or of a daemon that cannot finish them.
    pub async fn daemon_with(&self, env: &[(&str, &str)]) -> Running<ReconcilerClient> {
        let process = self.start("firstcome-reconciler", &["daemon"], env);
        let base = process.line("listening on ").await;
        Running {
            client: ReconcilerClient::new(&base),
            process,
        }
    }

    /// `firstcome-reconciler daemon` after its first passes: they repair nothing that a test breaks
    /// from now on.
    pub async fn daemon(&self) -> Running<ReconcilerClient> {
        let daemon = self.daemon_with(&[]).await;
        let compared = self.redis.own("compared");
        eventually("the daemon has nothing more to do", LIMIT, async || {
            let running = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
            let has_begun = daemon.process.log().contains("pass ended");
            has_begun
                && self.redis.command::<bool>(&["EXISTS", &compared]).await
                && self.sql.number(running).await == 0
        })
        .await;
        daemon
    }

    /// `firstcome-reconciler once --json ARGS`, to its end.
    pub async fn once_with(&self, args: &[&str], env: &[(&str, &str)]) -> Once {
        let mut all = vec!["once", "--json"];
        all.extend(args);
        let process = self.start("firstcome-reconciler", &all, env);
        let code = process.ended(LIMIT).await;
        // The pipe may hold the last line for an instant after the end.
        let stdout = process.all_stdout().await;
        Once {
            code,
            stdout,
            log: process.log(),
        }
    }

    /// Has the gate opened for the first time. Nothing was admitted yet, so nothing can be on its
    /// way to the topic, and the pass need not wait for the publishing deadline.
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

    /// One pass by the command line, which must find nothing that is left over.
    pub async fn pass(&self) -> Run {
        let once = self.once_with(&[], &[]).await;
        assert_eq!(once.code, 0, "{}", once.log);
        once.run()
    }
}
