//! A system that continues after a dump of its MySQL, and then loses MySQL.

use std::collections::BTreeSet;

use firstcome_stack::{FaultProxy, MysqlOptions, MysqlServer, RedisOptions, RedisServer};
use firstcome_testkit::{
    Fixture, Http, MadeCoupon, OperatorsShell, ReconcilerClient, Running, World, WorldStores,
    all_issued, commands_of, coupon_body, eventually, people, rush,
};
use serde_json::json;

use crate::faults::waves::HEALED;

pub(super) struct Lost {
    pub(super) fixture: Fixture,
    /// A coupon that is in the dump and was open before and after it.
    pub(super) winter: MadeCoupon,
    /// The user who returned their slot of `winter` after the dump.
    pub(super) giver: String,
    /// A coupon created after the dump, with `once_per` drop. The first user of `spring_people`
    /// returned their slot.
    pub(super) spring: MadeCoupon,
    pub(super) spring_people: Vec<String>,
    /// All rows before the loss: coupon, drop, slot, user, code.
    pub(super) before: BTreeSet<Vec<String>>,
    shell: OperatorsShell,
    address: FaultProxy,
    restored: MysqlServer,
    _redis: RedisServer,
}

impl Lost {
    pub(super) async fn begin(name: &str) -> Self {
        let mysql = async || {
            // As managed services run it.
            let extra_args = [
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--log-bin-trust-function-creators=ON",
            ];
            let extra_args = extra_args.map(Into::into).into();
            MysqlServer::start(MysqlOptions { extra_args })
                .await
                .unwrap()
        };
        let redis = async || RedisServer::start(RedisOptions::default()).await.unwrap();
        let (first, restored, redis) = tokio::join!(mysql(), mysql(), redis());
        let address = FaultProxy::start(first.port()).await.unwrap();
        let stores = WorldStores::shared().await.with_redis(&redis);
        let world = World::on(
            stores.with_mysql_at(&first.database_url_via(&address, "")),
            name,
        )
        .await;
        world.set("RECONCILE_CRON", "* * * * * *");
        let mut shell = OperatorsShell::of(&world).await;
        shell.set("DATABASE", world.database());
        shell.set("MYSQL_TCP_PORT", &first.port().to_string());
        let fixture = Fixture::of(world).await;
        let daemon = fixture.world.daemon().await;
        let api = &fixture.api;
        let (winter, held) = fixture.held_of(&coupon_body("Winter", 20, 5), 10).await;
        shell.run(&commands()[0]).await;

        rush(&[api], winter.id, &people(20)[10..], 10).await;
        let [giver, again] = [&held[2].0, &held[3].0];
        let slot = api.give_back(winter.id, giver).await.unwrap().1;
        assert_eq!(
            api.claim(winter.id, "late-1").await.promised(),
            Some((winter.drop, slot.unwrap()))
        );
        let may = json!({"reason": "by mistake", "by": "Kim", "may_claim_again": true});
        api.revoke(winter.id, again, &may).await.unwrap();
        assert!(api.claim(winter.id, again).await.is_accepted());
        api.change(winter.id, &json!({"quantity": 23})).await;
        assert_eq!(
            api.claim(winter.id, "more-1").await.promised(),
            Some((winter.drop, 21))
        );
        all_issued(&fixture.world, winter.drop, 21).await;
        let mut body = coupon_body("Spring", 6, 0);
        body["once_per"] = json!("drop");
        let (spring, spring_held) = fixture.held_of(&body, 5).await;
        api.give_back(spring.id, &spring_held[0].0).await.unwrap();
        api.change(spring.id, &json!({"paused": true})).await;
        assert_eq!(
            (
                fixture.consumer.process.stop().await,
                daemon.process.stop().await
            ),
            (0, 0)
        );
        let mut lost = Self {
            winter,
            giver: giver.clone(),
            spring,
            spring_people: spring_held.into_iter().map(|(user, _)| user).collect(),
            before: BTreeSet::new(),
            shell,
            address,
            restored,
            _redis: redis,
            fixture,
        };
        lost.before = lost.rows().await;
        first.kill().await.unwrap();
        lost
    }

    /// Follows the steps of OPERATIONS. Returns the new consumer and reconciler, which keep
    /// running.
    pub(super) async fn restore(
        &mut self,
        has_redis: bool,
    ) -> (Running<Http>, Running<ReconcilerClient>) {
        let [_, server, redis, _] = commands();
        self.shell
            .set("MYSQL_TCP_PORT", &self.restored.port().to_string());
        let database = self.fixture.world.database();
        for sql in [
            "CREATE USER without_super".to_owned(),
            format!("GRANT ALL ON `{database}`.* TO without_super"),
        ] {
            self.restored.query(&sql).await.unwrap();
        }
        self.shell.set("MYSQL_LOGIN", "without_super");
        self.shell.run(&server).await;
        if has_redis {
            self.shell.run(&redis).await;
        }
        self.address.set_upstream(self.restored.port());
        self.shell.run("firstcome-api migrate").await;
        let world = &self.fixture.world;
        let consumer = world.consume().await;
        eventually("all messages are read again", HEALED, async || {
            consumer.metric("firstcome_consumer_lag", &[]).await == Some(0.0)
        })
        .await;
        (consumer, world.daemon().await)
    }

    /// Returns the coupons and IDs of the users who still lack a row, from the last step of the
    /// runbook.
    pub(super) async fn left_by_name(&self) -> BTreeSet<(i64, String)> {
        let shown = self.shell.run(&commands()[3]).await;
        let people = shown
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>());
        people
            .filter_map(|row| Some((row[0].parse().ok()?, row[3].to_owned())))
            .collect()
    }

    pub(super) async fn rows(&self) -> BTreeSet<Vec<String>> {
        let rows = "SELECT coupon_id, drop_id, slot, user_id, code FROM issued_coupons";
        self.fixture
            .world
            .sql
            .query(rows)
            .await
            .into_iter()
            .collect()
    }
}

fn commands() -> [String; 4] {
    commands_of("Restore MySQL from a dump")
        .try_into()
        .expect("the number of blocks that this test expects")
}
