//! Shapes that do not fit their file: each is one clear sentence, and nothing is written.

use firstcome_shops::published::{DOWN, SYSTEMS};
use firstcome_shops::{System, shapes};

use crate::daemon::{told, why};
use crate::harm::{SET, rows};
use crate::system::{Sold as _, prove, prove_in};
use crate::world::World;

#[tokio::test]
async fn ways_to_write_users_and_rows_are_described_broken_named_and_repaired() {
    prove(shapes::SYSTEMS).await;
}

#[tokio::test]
async fn redis_is_reached_by_a_login_with_an_odd_password_and_in_its_fourth_database() {
    let world = World::new(&[]).await.with_login().await;
    prove_in(&world, &DOWN).await.unwrap();
}

struct Misfit {
    system: System,
    /// What the file says instead.
    says: [&'static str; 2],
    steps: &'static [&'static str],
    told: &'static [&'static str],
    why: &'static str,
}

const WRONG_KIND: &str = "users\": \"…\": Operation against a key holding the wrong kind";

const AS_IT_IS: [&str; 2] = ["", ""];

#[tokio::test]
async fn what_does_not_fit_is_said_and_never_written() {
    let stalled: &[&str] = &["1 stalled skipped"];
    let misfit = |steps, told, why| Misfit {
        system: SET,
        says: AS_IT_IS,
        steps,
        told,
        why,
    };
    let all = [
        misfit(&["DEL @users", "SETBIT @users 5 1"], stalled, WRONG_KIND),
        misfit(&["DEL @users", "XADD @users * user 5"], stalled, WRONG_KIND),
        misfit(&["DEL @users", "RPUSH @users 5"], stalled, WRONG_KIND),
        misfit(
            &["EVAL return(redis.call('SADD',KEYS[1],'\\255')) 1 @users"],
            // It is nobody. All others are compared.
            &[],
            "",
        ),
        Misfit {
            says: ["'@users' }", "'@users', member = 'user:{user}' }"],
            ..misfit(&[], stalled, "member")
        },
        Misfit {
            says: ["'@users' }", "'@users', form = 'java' }"],
            ..misfit(&[], stalled, "another name (or form)")
        },
        Misfit {
            system: DOWN,
            says: ["counts = 'down'", "counts = 'up'"],
            ..misfit(&[], &["1 count_mismatch skipped"], "the counter is 10")
        },
        Misfit {
            system: DOWN,
            ..misfit(
                &["DEL @stock", "SADD @stock 10"],
                stalled,
                "stock\": \"…\": Operation",
            )
        },
        Misfit {
            says: ["queue = []", "queue = [{ list = '@queue' }]"],
            ..misfit(&["SET @queue 5"], stalled, "queue\": \"…\": Operation")
        },
        Misfit {
            says: ["{ set = '@users' }", "'SELECT user_id, 1 FROM coupon'"],
            ..misfit(&[], stalled, "promised selects 2 columns")
        },
        Misfit {
            says: ["FROM coupon'", "FROM coupons'"],
            ..misfit(&[], stalled, "refuses issued: 1146")
        },
    ];
    for misfit in all {
        let (world, fitting) = misfit.system.sold().await;
        drop(fitting);
        world.run(misfit.steps).await;
        let [from, to] = misfit.says;
        let daemon = world.daemon(&misfit.system.file.replacen(from, to, 1));
        let found = daemon.settle().await;
        assert_eq!(told(&found), misfit.told, "{:?}: {found:#?}", misfit.steps);
        assert!(why(&found).contains(misfit.why), "{found:#?}");
        daemon.confirm().await;
        assert_eq!(rows(&world).await, 20);
    }
}

/// A shop keeps no stock of a coupon that never runs out.
#[tokio::test]
async fn counter_of_what_is_left_of_an_unlimited_number_says_nothing() {
    let mut all = SYSTEMS.iter();
    let of_several = all.find(|it| it.file.contains(", quantity FROM"));
    let system = of_several.unwrap();
    let (world, limited) = system.sold().await;
    world.run(&["DEL @stock:7"]).await;
    assert_eq!(told(&limited.settle().await), ["1 count_mismatch skipped"]);
    let unlimited = system.file.replace(", quantity FROM", ", NULL FROM");
    let daemon = world.daemon(&unlimited);
    assert_eq!(told(&daemon.settle().await), [""; 0]);
}
