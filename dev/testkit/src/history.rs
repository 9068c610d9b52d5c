//! Every claim of a world as JSON lines, and the checker that shares no code with the product.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use firstcome_histories::{Answer, Event, History, Judgement, Line, OncePer, Recorder, Row, Verdict, Violation, check};

use crate::check::rows;
use crate::http::Coupon;
use crate::world::World;

/// What was asked and answered so far.
pub(crate) struct Claims {
    pub(crate) recorder: Recorder,
    path: PathBuf,
}

impl Claims {
    /// In a new file of this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("history.jsonl");
        Self { recorder: Recorder::create(&path).expect("a history"), path }
    }

    /// The claims on one coupon, as they were recorded.
    fn of(&self, coupon: u64) -> Vec<Event> {
        self.recorder.finish().expect("a whole history");
        let text = std::fs::read_to_string(&self.path).expect("a history");
        let mut asked = std::collections::HashSet::new();
        let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).expect("a line of a history").event);
        lines
            .filter(|event| match event {
                Event::Invoked { op, coupon: of, .. } | Event::Revoking { op, coupon: of, .. } => {
                    *of == coupon && asked.insert(*op)
                }
                Event::Ok { op, .. } | Event::Failed { op, .. } | Event::Unknown { op, .. } => asked.contains(op),
                _ => false,
            })
            .collect()
    }
}

/// Fails unless the history of the coupon's claims and the rows that its drop has now agree:
/// nothing that was promised is lost without being listed, no slot and no person is doubled, nobody
/// was admitted who was refused.
pub(crate) async fn judge(world: &World, coupon: &Coupon, quantity: u32) {
    let id = |number: i64| u64::try_from(number).expect("an id");
    let drop = id(coupon.drop);
    let once_per = if coupon.body["once_per"] == "drop" { OncePer::Drop } else { OncePer::Coupon };
    let claims = world.claims.of(id(coupon.id));
    // Other drops of the coupon were promised from too; how they end is not checked here.
    let mut drops = BTreeSet::from([drop]);
    drops.extend(claims.iter().filter_map(promised_from));
    let announced = |drop| Event::Drop { drop, coupon: id(coupon.id), quantity: u64::from(quantity), once_per };
    let mut events: Vec<Event> = drops.into_iter().map(announced).collect();
    events.extend(claims);
    let listed = format!("SELECT user_id FROM broken_promises WHERE drop_id = {drop}");
    let listed = world.sql.query(&listed).await;
    events.extend(listed.into_iter().map(|row| Event::Broken { drop, person: row[0].clone(), slot: None }));
    let rows = rows(world, coupon.drop).await;
    let rows = rows.into_iter().map(|(slot, person)| Row { slot: i64::from(slot), person }).collect();
    events.push(Event::Final { drop, rows });
    let judgement = check(&History::of(events).expect("a history that can be read"));
    // Rows that a test made by hand were asked for by nobody, and requests made by hand are not
    // recorded.
    let by_hand = |violation: &Violation| matches!(violation, Violation::NeverAsked { .. });
    if let Judgement { verdict: Verdict::Violated(list), .. } = &judgement {
        assert!(list.iter().all(by_hand), "{judgement}");
    }
}

fn promised_from(event: &Event) -> Option<u64> {
    match event {
        Event::Ok { answer: Answer::Accepted { drop, .. } | Answer::AlreadyClaimed { drop, .. }, .. } => Some(*drop),
        _ => None,
    }
}
