//! Parses IANA time zones; the error for an unknown name suggests the closest one.

use chrono_tz::{TZ_VARIANTS, Tz};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// Similarity (Jaro-Winkler, 0 to 1) from which a name is suggested. Typing errors score higher,
/// other words lower.
const ALIKE: f64 = 0.88;

/// Maximum length of a text to compare, above that of any zone's name. Comparing a long text would
/// take seconds.
const LONGEST: usize = 60;

pub fn read(text: &str) -> Result<Tz, String> {
    let text = text.trim();
    text.parse().map_err(|_| {
        let help = closest(text).map_or_else(
            || "give an IANA name such as Asia/Seoul".to_owned(),
            |zone| format!("did you mean {}?", zone.name()),
        );
        let shown: String = text.chars().take(LONGEST).collect();
        format!("{shown:?} is not a time zone; {help}")
    })
}

/// Returns the names of all zones.
pub fn names() -> impl Iterator<Item = &'static str> {
    TZ_VARIANTS.iter().map(|zone| zone.name())
}

/// Returns the zone whose name, or city alone, is most similar to the text.
fn closest(text: &str) -> Option<Tz> {
    if text.len() > LONGEST {
        return None;
    }
    let wanted = text.to_lowercase().replace(' ', "_");
    let likeness = |zone: &Tz| {
        let name = zone.name().to_lowercase();
        let city = name.rsplit('/').next().unwrap_or(&name);
        strsim::jaro_winkler(&wanted, &name).max(strsim::jaro_winkler(&wanted, city))
    };
    let scored = TZ_VARIANTS.into_iter().map(|zone| (likeness(&zone), zone));
    let best = scored.reduce(|best, other| if other.0 > best.0 { other } else { best })?;
    (best.0 > ALIKE).then_some(best.1)
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
pub(super) fn serialize<S: Serializer>(zone: &Tz, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(zone.name())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Tz, D::Error> {
    read(&String::deserialize(d)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_zone_is_refused_with_the_closest_name() {
        for (typed, meant) in [
            ("Asia/Seul", "Asia/Seoul"),
            ("asia/seoul", "Asia/Seoul"),
            ("Seoul", "Asia/Seoul"),
            ("Europe/Berln", "Europe/Berlin"),
            ("America/New York", "America/New_York"),
            ("Amercia/Los_Angeles", "America/Los_Angeles"),
        ] {
            let expected = format!("{typed:?} is not a time zone; did you mean {meant}?");
            assert_eq!(read(typed).unwrap_err(), expected);
        }
        for other in ["", "Mars", "+09:00", "our office", &"x".repeat(10_000)] {
            let error = read(other).unwrap_err();
            assert!(
                error.ends_with("give an IANA name such as Asia/Seoul") && error.len() < 150,
                "{error}"
            );
        }
        assert_eq!(read(" Asia/Seoul "), Ok(Tz::Asia__Seoul));
    }
}
