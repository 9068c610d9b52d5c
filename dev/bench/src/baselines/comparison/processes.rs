use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use firstcome_load::launch::{Installation, Servers, Service};
use firstcome_load::terminal::step;
use firstcome_stack::{built_program, mysql_connection};
use mysql_async::prelude::Queryable as _;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::baselines::PROGRAM;
use crate::baselines::designs::{Design, prepare};

/// Rows that have not arrived after this time count as lost. It is longer than the session of a
/// killed consumer.
const STILL: Duration = Duration::from_secs(12);

/// The processes of a design, and the location of its rows.
pub(crate) struct Processes {
    servers: Arc<Servers>,
    installation: Option<Installation>,
    pub(crate) api: Service,
    pub(super) consumer: Option<Service>,
    reconciler: Option<Service>,
    pub(crate) coupon: i64,
    rows_of: String,
}

async fn firstcome(servers: &Arc<Servers>, quantity: u32) -> Result<Processes> {
    let installation = Installation::named(servers, "rush", None).await?;
    let (reconciler, api, consumer) = tokio::try_join!(
        installation.reconciler(),
        installation.api(),
        installation.consumer()
    )?;
    let coupon = installation.coupon(&api, quantity).await?;
    Ok(Processes {
        servers: servers.clone(),
        rows_of: format!(
            "firstcome_rush.issued_coupons WHERE drop_id = {}",
            coupon.drop
        ),
        installation: Some(installation),
        api,
        consumer: Some(consumer),
        reconciler: Some(reconciler),
        coupon: coupon.id,
    })
}

async fn other(servers: &Arc<Servers>, design: Design, quantity: u32) -> Result<Processes> {
    let stack = &servers.stack;
    prepare(&stack.mysql, design, quantity).await?;
    let place: Vec<String> = [
        ("--design", design.word().to_owned()),
        ("--database", stack.mysql.database_url("bench")),
        ("--quantity", quantity.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    let api = servers
        .spawn(
            &format!("design-{}", design.word()),
            &mut program("serve", &place)?,
            "",
        )
        .await?;
    Ok(Processes {
        servers: servers.clone(),
        installation: None,
        rows_of: format!("bench.{}", design.table()),
        api,
        consumer: None,
        reconciler: None,
        coupon: 1,
    })
}

pub(super) fn program(command: &str, place: &[String]) -> Result<Command> {
    let mut program = Command::new(built_program(PROGRAM)?);
    program.arg(command).args(place);
    Ok(program)
}

impl Processes {
    pub(crate) async fn start(
        servers: &Arc<Servers>,
        design: Design,
        quantity: u32,
    ) -> Result<Self> {
        if design == Design::H {
            firstcome(servers, quantity).await
        } else {
            other(servers, design, quantity).await
        }
    }

    /// Starts another consumer of Firstcome.
    pub(super) async fn new_consumer(&self) -> Result<Service> {
        let installation = self.installation.as_ref().context("no consumer")?;
        installation.consumer().await
    }

    pub(super) async fn count(&self, conn: &mut mysql_async::Conn) -> Result<u64> {
        Ok(conn
            .query_first(format!("SELECT COUNT(*) FROM {}", self.rows_of))
            .await?
            .unwrap_or(0))
    }

    pub(super) async fn until_rows(&self, wanted: u64) -> Result<()> {
        let mut conn = mysql_connection(&self.servers.stack.mysql.url()).await?;
        let begun = Instant::now();
        while self.count(&mut conn).await? < wanted && begun.elapsed() < STILL {
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits for this many rows, or until no more arrive. Returns the number of statements that the
    /// wait itself sent.
    pub(super) async fn settle(&self, wanted: u64) -> Result<u64> {
        let mut conn = mysql_connection(&self.servers.stack.mysql.url()).await?;
        // The driver sends some statements when it connects.
        let mut statements = 2;
        let mut last = u64::MAX;
        let mut since = Instant::now();
        loop {
            let rows = self.count(&mut conn).await?;
            statements += 1;
            if rows != last {
                last = rows;
                since = Instant::now();
            }
            if rows >= wanted || since.elapsed() > STILL {
                conn.disconnect().await?;
                return Ok(statements);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Counts the rows by user.
    pub(super) async fn rows_by_person(&self) -> Result<HashMap<String, u64>> {
        let mut conn = mysql_connection(&self.servers.stack.mysql.url()).await?;
        let users: Vec<String> = conn
            .query(format!("SELECT user_id FROM {}", self.rows_of))
            .await?;
        let mut rows_by_person = HashMap::new();
        for user in users {
            *rows_by_person.entry(user).or_default() += 1;
        }
        Ok(rows_by_person)
    }

    /// Stops the processes. The other designs have no graceful shutdown, so they are killed.
    pub(crate) async fn stop(self) {
        for service in [Some(self.api), self.consumer, self.reconciler]
            .into_iter()
            .flatten()
        {
            let name = service.name().to_owned();
            let ended = if self.installation.is_some() {
                service.stop().await
            } else {
                service.kill().await
            };
            if let Err(error) = ended {
                step(format!("{name}: {error:#}"));
            }
        }
    }
}
