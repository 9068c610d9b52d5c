mod cases;
mod harmless;
mod ids;
mod product_texts;

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::condition::{Cases, Condition, Facts, Seen};
use firstcome_notifier::conditions::{PromisesOfDrop, Snapshot, conditions};
use firstcome_notifier::decide::{Alerts, Decision, Reason, decide};
use firstcome_notifier::levels::{Levels, fold, repairs};
use firstcome_notifier::mails::{AlertMail, AttachedCampaign, Links, Rendered, Section, daily};
use firstcome_notifier::queries::alerts::{BrokenPromise, OpenPromises, RepairsRow, ToldRow};
use firstcome_notifier::queries::digest::{DailyDigest, DigestDrop, DigestRepairs};
use firstcome_notifier::times::Policy;
use firstcome_notifier::wording;
use firstcome_shared::domain::{CouponId, DropId, HIDDEN};
use firstcome_shared::http::views::{Alert, ListedAlert};
use firstcome_shared::process_state::Standstill;
use firstcome_shared::report::{
    ActionKind, AlertKind, Cause, DropReport, FailureCause, Finding, Kind, Outcome, Run, Status,
    UnsafePart,
};
use firstcome_shared::subject::Subject;

use crate::world::{self, applied, at, cased, drop_report, finding, general, left};

fn linked() -> Links {
    Links {
        public: Some("https://reconciler.example.com".to_owned()),
        api: Some("https://coupons.example.com".to_owned()),
        ..Links::default()
    }
}

const POLICY: Policy = Policy {
    repeat: TimeDelta::hours(4),
    patience: TimeDelta::zero(),
    is_last: false,
};

/// Judges the runs in order, and renders the mail of the last. What they repaired is not mailed
/// yet. Fails if no pass writes such findings.
fn mail(
    runs: &[(DateTime<Utc>, &Run)],
    broken: &[BrokenPromise],
    links: &Links,
) -> Option<Rendered> {
    for (_, run) in runs {
        product_texts::assert_written(run.all_findings());
    }
    mail_of_any(runs, broken, links)
}

/// Like [`mail`], but also with findings that no pass writes.
fn mail_of_any(
    runs: &[(DateTime<Utc>, &Run)],
    broken: &[BrokenPromise],
    links: &Links,
) -> Option<Rendered> {
    let mut told = Told::default();
    for (now, run) in runs {
        told.after(run, broken, *now);
    }
    let (now, run) = runs.last()?;
    let problems = told.problems.into_iter().zip(41..);
    let problems = problems.map(|(mut section, id)| {
        section.alert.id = id;
        section
    });
    let unmailed = runs.iter().flat_map(|(now, run)| repairs(run, *now));
    let unmailed: Vec<RepairsRow> = unmailed.collect();
    let pass = AlertMail {
        run: Some((*run).clone()),
        problems: problems.collect(),
        over: told.over,
        repairs: unmailed,
        fates: HashMap::from([(DropId(7), [2, 1])]),
        has_waiting_list: true,
        ..AlertMail::empty(links, *now)
    };
    let has_news = !(pass.problems.is_empty() && pass.over.is_empty() && pass.repairs.is_empty());
    has_news.then(|| pass.render().unwrap())
}

/// What the tables would have after some runs, and what the last one tells.
#[derive(Default)]
struct Told {
    levels: Levels,
    known: Alerts,
    problems: Vec<Section>,
    over: Vec<Section>,
}

impl Told {
    fn after(&mut self, run: &Run, broken: &[BrokenPromise], now: DateTime<Utc>) {
        let run = &world::judged(run);
        self.levels = fold(&self.levels, run, Subject::Drop, now);
        let mut snapshot = Snapshot {
            levels: self.levels.values().cloned().collect(),
            ..Snapshot::default()
        };
        if let Some(first) = broken.first() {
            let number = broken.len() as u64;
            snapshot.promises.push(PromisesOfDrop {
                open: OpenPromises {
                    coupon: first.coupon_id,
                    drop: first.drop_id,
                    number,
                    last_at: now,
                },
                cases: Cases::Number(number),
            });
        }
        let (seen, unknown) = conditions(&snapshot, now);
        let decisions = decide(now, &seen, &unknown, &self.known, &POLICY, false);
        self.take(decisions, run, broken);
    }

