//! Firstcome beside its own ceilings and beside other designs, measured in one run on real servers.
//!
//! - [`ceiling`]: the least work on the stores that comes to the same.
//! - [`sections`]: what is measured; each part can be run alone, and begins when the machine is
//!   [`quiet`].
//! - [`report`]: the table and `report.json`.
//!
//! The load comes from `firstcome-load`, other designs and bare routes from [`baselines`].

pub mod baselines;
pub mod ceiling;
pub mod cli;
pub mod quiet;
pub mod report;
pub mod run;
pub mod sections;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use firstcome_load::launch::{Installation, Servers, Service};
use firstcome_stack::built_program;
use tokio::process::Command;

/// Where everything is measured.
#[derive(Debug)]
pub struct Bench {
    pub servers: Arc<Servers>,
    /// The programs of another build.
    pub other_build: Option<PathBuf>,
}

impl Bench {
    /// An installation of its own on these servers.
    pub async fn install(&self, name: &str) -> Result<Installation> {
        Installation::named(&self.servers, name, None).await
    }

    /// The route that does nothing.
    pub async fn nothing(&self) -> Result<Service> {
        self.baseline(&["nothing"], &BTreeMap::new()).await
    }

    /// A program of the baselines, by its arguments and settings.
    pub async fn baseline(
        &self,
        args: &[&str],
        settings: &BTreeMap<&'static str, String>,
    ) -> Result<Service> {
        let mut command = Command::new(built_program(baselines::PROGRAM)?);
        self.servers
            .spawn(
                args.first().copied().unwrap_or("baseline"),
                command.args(args).envs(settings),
                "",
            )
            .await
    }

    /// Whether Redis waits for the disk at every write (`always`), or leaves it to a second's batch
    /// (`everysec`).
    pub async fn fsync(&self, policy: &str) -> Result<()> {
        let mut conn = redis::Client::open(self.servers.stack.redis.url())?
            .get_multiplexed_async_connection()
            .await?;
        Ok(redis::cmd("CONFIG")
            .arg("SET")
            .arg("appendfsync")
            .arg(policy)
            .query_async(&mut conn)
            .await?)
    }
}
