//! The forms in which programs write users to Redis: members are compared decoded and added in the
//! form of their neighbours, and no other spelling of a user leads to a second row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use firstcome_attach::Attached;
use firstcome_attach::config::KeyType;
use firstcome_attach::forms::{Form, Members, Spelling};
use firstcome_attach::keys::{Keys, NewMember};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{World, campaign, confirm, pass, refusal, told, users};

const TABLE: &str = "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) \
    NOT NULL, KEY (user_id))";

/// A campaign whose users' key has these settings. Nothing refuses a second row.
fn describe(world: &World, name: &str, users: &str) -> Attached {
    let settings = format!(
        "quantity = 1000
        users = {{ key = '@users', type = 'set', {users} }}
        rows = {{ table = 'coupon', user = 'user_id', duplicates = 'reported' }}"
    );
    world.attached(&campaign(name, &settings))
}

/// Returns the number of rows of each user.
async fn rows(world: &World) -> BTreeMap<String, u32> {
    let rows = "SELECT user_id, COUNT(*) FROM coupon GROUP BY user_id";
    let rows = world.sql(rows).await.into_iter();
    rows.map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect()
}

async fn members(world: &World, key: &[u8]) -> BTreeSet<Vec<u8>> {
    world.bytes("SMEMBERS", key, &[]).await
}

#[tokio::test]
async fn each_form_is_repaired_to_its_former_state() {
    let world = World::empty().await;
    world.sql(TABLE).await;
    for (users_key, form, member, spelling) in [
        ("form = 'plain'", Form::Plain, "{id}", Spelling::Plain),
        (
            "member = 'user:{id}'",
            Form::Plain,
            "user:{id}",
            Spelling::Plain,
        ),
        ("form = 'json'", Form::Json, "{id}", Spelling::JsonText),
        ("form = 'json'", Form::Json, "{id}", Spelling::JsonNumber),
        ("form = 'json'", Form::Json, "{id}", Spelling::JsonTyped),
        ("form = 'java'", Form::Java, "{id}", Spelling::JavaText),
        ("form = 'java'", Form::Java, "{id}", Spelling::JavaNumber),
        (
            "form = 'java', key_form = 'plain', member = 'u{id}'",
            Form::Java,
            "u{id}",
            Spelling::JavaText,
        ),
    ] {
        let case = format!("{users_key} {spelling:?}");
        world.wipe().await;
        world.sql("TRUNCATE coupon").await;
        let attached = describe(&world, &case.replace('\'', ""), users_key);
        let key_form = if users_key.contains("key_form") {
            Form::Plain
        } else {
            form
        };
        let key = key_form.key(&world.key("@users"));
        let codec = Members::new(form, Some(member)).unwrap();
        let written: Vec<Vec<u8>> = users(0..20)
            .map(|user| codec.encode(spelling, &user).unwrap())
            .collect();
        let () = world.bytes("SADD", &key, &written).await;
        world.add_rows(users(0..20)).await;
        let findings = pass(&attached).await;
        assert!(findings.is_empty(), "{case}: {findings:#?}");

        world.sql("DELETE FROM coupon WHERE user_id = '3'").await;
        let () = world.bytes("SREM", &key, &written[5..6]).await;
        let findings = pass(&attached).await;
        let expected = ["1 missing_admission applied", "1 unissued planned"];
        assert_eq!(told(&findings), expected, "{case}: {findings:#?}");
        let findings = confirm(&attached).await;
        assert_eq!(told(&findings), ["1 unissued applied"], "{case}");
        let findings = pass(&attached).await;
        assert!(findings.is_empty(), "{case}: {findings:#?}");
        assert_eq!(members(&world, &key).await, written.into_iter().collect());
        let expected = users(0..20).map(|user| (user, 1)).collect();
        assert_eq!(rows(&world).await, expected, "{case}");
    }
}