    fn take(&mut self, decisions: Vec<Decision>, run: &Run, broken: &[BrokenPromise]) {
        self.problems.clear();
        self.over.clear();
        for decision in decisions {
            let mut alert = decision.alert;
            let level = self.levels.get(&alert.name);
            alert.given_up = level.is_some_and(|level| level.given_up);
            if let Some(reason) = decision.reason {
                if let Some(condition) = &decision.condition {
                    let section = Section::new(condition, &alert, reason, Some(run), broken);
                    alert.summary.clone_from(&section.alert.summary);
                    self.problems.push(section);
                } else {
                    let kind = AlertKind::from_word(&alert.kind).unwrap();
                    self.over.push(Section::over(&alert, kind));
                }
            }
            self.known.put(alert);
        }
    }
}

fn keep(name: &str, mail: &Rendered) {
    assert!(
        !mail.subject.chars().any(char::is_control) && mail.subject.starts_with("[firstcome] ")
    );
    assert!(mail.subject.chars().count() <= 150);
    for outside in ["src=", "url(", "<link", "<script", "@import"] {
        assert!(!mail.html.contains(outside), "{outside}");
    }
    assert_eq!(words_of_html(&mail.html), words(&mail.text), "{name}");
    // Only the mail about data that Redis lost may take longer.
    let first = read_first(&mail.text);
    assert!(
        first <= WORDS_IN_20_SECONDS || name == "redis_flushed",
        "{name}: {first} words"
    );
    let text = format!(
        "Kind: {}\nSubject: {}\n\n{}",
        mail.kind, mail.subject, mail.text
    );
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(format!("{name}.txt"), text);
        // These mails contain every kind of block.
        if ["action_needed", "outage_of_kafka", "daily_with_problems"].contains(&name) {
            insta::assert_snapshot!(format!("{name}.html"), mail.html);
        }
    });
    // Set KEEP_RENDERED_MAILS=target/mails to look at the mails in a browser.
    if let Ok(folder) = std::env::var("KEEP_RENDERED_MAILS") {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(format!("{folder}/{name}.html"), &mail.html).unwrap();
    }
}

/// A reader who has just been woken up reads about four words a second.
const WORDS_IN_20_SECONDS: usize = 80;

/// Counts the words about what happened and, if there is an instruction, its words.
fn read_first(text: &str) -> usize {
    let (lead, rest) = text.split_once("\n\n\n").unwrap_or((text, ""));
    let todo = rest.split_once("To do:").map_or("", |(_, todo)| {
        todo.split("\n\n").next().unwrap_or_default()
    });
    words(lead).len() + words(todo).len()
}

/// Returns the words of a mail in order, without rules, list dashes and link addresses.
fn words(text: &str) -> Vec<String> {
    let words = text
        .split_whitespace()
        .map(|word| word.trim_end_matches(':'));
    let words =
        words.filter(|word| !word.starts_with("http") && word.chars().any(|c| !"-=\\".contains(c)));
    words.map(str::to_owned).collect()
}

fn words_of_html(html: &str) -> Vec<String> {
    let body = html.split_once("<body").unwrap().1;
    let tags = body.split('<');
    let text = tags.filter_map(|tag| Some(tag.split_once('>')?.1));
    let text: Vec<&str> = text.collect();
    let escaped = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#38;", "&"),
    ];
    words(&escaped.iter().fold(text.join(" "), |text, (code, sign)| {
        text.replace(code, sign)
    }))
}

const WINTER: &str = "Winter coupon";

/// Returns a run whose ID looks like that of a reconciler.
fn run(id: &str, status: Status, drops: Vec<DropReport>) -> Run {
    let id = format!("0193a1f2-7c00-7d31-8000-0000000000{id}");
    world::run(&id, status, drops)
}

/// Returns a pass over drop 7.
fn of_winter(id: &str, status: Status, findings: Vec<Finding>) -> Run {
    run(id, status, vec![drop_report(1, WINTER, 7, findings)])
}

fn late() -> Finding {
    let detail = "admitted, and has no row";
    applied(Kind::Unissued, 37, ActionKind::Issue, detail)
}

fn repaired() -> Run {
    let issued = |slot, id: i64| Finding {
        dead_letter: Some(id),
        ..applied(
            Kind::FailedClaim,
            slot,
            ActionKind::Issue,
            "promised, and has no row",
        )
    };
    let findings = vec![late(), issued(52, 11), issued(53, 12)];
    of_winter("a1", Status::Repaired, findings)
}

