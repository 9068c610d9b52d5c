//! Numbered situations. Each says what processes, looks and tables report, for how long, and
//! which mails must follow at which second. Alerts are evaluated every five seconds, and each
//! evaluation is repeated, as a second daemon would do it: the repetition must decide nothing.

use std::collections::BTreeSet;

use super::player::play;

/// How a situation is shown.
enum Shown {
    /// Steps (seconds, what is said: see `player`), and what is told (second, reason, name).
    Played(&'static [Step], &'static str),
    /// This test of this file shows it.
    By(&'static str, &'static str),
}

pub(crate) type Step = (i64, &'static str);

use Shown::{By, Played};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

const MAILED: &str = include_str!("../mail/mailed.rs");
const STORES: &str = include_str!("../mail/stores.rs");
const OUTBOX: &str = include_str!("../mail/outbox.rs");
const OPERATORS: &str = include_str!("../mail/operators.rs");
const LOCAL: &str = include_str!("../../src/local.rs");
const SCHEDULE: &str = include_str!("../../../reconciler/src/daemon/schedule.rs");
const SHAPES: &str = include_str!("../../../attach/tests/systems/shapes.rs");

#[rustfmt::skip]
const SITUATIONS: [(&str, Shown); 105] = [
    // Stores and closures.
    ("1 restart of 29 s, then a coupon closed for 45 s", Played(&[(25, "d:redis"), (60, "d"), (45, "d:closed1"), (120, "d")], "115 New admission_closed, 190 Over admission_closed")),
    ("2 a daemon starts while a coupon is closed", Played(&[(60, "d:closed1"), (5, "d:closed1 d2:new"), (60, "d:closed1 d2:closed1"), (120, "d d2")], "30 New admission_closed, 185 Over admission_closed")),
    ("3 one daemon loses Redis", Played(&[(300, "d:redis d2"), (60, "d d2")], "")),
    ("4 nobody reaches Redis", Played(&[(300, "d:redis d2:redis api:redis"), (120, "d d2 api")], "30 New redis, 360 Over redis")),
    ("5 a second daemon reaches Redis, and ends", Played(&[(60, "d:redis"), (90, "d:redis d2"), (200, "d:redis")], "30 New redis, 120 Over redis, 205 New redis")),
    ("6 a restart while a coupon stays closed", Played(&[(60, "d:closed1"), (20, "d:redis"), (60, "d:closed1"), (120, "d")], "30 New admission_closed, 200 Over admission_closed")),
    ("7 all lose Redis while a coupon is closed", Played(&[(60, "d:closed1"), (300, "d:redis"), (120, "d")], "30 New admission_closed, 90 New redis, 420 Over admission_closed, 420 Over redis")),
    ("8 closed, and passes say why", Played(&[(300, "d:closed1 L1:redis_lost=1"), (120, "d L1")], "30 New admission_closed, 360 Over admission_closed")),
    ("9 closed by a plan that waits", Played(&[(300, "d:closed1 L1/only-braked:braked=7"), (120, "d L1")], "0 New braked.1.1, 300 Over braked.1.1")),
    ("10 a pass leaves a coupon to another process", Played(&[(300, "d L1:left_to_others=1")], "")),
    ("11 the end only after a mail about the begin", Played(&[(25, "d:redis"), (300, "d")], "")),
    ("12 acknowledged closure, another coupon, an outage in between", Played(&[(60, "d:closed1 ack"), (120, "d:redis"), (2 * HOUR, "d:closed1-2"), (120, "d")], "30 New admission_closed, 90 New redis, 240 Over redis, 3630 Changed admission_closed, 7440 Over admission_closed")),
    ("13 a cluster without one server, and passes fail", Played(&[(120, "d:partly+closed1 F:redis"), (120, "d F")], "30 New redis, 180 Over redis")),
    ("14 an outage while a coupon is closed begins by itself", Played(&[(HOUR, "d:closed1"), (60, "d:redis+closed1"), (120, "d")], "30 New admission_closed, 3630 New redis, 3720 Over admission_closed, 3720 Over redis")),
    ("15 an outage is repeated from its own begin", Played(&[(HOUR, "d:closed1"), (4 * HOUR + 60, "d:redis+closed1"), (120, "d")], "30 New admission_closed, 3630 New redis, 18030 Repeat redis, 18120 Over admission_closed, 18120 Over redis")),
    ("16 a start that loses Redis, passes it, and loses it again", Played(&[(60, "d:redis"), (30, "d:new"), (60, "d:redis"), (120, "d")], "30 New redis, 210 Over redis")),
    ("17 a start without Redis while another reaches it", Played(&[(5, "d:new d2"), (300, "d:redis d2")], "")),
    ("18 one daemon loses Kafka", Played(&[(30, "d:kafka d2 F:kafka!"), (60, "d:kafka d2 F")], "")),
    ("19 Kafka away for 35 s", Played(&[(35, "d:kafka"), (120, "d")], "30 New kafka, 95 Over kafka")),
    ("20 a process dies in an outage", Played(&[(60, "d:redis"), (120, "d2")], "30 New redis, 120 Over redis")),
    ("21 Redis refuses writes for 90 s, and a pass is clean", Played(&[(90, "d:oom F"), (120, "d F")], "30 New redis, 150 Over redis")),
    ("22 refusals that others meet, with a gap", Played(&[(5, "d api:oom"), (5, "d api"), (60, "d api:oom"), (300, "d api")], "30 New redis, 310 Over redis")),
    ("23 a wrong password at the APIs, and a daemon starts", Played(&[(60, "d api:wrongpass"), (5, "d d2:new api:wrongpass"), (60, "d d2 api:wrongpass"), (120, "d d2 api")], "30 New redis, 185 Over redis")),
    ("24 too many connections; the daemon gets one again", Played(&[(60, "d:clients api:clients"), (300, "d api:clients"), (120, "d api")], "30 New redis, 420 Over redis")),
    ("25 Kafka refuses, then is silent", Played(&[(60, "d:few"), (400, "d:kafka"), (120, "d")], "30 New kafka, 330 Changed kafka, 520 Over kafka")),
    ("26 MySQL's disk is full", By(STORES, "full_disk_of_mysql_is_mailed_without_its_tables")),
    ("27 the tables of alerts are gone", By(STORES, "alerts_that_cannot_be_recorded_are_mailed_without_mysql")),
    ("28 MySQL is cut", By(STORES, "daemons_mail_an_outage_of_mysql_and_one_of_them_its_end")),
    ("29 another installation with the same recipients", By(STORES, "installation_ends_nothing_of_another")),
    ("30 a target is away with MySQL", By(LOCAL, "target_that_is_away_is_tried_again_after_a_minute")),
    ("31 Redis is away with MySQL", By(LOCAL, "what_is_due_together_is_one_mail")),
    // Repairs and schedules.
    ("32 a repair, then clean looks", Played(&[(HOUR, "d L1 fix!"), (9 * HOUR, "slow d L1")], "0 New repaired")),
    ("33 twelve repairs in six minutes", Played(&[(6 * MINUTE, "d fix"), (2 * HOUR, "d")], "0 New repaired, 3600 Changed repaired")),
    ("34 one drift for hours, with a new case", Played(&[(4 * HOUR + 60, "d L1:failed_claim=1"), (HOUR, "d L1:failed_claim=1+2"), (60, "d L1")], "0 New failed_claim.1.1, 14400 Repeat failed_claim.1.1, 15000 Changed failed_claim.1.1, 18060 Over failed_claim.1.1")),
    ("35 it comes again", Played(&[(60, "d L1:failed_claim=1"), (5 * HOUR, "d L1"), (60, "d L1:failed_claim=1"), (60, "d L1")], "0 New failed_claim.1.1, 60 Over failed_claim.1.1, 18060 New failed_claim.1.1, 18120 Over failed_claim.1.1")),
    ("36 two processes see one drift", Played(&[(60, "d d2 L1:failed_claim=1 L1:failed_claim=1"), (60, "d d2 L1")], "0 New failed_claim.1.1, 60 Over failed_claim.1.1")),
    ("37 a digest that could not be stored", By(MAILED, "digest_is_retried_if_enqueueing_fails_and_is_mailed_once_a_day")),
    ("38 a missed deep run, and two daemons", Played(&[(10 * MINUTE, "d d2 late.deep"), (60, "d d2")], "305 New run_missed.DEEP_CRON, 600 Over run_missed.DEEP_CRON")),
    ("39 a late deep run is over by a deep run", Played(&[(10 * MINUTE, "d late.reconcile late.deep"), (5 * MINUTE, "d late.deep"), (60, "d")], "305 New run_missed.DEEP_CRON, 305 New run_missed.RECONCILE_CRON, 600 Over run_missed.RECONCILE_CRON, 900 Over run_missed.DEEP_CRON")),
    ("40 a late digest", Played(&[(10 * MINUTE, "d late.digest"), (60, "d")], "305 New run_missed.DIGEST_CRON, 600 Over run_missed.DIGEST_CRON")),
    ("41 a mail links to the run that keeps its findings", By(MAILED, "mail_links_to_the_run_that_keeps_the_findings")),
    ("42 a process without readers", By(MAILED, "what_a_process_without_recipients_sees_is_mailed_by_one_with_recipients")),
    ("43 repairs in an outage", Played(&[(60, "d:kafka"), (60, "d:kafka fix!"), (2 * HOUR, "d")], "30 New kafka, 180 New repaired, 180 Over kafka")),
    ("44 what became of broken promises", By(MAILED, "notice_about_broken_promises_says_what_became_of_them")),
    ("45 mails in order, once a server is back", By(OUTBOX, "mails_arrive_in_order_as_soon_as_the_server_is_back")),
    ("46 an acknowledgement waits for who records", By(OPERATORS, "acknowledgement_waits_for_a_process_that_records_alerts")),
    // News, repeats, ends.
    ("47 lasts for days", Played(&[(65 * HOUR, "slow d L1:failed_claim=1")], "0 New failed_claim.1.1, 14400 Repeat failed_claim.1.1, 28800 Repeat failed_claim.1.1, 57600 Repeat failed_claim.1.1, 115200 Repeat failed_claim.1.1, 230400 Repeat failed_claim.1.1")),
    ("48 a kind of a later version", Played(&[(600, "d later!")], "")),
    ("49 a held-back look does not end the drop's others", Played(&[(60, "d L1:failed_claim=1"), (60, "d L1/only-braked:braked=2"), (60, "d L1")], "0 New failed_claim.1.1, 60 New braked.1.1, 120 Over failed_claim.1.1, 120 Over braked.1.1")),
    ("50 two stores at once", Played(&[(60, "d:redis+kafka"), (120, "d")], "30 New redis, 30 New kafka, 120 Over kafka, 120 Over redis")),
    ("51 blips are mailed if they repeat", Played(&[(10, "d:kafka"), (30, "d"), (10, "d:kafka"), (30, "d"), (10, "d:kafka"), (30, "d"), (10, "d:kafka"), (HOUR, "d")], "40 New kafka, 1090 Over kafka")),
    ("52 ten outages, each six minutes", Played(&[(180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (180, "d"), (180, "d:redis"), (5 * HOUR, "d")], "30 New redis, 240 Over redis, 390 New redis, 17820 Over redis")),
    ("53 more cases, then fewer", Played(&[(60, "d L1:failed_claim=1"), (600, "d L1:failed_claim=1+2"), (600, "d L1:failed_claim=2"), (60, "d L1")], "0 New failed_claim.1.1, 300 Changed failed_claim.1.1, 1260 Over failed_claim.1.1")),
    ("54 70, 71, 140 repairs that wait", Played(&[(60, "d L1/only-braked:braked*70"), (600, "d L1/only-braked:braked*71"), (600, "d L1/only-braked:braked*140"), (60, "d L1")], "0 New braked.1.1, 660 Changed braked.1.1, 1260 Over braked.1.1")),
    ("55 a promise that is kept within seconds, and one that is broken until it is resolved", Played(&[(25, "d promise2=1"), (300, "d promise1=1 L1"), (60, "d L1")], "55 New broken_promise.1.1, 325 Over broken_promise.1.1")),
    ("56 a clock that is set back", Played(&[(HOUR, "slow d"), (60, "d:redis"), (10, "d"), (120, "back d")], "3630 New redis, 130 Over redis")),
    ("57 a standstill, and a process that begins to watch", Played(&[(60, "d:stands"), (60, "d:stands d2:new"), (60, "d:stands d2:stands"), (120, "d d2")], "0 New consumer_stands, 240 Over consumer_stands")),
    ("58 every second look finds it, for four hours", Played(&[(4 * HOUR, "d L1:failed_claim=1~"), (5 * HOUR, "d L1")], "0 New failed_claim.1.1, 30 Over failed_claim.1.1, 60 New failed_claim.1.1, 28770 Over failed_claim.1.1")),
    ("59 a deep finding ends with a deep look", Played(&[(30, "d L1/deep:bad_use=1!"), (300, "d L1"), (60, "d L1/deep")], "0 New bad_use.1.1, 330 Over bad_use.1.1")),
    ("60 a campaign that is in no file any more", Played(&[(60, "d L1:unissued=1"), (60, "d L1/gone")], "0 New unissued.1.1, 60 Over unissued.1.1 (given up)")),
    ("61 an acknowledged campaign hides no other", Played(&[(120, "d L1:stalled=compare ack"), (120, "d L1:stalled=compare L2:stalled=compare"), (120, "d:kafka L1 L2"), (120, "d")], "30 New stalled.1.1, 150 New stalled.2.2, 240 Over stalled.1.1, 240 Over stalled.2.2, 270 New kafka, 420 Over kafka")),
    ("62 their store away for a minute", Played(&[(60, "d T:mysql"), (60, "d T")], "30 New theirs_database, 60 Over theirs_database")),
    ("63 a sale hides a count", Played(&[(60, "d L1:count_mismatch=1"), (300, "d L1/but-count_mismatch"), (60, "d L1")], "0 New count_mismatch.1.1, 360 Over count_mismatch.1.1")),
    ("64 keys expire before and after a repair", Played(&[(60, "d L1:unissued=1 L2:unissued=1"), (60, "d L1/gone L2")], "0 New unissued.1.1, 0 New unissued.2.2, 60 Over unissued.1.1 (given up), 60 Over unissued.2.2")),
    ("65 another reason of a standstill", Played(&[(60, "d L1:stalled=compare"), (600, "d L1:stalled=statement"), (60, "d L1")], "30 New stalled.1.1, 330 Changed stalled.1.1, 660 Over stalled.1.1")),
    ("66 few new ones among many that are acknowledged", Played(&[(60, "d L1:failed_claim=1..40 ack"), (2 * HOUR, "d L1:failed_claim=1..45"), (60, "d L1")], "0 New failed_claim.1.1, 7260 Over failed_claim.1.1")),
    ("67 a list that is cut", Played(&[(60, "d L1:failed_claim*5000"), (600, "d L1:failed_claim*4999"), (60, "d L1")], "0 New failed_claim.1.1, 660 Over failed_claim.1.1")),
    ("68 a deep finding stays between deep looks", Played(&[(30, "d L1/deep:bad_use=1!"), (HOUR, "d L1")], "0 New bad_use.1.1")),
    ("69 2,000 coupons closed and acknowledged, outages in between", Played(&[(60, "d:closed1..2000 ack"), (60, "d:redis"), (300, "d:closed1..2000"), (60, "d:redis"), (300, "d:closed1..2000"), (120, "d")], "30 New admission_closed, 90 New redis, 180 Over redis, 450 New redis, 720 Over redis, 840 Over admission_closed")),
    // What an attack found.
    ("70 M1: their connection is lost in one look", Played(&[(30, "d L1:stalled=lost! T:mysql!"), (300, "d L1 T")], "")),
    ("71 a look that met a store away is repeated", By(SCHEDULE, "doubtful_look_is_repeated_three_times_whatever_the_schedule")),
    ("72 M2: a queue that drains slowly", Played(&[(8 * MINUTE, "d L1:queue=1"), (60, "d L1"), (8 * MINUTE, "d L1:queue=1"), (60, "d L1")], "")),
    ("73 M3: a pass of seven minutes", Played(&[(7 * MINUTE, "d late.reconcile holds"), (60, "d")], "")),
    ("74 M6: two daemons, MySQL away", By(STORES, "daemons_mail_an_outage_of_mysql_and_one_of_them_its_end")),
    ("75 MySQL and the mail server away", By(LOCAL, "what_nobody_got_is_not_told")),
    ("76 acknowledged, and a case each minute", Played(&[(60, "d L1:unissued=1 ack"), (3 * HOUR, "d L1:unissued=1..*"), (60, "d L1")], "0 New unissued.1.1, 3600 Changed unissued.1.1, 7200 Changed unissued.1.1, 10800 Changed unissued.1.1, 10860 Over unissued.1.1")),
    ("77 a case each minute", Played(&[(3 * HOUR, "d L1:unissued=1..*"), (60, "d L1")], "0 New unissued.1.1, 300 Changed unissued.1.1, 900 Changed unissued.1.1, 2100 Changed unissued.1.1, 4500 Changed unissued.1.1, 8100 Changed unissued.1.1, 10800 Over unissued.1.1")),
    ("78 M4: a repair every five minutes all night", Played(&[(8 * HOUR, "d fix:300")], "0 New repaired, 3600 Changed repaired, 10800 Changed repaired, 25200 Changed repaired")),
    ("79 M5: a copy of the file, or an older one, looks at one campaign", Played(&[(60, "d L1:unissued=1 L2:unissued=1"), (600, "d L1:unissued=1"), (60, "d L1 L2")], "0 New unissued.1.1, 0 New unissued.2.2, 660 Over unissued.1.1, 660 Over unissued.2.2")),
    ("80 a digest while the mail server is away", By(OUTBOX, "digest_waits_for_the_mail_server_and_the_next_one_counts_what_was_given_up")),
    ("81 M7: a plan that changes", Played(&[(60, "d L1/only-braked:braked=1"), (600, "d L1/only-braked:braked=1+2"), (60, "d L1")], "0 New braked.1.1, 300 Changed braked.1.1, 660 Over braked.1.1")),
    ("82 a key is typed wrong", By(SHAPES, "what_does_not_fit_is_said_and_never_written")),
    ("83 a daemon starts, and knows nothing yet", Played(&[(60, "d:redis+closed1"), (300, "d:new"), (60, "d:redis+closed1"), (120, "d")], "30 New redis, 480 Over redis")),
    ("84 the eleventh mail of an hour waits, unless a store takes it along", Played(&[(5, "d L1:unissued=1!"), (5, "d L2:unissued=1!"), (5, "d L3:unissued=1!"), (5, "d L4:unissued=1!"), (5, "d L5:unissued=1!"), (5, "d L6:unissued=1!"), (5, "d L7:unissued=1!"), (5, "d L8:unissued=1!"), (5, "d L9:unissued=1!"), (5, "d L10:unissued=1!"), (5, "d L11:unissued=1!"), (5, "d L12:unissued=1!"), (60, "d:redis")], "0 New unissued.1.1, 5 New unissued.2.2, 10 New unissued.3.3, 15 New unissued.4.4, 20 New unissued.5.5, 25 New unissued.6.6, 30 New unissued.7.7, 35 New unissued.8.8, 40 New unissued.9.9, 45 New unissued.10.10, 90 New redis, 90 New unissued.11.11, 90 New unissued.12.12")),
    ("85 only cron, and Kafka away", Played(&[(900, "cron F:kafka"), (600, "cron F")], "300 New run_failed, 900 Over run_failed")),
    ("86 nobody looks for days", Played(&[(5, "d L1:unissued=1!"), (3 * 24 * HOUR, "slow d")], "0 New unissued.1.1")),
    ("87 the first start, in any order", Played(&[(20, "d:new"), (10, "d:redis"), (20, "d"), (10, "d:kafka"), (300, "d")], "")),
    ("88 evaluations that take 20 s", Played(&[(120, "slow d:redis"), (300, "slow d")], "40 New redis, 180 Over redis")),
    ("89 commits hang", By(LOCAL, "commits_that_hang_are_named")),
    ("90 a failover loses the last second", Played(&[(5, "d L1:failed_claim=1"), (60, "forget d L1:failed_claim=1"), (60, "d L1")], "0 New failed_claim.1.1, 5 New failed_claim.1.1, 65 Over failed_claim.1.1")),
    // Single rules.
    ("91 APIs that crash in a loop, then silence", Played(&[(60, "d:redis api:new"), (1_200, "")], "30 New redis")),
    ("92 one look is no patience", Played(&[(10 * MINUTE, "d T:mysql!"), (8 * HOUR, "slow d T:mysql!"), (60, "d T")], "600 New theirs_database, 29400 Over theirs_database")),
    ("93 what nobody knows neither begins nor ends, and explains", Played(&[(60, "d:redis"), (540, "d:new+closed1"), (200, "d:closed1")], "30 New redis, 660 Over redis, 690 New admission_closed")),
    ("94 another store does not explain failed passes", Played(&[(400, "d:redis F:redis"), (400, "d:redis F:kafka")], "30 New redis, 430 New run_failed")),
    ("95 closed by a plan, and another coupon by itself", Played(&[(600, "d:closed1 L1/only-braked:braked=7"), (300, "d:closed1-2 L1/only-braked:braked=7"), (600, "d:closed1-2 L1")], "0 New braked.1.1, 630 New admission_closed, 900 Over braked.1.1, 960 Changed admission_closed")),
    ("96 many warnings are news when they have doubled", Played(&[(60, "d L1:failed_claim=1..70"), (2 * HOUR, "d L1:failed_claim=1..71"), (600, "d L1:failed_claim=1..140")], "0 New failed_claim.1.1, 7260 Changed failed_claim.1.1")),
    ("97 each further case of a critical problem is news", Played(&[(60, "d L1:unissued=1..70"), (2 * HOUR, "d L1:unissued=1..71")], "0 New unissued.1.1, 300 Changed unissued.1.1")),
    ("98 a case that was repaired comes back", Played(&[(60, "d L1:unissued=1+2"), (HOUR, "d L1:unissued=1"), (HOUR, "d L1:unissued=1+2")], "0 New unissued.1.1, 3660 Changed unissued.1.1")),
    ("99 patience begins anew", Played(&[(25, "d promise1=1"), (30, "d"), (25, "d promise1=1"), (30, "d"), (100, "d promise1=1")], "140 New broken_promise.1.1")),
    ("100 answers of a minute end a blip", Played(&[(20, "d:redis"), (95, "d"), (20, "d:redis"), (95, "d"), (20, "d:redis"), (95, "d")], "")),
    ("101 an end waits for its turn, a new outage does not", Played(&[(60, "d:redis"), (5, "d:redis L1:unissued=1!"), (5, "d:redis L2:unissued=1!"), (5, "d:redis L3:unissued=1!"), (5, "d:redis L4:unissued=1!"), (5, "d:redis L5:unissued=1!"), (5, "d:redis L6:unissued=1!"), (5, "d:redis L7:unissued=1!"), (5, "d:redis L8:unissued=1!"), (5, "d:redis L9:unissued=1!"), (620, "d"), (60, "d:kafka")], "30 New redis, 60 New unissued.1.1, 65 New unissued.2.2, 70 New unissued.3.3, 75 New unissued.4.4, 80 New unissued.5.5, 85 New unissued.6.6, 90 New unissued.7.7, 95 New unissued.8.8, 100 New unissued.9.9, 700 Over redis, 755 New kafka")),
    ("102 a mail waits in the outbox", Played(&[(5 * HOUR, "slow d L1:unissued=1 unsent"), (60, "d L1:unissued=1")], "0 New unissued.1.1, 18000 Repeat unissued.1.1")),
    ("103 a process ends after a promise is broken", Played(&[(5, "d promise1=1 last")], "0 New broken_promise.1.1")),
    ("104 a process ends after one look at their store", Played(&[(5, "d T:mysql last")], "")),
    ("105 an acknowledgement covers the cases that it saw", Played(&[(60, "d L1:unissued=1+2 ack"), (24 * HOUR, "slow d L1:unissued=2"), (60, "d L1:unissued=2+3")], "0 New unissued.1.1, 86460 Changed unissued.1.1")),
];

#[test]
fn situations_are_told_once_in_order_and_end_once() {
    let mut wrong = Vec::new();
    let mut numbers = BTreeSet::new();
    for (name, shown) in &SITUATIONS {
        let number = name.split(' ').next().unwrap().parse::<usize>().unwrap();
        assert!(numbers.insert(number), "{name}");
        match shown {
            Played(steps, expected) => {
                let told = play(steps);
                if told != *expected {
                    wrong.push(format!("{name}:\n  told     {told}\n  expected {expected}"));
                }
            }
            By(source, test) => {
                let is_test = source.contains(&format!("fn {test}() {{"));
                assert!(is_test, "{name}: {test}");
            }
        }
    }
    assert_eq!(numbers, (1..=SITUATIONS.len()).collect());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
