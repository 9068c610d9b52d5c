//! Crash cycles of passes and senders: a process dies at a durable step, is restarted, dies there
//! again, and is then restarted normally. Afterwards the drop must be exact, and every promise must
//! have its row on its slot. APIs and consumers die in the schedules of `faults::single`.
//!
//! `CYCLES=100` runs a hundred cycles at every point (`cargo xtask crashes`). By default each point
//! has one cycle. The stores and the processes that do not crash survive from cycle to cycle. Each
//! cycle has a separate coupon.

mod environment;
mod outbox;
mod repair;

use firstcome_shared::crash::Point;

/// What leads a process to a point. A point without a scenario does not compile. The first ones are
/// those of schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scenario {
    Claim,
    /// Kafka does not accept a claim.
    Kept,
    /// A user returns a claim, or an operator revokes it.
    Revoke,
    /// An operator changes an allow list.
    List,
    Batch,
    /// A batch has a message that is not a claim.
    Garbage,
    Repair,
    Mail,
    Webhook,
}

pub(super) fn scenario(point: Point) -> Scenario {
    match point {
        Point::ClaimAsked | Point::ClaimAdmitted | Point::ClaimSent | Point::ClaimPublished => {
            Scenario::Claim
        }
        Point::ClaimKept => Scenario::Kept,
        Point::RevocationWritten | Point::RevocationReleased | Point::RevocationEnded => {
            Scenario::Revoke
        }
        Point::ListWritten | Point::ListFollowed => Scenario::List,
        Point::RowsBegun | Point::RowsInserted | Point::RowsCommitted => Scenario::Batch,
        Point::FallbackInserted => Scenario::Garbage,
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

/// Returns the points with this scenario.
pub(super) fn points(wanted: Scenario) -> Vec<Point> {
    let points = Point::ALL.iter().copied();
    points.filter(|point| scenario(*point) == wanted).collect()
}

/// Lanes run concurrently. The points of a lane run their cycles one after the other.
fn lanes() -> Vec<Vec<Point>> {
    let mut lanes = [Scenario::Mail, Scenario::Webhook].map(points).to_vec();
    let repairs = points(Scenario::Repair);
    lanes.extend(repairs.chunks(4).map(<[Point]>::to_vec));
    lanes
}

async fn run(lane: &[Point], cycles: usize) {
    let fixture = environment::fixture(lane[0].name()).await;
    for cycle in 0..cycles {
        for point in lane {
            match scenario(*point) {
                Scenario::Repair => repair::cycle(&fixture, *point, cycle).await,
                Scenario::Mail => outbox::cycle(&fixture, *point, "mail").await,
                Scenario::Webhook => outbox::cycle(&fixture, *point, "webhook").await,
                _ => unreachable!("no lane has {point:?}"),
            }
            if (cycle + 1) % 10 == 0 {
                eprintln!("{}: {} cycles", point.name(), cycle + 1);
            }
        }
    }
}

/// Every process must die at its point twice in each cycle, and no promise may be broken.
#[test]
fn a_drop_is_exact_after_a_pass_or_a_sender_dies_twice_at_any_crash_point() {
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
    let lanes = lanes();
    let points = lanes.iter().map(Vec::len).sum::<usize>();
    let lanes: Vec<_> = lanes.into_iter().map(start).collect();
    let ended = lanes.into_iter().map(|(name, lane)| (name, lane.join()));
    let failed: Vec<_> = ended.filter(|(_, lane)| lane.is_err()).collect();
    let failed: Vec<_> = failed.into_iter().map(|(name, _)| name).collect();
    let none: [&str; 0] = [];
    assert_eq!(failed, none, "lanes that failed, by their first point");
    println!("{points} points, {cycles} cycles each");
}