fn failed_claims() -> Run {
    let letter = |id, slot, why| Finding {
        dead_letter: Some(id),
        ..left(Kind::FailedClaim, slot, why)
    };
    let findings = vec![
        late(),
        letter(12, 100, "it names no user"),
        letter(15, 412, "the drop has no such slot"),
    ];
    of_winter("a2", Status::Drift, findings)
}

const SWAPPED: &str = "Redis has this user on a slot whose row is another's";

fn clean() -> Run {
    of_winter("a3", Status::Clean, Vec::new())
}

#[test]
fn repairs_of_earlier_passes_are_listed_by_kind_number_and_pass() {
    let swapped =
        [4, 7, 9, 12].map(|slot| applied(Kind::SlotConflict, slot, ActionKind::Project, SWAPPED));
    let swapped = of_winter("b1", Status::Repaired, swapped.to_vec());
    let runs = [
        (at(-250), &swapped),
        (at(-225), &repaired()),
        (at(1), &clean()),
    ];
    let mail = mail(&runs, &[], &linked()).unwrap();
    keep("repaired_held_back", &mail);
    for part in [
        "4 slot conflicts, 2 failed claims, 1 promise without a row in earlier passes since 05:55 UTC.",
        "05:55:50 UTC: 4 slot conflicts: https://reconciler.example.com/runs/0193a1f2-7c00-7d31-8000-0000000000b1",
        "05:56:15 UTC: 2 failed claims, 1 promise without a row",
    ] {
        let text = mail.text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A finding about no drop, or about a coupon that stays closed.
fn of_no_drop(kind: Kind, detail: &str, coupon_id: Option<CouponId>) -> Finding {
    let (action, result) = match coupon_id {
        Some(_) => (ActionKind::Open, Outcome::Failed),
        None => (ActionKind::Report, Outcome::Skipped),
    };
    Finding {
        coupon_id,
        needs_person: true,
        ..general(kind, action, result, detail)
    }
}

#[test]
fn mails_about_passes_match_their_snapshots() {
    let held = |slot| {
        let (action, result) = (ActionKind::Project, Outcome::Planned);
        finding(Kind::MissingAdmission, slot, action, result)
    };
    let with = |finding| Run {
        findings: vec![finding],
        ..clean()
    };
    let flushed = |drop| {
        let (action, result) = (ActionKind::Project, Outcome::Applied);
        let lost = general(Kind::RedisLost, action, result, "Redis has lost the drop");
        drop_report(drop, &format!("Coupon {drop}"), drop, vec![lost])
    };
    let evicts = "Redis may evict admissions (maxmemory-policy is allkeys-lru): set `maxmemory-policy noeviction`";
    let evicts = of_no_drop(Kind::Stalled, evicts, None);
    let evicts = cased(Cause::Unsafe(UnsafePart::Redis), evicts);
    let closed = "the coupon stays closed: MySQL refuses 3 rows of drop 7";
    let closed = of_no_drop(Kind::RedisLost, closed, Some(CouponId(1)));
    let forged = || {
        let found = of_no_drop(Kind::FailedClaim, "the message has no signature", None);
        cased(Cause::Forged, found)
    };
    let forged = Run {
        findings: vec![forged(), forged(), forged()],
        ..clean()
    };
    let (action, result) = (ActionKind::Project, Outcome::Failed);
    let changed = Finding {
        detail: SWAPPED.to_owned(),
        ..finding(Kind::SlotConflict, 4, action, result)
    };
    #[rustfmt::skip]
    let passes = [
        ("repaired", repaired()),
        ("action_needed", failed_claims()),
        ("braked", of_winter("a4", Status::Braked, (1..=64).map(held).collect())),
        ("forged", forged),
        ("closed_coupon", with(closed)),
        ("left", of_winter("a9", Status::Drift, vec![changed])),
        ("redis_flushed", run("aa", Status::Repaired, (1..=22).map(flushed).collect())),
    ];
    for (name, pass) in passes {
        keep(name, &mail(&[(at(1), &pass)], &[], &linked()).unwrap());
    }
    product_texts::assert_written([&evicts]);
    let evicts = outage(AlertKind::UnsafeSetting, &evicts.detail, &[]);
    keep_outage("unsafe_setting", &evicts, at(1));
    keep_outage("stalled", &standstill(), at(1));
    let run = failed_claims();
    let bare = mail(&[(at(1), &run)], &[], &Links::default());
    keep("action_needed_without_links", &bare.unwrap());
    let again = [(at(1), &run), (at(4 * 3_600 + 1), &run)];
    let again = mail(&again, &[], &linked());
    keep("action_needed_again", &again.unwrap());
    let over = [(at(1), &run), (at(5_400), &clean())];
    keep("resolved", &mail(&over, &[], &linked()).unwrap());
}

#[test]
fn mail_about_broken_promises_matches_its_snapshot() {
    let promise = |slot: i64| BrokenPromise {
        coupon_id: CouponId(1),
        drop_id: DropId(7),
        user_id: format!("customer-{slot:05}"),
        slot: Some(slot),
        reason: "slot_lost".to_owned(),
    };
    let broken = [promise(101), promise(102)];
    let moved = |slot| {
        let detail = "the slot is above the quantity";
        applied(Kind::OverAdmitted, slot, ActionKind::Owe, detail)
    };
    let run = of_winter("a5", Status::Drift, vec![moved(101), moved(102)]);
    let mail = mail(&[(at(1), &run)], &broken, &linked()).unwrap();
    keep("broken_promises", &mail);
}

fn outage(kind: AlertKind, summary: &str, why: &[&str]) -> Section {
    let why = why.iter().map(|why| Finding::report(Kind::Stalled, *why));
    Section {
        alert: ToldRow {
            name: kind.word().to_owned(),
            began_at: at(0),
            summary: summary.to_owned(),
            ..ToldRow::default()
        },
        kind,
        reason: Reason::New,
        size: 1,
        refusal: None,
        findings: why.collect(),
    }
}

/// Consumers that stand, as processes report them.
fn standstill() -> Section {
    let kind = AlertKind::ConsumerStands;
    let standstill = Standstill {
        unread: 4_120,
        partitions: Vec::new(),
    };
    let condition = Condition {
        name: kind.word().to_owned(),
        kind,
        coupon: None,
        drop: None,
        cases: Cases::from_hashes([0]),
        seen: Seen::Now,
        facts: Facts::Standstill(standstill),
    };
    let alert = ToldRow {
        name: kind.word().to_owned(),
        began_at: at(0),
        ..ToldRow::default()
    };
    Section::new(&condition, &alert, Reason::New, None, &[])
}

/// Compares the mail about an outage with its snapshot.
fn keep_outage(name: &str, section: &Section, now: DateTime<Utc>) {
    product_texts::assert_written(&section.findings);
    let mut section = section.clone();
    section.alert.id = match section.kind {
        AlertKind::ConsumerStands | AlertKind::UnsafeSetting | AlertKind::KafkaUnreachable => 41,
        AlertKind::AdmissionClosed | AlertKind::RedisUnreachable => 42,
        _ => 0,
    };
    let links = linked();
    let mail = AlertMail {
        problems: vec![section],
        ..AlertMail::empty(&links, now)
    };
    keep(name, &mail.render().unwrap());
}

/// Each of these mails says what does not work, what users notice and what to do.
#[test]
fn mails_about_outages_match_their_snapshots() {
    let kafka = outage(AlertKind::KafkaUnreachable, "Kafka does not answer", &[]);
    keep_outage("outage_of_kafka", &kafka, at(31));
    let lasts = Section {
        reason: Reason::Repeat,
        ..kafka
    };
    keep_outage("outage_of_kafka_lasts", &lasts, at(14_500));
    let to_read = "coupon 1: the coupon stays closed: the consumer has 5000 messages to read first";
    let full = "passes fail: MySQL: write rows: Table is full";
    #[rustfmt::skip]
    let outages: [(&str, AlertKind, &str, &[&str]); 4] = [
        ("outage_of_redis", AlertKind::RedisUnreachable, "Redis does not answer: nothing listens at its address", &[]),
        ("admission_closed", AlertKind::AdmissionClosed, "1 coupon is closed", &[to_read]),
        ("outage_of_mysql", AlertKind::MysqlUnreachable, "MySQL does not answer: nothing listens at its address", &[]),
        ("run_failed", AlertKind::RunFailed, full, &[]),
    ];
    for (name, kind, summary, why) in outages {
        keep_outage(name, &outage(kind, summary, why), at(31));
    }
    let late = outage(AlertKind::RunMissed, "a run of RECONCILE_CRON is late", &[]);
    keep_outage("run_missed", &late, at(7_500));
}

#[test]
fn mail_about_the_end_of_an_outage_matches_its_snapshot() {
    let late = Kind::Unissued.as_str().to_owned();
    let rows = [RepairsRow {
        run_id: "r1".to_owned(),
        drop_id: 7,
        kind: late,
        number: 12,
        repaired_at: at(100),
        told: false,
    }];
    let alert = ToldRow {
        name: "kafka".to_owned(),
        kind: "kafka_unreachable".to_owned(),
        began_at: at(1),
        gone_at: Some(at(720)),
        ..ToldRow::default()
    };
    let over = Section::over(&alert, AlertKind::KafkaUnreachable);
    let (clean, links) = (clean(), linked());
    let mail = AlertMail {
        run: Some(clean),
        over: vec![over],
        repairs: rows.to_vec(),
        ..AlertMail::empty(&links, at(720))
    };
    keep("outage_of_kafka_over", &mail.render().unwrap());
}

/// Firstcome knows that Redis was restarted, so the mail says so, and does not ask the operator to
/// find the cause.
#[test]
fn mail_about_an_older_copy_of_redis_matches_its_snapshot() {
    let row = |kind: Kind, drop_id, number| RepairsRow {
        run_id: "b1".to_owned(),
        drop_id,
        kind: kind.as_str().to_owned(),
        number,
        repaired_at: at(100),
        told: false,
    };
    let rows = [
        row(Kind::MissingAdmission, 7, 332),
        row(Kind::SlotConflict, 7, 2),
        row(Kind::SettingsMismatch, 8, 1),
    ];
    let links = linked();
    let other = drop_report(8, "설날 쿠폰", 2, Vec::new());
    let mut run = clean();
    run.drops.push(other);
    let mail = AlertMail {
        run: Some(run),
        repairs: rows.to_vec(),
        older_since: Some(at(90)),
        ..AlertMail::empty(&links, at(120))
    };
    keep("redis_older", &mail.render().unwrap());
}

#[test]
fn mail_about_many_problems_is_truncated_and_says_where_the_rest_is() {
    let drop = |drop| {
        let findings = (0..300).map(|n: usize| {
            let why = format!("reason {}", "x".repeat(n % 50));
            left(Kind::FailedClaim, 1, &why)
        });
        drop_report(drop, &format!("Coupon {drop}"), drop, findings.collect())
    };
    let run = run("ab", Status::Drift, (1..=40).map(drop).collect());
    let mail = mail_of_any(&[(at(1), &run)], &[], &linked()).unwrap();
    let is_short = mail.text.lines().count() < 250 && mail.html.len() < 60_000;
    assert!(is_short, "{}", mail.text);
    for rest in ["and 252 more", "and 26 more", "/alerts"] {
        assert!(mail.text.contains(rest), "{rest}\n{}", mail.text);
    }
}

#[test]
fn drop_is_named_by_its_coupon_and_day_before_its_numbers() {
    let mut run = failed_claims();
    run.drops[0].day = chrono::NaiveDate::from_ymd_opt(2026, 12, 1);
    let mail = mail(&[(at(1), &run)], &[], &linked()).unwrap();
    let place = format!("{WINTER}, 2026-12-01 (coupon 1, drop 7): 98 of 100 issued");
    assert!(mail.text.contains(&place), "{}", mail.text);
}

/// Lets a shell parse a command. It must be one program call that ends with the address.
#[test]
fn command_to_acknowledge_an_alert_can_be_pasted() {
    let mail = mail(&[(at(1), &failed_claims())], &[], &linked()).unwrap();
    let is_before = |line: &&str| !line.contains("Acknowledge: no more mails");
    let lines = mail.text.lines().skip_while(is_before).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let command = lines.join("\n");
    let script =
        format!("curl() {{ printf '%s|' \"$@\"; }}\nUSER=Kim OPS_TOKEN=secret,2\n{command}");
    let mut shell = std::process::Command::new("sh");
    let said = shell.args(["-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        "-H|Authorization: Bearer secret|-H|Content-Type: application/json|-X|POST|-d|{\"by\":\"Kim\"}|\
         https://reconciler.example.com/v1/alerts/41/acknowledge|"
    );
}

fn of_kind(drop_id: DropId, kind: &str, number: u64) -> DigestRepairs {
    let kind = kind.to_owned();
    DigestRepairs {
        drop_id,
        kind,
        number,
    }
}

fn campaign(name: &str, is_repaired: bool) -> AttachedCampaign {
    let name = name.to_owned();
    AttachedCampaign { name, is_repaired }
}

fn quiet_day() -> DailyDigest {
    DailyDigest {
        from: at(-86_400),
        to: at(0),
        open: Vec::new(),
        broken: 0,
        runs: vec![("clean".to_owned(), 2_874), ("repaired".to_owned(), 6)],
        last_success_at: Some(at(-12)),
        repairs: [("failed_claim", 4), ("unissued", 19)]
            .map(|(kind, number)| of_kind(DropId(0), kind, number))
            .to_vec(),
        sealed: vec![DigestDrop {
            coupon_id: CouponId(1),
            coupon_name: WINTER.to_owned(),
            drop_id: DropId(7),
            quantity: 100,
            rows: 100,
        }],
        sealed_total: 1,
        sent: 7,
        waiting: 0,
        lost: Vec::new(),
    }
}

#[test]
fn daily_digest_matches_its_snapshots() {
    keep("daily_quiet", &daily(&quiet_day(), &linked()).unwrap());
    let open = Alert {
        summary: "2 unrepaired failed claims".to_owned(),
        drop_id: Some(DropId(7)),
        first_seen_at: at(-30_000),
        acknowledged_by: Some("Kim".to_owned()),
        ..Alert::default()
    };
    let open = ListedAlert {
        id: 41,
        alert: open,
        coupon_name: Some(WINTER.to_owned()),
    };
    let lost = ["Duty <duty@example.com>", "shop.example.com#1f2e3d4c"];
    let lost = lost.map(|target| (target.to_owned(), 2)).to_vec();
    let day = DailyDigest {
        open: vec![open],
        broken: 2,
        lost,
        ..quiet_day()
    };
    keep("daily_with_problems", &daily(&day, &linked()).unwrap());
    let none = DailyDigest {
        runs: Vec::new(),
        last_success_at: None,
        repairs: Vec::new(),
        sealed: Vec::new(),
        sealed_total: 0,
        ..quiet_day()
    };
    keep("daily_without_a_run", &daily(&none, &linked()).unwrap());
}

#[test]
fn daily_digest_names_the_campaigns_of_problems_and_of_repairs() {
    let coupon = CouponId::of_campaign("Summer");
    let open = Alert {
        summary: "2 unrepaired failed claims".to_owned(),
        coupon_id: Some(coupon),
        drop_id: Some(DropId::of_campaign("Summer", None)),
        first_seen_at: at(-30_000),
        ..Alert::default()
    };
    let of_each = DropId::of_campaign("Lunch\n7", None);
    let day = DailyDigest {
        open: vec![ListedAlert {
            id: 41,
            alert: open,
            coupon_name: None,
        }],
        repairs: vec![
            of_kind(of_each, "count_mismatch", 1),
            of_kind(DropId::of_campaign("Lunch\n8", None), "count_mismatch", 2),
            of_kind(DropId::of_campaign("Summer", None), "failed_claim", 4),
            of_kind(DropId::of_campaign("Summer", None), "unissued", 19),
            of_kind(DropId::of_campaign("Deleted", None), "unissued", 2),
        ],
        sealed: Vec::new(),
        sealed_total: 0,
        ..quiet_day()
    };
    let named = |name| (CouponId::of_campaign(name), campaign(name, true));
    let links = Links {
        file: Some("'/etc/shop.toml'".to_owned()),
        campaigns: ["Summer", "Lunch"].map(named).into(),
        ..linked()
    };
    let mail = daily(&day, &links).unwrap();
    let text = &mail.text;
    for says in [
        "- Summer: 2 unrepaired",
        "- Repaired in Summer: 4 failed claims, 19 promises without a row",
        "- Repaired in campaigns of `each`, or no longer in the file: 3 wrong counters,",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let subject = &mail.subject;
    assert!(subject.contains("1 problem open · Summer · "), "{subject}");
}
