//! A yes is told only when a second store beside Redis holds it: two faults at once, and no promise is lost in silence.

use std::fs;
use std::path::{Path, PathBuf};

use firstcome_reconciler::report::{Kind, Run};
use firstcome_stack::{KafkaOptions, KafkaServer, MysqlOptions, MysqlServer, RedisOptions, RedisServer};
use firstcome_testkit::{
    Answer, Api, Coupon, Http, LIMIT, Promise, Running, Stores, World, assert_exact, eventually, eventually_some,
    people, rows, rush, tally,
};

use crate::claims::many::{all_issued, holders};
use crate::drift::repairs::{assert_clean, kinds};

/// What a Redis has on disk at one moment.
struct OldCopy(PathBuf);

impl OldCopy {
    fn of(redis: &RedisServer) -> Self {
        let data = redis.data_dir().unwrap();
        let copy = data.with_file_name("old-copy");
        copy_folder(data, &copy);
        Self(copy)
    }

    /// Redis dies and comes back with it.
    async fn restore(self, redis: &RedisServer) {
        redis.kill().await.unwrap();
        let data = redis.data_dir().unwrap();
        fs::remove_dir_all(data).unwrap();
        fs::rename(self.0, data).unwrap();
        redis.start_again().await.unwrap();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A drop of twenty, of which the first five people have their rows.
struct Scene {
    api: Running<Api>,
    _consumer: Running<Http>,
    coupon: Coupon,
    answers: Vec<Promise>,
}

impl Scene {
    async fn set(world: &World) -> Self {
        let api = world.serve().await;
        world.open().await;
        let consumer = world.consume().await;
        let coupon = api.open_coupon(20).await;
        let answers = rush(&[&api], coupon.id, &people(5), 5).await;
        all_issued(world, coupon.drop, 5).await;
        Self { api, _consumer: consumer, coupon, answers }
    }
}

/// Passes until one ends well; gives the run that did.
async fn mended(world: &World) -> Run {
    eventually_some("a pass mends it", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        if once.code == 0 { Ok(once.run()) } else { Err(once.log) }
    })
    .await
}

/// Every slot is taken by whoever comes next, and the drop is exact with every promise kept.
async fn filled_up(world: &World, api: &Api, coupon: &Coupon, mut answers: Vec<Promise>) {
    let more: Vec<String> = (1..=20).map(|n| format!("late-{n}")).collect();
    answers.extend(rush(&[api], coupon.id, &more, 20).await);
    all_issued(world, coupon.drop, 20).await;
    assert_exact(world, coupon, 20, &answers).await;
    mended(world).await;
    assert_clean(&world.pass().await, coupon);
}

#[tokio::test]
async fn with_kafka_down_and_redis_gone_back_every_promise_becomes_a_row() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka).with_redis(&redis), "second-kafka").await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    let (Scene { api, _consumer, coupon, mut answers }, users) = (Scene::set(&world).await, people(15));
    let before = OldCopy::of(&redis);

    kafka.kill().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[5..], 10).await);
    assert_eq!(tally(&answers), [("accepted".into(), 15)].into());
    before.restore(&redis).await;
    assert_eq!(holders(&world, &coupon).await, 5, "Redis has forgotten ten");
    kafka.start_again().await.unwrap();

    let run = mended(&world).await;
    assert_eq!(kinds(&run).get(&Kind::FailedClaim), Some(&10), "{run:#?}");
    assert!(run.all_findings().any(|f| f.detail.contains("Kafka did not acknowledge it in time")), "{run:#?}");
    assert_eq!(rows(&world, coupon.drop).await.len(), 15);
    assert!(world.sql.query("SELECT * FROM failed_claims WHERE resolved_at IS NULL").await.is_empty());
    let args = ["explain", "--coupon", &coupon.id.to_string(), "--user", "u-9"];
    let story = world.start("firstcome-reconciler", &args, &[]);
    assert_eq!(story.ended(LIMIT).await, 0, "{}", story.log());
    let story = story.all_stdout().await;
    assert!(story.contains("unpublished") && story.contains("dealt with: issued"), "{story}");
    filled_up(&world, &api, &coupon, answers).await;
}