/// A deployment in the middle of a sale: from then on, members are written in another form.
#[tokio::test]
async fn changed_serializer_leads_to_no_second_row_and_no_second_member() {
    let world = World::empty().await;
    world.sql(TABLE).await;
    let key = world.key("@users").into_bytes();
    let plain: Vec<Vec<u8>> = users(0..20).map(String::into_bytes).collect();
    let () = world.bytes("SADD", &key, &plain).await;
    world.add_rows(users(0..20)).await;
    let before = describe(&world, "W", "form = 'plain'");
    assert!(pass(&before).await.is_empty());

    let quoted: Vec<Vec<u8>> = users(18..24)
        .map(|user| format!("\"{user}\"").into_bytes())
        .collect();
    let () = world.bytes("SADD", &key, &quoted).await;
    let all = members(&world, &key).await;
    let findings = pass(&before).await;
    assert_eq!(told(&findings), ["1 stalled skipped"], "{findings:#?}");
    let why = &findings[0].detail;
    assert!(why.contains("write form = \"json\""), "{why}");
    let id = before.file.campaigns[0].coupon_id();
    let ours = before.ours.as_ref().unwrap();
    assert!(
        ours.trusts(&before.file, &before.file.campaigns[0])
            .await
            .unwrap()
    );

    // The same campaign with another form is another mapping, which nobody has confirmed.
    let after = describe(&world, "W", "form = 'json'");
    assert_eq!(after.file.campaigns[0].coupon_id(), id);
    assert!(
        !ours
            .trusts(&after.file, &after.file.campaigns[0])
            .await
            .unwrap()
    );
    let findings = pass(&after).await;
    assert_eq!(told(&findings), ["4 unissued planned"], "{findings:#?}");
    let only_once = users(0..20).map(|user| (user, 1)).collect();
    assert_eq!(rows(&world).await, only_once);
    assert_eq!(told(&confirm(&after).await), ["4 unissued applied"]);
    let each_once = users(0..24).map(|user| (user, 1)).collect();
    assert_eq!(rows(&world).await, each_once);
    assert_eq!(members(&world, &key).await, all);
}

