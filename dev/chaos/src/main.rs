//! `firstcome-chaos`: runs, replays and shows fault schedules.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use firstcome_chaos::campaign::Campaign;
use firstcome_chaos::run::DEADLINE;
use firstcome_chaos::schedule::FaultSchedule;
use firstcome_chaos::worker::CampaignWorker;

/// Breaks real servers and processes at random, and checks that every promise is kept.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs schedules, one per seed. Failures are kept and shrunk.
    Run(Campaign),
    /// Replays a kept schedule or the schedule of a seed, and records the result.
    Replay {
        /// A `schedule.json` or `shrunk.json`, or a seed.
        what: String,
        /// Folder for the recorded results.
        #[arg(long, default_value = "target/chaos/replay")]
        out: PathBuf,
    },
    /// Prints the schedule of a seed.
    Show {
        /// The seed.
        seed: u64,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let good = match Args::parse().verb {
        Verb::Run(campaign) => {
            let report = campaign.run().await?;
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(campaign.out.join("report.json"), text)?;
            let (failed, all) = (report.failed(), report.schedules());
            println!("\n{report}\n\n{failed} of {all} schedules failed");
            report.passed()
        }
        Verb::Replay { what, out } => replay(&what, &out).await?,
        Verb::Show { seed } => {
            println!("{}", FaultSchedule::draw(seed));
            true
        }
    };
    Ok(ExitCode::from(u8::from(!good)))
}

async fn replay(what: &str, out: &std::path::Path) -> Result<bool> {
    let schedule = if let Ok(seed) = what.parse() {
        FaultSchedule::draw(seed)
    } else {
        let text =
            std::fs::read(what).with_context(|| format!("{what} is neither a seed nor a file"))?;
        serde_json::from_slice(&text).with_context(|| format!("{what} is not a schedule"))?
    };
    println!("{schedule}");
    let ran = CampaignWorker::new(DEADLINE).run(&schedule, out).await?;
    println!("{ran:#?}");
    println!("history, logs and verdict are in {}", out.display());
    Ok(ran.wrong.is_empty())
}