#[tokio::test]
async fn with_kafka_down_and_redis_emptied_nobody_s_slot_is_given_away() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka).with_redis(&redis), "second-flush").await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    let (Scene { api, _consumer, coupon, mut answers }, users) = (Scene::set(&world).await, people(15));
    kafka.kill().await.unwrap();
    answers.extend(rush(&[&api], coupon.id, &users[5..], 10).await);
    world.redis.command::<()>(&["FLUSHALL"]).await;
    kafka.start_again().await.unwrap();

    // The gate is still open: admission is possible again the moment the drop is loaded.
    let newcomer = eventually_some("somebody new gets a slot", LIMIT, async || {
        let answer = api.claim(coupon.id, "u-new").await;
        if answer.promised().is_some() { Ok(answer) } else { Err(format!("{answer:?}")) }
    });
    let (told, _) = tokio::join!(newcomer, mended(&world));
    assert!(told.promised().is_some_and(|(_, slot)| slot > 15), "{told:?}");
    answers.push(("u-new".into(), told));
    filled_up(&world, &api, &coupon, answers).await;
}

#[tokio::test]
async fn a_retry_after_an_api_died_unpublished_is_kept_although_redis_goes_back() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_redis(&redis), "second-retry").await;
    let Scene { api, _consumer, coupon, mut answers } = Scene::set(&world).await;
    let dying = world.serve_with(&[("FIRSTCOME_CRASH_AT", "claim_admitted")]).await;
    let before = OldCopy::of(&redis);

    assert!(matches!(dying.claim(coupon.id, "u-6").await, Answer::Unknown(_)));
    let told = api.claim(coupon.id, "u-6").await;
    assert_eq!(told, Answer::Already { drop: coupon.drop, slot: 6 });
    answers.push(("u-6".into(), told));
    before.restore(&redis).await;
    assert_eq!(holders(&world, &coupon).await, 5, "Redis has forgotten one");

    mended(&world).await;
    all_issued(&world, coupon.drop, 6).await;
    filled_up(&world, &api, &coupon, answers).await;
}

#[tokio::test]
async fn with_kafka_and_mysql_down_nobody_is_promised_anything_and_a_retry_has_its_slot_and_row() {
    let kafka = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let world = World::on(Stores::shared().await.with_kafka(&kafka).with_mysql(&mysql), "second-both").await;
    world.set("PUBLISH_DEADLINE_MS", "300");
    world.set("BACKUP_DEADLINE_MS", "300");
    let (Scene { api, _consumer, coupon, mut answers }, users) = (Scene::set(&world).await, people(15));

    kafka.kill().await.unwrap();
    mysql.kill().await.unwrap();
    for user in &users[5..] {
        let reply = Http::send(api.claim_request(coupon.id, user)).await;
        assert_eq!((reply.status, reply.body["code"].as_str()), (503, Some("unavailable")), "{reply:?}");
        assert!(reply.retry_after().is_some_and(|seconds| seconds >= 1));
    }
    kafka.start_again().await.unwrap();
    mysql.start_again().await.unwrap();
    for user in &users[5..] {
        let answer = eventually_some("a retry is told its slot", LIMIT, async || {
            let answer = api.claim(coupon.id, user).await;
            if answer.promised().is_some() { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await;
        assert!(matches!(answer, Answer::Already { .. }), "{answer:?}");
        answers.push((user.clone(), answer));
    }
    let done = async || rows(&world, coupon.drop).await.len() == 15;
    eventually("they have rows", LIMIT, async || {
        done().await || (world.once_with(&[], &[]).await.code == 0 && done().await)
    })
    .await;
    filled_up(&world, &api, &coupon, answers).await;
}
