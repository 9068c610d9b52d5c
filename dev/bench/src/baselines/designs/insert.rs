//! Designs A and E, which take no lock.

use anyhow::Result;
use firstcome_shared::domain::UserId;
use redis::aio::MultiplexedConnection;

use super::sql::DesignRows;
use super::{DesignArgs, DesignReply, Issuer};

/// A: other requests insert between the count and the insert, so the result is more rows than
/// coupons.
pub(super) struct CountThenInsert {
    pub(super) rows: DesignRows,
    pub(super) quantity: u32,
}

impl CountThenInsert {
    pub(super) async fn new(args: &DesignArgs) -> Result<Self> {
        Ok(Self {
            rows: DesignRows::of(args).await?,
            quantity: args.quantity,
        })
    }
}

impl Issuer for CountThenInsert {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let mut conn = self.rows.pool.get_conn().await?;
        let (count, has_row) = self.rows.query(&mut conn, user.as_str()).await?;
        if let Some(reply) =
            DesignReply::if_held(has_row).or(DesignReply::if_over(count >= self.quantity))
        {
            return Ok(reply);
        }
        let inserted = self
            .rows
            .insert(&mut conn, user.as_str(), count + 1)
            .await?;
        Ok(if inserted {
            DesignReply::Accepted(count + 1)
        } else {
            DesignReply::Already
        })
    }
}

/// E: the counter decides, and the row is written before the response. Only MySQL has the holders,
/// so every request queries it first, and a late request decrements the counter again. A number
/// taken by a second click is released.
///
/// If the counter came first, late requests would neither query MySQL nor decrement the counter.
/// That would be faster, but holders who claim again would get `sold_out`, and each number that a
/// second click has taken would be lost.
pub(super) struct CounterThenInsert {
    read_first: bool,
    rows: DesignRows,
    redis: MultiplexedConnection,
    counter: String,
    quantity: u32,
}

impl CounterThenInsert {
    pub(super) async fn new(args: &DesignArgs, read_first: bool) -> Result<Self> {
        let redis = redis::Client::open(args.redis.as_str())?
            .get_multiplexed_async_connection()
            .await?;
        let rows = DesignRows::of(args).await?;
        let counter = args.design.key("count");
        Ok(Self {
            read_first,
            rows,
            redis,
            counter,
            quantity: args.quantity,
        })
    }

    async fn move_counter(&self, by: i64) -> Result<u32> {
        Ok(redis::cmd("INCRBY")
            .arg(&self.counter)
            .arg(by)
            .query_async(&mut self.redis.clone())
            .await?)
    }
}

impl Issuer for CounterThenInsert {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        if self.read_first {
            let mut conn = self.rows.pool.get_conn().await?;
            if self.rows.has_row(&mut conn, user.as_str()).await? {
                return Ok(DesignReply::Already);
            }
        }
        let slot = self.move_counter(1).await?;
        if slot > self.quantity {
            if self.read_first {
                self.move_counter(-1).await?;
            }
            return Ok(DesignReply::SoldOut);
        }
        let mut conn = self.rows.pool.get_conn().await?;
        match self.rows.insert(&mut conn, user.as_str(), slot).await {
            Ok(true) => Ok(DesignReply::Accepted(slot)),
            // Undo the increment, because requests that find the drop sold out never decrement. If
            // the counter is already above the quantity, this slot number is lost.
            Ok(false) => self.move_counter(-1).await.map(|_| DesignReply::Already),
            Err(error) => self.move_counter(-1).await.and(Err(error)),
        }
    }
}
