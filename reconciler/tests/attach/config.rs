//! The configuration file: what is refused, and with which message.

use firstcome_attach::AttachError;
use firstcome_attach::config::AttachFile;
use firstcome_shared::subject::Subject;

use crate::world::World;

const GOOD: &str = r#"
database = "mysql://app@db/shop"
redis = "redis://cache"
[[campaign]]
name = "Winter"
quantity = 100
in_flight = "60s"
users = { key = "applied", type = "set" }
count = { key = "count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
"#;

/// On each line: the text that is replaced, its replacement, and a part of the message.
const REFUSED: &str = r#"
quantity = 100 => quantiy = 100 => unknown field `quantiy`
quantity = 100 =>  => campaign "Winter": quantity: write quantity = 100
quantity = 100 => quantity_sql = "DROP TABLE x" => write one SELECT
quantity = 100 => quantity = -1 => quantity
quantity = 100 => quantity = 1; ends = "2026-12-31" => ends
quantity = 100 => quantity = 1; time_zone = "Asia/Soul" => Asia/Seoul
quantity = 100 => quantity = 1; failed = { table = "f", user = "u", done = 3 } => write done = "delete", or
"60s" => "1h" => write seconds up to "240s"
"set" => "list" => expected one of `set`, `sorted set`, `hash`
"tickets" => "many" => expected one of `tickets`, `issued`, `left`, `left tickets`
"mysql://app@db/shop" => "$NO_SUCH_VARIABLE"; redis_cluster = "redis://u:hunter2@db" => expected a boolean
"Winter" => "mysql://app:hunter2@db/shop" => name of campaign 1: that is an address
quantity = 100 => mode = "repair"; quantity = 1; failed = { table = "f", user = "u", done = "delete" } => failed.where: say which events
quantity = 100 => quantity_sql = "SELECT s.remaining FROM s"; stock = { table = "s", where = { id = 7 }, left = "remaining" } => it selects stock.left
quantity = 100 => mode = "repair"; quantity = 1; stock = { table = "s", where = { id = 7 }, left = "remaining" } => needs duplicates = "locked"
event_id = 7 => event_id = [] => write at least one value
"applied" => "applied:{date}" => {date} must stand in every key
event_id = 7 } } => event_id = 7 }, insert = { event_id = 8 } } => leave Some("event_id") out
event_id = 7 => event_id = 2026-12-01 => write true, a whole number, or a text in quotes
"mysql://app@db/shop" => "mysql://app:hunter2@db/shop => line 2: invalid basic string
"mysql://app@db/shop" => "$NO_SUCH_VARIABLE" => $NO_SUCH_VARIABLE is not set
"#;

/// Returns the parts of each line. In the replacement, `; ` begins a new line.
fn cases(text: &str) -> impl Iterator<Item = [String; 3]> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| {
        let mut parts = line.splitn(3, " => ");
        let [from, to, said] = std::array::from_fn(|_| parts.next().unwrap());
        [from.to_owned(), to.replace("; ", "\n"), said.to_owned()]
    })
}

#[test]
fn refusal_of_a_file_says_what_is_wrong_and_shows_no_password() {
    let good = GOOD.replace("= 7 } }", "= 7 }, insert = { event_id = 7 } }");
    AttachFile::parse(&good).unwrap();
    for [from, to, said] in cases(REFUSED) {
        let error = AttachFile::parse(&GOOD.replace(&from, &to)).unwrap_err();
        let error = format!("{error:#}");
        let is_told = error.contains(&said) && !error.contains("hunter2");
        assert!(is_told, "{to}: {error}");
    }
}

/// Otherwise rows of one campaign would be users of the other, or be inserted twice.
#[test]
fn repairs_need_campaigns_whose_conditions_share_no_rows() {
    let (head, campaign) = GOOD.split_once("[[campaign]]").unwrap();
    let other = campaign
        .replace("Winter", "Summer")
        .replace("\"applied\"", "\"x\"");
    let other = other.replace("\"count\"", "\"y\"");
    for (of, are_apart) in [
        ("event_id = 8", true),
        ("event_id = [8, 9]", true),
        ("event_id = [7, 8]", false),
        ("event_id = 7, day = 1", false),
        ("kind = 7", false),
        ("", false),
    ] {
        let other = other.replace("event_id = 7", of);
        for mode in ["observe", "repair"] {
            let other = other.replace("quantity", &format!("mode = \"{mode}\"\nquantity"));
            let file =
                AttachFile::parse(&format!("{head}[[campaign]]{campaign}[[campaign]]{other}"));
            assert_eq!(file.is_ok(), are_apart || mode == "observe", "{mode} {of}");
        }
    }
}

