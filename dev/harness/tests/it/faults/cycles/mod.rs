//! Crash cycles: a process dies at a durable step, is restarted, dies there again, and is then
//! restarted normally. Afterwards the drop must be exact, and every promise must have its row on
//! its slot.
//!
//! `CYCLES=100` runs a hundred cycles at every point (`cargo xtask crashes`). By default each point
//! has one cycle. The stores and the processes that do not crash survive from cycle to cycle. Each
//! cycle has a separate coupon.

mod batch;
mod claim;
mod environment;
mod list;
mod outbox;
mod repair;
mod revoke;

use environment::Environment;
use firstcome_shared::crash::Point;

/// The steps that lead a process to a point and check what it leaves behind. A point without a
/// scenario does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Claim,
    /// Kafka does not accept a claim.
    Kept,
    /// A user returns a claim, or an operator revokes it.
    Revoke,
    /// An operator changes an allow list.
    List,
    Batch,
    Repair,
    Mail,
    Webhook,
}

fn scenario(point: Point) -> Scenario {
    match point {
        Point::ClaimAsked | Point::ClaimAdmitted | Point::ClaimSent | Point::ClaimPublished => {
            Scenario::Claim
        }
        Point::ClaimKept => Scenario::Kept,
        Point::RevocationWritten | Point::RevocationReleased | Point::RevocationEnded => {
            Scenario::Revoke
        }
        Point::ListWritten | Point::ListFollowed => Scenario::List,
        Point::RowsBegun | Point::RowsInserted | Point::FallbackInserted | Point::RowsCommitted => {
            Scenario::Batch
        }
        Point::RunBegun
        | Point::RepairBegun
        | Point::PeopleRebuilt
        | Point::DropLoaded
        | Point::PersonPromoted
        | Point::BrokenListed
        | Point::RowReissued
        | Point::RunDone
        | Point::RunRecorded
        | Point::EraBegun
        | Point::GateDue
        | Point::GateOpened => Scenario::Repair,
        Point::MailDue | Point::MailSent => Scenario::Mail,
        Point::WebhookDue | Point::WebhookSent => Scenario::Webhook,
    }
}

/// Lanes run concurrently. The points of a lane run their cycles one after the other. A consumer's
/// cycle mostly waits for the group to notice a dead member, so each of its points has a separate
/// lane.
fn lanes() -> Vec<Vec<Point>> {
    let all = |wanted: Scenario| -> Vec<Point> {
        let points = Point::ALL.iter().copied();
        points.filter(|p| scenario(*p) == wanted).collect()
    };
    let mut lanes = [
        Scenario::Claim,
        Scenario::Kept,
        Scenario::Revoke,
        Scenario::List,
        Scenario::Mail,
        Scenario::Webhook,
    ]
    .map(all)
    .to_vec();
    lanes.extend(all(Scenario::Batch).into_iter().map(|point| vec![point]));
    lanes.extend(all(Scenario::Repair).chunks(4).map(<[Point]>::to_vec));
    lanes
}

async fn run(lane: &[Point], cycles: usize) {
    let environment = Environment::new(lane[0].name(), scenario(lane[0])).await;
    for cycle in 0..cycles {
        for point in lane {
            match scenario(*point) {
                Scenario::Claim | Scenario::Kept => claim::cycle(&environment, *point).await,
                Scenario::Revoke => revoke::cycle(&environment, *point).await,
                Scenario::List => list::cycle(&environment, *point).await,
                Scenario::Batch => batch::cycle(&environment, *point).await,
                Scenario::Repair => repair::cycle(&environment, *point, cycle).await,
                Scenario::Mail => outbox::cycle(&environment, *point, "mail").await,
                Scenario::Webhook => outbox::cycle(&environment, *point, "webhook").await,
            }
            if (cycle + 1) % 10 == 0 {
                eprintln!("{}: {} cycles", point.name(), cycle + 1);
            }
        }
    }
}

/// Every process must die at its point twice in each cycle, and no promise may be broken.
#[test]
fn a_drop_is_exact_after_a_process_dies_twice_at_any_crash_point() {
    let cycles = std::env::var("CYCLES").ok();
    let cycles: usize = cycles.map_or(1, |number| number.parse().expect("CYCLES is a number"));
    let start = |lane: Vec<Point>| {
        let name = lane[0].name();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let lane = std::thread::spawn(move || runtime.block_on(run(&lane, cycles)));
        (name, lane)
    };
    let lanes: Vec<_> = lanes().into_iter().map(start).collect();
    let ended = lanes.into_iter().map(|(name, lane)| (name, lane.join()));
    let failed: Vec<_> = ended.filter(|(_, lane)| lane.is_err()).collect();
    let failed: Vec<_> = failed.into_iter().map(|(name, _)| name).collect();
    let none: [&str; 0] = [];
    assert_eq!(failed, none, "lanes that failed, by their first point");
    println!("{} points, {cycles} cycles each", Point::ALL.len());
}