#[tokio::test]
async fn text_around_ids_is_guessed_if_no_member_has_a_row() {
    let world = World::empty().await;
    world.sql(TABLE).await;
    let key = world.key("@users").into_bytes();
    let written: Vec<Vec<u8>> = users(0..20)
        .map(|user| format!("user:{user}").into_bytes())
        .collect();
    let () = world.bytes("SADD", &key, &written).await;
    world.add_rows(users(0..20)).await;
    let attached = describe(&world, "W", "form = 'plain'");
    let findings = pass(&attached).await;
    let expected = ["20 missing_admission planned", "20 unissued planned"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    let why = &findings[0].detail;
    assert!(why.contains("try users.member = \"user:{id}\""), "{why}");
    let right = describe(&world, "W", "member = 'user:{id}'");
    assert!(pass(&right).await.is_empty());
}

#[tokio::test]
async fn key_that_is_named_in_another_form_is_refused_with_that_form() {
    let world = World::empty().await;
    world.sql(TABLE).await;
    let java = Form::Java.key(&world.key("@users"));
    let () = world.bytes("SADD", &java, &[b"1".to_vec()]).await;
    let why = refusal(&describe(&world, "W", "form = 'plain'")).await;
    assert!(why.contains("write key_form = \"java\""), "{why}");
}

/// Their program may add a user between the look and the repair, in another spelling.
#[tokio::test]
async fn user_is_not_added_beside_another_spelling_nor_to_a_key_that_is_gone() {
    let world = World::empty().await;
    world.sql(TABLE).await;
    let attached = describe(&world, "W", "form = 'json'");
    let mut keys = Keys::new(&attached.redis);
    let codec = Members::new(Form::Json, None).unwrap();
    let key = world.key("@users").into_bytes();
    let spelled = codec.encode(Spelling::JsonNumber, "7").unwrap();
    let () = world
        .bytes("SADD", &key, std::slice::from_ref(&spelled))
        .await;
    for (user, is_added) in [("7", false), ("8", true)] {
        let member = NewMember {
            kind: KeyType::Set,
            member: codec.encode(Spelling::JsonText, user).unwrap(),
            spellings: codec.all(user),
            score: 0.0,
            value: Vec::new(),
            may_create: false,
        };
        assert!(keys.add(&key, &member).await.unwrap(), "the key is there");
        let all = members(&world, &key).await;
        assert_eq!(all.contains(&member.member), is_added, "{user}");
    }
    let gone = NewMember {
        kind: KeyType::Set,
        member: spelled,
        spellings: codec.all("7"),
        score: 0.0,
        value: Vec::new(),
        may_create: false,
    };
    let other = world.key("@expired").into_bytes();
    assert!(!keys.add(&other, &gone).await.unwrap());
    assert!(members(&world, &other).await.is_empty());
}

/// A user: the spellings of their members, and the number of their rows.
#[derive(Debug, Clone)]
struct Person {
    spellings: Vec<usize>,
    rows: usize,
}

fn people() -> impl Strategy<Value = (usize, Vec<Person>)> {
    let spellings = prop::collection::vec(0..3_usize, 0..3);
    let person = (spellings, 0..3_usize).prop_map(|(spellings, rows)| Person { spellings, rows });
    (0..FORMS.len(), prop::collection::vec(person, 1..12))
}

const FORMS: [(&str, Form, &[Spelling]); 3] = [
    ("plain", Form::Plain, &[Spelling::Plain]),
    (
        "json",
        Form::Json,
        &[
            Spelling::JsonText,
            Spelling::JsonNumber,
            Spelling::JsonTyped,
        ],
    ),
    (
        "java",
        Form::Java,
        &[Spelling::JavaText, Spelling::JavaNumber],
    ),
];

#[test]
fn user_in_any_spellings_gets_at_most_one_row_and_no_second_member() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::empty());
    runtime.block_on(world.sql(TABLE));
    let number = AtomicU32::new(0);
    let cases = std::env::var("SYSTEMS").map_or(12, |text| text.parse().unwrap());
    let config = Config {
        cases,
        max_shrink_iters: 100,
        failure_persistence: None,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&people(), |(form, people)| {
        let name = number.fetch_add(1, Ordering::Relaxed).to_string();
        runtime.block_on(check(&world, &name, FORMS[form], &people));
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

async fn check(
    world: &World,
    name: &str,
    (word, form, spellings): (&str, Form, &[Spelling]),
    people: &[Person],
) {
    world.wipe().await;
    world.sql("TRUNCATE coupon").await;
    let codec = Members::new(form, None).unwrap();
    let key = form.key(&world.key("@users"));
    for (user, person) in people.iter().enumerate() {
        let user = user.to_string();
        for at in &person.spellings {
            let spelling = spellings[at % spellings.len()];
            let member = codec.encode(spelling, &user).unwrap();
            let () = world.bytes("SADD", &key, &[member]).await;
        }
        world.add_rows(std::iter::repeat_n(user, person.rows)).await;
    }
    let before = rows(world).await;
    let written = members(world, &key).await;
    let attached = describe(world, name, &format!("form = '{word}'"));
    pass(&attached).await;
    confirm(&attached).await;
    confirm(&attached).await;
    let after = rows(world).await;
    let added: Vec<Vec<u8>> = members(world, &key)
        .await
        .difference(&written)
        .cloned()
        .collect();
    for (user, person) in people.iter().enumerate() {
        let user = user.to_string();
        let has = after.get(&user).copied().unwrap_or_default();
        let had = before.get(&user).copied().unwrap_or_default();
        let is_promised = !person.spellings.is_empty();
        assert_eq!(has, had.max(u32::from(is_promised)), "{user}");
        let spelled = added
            .iter()
            .filter(|it| codec.decode(it).unwrap().0 == user);
        assert_eq!(spelled.count() > 0, !is_promised && had > 0, "{user}");
    }
}