#[test]
fn two_campaigns_never_share_users_counters_or_rows() {
    let (head, campaign) = GOOD.split_once("[[campaign]]").unwrap();
    let other = campaign.replace("Winter", "Summer");
    let both = |other: &str| {
        AttachFile::parse(&format!("{head}[[campaign]]{campaign}[[campaign]]{other}"))
    };
    let apart = other.replace("\"applied\"", "\"x\"").replace("= 7", "= 8");
    let apart = apart.replace("\"count\"", "\"y\"");
    both(&apart).unwrap();
    for (its, same) in [
        ("= 8", "= 7"),
        ("\"x\"", "\"applied\""),
        ("\"y\"", "\"count\""),
        ("\"y\"", "\"applied\""),
    ] {
        let error = format!("{:#}", both(&apart.replace(its, same)).unwrap_err());
        let said =
            "\"Summer\" has the users, counter, rows or failed events of campaign \"Winter\"";
        assert!(error.contains(said), "{error}");
    }
}

/// Yesterday's drop is compared too, because its last claims were on their way at midnight.
#[test]
fn dated_campaign_has_a_drop_for_each_day_with_separate_keys_and_ids() {
    let keys = GOOD
        .replace("\"applied\"", "\"a:{date:%Y%m%d}\"")
        .replace("\"count\"", "\"{date}\"");
    let no_zone = keys.replace("event_id = 7", "day = \"{date}\"");
    let error = format!("{:#}", AttachFile::parse(&no_zone).unwrap_err());
    assert!(error.contains("time_zone: write \"Asia/Seoul\""), "{error}");
    let daily = no_zone.replace("quantity", "time_zone = \"Asia/Seoul\"\nquantity");
    let file = AttachFile::parse(&daily).unwrap();
    let drops = file.campaigns[0].drops("2026-11-26T15:30:00Z".parse().unwrap());
    let keys = drops
        .iter()
        .map(|it| it.fill("a:{date:%Y%m%d}:{date:%d}!") + &it.fill("{date"));
    let expected = ["a:20261126:26!{date", "a:20261127:27!{date"];
    assert_eq!(keys.collect::<Vec<_>>(), expected);
    assert!(drops[0].is_over && !drops[1].is_over && drops[0].drop_id() != drops[1].drop_id());
    assert_eq!(drops[0].drop_id().subject(), Subject::Campaign);
    let failed = "failed = { table = \"failed\", user = \"u\", done = \"delete\" }";
    let error = format!(
        "{:#}",
        AttachFile::parse(&format!("{daily}{failed}")).unwrap_err()
    );
    assert!(error.contains("failed.where"), "{error}");
    // This day begins at one o'clock.
    let cairo = AttachFile::parse(&daily.replace("Asia/Seoul", "Africa/Cairo")).unwrap();
    let drops = cairo.campaigns[0].drops("2026-04-23T22:00:00Z".parse().unwrap());
    let keys = drops.iter().map(|it| it.fill("{date}"));
    assert_eq!(keys.collect::<Vec<_>>(), ["2026-04-23", "2026-04-24"]);
}

const MISFITS: &str = r#"
"coupon" => "coupons" => no table "coupons"; the nearest is "coupon"
"coupon" => "bare" => has no column "event_id"
"user_id" => "userid" => no column "userid"; the nearest is "user_id"
"user_id" => "created_at" => is datetime; name a CHAR, VARCHAR, BINARY(16) or integer column
"coupon" => "by_kind" => the primary key of by_kind has "kind"
event_id = 7 => event = 7 => the nearest is "event_id"
event_id = 7 => "event_id` = 1 OR `id" = 7 => has no column
, duplicates = "reported" =>  => ADD UNIQUE KEY (event_id, user_id)
"@u" => "@list" => in Redis is a list, not a set
"@u" => "@z" => is a sorted set, not a set
"#;

#[tokio::test]
async fn mapping_that_does_not_fit_is_refused_with_the_reason() {
    let world = World::without_key().await;
    world.sql("CREATE TABLE bare (user_id VARCHAR(9))").await;
    let by_kind = "CREATE TABLE by_kind (user_id INT, event_id INT, kind ENUM('b', 'a'), PRIMARY KEY (kind, user_id))";
    world.sql(by_kind).await;
    let () = world.redis("LPUSH @list x").await;
    let () = world.redis("ZADD @z 1 x").await;
    let good = "[[campaign]]\nname = \"W\"\nmode = \"repair\"\nquantity = 9\nusers = { key = \"@u\", type = \"set\" }\n\
        rows = { table = \"coupon\", user = \"user_id\", where = { event_id = 7 }, duplicates = \"reported\" }";
    world.attached(good).check().await.unwrap();
    for [from, to, said] in cases(MISFITS) {
        match world.attached(&good.replace(&from, &to)).check().await {
            Err(AttachError::Misfit(why)) => assert!(why.contains(&said), "{to}: {why}"),
            other => panic!("{to}: {other:?}"),
        }
    }
    let key = "ALTER TABLE coupon ADD UNIQUE KEY (user_id, event_id)";
    world.sql(key).await;
    let unique = world.attached(&good.replace(", duplicates = \"reported\"", ""));
    let told = unique.check().await.unwrap();
    assert!(told.is_empty(), "{told:?}");
    world.sql("DROP INDEX event_id ON coupon").await;
    world.sql("DROP INDEX user_id ON coupon").await;
    let told = world.attached(good).check().await.unwrap();
    let last = told.last().unwrap();
    assert!(last.contains("no index of coupon begins with user_id"));
}
