//! Tests the codec of user ids against bytes that a JDK and Jackson wrote (`Forms.java`,
//! `jdk.hex`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use firstcome_attach::forms::{Census, Form, Members, Spelling};
use proptest::prelude::*;

/// What the JDK or Jackson wrote: the kind, the id, and the bytes.
#[derive(Debug, Clone)]
struct Written {
    kind: &'static str,
    id: String,
    bytes: Vec<u8>,
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn written() -> Vec<Written> {
    let lines = include_str!("jdk.hex").lines();
    let read = |line: &'static str| {
        let [kind, id, bytes] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let id = if id == "-" { "" } else { id };
        Written {
            kind,
            id: String::from_utf8(hex(id)).unwrap(),
            bytes: hex(bytes),
        }
    };
    lines.map(read).collect()
}

fn form_of(kind: &str) -> (Form, Option<Spelling>) {
    match kind {
        "java-string" => (Form::Java, Some(Spelling::JavaText)),
        "java-long" => (Form::Java, Some(Spelling::JavaNumber)),
        "java-other" => (Form::Java, None),
        "json-string" => (Form::Json, Some(Spelling::JsonText)),
        "json-typed" => (Form::Json, Some(Spelling::JsonTyped)),
        "json-number" => (Form::Json, Some(Spelling::JsonNumber)),
        "json-other" => (Form::Json, None),
        kind => panic!("{kind}"),
    }
}

#[test]
fn bytes_of_a_jdk_or_jackson_are_decoded_to_the_id_and_encoded_again() {
    let all = written();
    assert!(all.len() > 40);
    for Written { kind, id, bytes } in all {
        let (form, spelling) = form_of(kind);
        let expected = spelling.map(|spelling| (id.clone(), spelling));
        assert_eq!(form.decode(&bytes), expected, "{kind} {id:?}");
        let Some(spelling) = spelling else {
            continue;
        };
        // JSON may escape these characters in several ways.
        let is_escaped = spelling == Spelling::JsonText && id.contains(['"', '\0', '민', '😀']);
        let expected = (!is_escaped).then_some(bytes);
        assert_eq!(spelling.encode(&id), expected, "{kind} {id:?}");
    }
}

/// Repairs look for a member in every spelling that [`Members::all`] returns.
#[test]
fn every_way_in_which_a_jdk_writes_a_user_is_known() {
    for Written { kind, id, bytes } in written() {
        let (form, spelling) = form_of(kind);
        let all = Members::new(form, None).unwrap().all(&id);
        let is_known = all.contains(&bytes);
        assert_eq!(is_known, spelling.is_some(), "{kind} {id:?} {all:?}");
    }
}

#[test]
fn each_prefix_is_refused_or_read_as_another_id() {
    for Written { kind, id, bytes } in written() {
        let (form, _) = form_of(kind);
        for end in 0..bytes.len() {
            let read = form.decode(&bytes[..end]);
            // Only a bare number has prefixes that are numbers, too.
            let is_number = kind == "json-number" || id == "1.5";
            assert!(read.is_none() || is_number, "{kind} {id:?} {end}: {read:?}");
            assert_ne!(read.map(|(id, _)| id), Some(id.clone()));
        }
    }
}

#[test]
fn plain_refuses_what_looks_like_another_form() {
    for Written { kind, bytes, .. } in written() {
        let is_plain = matches!(kind, "json-number" | "json-other") && bytes[0].is_ascii_digit()
            || bytes[0] == b'-';
        assert_eq!(Form::Plain.decode(&bytes).is_some(), is_plain, "{kind}");
    }
    assert_eq!(Form::Plain.decode(b"user\xff"), None);
}

#[test]
fn a_java_key_is_a_serialised_string() {
    let key = Form::Java.key("coupon:7");
    assert_eq!(Form::Java.decode(&key).unwrap().0, "coupon:7");
    assert_eq!(Form::Json.key("coupon:7"), b"coupon:7");
}

#[test]
fn a_java_string_is_read_only_in_its_canonical_form() {
    // "A" in two bytes.
    assert_eq!(Form::Java.decode(b"\xac\xed\0\x05t\0\x02\xc1\x81"), None);
    // Half of a pair of surrogates.
    assert_eq!(
        Form::Java.decode(b"\xac\xed\0\x05t\0\x03\xed\xa0\xbd"),
        None
    );
}

fn census(members: &Members, all: &[&[u8]]) -> Census {
    let mut census = Census::default();
    for bytes in all {
        census.note(members, bytes.to_vec());
    }
    census
}

