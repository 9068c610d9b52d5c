//! Crash cycles: a process dies at a durable step, is started again and dies there once more, and is started for good. Then the
//! drop must be exact, and everyone who was told yes must have the row with the slot told.
//!
//! `CYCLES=100` makes a hundred cycles at every point (`make crashes`); without it each point has one. The stores and the
//! processes that do not crash live on from cycle to cycle; each cycle has a coupon of its own.

mod batch;
mod claim;
mod gate;
mod mail;
mod repair;
mod stage;
mod tally;

use std::sync::Arc;

use firstcome_shared::crash::Point;
use stage::Stage;
use tally::Tally;

/// What is done at a point, so that a process gets there and so that what it leaves behind is judged. A point without a scene
/// does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Claim,
    /// A claim that Kafka does not take.
    Kept,
    Batch,
    Repair,
    Gate,
    Mail,
}

fn scene(point: Point) -> Scene {
    match point {
        Point::ClaimAsked | Point::ClaimAdmitted | Point::ClaimSent | Point::ClaimPublished => Scene::Claim,
        Point::ClaimKept => Scene::Kept,
        Point::RowsBegun
        | Point::RowsInserted
        | Point::BackupInserted
        | Point::RowsCommitted
        | Point::OffsetsCommitted => Scene::Batch,
        Point::RunBegun
        | Point::RepairBegun
        | Point::RepairDone
        | Point::PeopleRebuilt
        | Point::DropLoaded
        | Point::PersonMoved
        | Point::PersonPromoted
        | Point::BrokenListed
        | Point::RowReissued
        | Point::RunDone
        | Point::RunRecorded => Scene::Repair,
        Point::GateDue | Point::GateOpened => Scene::Gate,
        Point::MailDue | Point::MailSent => Scene::Mail,
    }
}

/// Points whose cycles run one after the other, beside those of the other lanes. A consumer's cycle waits most of its time for
/// the group to notice a dead member, so each of its points has a lane.
fn lanes() -> Vec<Vec<Point>> {
    let all = |wanted: Scene| -> Vec<Point> { Point::ALL.iter().copied().filter(|p| scene(*p) == wanted).collect() };
    let mut lanes = vec![all(Scene::Claim), all(Scene::Kept), all(Scene::Gate), all(Scene::Mail)];
    lanes.extend(all(Scene::Batch).into_iter().map(|point| vec![point]));
    lanes.extend(all(Scene::Repair).chunks(4).map(<[Point]>::to_vec));
    lanes
}

async fn run(lane: Vec<Point>, cycles: usize, tally: Arc<Tally>) {
    let stage = Stage::new(lane[0].name(), scene(lane[0])).await;
    for cycle in 0..cycles {
        for point in &lane {
            let seen = match scene(*point) {
                Scene::Claim | Scene::Kept => claim::cycle(&stage, *point).await,
                Scene::Batch => batch::cycle(&stage, *point).await,
                Scene::Repair => repair::cycle(&stage, *point, cycle).await,
                Scene::Gate => gate::cycle(&stage, *point).await,
                Scene::Mail => mail::cycle(&stage, *point).await,
            };
            tally.add(*point, seen);
        }
    }
}

#[test]
fn a_process_that_dies_twice_at_any_crash_point_leaves_nothing_that_is_not_mended() {
    let cycles: usize = std::env::var("CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let tally = Arc::new(Tally::default());
    let start = |lane: Vec<Point>| {
        let (name, tally) = (lane[0].name(), Arc::clone(&tally));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (name, std::thread::spawn(move || runtime.block_on(run(lane, cycles, tally))))
    };
    let lanes: Vec<_> = lanes().into_iter().map(start).collect();
    let failed: Vec<_> = lanes.into_iter().filter_map(|(name, lane)| lane.join().is_err().then_some(name)).collect();
    println!("{tally}");
    assert!(failed.is_empty(), "lanes that failed, by their first point: {failed:?}");
    tally.judge(cycles);
}
