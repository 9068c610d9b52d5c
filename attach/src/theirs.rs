//! The stores of a team, as one pass uses them. One that is away is asked once: its answer holds for
//! all campaigns, so that no pass waits for it once for each.

use std::collections::HashSet;

use firstcome_shared::report::FailureCause;

use crate::error::{Answer, AttachError};
use crate::kafka::Brokers;
use crate::sql::{Database, Purpose, Session};
use crate::store::Store;

#[derive(Default)]
pub struct Theirs {
    /// `None` between passes.
    pub database: Option<Database>,
    pub session: Option<Session>,
    pub redis: Option<Store>,
    pub brokers: Option<Brokers>,
    pub away: HashSet<FailureCause>,
}

impl Theirs {
    /// Returns the session for reading. A new one follows one that was closed.
    pub async fn session(&mut self) -> Answer<&mut Session> {
        if !self.session.as_ref().is_some_and(Session::is_open)
            && let Some(database) = &self.database
        {
            self.session = Some(database.open(Purpose::Read).await?);
        }
        let missing = || AttachError::Lost("a SELECT is read at the next look".to_owned());
        self.session.as_mut().ok_or_else(missing)
    }

    pub fn redis(&mut self) -> Answer<&mut Store> {
        self.must_answer(FailureCause::Redis)?;
        let missing = || AttachError::misfit("redis: its address is missing");
        self.redis.as_mut().ok_or_else(missing)
    }

    pub fn brokers(&self) -> Answer<&Brokers> {
        self.must_answer(FailureCause::Kafka)?;
        let missing = || AttachError::misfit("kafka: its address is missing");
        self.brokers.as_ref().ok_or_else(missing)
    }

    fn must_answer(&self, store: FailureCause) -> Answer<()> {
        if self.away.contains(&store) {
            return Err(AttachError::away(store, "it is away"));
        }
        Ok(())
    }
}
