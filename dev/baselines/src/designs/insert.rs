//! A and E: nothing is held while a person is served.

use anyhow::Result;
use firstcome_shared::domain::UserId;
use redis::aio::MultiplexedConnection;

use super::sql::Rows;
use super::{Place, Said, Shop};

/// A: between the count and the insert others insert too, so there are more rows than coupons.
pub(super) struct CountThenInsert {
    pub(super) rows: Rows,
    pub(super) quantity: u32,
}

impl CountThenInsert {
    pub(super) async fn new(place: &Place) -> Result<Self> {
        Ok(Self { rows: Rows::of(place).await?, quantity: place.quantity })
    }
}

impl Shop for CountThenInsert {
    async fn claim(&self, user: &UserId) -> Result<Said> {
        let mut conn = self.rows.pool.get_conn().await?;
        let (count, held) = self.rows.look(&mut conn, user.as_str()).await?;
        if held {
            return Ok(Said::Already);
        }
        if count >= self.quantity {
            return Ok(Said::SoldOut);
        }
        let inserted = self.rows.insert(&mut conn, user.as_str(), count + 1).await?;
        Ok(if inserted { Said::Accepted(count + 1) } else { Said::Already })
    }
}

/// E: the counter decides, the row is written before the answer. Who holds one is known to MySQL alone, so it is asked by
/// everybody, and whoever comes too late takes back their step, so that a number which a second click took is free again.
/// Or, with the counter first, MySQL is asked by nobody who comes too late, and nothing is taken back: faster, but whoever
/// holds one and asks again is told that it is sold out, and each number that a second click took is lost.
pub(super) struct CounterThenInsert {
    look_first: bool,
    rows: Rows,
    redis: MultiplexedConnection,
    counter: String,
    quantity: u32,
}

impl CounterThenInsert {
    pub(super) async fn new(place: &Place, look_first: bool) -> Result<Self> {
        let redis = redis::Client::open(place.redis.as_str())?.get_multiplexed_async_connection().await?;
        let (rows, counter) = (Rows::of(place).await?, place.design.key("count"));
        Ok(Self { look_first, rows, redis, counter, quantity: place.quantity })
    }

    async fn move_counter(&self, by: i64) -> Result<u32> {
        Ok(redis::cmd("INCRBY").arg(&self.counter).arg(by).query_async(&mut self.redis.clone()).await?)
    }
}

impl Shop for CounterThenInsert {
    async fn claim(&self, user: &UserId) -> Result<Said> {
        if self.look_first {
            let mut conn = self.rows.pool.get_conn().await?;
            if self.rows.held(&mut conn, user.as_str()).await? {
                return Ok(Said::Already);
            }
        }
        let slot = self.move_counter(1).await?;
        if slot > self.quantity {
            if self.look_first {
                self.move_counter(-1).await?;
            }
            return Ok(Said::SoldOut);
        }
        let mut conn = self.rows.pool.get_conn().await?;
        match self.rows.insert(&mut conn, user.as_str(), slot).await {
            Ok(true) => Ok(Said::Accepted(slot)),
            // Undone by hand; with nobody else's step taken back, this number is lost once the counter is past the end.
            Ok(false) => self.move_counter(-1).await.map(|_| Said::Already),
            Err(error) => self.move_counter(-1).await.and(Err(error)),
        }
    }
}
