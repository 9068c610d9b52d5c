//! Tests that mails stay harmless and readable with odd or long names of coupons.

use super::*;

#[test]
fn coupon_name_or_reason_cannot_inject_markup_or_headers() {
    let names = [
        "a\r\nBcc: victim@example.com",
        "<img src=x onerror=alert(1)><b>&amp;\"'",
        "evil\u{202e}gnp.exe\u{2066}",
        "{{ 7*7 }} {% include x %}",
        "tab\tnull\0bell\u{7}",
        "",
    ];
    for name in names {
        let mut run = failed_claims();
        run.drops[0].coupon_name = name.to_owned();
        run.drops[0].findings[1].detail = name.to_owned();
        let mail = mail_of_any(&[(at(1), &run)], &[], &linked()).unwrap();
        let subject = &mail.subject;
        assert!(!subject.chars().any(char::is_control), "{subject:?}");
        for text in [&mail.subject, &mail.text, &mail.html] {
            assert!(
                !text.chars().any(|c| c != '\n' && c.is_control()),
                "{name:?}"
            );
            assert!(!text.contains(['\u{202e}', '\u{2066}']), "{name:?}");
            assert!(!text.contains("\nBcc:"), "{name:?}");
        }
        assert!(
            !mail.html.contains("<img") && !mail.html.contains("<b>"),
            "{name:?}"
        );
    }
}

#[test]
fn long_name_leaves_room_for_the_repairs_in_the_subject() {
    let mut run = repaired();
    run.drops[0].coupon_name = "한정판 ".repeat(50);
    let subject = mail(&[(at(1), &run)], &[], &linked()).unwrap().subject;
    let says = "100 of 100 issued · 3 missing rows written";
    assert!(subject.contains(says), "{subject}");
}
