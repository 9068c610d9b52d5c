//! `--once`, which needs no database of ours.

use std::process::Output;

use crate::program::{FILE, alone, file, shop};

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A printed plan is confirmed by its file, and only its names are repaired.
#[tokio::test]
async fn once_repairs_only_the_names_of_a_plan_that_it_has_printed() {
    let shop = shop().await;
    let shown = alone(&shop, FILE, &["--once", "--json"]).output().unwrap();
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let rows = "SELECT COUNT(*) FROM coupon";
    assert_eq!(shop.number(rows).await, 10);
    let plan = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(plan.path(), &shown.stdout).unwrap();
    let _: i64 = shop.redis("SADD @users user-50").await;
    let args = ["--once", "--confirm", plan.path().to_str().unwrap()];
    let confirmed = alone(&shop, FILE, &args).output().unwrap();
    let text = printed(&confirmed);
    assert!(text.contains("applied  unissued"), "{text}");
    assert_eq!(shop.number(rows).await, 12, "{text}");
    let left = alone(&shop, FILE, &["--once", "--full-ids"])
        .output()
        .unwrap();
    let text = printed(&left);
    assert!(
        text.contains("user-50") && !text.contains("user-0"),
        "{text}"
    );
    let statement = "INSERT INTO coupon (event_id, user_id) VALUES (7, 'user-50');";
    assert!(text.contains(statement), "{text}");
}

#[tokio::test]
async fn once_exits_with_2_if_a_campaign_could_not_be_compared_and_names_the_statement() {
    let shop = shop().await;
    let file = FILE
        .replace("SELECT user_id FROM coupon", "SELECT user FROM coupon")
        .replace("coupon (event_id, user_id)", "coupon (event_id, user)");
    let refused = alone(&shop, &file, &["--once"]).output().unwrap();
    let text = printed(&refused);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        text.contains("your database refuses issued: 1054"),
        "{text}"
    );
    // No repair would be tried today.
    let noted = String::from_utf8_lossy(&refused.stderr);
    assert!(
        noted.contains("your database refuses issue 1: 1054"),
        "{noted}"
    );
}

#[tokio::test]
async fn once_says_nothing_of_a_campaign_whose_redis_is_away() {
    let shop = shop().await;
    let mut away = alone(&shop, FILE, &["--once"]);
    let path = file(&shop, FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&shop.redis_url, "redis://127.0.0.1:1")).unwrap();
    let ended = away.output().unwrap();
    let text = printed(&ended);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(
        text.contains("your Redis") && !text.contains("issued,"),
        "{text}"
    );
}

/// No pass runs while it waits for the stage.
#[tokio::test]
async fn once_waits_for_a_queue_in_a_table() {
    let shop = shop().await;
    let stage = "queue = [{ sql = 'SELECT COUNT(*) FROM coupon WHERE event_id = 8' }]";
    let file = FILE.replace("queue = []", stage);
    assert!(file.contains(stage), "{file}");
    let shown = alone(&shop, &file, &["--once", "--full-ids"]).output();
    let shown = shown.unwrap();
    let text = printed(&shown);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    assert!(
        text.contains("unissued") && !text.contains("stalled"),
        "{text}"
    );
}

#[tokio::test]
async fn once_ends_with_2_if_its_queue_cannot_be_read() {
    let shop = shop().await;
    let _id: String = shop.redis("XADD @stream * user 0").await;
    let stage = "queue = [{ stream = '@stream', group = 'workers' }]";
    let file = FILE.replace("queue = []", stage);
    let ended = alone(&shop, &file, &["--once"]).output().unwrap();
    let text = printed(&ended);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(text.contains("has no group"), "{text}");
}
