//! Tests mails about admission: when it is closed, when no reconciler can reach Redis, and when it
//! is open again.

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_notifier::SeenGate::{self, Open, Unreachable};
use firstcome_shared::domain::CouponId;
use firstcome_shared::report::{ActionKind, Finding, Kind, Outcome, Run, Status};

use crate::desk::{A, Desk, text};
use crate::world::{general, run};

const CLOSED: &str = "[firstcome] action needed: admission is closed (for 30 s)";
const OPENED: &str = "[firstcome] resolved: closure of admission";
const AWAY: &str = "[firstcome] action needed: Redis does not answer (for 30 s)";
const BACK: &str = "[firstcome] resolved: outage of Redis";

/// Coupon 1 is closed.
fn closed() -> SeenGate {
    SeenGate::Closed([CouponId(1)].into())
}

/// What two daemons see for so many seconds. The second one may have ended.
type Scene = (i64, SeenGate, Option<SeenGate>);

#[tokio::test]
async fn admission_is_mailed_once_by_all_daemons_together() {
    let scenes: [(&str, &[Scene], &[&str]); 5] = [
        (
            "a restart of Redis, then a longer closure",
            &[
                (1, Open, Some(Open)),
                (29, closed(), Some(closed())),
                (1, Open, Some(Open)),
                (45, closed(), Some(closed())),
                (2, Open, Some(Open)),
            ],
            &[CLOSED, OPENED],
        ),
        (
            "a daemon starts meanwhile",
            &[(31, closed(), None), (1, Open, Some(Open))],
            &[CLOSED, OPENED],
        ),
        (
            "only one daemon cannot reach Redis",
            &[(1, Open, Some(Open)), (120, Unreachable, Some(Open))],
            &[],
        ),
        (
            "no daemon can reach Redis",
            &[
                (1, Open, Some(Open)),
                (31, Unreachable, Some(Unreachable)),
                (1, Open, Some(Open)),
            ],
            &[AWAY, BACK],
        ),
        (
            "another daemon starts, sees admission open, and ends",
            &[
                (31, Unreachable, None),
                (120, Unreachable, Some(Open)),
                (40, Unreachable, None),
            ],
            &[AWAY, BACK, AWAY],
        ),
    ];
    for (name, scenes, mailed) in scenes {
        let desk = Desk::new(A).await;
        let daemons = [desk.notifier(), desk.notifier()];
        for (seconds, first, second) in scenes {
            for _ in 0..*seconds {
                let now = desk.clock.turn(TimeDelta::seconds(1));
                let gates = [Some(first.clone()), second.clone()].into_iter();
                for (daemon, gate) in daemons.iter().zip(gates) {
                    if let Some(gate) = gate {
                        daemon.admission(gate, now).await.unwrap();
                    }
                }
            }
        }
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed, "{name}");
    }
}

/// One outage of Redis, from its end to the verification of the coupons, has one mail, which says
/// how many coupons are closed and why. A mail about held-back repairs says it already.
#[tokio::test]
async fn coupons_that_stay_closed_are_told_in_one_mail() {
    let why = "the coupon stays closed: 5000 messages are to be read first";
    let stays_closed = Finding {
        coupon_id: Some(CouponId(1)),
        needs_person: true,
        ..general(Kind::RedisLost, ActionKind::Open, Outcome::Failed, why)
    };
    let held = crate::mailed::held_back("r1").drops;
    for (drops, mailed) in [
        (
            Vec::new(),
            [
                "[firstcome] action needed: 1 coupon is closed (for 30 s)",
                OPENED,
            ],
        ),
        (
            held,
            [
                "[firstcome] action needed: 1 repair that waits for a confirmation · Winter coupon · 100 of 100 issued",
                "[firstcome] resolved: 1 repair that waits for a confirmation · Winter coupon · 100 of 100 issued",
            ],
        ),
    ] {
        let desk = Desk::new(A).await;
        let daemon = desk.notifier();
        for n in 0..150 {
            let now = desk.clock.turn(TimeDelta::seconds(1));
            daemon.admission(closed(), now).await.unwrap();
            let tries = Run {
                findings: vec![stays_closed.clone()],
                partial: true,
                ..run(&format!("r{n}"), Status::Drift, drops.clone())
            };
            desk.after_pass(&daemon, &tries).await;
        }
        let opened = crate::mailed::clean("r9");
        desk.after_pass(&daemon, &opened).await;
        daemon.admission(Open, desk.clock.now()).await.unwrap();
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed);
        let text = text(&desk.sink.mails()[0]);
        assert_eq!(text.contains(why), drops.is_empty(), "{text}");
    }
}
