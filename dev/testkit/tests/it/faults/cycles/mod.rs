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
mod gate;
mod list;
mod outbox;
mod repair;
mod revoke;
mod tally;

use std::sync::Arc;

use environment::Environment;
use firstcome_shared::crash::Point;
use tally::CycleTally;

/// The steps that lead a process to a point and check what it leaves behind. A point without a
/// scenario does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Claim,
    /// Kafka does not accept a claim.
    Kept,
    /// A user returns a claim.
    Revoke,
    /// An operator changes an allow list.
    List,
    Batch,
    Repair,
    Gate,
    Mail,
    Webhook,
}

fn scenario(point: Point) -> Scenario {
    match point {
        Point::ClaimAsked | Point::ClaimAdmitted | Point::ClaimSent | Point::ClaimPublished => {
            Scenario::Claim
        }
        Point::ClaimKept => Scenario::Kept,
        Point::RevocationWritten | Point::RevocationReleased => Scenario::Revoke,
        Point::ListWritten | Point::ListFollowed => Scenario::List,
        Point::RowsBegun | Point::RowsInserted | Point::BackupInserted | Point::RowsCommitted => {
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
        | Point::RunRecorded => Scenario::Repair,
        Point::EraBegun | Point::GateDue | Point::GateOpened => Scenario::Gate,
        Point::MailDue | Point::MailSent => Scenario::Mail,
        Point::WebhookDue | Point::WebhookSent => Scenario::Webhook,
    }
}

/// Lanes run concurrently. The points of a lane run their cycles one after the other. A consumer's
/// cycle mostly waits for the group to notice a dead member, so each of its points has a separate
/// lane.
fn lanes() -> Vec<Vec<Point>> {
    let all = |wanted: Scenario| -> Vec<Point> {
        Point::ALL
            .iter()
            .copied()
            .filter(|p| scenario(*p) == wanted)
            .collect()
    };
    let mut lanes = vec![
        all(Scenario::Claim),
        all(Scenario::Kept),
        all(Scenario::Revoke),
        all(Scenario::List),
        all(Scenario::Gate),
        all(Scenario::Mail),
        all(Scenario::Webhook),
    ];
    lanes.extend(all(Scenario::Batch).into_iter().map(|point| vec![point]));
    lanes.extend(all(Scenario::Repair).chunks(4).map(<[Point]>::to_vec));
    lanes
}

async fn run(lane: Vec<Point>, cycles: usize, tally: Arc<CycleTally>) {
    let environment = Environment::new(lane[0].name(), scenario(lane[0])).await;
    for cycle in 0..cycles {
        for point in &lane {
            let seen = match scenario(*point) {
                Scenario::Claim | Scenario::Kept => claim::cycle(&environment, *point).await,
                Scenario::Revoke => revoke::cycle(&environment, *point).await,
                Scenario::List => list::cycle(&environment, *point).await,
                Scenario::Batch => batch::cycle(&environment, *point).await,
                Scenario::Repair => repair::cycle(&environment, *point, cycle).await,
                Scenario::Gate => gate::cycle(&environment, *point).await,
                Scenario::Mail => outbox::mail(&environment, *point).await,
                Scenario::Webhook => outbox::webhook(&environment, *point).await,
            };
            tally.add(*point, seen);
        }
    }
}

#[test]
fn a_drop_is_exact_after_a_process_dies_twice_at_any_crash_point() {
    let cycles: usize = std::env::var("CYCLES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let tally = Arc::new(CycleTally::default());
    let start = |lane: Vec<Point>| {
        let name = lane[0].name();
        let tally = Arc::clone(&tally);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        (
            name,
            std::thread::spawn(move || runtime.block_on(run(lane, cycles, tally))),
        )
    };
    let lanes: Vec<_> = lanes().into_iter().map(start).collect();
    let failed: Vec<_> = lanes
        .into_iter()
        .filter_map(|(name, lane)| lane.join().is_err().then_some(name))
        .collect();
    println!("{tally}");
    assert!(
        failed.is_empty(),
        "lanes that failed, by their first point: {failed:?}"
    );
    tally.judge(cycles);
}
