//! Validation of operators' input, for creating and changing coupons.

use std::ops::RangeInclusive;

use firstcome_shared::coupon::Allow;
use firstcome_shared::domain::{Slot, unfit_in_a_name};
use firstcome_shared::http::Problem;

use crate::serve::auth::Identity;
use crate::serve::routes::extract::invalid;

pub(crate) const MAX_QUANTITY: u32 = 10_000_000;

pub(crate) const MAX_WAITING: u32 = 1_000_000;

/// Maximum length of a name, in characters.
const MAX_NAME_CHARS: usize = 200;

pub(crate) fn name(name: &str) -> Result<String, Problem> {
    text("name", MAX_NAME_CHARS, name)
}

/// Trims and checks a line of text.
pub(crate) fn text(field: &str, most: usize, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > most {
        return Err(invalid(format!("{field} must have 1 to {most} characters")));
    }
    if let Some(unfit) = unfit_in_a_name(text) {
        let detail = format!(
            "{field} must not hold control or invisible characters: it holds U+{:04X}",
            u32::from(unfit)
        );
        return Err(invalid(detail));
    }
    Ok(text.to_owned())
}

pub(crate) fn quantity(number: i64) -> Result<Slot, Problem> {
    within("quantity", number, 1..=MAX_QUANTITY)
}

pub(crate) fn waiting_list(number: i64) -> Result<u32, Problem> {
    within("waiting_list", number, 0..=MAX_WAITING)
}

/// Parses the restriction of a coupon. Refuses groups if a gateway identifies users, because the
/// gateway names no groups, so no user would be admitted. `identity` is `None` if it is unknown how
/// the API identifies users.
pub(crate) fn allow(text: &str, identity: Option<&Identity>) -> Result<Allow, Problem> {
    let allow = text
        .parse()
        .map_err(|error: String| invalid(format!("allow: {error}")))?;
    if matches!(allow, Allow::Group(_)) && identity.is_some_and(|identity| !identity.wants_token())
    {
        let detail = "allow: a coupon of a group needs USER_AUTH=jwt; with USER_AUTH=trusted-header nobody's groups are known";
        return Err(invalid(detail));
    }
    Ok(allow)
}

fn within(field: &str, number: i64, allowed: RangeInclusive<u32>) -> Result<u32, Problem> {
    let (least, most) = allowed.into_inner();
    u32::try_from(number)
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| {
            invalid(format!(
                "{field} must be a whole number from {least} to {most}, not {number}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::gateway::Gateway;

    #[test]
    fn trims_names_and_refuses_control_and_invisible_characters() {
        assert_eq!(
            name("  Winter coupon · 겨울 ").unwrap(),
            "Winter coupon · 겨울"
        );
        assert_eq!(name(&"ü".repeat(200)).unwrap().chars().count(), 200);
        for good in ["❤\u{fe0f} Valentine", "👩\u{200d}👧 family", "عيد مبارك"] {
            assert_eq!(name(good).unwrap(), good);
        }
        for bad in [
            "",
            "   ",
            &"x".repeat(201),
            "a\nb",
            "a\r\nBcc: x",
            "a\u{0}",
            "\u{1b}[31m",
        ] {
            assert_eq!(name(bad).unwrap_err().code(), "invalid", "{bad:?}");
        }
        for invisible in
            "\u{202e}\u{200b}\u{200f}\u{61c}\u{ad}\u{e0041}\u{3164}\u{2800}\u{feff}".chars()
        {
            assert_eq!(
                name(&format!("a{invisible}b")).unwrap_err().code(),
                "invalid",
                "{invisible:?}"
            );
        }
    }

    #[test]
    fn refuses_group_if_a_gateway_identifies_users() {
        let header = Identity::TrustedHeader(Gateway::default());
        assert_eq!(allow("list", Some(&header)).unwrap(), Allow::List);
        assert!(allow("group:vip", None).is_ok());
        let refused = allow("group:vip", Some(&header)).unwrap_err();
        assert_eq!(refused.code(), "invalid");
        assert!(
            refused.detail().contains("USER_AUTH=jwt"),
            "{}",
            refused.detail()
        );
        assert!(
            allow("vip", Some(&header))
                .unwrap_err()
                .detail()
                .starts_with("allow: ")
        );
    }

    #[test]
    fn refuses_numbers_out_of_bounds() {
        assert_eq!(
            (quantity(1).unwrap(), quantity(10_000_000).unwrap()),
            (1, 10_000_000)
        );
        assert_eq!(
            (waiting_list(0).unwrap(), waiting_list(1_000_000).unwrap()),
            (0, 1_000_000)
        );
        for bad in [0, -1, 10_000_001, i64::MAX, i64::MIN] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
        assert!(waiting_list(-1).is_err() && waiting_list(1_000_001).is_err());
    }
}
