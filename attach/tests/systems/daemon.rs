//! A process of the reconciler over a file, whose time passes at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use chrono::Utc;
use firstcome_attach::file::{AttachFile, Campaign};
use firstcome_attach::{Confirm, Engine, PassOptions};
use firstcome_shared::config::TlsArgs;
use firstcome_shared::report::{Finding, Outcome, Run, Trigger};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::world::World;

const REDIS_TIMEOUT_MS: u64 = 5_000;

pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    text: String,
    ours: String,
    shown: Mutex<Vec<String>>,
}

impl World {
    /// Starts a process over this file.
    pub(crate) fn daemon(&self, campaigns: &str) -> Daemon {
        Daemon::start(self.file(campaigns), &self.ours)
    }
}

impl Daemon {
    pub(crate) fn start(text: String, ours: &str) -> Self {
        let file = AttachFile::parse(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        let tls = TlsArgs::default();
        let engine = Engine::new(file, Some(&ours.to_owned().into()), &tls, REDIS_TIMEOUT_MS);
        Self {
            text,
            ours: ours.to_owned(),
            ..Self::over(engine.unwrap())
        }
    }

    pub(crate) fn over(engine: Engine) -> Self {
        Self {
            engine,
            text: String::new(),
            ours: String::new(),
            shown: Mutex::default(),
        }
    }

    /// Starts another process over the same file.
    pub(crate) fn restarted(&self) -> Self {
        Self::start(self.text.clone(), &self.ours)
    }

    pub(crate) async fn pass(&self) -> Run {
        let options = PassOptions {
            is_requested: true,
            ..PassOptions::default()
        };
        self.pass_with(options).await
    }

    /// A pass that nobody asked for, so that campaigns may rest.
    pub(crate) async fn scheduled(&self) -> Vec<Finding> {
        let run = self.pass_with(PassOptions::default()).await;
        run.all_findings().cloned().collect()
    }

    async fn pass_with(&self, options: PassOptions) -> Run {
        let mut run = Run::begun("run", Trigger::Cli, Utc::now());
        let stop = CancellationToken::new();
        let passed = self.engine.pass(&options, &mut run, &stop).await;
        passed.unwrap();
        let lines = self.engine.shown().await.into_iter();
        let details = run.all_findings().map(|it| it.detail.clone());
        *self.shown.lock() = lines.chain(details).collect();
        run
    }

    /// Passes until nothing can become older. Returns what was repaired, and what is left.
    pub(crate) async fn settle(&self) -> Vec<Finding> {
        let campaigns = || self.engine.file.campaigns.iter();
        // A round takes one pass more than it has stages. The one that runs already may have begun
        // too early for a difference, which must be seen before the next one begins.
        let stages = campaigns().map(|it| it.stages().len()).max();
        let passes = 2 * (stages.unwrap_or_default() + 1) + 1;
        let longest = campaigns().map(Campaign::in_flight).max();
        let longest = longest.unwrap_or(Duration::from_secs(600));
        let mut repaired = Vec::new();
        for _ in 0..passes {
            let run = self.pass().await;
            let written = run
                .all_findings()
                .filter(|it| it.result == Outcome::Applied);
            repaired.extend(written.cloned());
            self.engine.clock.forward(longest);
        }
        let run = self.pass().await;
        repaired.extend(run.all_findings().cloned());
        repaired
    }

    /// Confirms everything that the last pass has planned.
    pub(crate) async fn confirm(&self) -> Vec<Finding> {
        let planned = self.pass().await;
        self.confirm_shown_by(&planned).await
    }

    pub(crate) async fn confirm_shown_by(&self, run: &Run) -> Vec<Finding> {
        let options = PassOptions {
            confirm: Confirm::shown_by(run),
            is_requested: true,
            ..PassOptions::default()
        };
        let run = self.pass_with(options).await;
        run.all_findings().cloned().collect()
    }

    /// The commands of Redis that the last pass printed for people.
    pub(crate) fn commands(&self) -> Vec<String> {
        let shown = self.shown.lock();
        let commands = shown
            .iter()
            .filter_map(|line| firstcome_shops::command(line));
        commands.map(str::to_owned).collect()
    }
}

/// Polls a future so many times. Returns its output if it ends meanwhile: a process that is killed
/// has come up to some reading or statement.
pub(crate) async fn first_polls<F: Future>(
    number: usize,
    future: Pin<&mut F>,
) -> Option<F::Output> {
    let mut future = future;
    let mut left = number;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Counts the findings by kind and result, such as "2 unissued applied".
pub(crate) fn told(findings: &[Finding]) -> Vec<String> {
    let each = findings.iter();
    let mut all: Vec<String> = each
        .map(|it| format!("{} {}", it.kind.as_str(), it.result.as_str()))
        .collect();
    all.sort();
    let same = all.chunk_by(|a, b| a == b);
    same.map(|same| format!("{} {}", same.len(), same[0]))
        .collect()
}

/// Joins the sentences of findings.
pub(crate) fn why(findings: &[Finding]) -> String {
    let details = findings.iter().map(|it| it.detail.clone());
    details.collect::<Vec<_>>().join("\n")
}