#[test]
fn one_strange_member_among_others_is_reported_and_two_refuse_the_campaign() {
    let plain = Members::default();
    let mut all: Vec<&[u8]> = vec![b"user"; 19];
    all.push(b"\"user\"");
    let named = census(&plain, &all).strange(&plain, "users").unwrap();
    assert_eq!(named, [r#"\"user\""#]);
    all.push(b"\"user\"");
    let why = census(&plain, &all).strange(&plain, "users").unwrap_err();
    assert!(why.contains("2 of 21 members"), "{why}");
    assert!(why.ends_with("write form = \"json\""), "{why}");
    // A single strange member is tolerated only if others can be read. Here, the form is wrong.
    let only = census(&plain, &[&Form::Java.key("user")]);
    let why = only.strange(&plain, "users").unwrap_err();
    assert!(why.ends_with("write form = \"java\""), "{why}");
    assert_eq!(census(&plain, &[]).strange(&plain, "users"), Ok(Vec::new()));
}

#[test]
fn a_refusal_shows_no_whole_user_id_and_names_the_class() {
    let java = Members::new(Form::Java, None).unwrap();
    let other = written().into_iter().find(|it| it.kind == "java-other");
    let why = census(&java, &[&other.unwrap().bytes]);
    let why = why.strange(&java, "users").unwrap_err();
    assert!(why.contains("java.lang.Integer"), "{why}");
    assert!(why.ends_with("only String and Long can be read"), "{why}");
    let why = census(&java, &[b"secret@example.com"]).strange(&java, "users");
    let why = why.unwrap_err();
    assert!(!why.contains("secret"), "{why}");
}

#[test]
fn a_refusal_shows_at_most_a_quarter_of_a_short_member() {
    let members = Members::new(Form::Plain, Some("user:{id}")).unwrap();
    for (member, shown) in [
        ("7", "one is … of 1 bytes"),
        ("kim", "one is … of 3 bytes"),
        ("4711", "one is 4… of 4 bytes"),
        ("kim-lee-7", "one is ki… of 9 bytes"),
        ("kim@example.com", "one is kim… of 15 bytes"),
    ] {
        let why = census(&members, &[member.as_bytes(), b"lee"]);
        let why = why.strange(&members, "users").unwrap_err();
        assert!(why.contains(shown), "{why}");
    }
}

#[test]
fn bytes_of_another_serializer_are_not_plain_ids() {
    let plain = Members::default();
    // A text and a number as Kryo writes them.
    for bytes in [&b"\x03user-7\x00"[..], b"\x09\x0e"] {
        assert_eq!(Form::Plain.decode(bytes), None);
        let why = census(&plain, &[bytes]).strange(&plain, "users");
        let why = why.unwrap_err();
        assert!(why.contains("use StringCodec"), "{why}");
    }
}

#[test]
fn the_majority_decides_how_a_member_is_written() {
    let json = Members::new(Form::Json, None).unwrap();
    let some = census(
        &json,
        &[b"[\"java.lang.Long\",1]", b"2", b"[\"java.lang.Long\",3]"],
    );
    let member = json.encode(some.majority(&json), "4");
    assert_eq!(member.unwrap(), b"[\"java.lang.Long\",4]");
    assert_eq!(json.encode(some.majority(&json), "user-4"), None);
    let none = Census::default();
    assert_eq!(json.encode(none.majority(&json), "4").unwrap(), b"\"4\"");
}

#[test]
fn member_with_a_text_around_its_id_is_read_and_written() {
    let members = Members::new(Form::Json, Some("user:{id}")).unwrap();
    let (user, spelling) = members.decode(b"\"user:42\"").unwrap();
    assert_eq!(user, "42");
    assert_eq!(members.encode(spelling, "42").unwrap(), b"\"user:42\"");
    assert_eq!(members.decode(b"\"42\""), None);
    let why = census(&members, &[b"\"42\"", b"\"43\""]);
    let why = why.strange(&members, "users").unwrap_err();
    assert!(why.contains("write member"), "{why}");
    for member in ["user:", "{id}{id}"] {
        let why = Members::new(Form::Plain, Some(member)).unwrap_err();
        assert!(why.contains("write {id} once"), "{why}");
    }
}

fn spellings() -> impl Strategy<Value = (Form, Spelling)> {
    prop::sample::select(vec![
        (Form::Plain, Spelling::Plain),
        (Form::Json, Spelling::JsonText),
        (Form::Json, Spelling::JsonNumber),
        (Form::Json, Spelling::JsonTyped),
        (Form::Java, Spelling::JavaText),
        (Form::Java, Spelling::JavaNumber),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_bytes_are_read_back(text in "\\PC*|-?[0-9]{1,20}|(?s).{0,8}", way in spellings()) {
        let (form, spelling) = way;
        if let Some(bytes) = spelling.encode(&text) {
            prop_assert_eq!(form.decode(&bytes), Some((text, spelling)));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_decoded_java_encodes_to_the_same_bytes(
        begin in prop::sample::select(written()).prop_map(|it| it.bytes),
        cut in 0..100_usize,
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let bytes = [&begin[..cut.min(begin.len())], &rest].concat();
        for form in [Form::Plain, Form::Json, Form::Java] {
            let members = Members::new(form, Some("u{id}")).unwrap();
            let mut census = Census::default();
            census.note(&members, bytes.clone());
            let _named_or_refused = census.strange(&members, "users");
            // Java has one form for each text.
            if let Some((text, spelling)) = form.decode(&bytes).filter(|_| form == Form::Java) {
                prop_assert_eq!(spelling.encode(&text), Some(bytes.clone()));
            }
        }
    }
}
