//! The stores of a team, as one pass uses them.

use crate::error::{Answer, AttachError};
use crate::kafka::Brokers;
use crate::sql::{Database, Purpose, Session};
use crate::store::Store;

pub struct Theirs {
    /// `None` between passes.
    pub database: Option<Database>,
    pub session: Option<Session>,
    pub redis: Option<Store>,
    pub brokers: Option<Brokers>,
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
        let missing = || AttachError::misfit("redis: its address is missing");
        self.redis.as_mut().ok_or_else(missing)
    }

    pub fn brokers(&self) -> Answer<&Brokers> {
        let missing = || AttachError::misfit("kafka: its address is missing");
        self.brokers.as_ref().ok_or_else(missing)
    }
}
