//! The usual starting point of a test: a running system, and coupons that users hold.

use firstcome_stack::{RedisOptions, RedisServer};
use serde_json::Value;

use crate::check::{PromisedAnswer, all_issued};
use crate::http::{ApiClient, Http, MadeCoupon, coupon_body};
use crate::roles::Running;
use crate::rush::{people, rush_until_answered};
use crate::world::{World, WorldStores};

/// A world with an API and a consumer.
pub struct Fixture {
    pub world: World,
    pub api: Running<ApiClient>,
    pub consumer: Running<Http>,
}

impl Fixture {
    pub async fn new(name: &str) -> Self {
        Self::of(World::new(name).await).await
    }

    /// Creates a system on a private Redis, which the test may break, with these settings.
    pub async fn with_own_redis(name: &str, settings: &[(&str, &str)]) -> (Self, RedisServer) {
        let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
        let stores = WorldStores::shared().await.with_redis(&redis);
        let world = World::on(stores, name).await;
        for (name, value) in settings {
            world.set(name, value);
        }
        (Self::of(world).await, redis)
    }

    pub async fn of(world: World) -> Self {
        let (api, consumer) = tokio::join!(world.serve(), world.consume());
        // Set as in a real installation: the operations page needs the API to change coupons, and
        // mails show the API's address.
        world.set("API_URL", api.http().base());
        Self {
            world,
            api,
            consumer,
        }
    }

    /// Creates a coupon that opened long ago and is held by this many users.
    pub async fn held(
        &self,
        name: &str,
        quantity: u32,
        holders: usize,
    ) -> (MadeCoupon, Vec<PromisedAnswer>) {
        self.held_of(&coupon_body(name, quantity, 0), holders).await
    }

    /// Like [`Self::held`], with a coupon created from this body.
    pub async fn held_of(&self, body: &Value, holders: usize) -> (MadeCoupon, Vec<PromisedAnswer>) {
        let coupon = self.api.create_coupon(body).await;
        let users = people(holders);
        let answers = rush_until_answered(&[&self.api], coupon.id, &users, 50).await;
        all_issued(&self.world, coupon.drop, holders).await;
        (coupon, answers)
    }
}

/// Creates a world with an API.
pub async fn open_world(name: &str) -> (World, Running<ApiClient>) {
    let world = World::new(name).await;
    let api = world.serve().await;
    (world, api)
}
