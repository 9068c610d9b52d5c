//! The program itself: killed at each step of a repair, as two daemons, with different arguments,
//! and with a million users.

use std::time::{Duration, Instant};

use firstcome_reconciler::report::Status;
use firstcome_stack::{Mail, MailOptions, MailSink, mysql_rows};

use crate::program::{DAEMON, FILE, LIMIT, Running, attach};
use crate::world::{World, pass, trust, users};

/// The steps of a run around its repairs.
const RUN: [&str; 3] = ["run_begun", "run_done", "run_recorded"];

/// The steps of its repairs.
const REPAIRS: [&str; 5] = [
    "repair_begun:2",
    "rows_inserted",
    "rows_inserted:3",
    "row_reissued",
    "people_rebuilt",
];

#[tokio::test]
async fn pass_killed_at_any_step_of_a_repair_loses_and_doubles_nothing() {
    for point in RUN.into_iter().chain(REPAIRS) {
        kill_and_repair(point, &["--once"]).await;
    }
}

/// A daemon makes its repairs in the same function, `Worker::pass`.
#[tokio::test]
async fn daemon_killed_at_any_step_of_a_run_loses_and_doubles_nothing() {
    let args = [&DAEMON[..], &["--reconcile-cron", "* * * * * *"]].concat();
    for point in RUN {
        kill_and_repair(point, &args).await;
    }
}

/// Members without rows, rows without members, failed events of members with and without a row, and
/// a counter that is too low.
async fn broken() -> World {
    let world = World::new().await;
    world.add_members("@users", users(0..120)).await;
    world.rows(7, users(110..130)).await;
    world.failed(7, users(0..5).chain(users(112..115))).await;
    let () = world.redis("SET @count 99").await;
    trust(&world.attached(FILE)).await;
    world
}

/// Kills the program at a step, and repairs the rest.
async fn kill_and_repair(point: &str, args: &[&str]) {
    let world = broken().await;
    let mut command = attach(&world, FILE, args);
    let killed = Running::start(command.env("FIRSTCOME_CRASH_AT", point));
    killed.program.ended(LIMIT).await.unwrap();
    let log = killed.program.log();
    assert!(log.contains("crash point"), "{point}: {log}");
    let attached = world.attached(FILE);
    let run = pass(&attached).await;
    let is_well = matches!(run.status, Status::Repaired | Status::Clean);
    assert!(is_well, "{point}: {run:?}");
    assert_eq!(pass(&attached).await.status, Status::Clean, "{point}");
    assert_eq!(world.numbers().await, [130, 0, 130, 130], "{point}");
}

#[tokio::test]
async fn two_daemons_repair_once_and_mail_it() {
    let world = World::new().await;
    world.add_members("@users", users(0..21)).await;
    world.rows(7, users(20..21)).await;
    let () = world.redis("SET @count 21").await;
    // No store shows that this user was promised a coupon, so this is left to an operator.
    world.failed(7, users(30..31)).await;
    trust(&world.attached(FILE)).await;
    let mail = MailSink::start(MailOptions::default()).await.unwrap();
    let url = mail.url();
    let settings = [
        ("SMTP_URL", url.as_str()),
        ("RECONCILE_CRON", "* * * * * *"),
        ("ALERT_FROM", "f@example.com"),
        ("ALERT_TO", "duty@example.com"),
    ];
    let daemons = [0, 1].map(|_| Running::start(attach(&world, FILE, &DAEMON).envs(settings)));
    // Mails about an attached system name the command and the document of `attach`.
    let words = [
        "20 missing rows written",
        "--once --dry-run",
        "docs/ATTACH.md",
    ];
    let is_told = |mail: &Mail| {
        let text = mail.text().replace("=\r\n", "");
        words.iter().all(|word| text.contains(word))
    };
    mail.wait_for(is_told, LIMIT).await.unwrap();
    drop(daemons);
    assert_eq!(world.numbers().await, [21, 1, 21, 21]);
    let repairs = "SELECT CAST(SUM(applied) AS SIGNED) FROM reconcile_runs";
    assert_eq!(mysql_rows(&world.ours, repairs).await.unwrap()[0], ["20"]);
}

#[tokio::test]
async fn once_needs_a_database_only_for_repairs_and_refuses_one_that_others_use() {
    let world = World::new().await;
    world.add_members("@users", users(0..3)).await;
    world.rows(7, users(0..2)).await;
    let () = world.redis("SET @count 3").await;
    let observing = FILE.replace("mode = \"repair\"\n", "");
    let misfit = observing.replace("user_id", "user");
    for (file, args, code, said) in [
        (&observing, "", 1, ": 2 of 150 issued, NOT exact"),
        (&observing, "", 1, "left for you  unissued, u•••-2: "),
        (&observing, "--full-ids", 1, "unissued, user-2: "),
        (&observing, "--json --dry-run", 1, ": \"user-2\""),
        (&observing, "--confirm", 2, "--campaign <NAME>"),
        (&FILE.to_owned(), "", 2, "needs DATABASE_URL"),
        (&misfit, "", 2, "the nearest is \"user_id\""),
    ] {
        let args = format!("--once {args}");
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut command = attach(&world, file, &args);
        let done = command.env_remove("DATABASE_URL").output().unwrap();
        let printed = [done.stdout, done.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(printed.contains(said), "{said}: {printed}");
        assert_eq!(done.status.code(), Some(code), "{printed}");
    }
    let mut in_theirs = attach(&world, FILE, &["--once"]);
    let refused = in_theirs.env("DATABASE_URL", &world.database);
    let why = String::from_utf8(refused.output().unwrap().stderr).unwrap();
    assert!(why.contains("that database has tables of others"), "{why}");
    assert_eq!(world.sql("SHOW TABLES").await.len(), 3);
    let own = "INSERT INTO coupons (id, name, quantity, once_per, schedule) VALUES (1, 'x', 1, 'coupon', '{\"type\": \"daily\"}')";
    mysql_rows(&world.ours, own).await.unwrap();
    let refused = attach(&world, FILE, &["--once"]).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("Firstcome's own coupons are there"), "{why}");
}

#[tokio::test]
#[ignore = "release"] // a minute
async fn a_million_users_fit_in_64_mb() {
    let world = World::new().await;
    world.add_members("@users", users(0..1_000_000)).await;
    world.rows(7, users(0..1_000_000)).await;
    let () = world.redis("SET @count 1000000").await;
    let file = FILE.replace("150", "1000000");
    let pass = Running::start(&mut attach(&world, &file, &["--once"]));
    let status = format!("/proc/{}/status", pass.program.pid());
    let mut peak_kb = 0;
    let begun = Instant::now();
    while pass.program.status().unwrap().is_none() {
        assert!(begun.elapsed() < LIMIT * 5, "{}", pass.program.log());
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak_kb = peak_kb.max(kb.unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = pass.program.ended(LIMIT).await.unwrap();
    assert!(ended.success(), "{}", pass.program.log());
    println!("peak {peak_kb} kB");
    assert!((1..64_000).contains(&peak_kb), "{peak_kb} kB");
}
