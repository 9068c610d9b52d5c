//! The page's texts in both languages.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Korean,
}

impl Language {
    /// Returns the user's preferred language; English if neither is accepted.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let wishes = headers
            .get(ACCEPT_LANGUAGE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut best = (Self::English, 0.0);
        for wish in wishes.split(',') {
            let mut parts = wish.split(';').map(str::trim);
            let language = match parts.next().and_then(|tag| tag.split('-').next()) {
                Some(tag) if tag.eq_ignore_ascii_case("ko") => Self::Korean,
                Some(tag) if tag.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            let weight: f32 = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if weight > best.1 {
                best = (language, weight);
            }
        }
        best.0
    }

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// Returns the text for a key, or an empty text if the table lacks it. A test checks that no
    /// text is missing.
    pub(super) fn word(self, key: &str) -> &'static str {
        let row = WORDS.iter().find(|(known, ..)| *known == key);
        row.map_or("", |row| match self {
            Self::English => row.1,
            Self::Korean => row.2,
        })
    }
}

/// Key, English, Korean. `{n}`, `{total}` and `{time}` are filled in.
pub(super) const WORDS: &[(&str, &str, &str)] = &[
    (
        "quantity",
        "{n} in all · first come, first served",
        "선착순 {n}장",
    ),
    ("loading", "One moment…", "잠시만 기다려 주세요…"),
    (
        "no_script",
        "To get this coupon, open the page in a browser with JavaScript. It opens at",
        "쿠폰을 받으려면 자바스크립트를 사용할 수 있는 브라우저가 필요합니다. 오픈 시각:",
    ),
    ("opens_in", "Opens in", "오픈까지"),
    (
        "opens_at",
        "{time}. Stay on this page: the button turns on by itself.",
        "{time} 오픈 · 이 화면을 켜 두시면 버튼이 저절로 켜집니다.",
    ),
    ("days", "{n} d", "{n}일"),
    ("open", "Open now", "지금 받을 수 있어요"),
    (
        "open_until",
        "One for each person, until {time}.",
        "한 사람에 한 장, {time}까지",
    ),
    ("open_why", "One for each person.", "한 사람에 한 장"),
    ("get", "Get the coupon", "쿠폰 받기"),
    ("not_yet", "Not open yet", "아직 오픈 전이에요"),
    ("claiming", "Asking for one…", "신청하고 있어요…"),
    (
        "claiming_why",
        "Stay on this page.",
        "이 화면을 닫지 마세요.",
    ),
    ("trying", "Still trying…", "다시 시도하고 있어요…"),
    (
        "trying_why",
        "The line is busy or the network is unavailable. This page asks again by itself. Asking twice never costs you your place.",
        "접속이 많거나 네트워크가 끊겼습니다. 저절로 다시 신청하니 이 화면을 닫지 마세요. 여러 번 신청해도 순서는 바뀌지 않습니다.",
    ),
    ("stopped", "No answer", "응답이 없습니다"),
    (
        "stopped_why",
        "There was no answer for ten minutes. Try again when you are back online.",
        "10분 동안 응답이 없었습니다. 네트워크를 확인하고 다시 시도해 주세요.",
    ),
    ("again", "Try again", "다시 시도"),
    ("yours", "It is yours", "쿠폰을 받았어요"),
    ("already", "You already have one", "이미 받으셨어요"),
    (
        "number",
        "Number {n} of {total}.",
        "{total}장 중 {n}번째입니다.",
    ),
    (
        "coming",
        "Number {n} of {total}. Your code is on its way; you may close this page and come back.",
        "{total}장 중 {n}번째입니다. 코드를 준비하고 있어요. 화면을 닫았다가 다시 와도 됩니다.",
    ),
    ("code", "Your code", "쿠폰 코드"),
    ("copy", "Copy the code", "코드 복사"),
    ("copied", "Copied", "복사했어요"),
    ("waiting", "On the waiting list", "대기 명단에 올랐어요"),
    ("place_one", "{n}st in line", "대기 {n}번째"),
    ("place_two", "{n}nd in line", "대기 {n}번째"),
    ("place_few", "{n}rd in line", "대기 {n}번째"),
    ("place_other", "{n}th in line", "대기 {n}번째"),
    (
        "waiting_why",
        "All coupons are given out. When one comes free, the first in line gets it, and this page shows it.",
        "모두 나갔습니다. 취소된 쿠폰은 대기 순서대로 드리며 이 화면에 바로 나타납니다.",
    ),
    ("sold_out", "Sold out", "모두 나갔어요"),
    (
        "sold_out_why",
        "None are left. When one comes free, this page shows it.",
        "남은 쿠폰이 없습니다. 취소된 쿠폰이 생기면 이 화면에 나타납니다.",
    ),
    ("try_anyway", "Try anyway", "그래도 신청하기"),
    (
        "can_wait_why",
        "You can join the waiting list. When a coupon comes free, it goes to the first in line.",
        "대기 명단에 오를 수 있습니다. 취소된 쿠폰은 대기 순서대로 드립니다.",
    ),
    ("join", "Join the waiting list", "대기 명단에 오르기"),
    (
        "lost_place",
        "Your place in line was lost",
        "대기 순번이 사라졌어요",
    ),
    (
        "lost_place_why",
        "We are sorry: a fault on our side deleted the waiting list. Ask again now to get a new place.",
        "죄송합니다. 시스템 장애로 대기 명단이 지워졌습니다. 지금 다시 신청해 주세요.",
    ),
    ("paused", "Paused", "잠시 멈췄어요"),
    (
        "paused_why",
        "It goes on soon. Stay on this page: the button turns on by itself.",
        "곧 다시 시작합니다. 이 화면을 켜 두시면 버튼이 저절로 켜집니다.",
    ),
    ("closed", "Closed", "마감되었어요"),
    (
        "closed_at",
        "It closed on {time}.",
        "{time}에 마감되었습니다.",
    ),
    (
        "closed_why",
        "Nothing more is planned.",
        "예정된 쿠폰이 없습니다.",
    ),
    ("broken", "We are sorry", "죄송합니다"),
    (
        "broken_why",
        "A coupon was promised to you and could not be kept. The organizer has your name on a list.",
        "약속한 쿠폰을 드리지 못했습니다. 주최 측 명단에 기록되어 있습니다.",
    ),
    ("revoked", "No longer yours", "쿠폰이 취소되었어요"),
    (
        "revoked_why",
        "This coupon was given back or withdrawn.",
        "반납했거나 회수된 쿠폰입니다.",
    ),
    (
        "left",
        "You are off the waiting list",
        "대기 명단에서 빠졌어요",
    ),
    (
        "left_why",
        "Your place went to the next in line.",
        "다음 분에게 순서가 돌아갔습니다.",
    ),
    (
        "not_allowed",
        "Not for this account",
        "받을 수 있는 대상이 아니에요",
    ),
    (
        "not_allowed_why",
        "This coupon is for certain people, and you are not among them. Ask the organizer if you think you should be.",
        "정해진 분들만 받을 수 있는 쿠폰입니다. 대상이라고 생각되시면 주최 측에 문의해 주세요.",
    ),
    ("give_back", "Give it back", "반납하기"),
    (
        "sure",
        "Give it back? Another person gets it, and you may not get one again.",
        "반납할까요? 다른 사람에게 돌아가며 다시 받지 못할 수 있습니다.",
    ),
    ("yes_back", "Give it back", "반납"),
    ("keep", "Keep it", "취소"),
    ("leave", "Leave the list", "대기 취소하기"),
    (
        "leave_sure",
        "Leave the waiting list? Your place goes to the next person, and you may not be able to join again.",
        "대기를 취소할까요? 다음 사람에게 순서가 돌아가며 다시 대기하지 못할 수 있습니다.",
    ),
    ("yes_leave", "Leave", "대기 취소"),
    ("stay", "Stay", "계속 대기"),
    ("who", "Use your personal link", "받은 링크로 들어와 주세요"),
    (
        "who_why",
        "This page needs to know who you are. Open it with the link that you received.",
        "누구신지 알 수 없습니다. 받은 링크로 이 화면을 다시 열어 주세요.",
    ),
    ("expired", "Your link has expired", "링크가 만료되었어요"),
    (
        "expired_why",
        "Ask for a new link, and open this page with it.",
        "새 링크를 받아 다시 들어와 주세요.",
    ),
    ("away", "No connection", "연결되지 않았어요"),
    (
        "away_why",
        "This page tries again by itself.",
        "저절로 다시 연결합니다.",
    ),
    ("refused", "This did not work", "처리하지 못했습니다"),
    (
        "refused_why",
        "Ask the organizer of this coupon.",
        "쿠폰 주최 측에 문의해 주세요.",
    ),
    (
        "missing",
        "There is no such coupon",
        "쿠폰을 찾을 수 없습니다",
    ),
    (
        "missing_why",
        "Check that the address is complete.",
        "주소를 다시 확인해 주세요.",
    ),
    ("unavailable", "One moment, please", "잠시만 기다려 주세요"),
    (
        "unavailable_why",
        "This page cannot be shown right now. Load it again in a few seconds.",
        "지금은 화면을 보여 드릴 수 없습니다. 몇 초 뒤에 새로 고쳐 주세요.",
    ),
];

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn chooses_the_accepted_language_with_the_highest_weight() {
        let of = |value: &'static str| {
            let headers = [(ACCEPT_LANGUAGE, HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            Language::of(&headers).tag()
        };
        for korean in [
            "ko",
            "ko-KR,ko;q=0.9,en-US;q=0.8",
            "fr, KO;q=0.2",
            "en;q=0.1, ko;q=0.5",
        ] {
            assert_eq!(of(korean), "ko", "{korean}");
        }
        for english in [
            "",
            "en",
            "fr",
            "*",
            "en-GB, ko;q=0.9",
            "ko;q=0",
            "ko;q=nan",
            "kok",
            "ko;q=x, en;q=0.1",
        ] {
            assert_eq!(of(english), "en", "{english}");
        }
        assert_eq!(Language::of(&HeaderMap::new()), Language::English);
    }
}
