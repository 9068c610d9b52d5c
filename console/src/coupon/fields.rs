//! The settings of a coupon as the page has them, in one table: what they are called, and how they
//! are typed, read and shown. The form of a new coupon, the form of changes, the facts of a coupon,
//! its history and refusals read it.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{MAX_QUANTITY, MAX_VALID_DAYS, MAX_WAITING};
use firstcome_shared::schedule::Tz;
use serde_json::{Value, json};

use crate::page::FormFields;
use crate::text::{Text as _, local_time, short};

/// A setting of a coupon.
#[derive(Debug)]
pub(super) struct CouponField {
    /// Its name in forms, in the API and in records.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    /// What to type, and what a change means.
    pub(super) hint: &'static str,
    kind: FieldKind,
    /// What can be chosen. Empty if it is typed.
    pub(super) choices: &'static [FieldChoice],
    /// The attributes of its `input`.
    pub(super) attributes: &'static str,
    part: FieldPart,
    /// Whether only the form of a new coupon has it.
    is_fixed: bool,
    /// How it is shown if it has no value. Empty if it must have one.
    none: &'static str,
}

/// How a value is read and shown.
#[derive(Debug)]
enum FieldKind {
    /// As it is. The API checks it.
    Text,
    /// As it is, with the name of a group beside it.
    Audience,
    Number(RangeInclusive<u32>),
    /// A time in the coupon's zone.
    Instant,
}

#[derive(Debug)]
pub(super) struct FieldChoice {
    pub(super) value: &'static str,
    pub(super) label: &'static str,
}

/// The part of the settings that has the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldPart {
    Settings,
    Schedule,
    /// The schedule of a coupon that opens once.
    Once,
    /// The schedule of a daily coupon.
    Daily,
}

const FIELD: CouponField = CouponField {
    name: "",
    label: "",
    hint: "",
    kind: FieldKind::Text,
    choices: &[],
    attributes: "",
    part: FieldPart::Settings,
    is_fixed: false,
    none: "",
};

const NUMBER: CouponField = CouponField {
    attributes: "inputmode=\"numeric\"",
    ..FIELD
};

const INSTANT: CouponField = CouponField {
    kind: FieldKind::Instant,
    attributes: "type=\"datetime-local\"",
    ..FIELD
};

const CLOCK: CouponField = CouponField {
    attributes: "type=\"time\" step=\"any\"",
    part: FieldPart::Daily,
    ..FIELD
};

const DAY: CouponField = CouponField {
    attributes: "type=\"date\"",
    part: FieldPart::Daily,
    ..FIELD
};

pub(super) static FIELDS: [CouponField; 15] = [
    CouponField {
        name: "name",
        label: "Name",
        hint: "People see it.",
        ..FIELD
    },
    CouponField {
        name: "quantity",
        label: "Quantity",
        hint: "Of each drop. A change applies to every drop that is not closed. Those who hold one \
            keep it.",
        kind: FieldKind::Number(1..=MAX_QUANTITY),
        ..NUMBER
    },
    CouponField {
        name: "once_per",
        label: "Each person gets",
        choices: &[
            FieldChoice {
                value: "coupon",
                label: "one in all",
            },
            FieldChoice {
                value: "drop",
                label: "one each day",
            },
        ],
        is_fixed: true,
        ..FIELD
    },
    CouponField {
        name: "waiting_list",
        label: "Waiting list",
        hint: "How many may wait once it is sold out. Those who wait keep their place.",
        kind: FieldKind::Number(0..=MAX_WAITING),
        ..NUMBER
    },
    CouponField {
        name: "allow",
        label: "Who may claim",
        hint: "A list is filled on the coupon's page. A group is what users' tokens name. Those \
            who hold one or wait keep it.",
        kind: FieldKind::Audience,
        choices: &[
            FieldChoice {
                value: "",
                label: "everybody",
            },
            FieldChoice {
                value: "list",
                label: "people on its allow list",
            },
            FieldChoice {
                value: "group",
                label: "people of this group:",
            },
        ],
        none: "everybody",
        ..FIELD
    },
    CouponField {
        name: "type",
        label: "Opens",
        choices: &[
            FieldChoice {
                value: "once",
                label: "once",
            },
            FieldChoice {
                value: "daily",
                label: "daily",
            },
        ],
        part: FieldPart::Schedule,
        is_fixed: true,
        ..FIELD
    },
    CouponField {
        name: "time_zone",
        label: "Time zone",
        hint: "Of all times of this coupon. Such as Asia/Seoul; type to choose.",
        attributes: "list=\"zones\" data-browser-zone",
        part: FieldPart::Schedule,
        is_fixed: true,
        ..FIELD
    },
    CouponField {
        name: "opens_at",
        label: "Opens at",
        hint: "It can be moved until a minute before.",
        part: FieldPart::Once,
        ..INSTANT
    },
    CouponField {
        name: "closes_at",
        label: "Closes at",
        hint: "Empty: never. Nobody gets one after that.",
        part: FieldPart::Once,
        none: "never",
        ..INSTANT
    },
    CouponField {
        name: "opens",
        label: "Opens each day at",
        hint: "A drop that has opened, or opens within a minute, keeps its times.",
        ..CLOCK
    },
    CouponField {
        name: "closes",
        label: "Closes each day at",
        hint: "On the next day if it is not later than the opening.",
        ..CLOCK
    },
    CouponField {
        name: "first_day",
        label: "First day",
        is_fixed: true,
        ..DAY
    },
    CouponField {
        name: "last_day",
        label: "Last day",
        hint: "Empty: no end. It opens on no later day.",
        none: "no end",
        ..DAY
    },
    CouponField {
        name: "valid_days",
        label: "Days to use a code",
        hint: "From the claim. Empty: no such end. A change concerns codes that exist, too.",
        kind: FieldKind::Number(1..=MAX_VALID_DAYS),
        none: "no such end",
        ..NUMBER
    },
    CouponField {
        name: "valid_until",
        label: "Use codes until",
        hint: "Instead of days. Empty: no such end. A change concerns codes that exist, too.",
        none: "no such end",
        ..INSTANT
    },
];

impl CouponField {
    /// Whether coupons with this type of schedule have the field.
    pub(super) fn is_of(&self, schedule: &str) -> bool {
        match self.part {
            FieldPart::Settings | FieldPart::Schedule => true,
            FieldPart::Once | FieldPart::Daily => schedule == self.class(),
        }
    }

    /// The type of schedule for which the form of a new coupon shows it.
    pub(super) fn class(&self) -> &'static str {
        match self.part {
            FieldPart::Settings | FieldPart::Schedule => "",
            FieldPart::Once => "once",
            FieldPart::Daily => "daily",
        }
    }

    pub(super) fn is_of_schedule(&self) -> bool {
        self.part != FieldPart::Settings
    }

    pub(super) fn value<'a>(&self, settings: &'a Value) -> &'a Value {
        if self.is_of_schedule() {
            &settings["schedule"][self.name]
        } else {
            &settings[self.name]
        }
    }

    /// Returns what was typed, or `None` if the form lacks the field.
    pub(super) fn typed_in(&self, form: &FormFields) -> Option<String> {
        let typed = form.find(self.name)?;
        if self.has_group() && typed == "group" {
            return Some(format!("group:{}", form.get("group")));
        }
        Some(typed.to_owned())
    }

    /// Reads what was typed as the API takes it. Times are in this zone.
    pub(super) fn read(&self, typed: &str, zone: Tz) -> Result<Value, String> {
        if typed.is_empty() {
            return match self.none {
                "" => Err(format!("Fill in “{}”", self.label)),
                _ => Ok(Value::Null),
            };
        }
        let unlike = |form| {
            let typed = typed.text();
            Err(format!("“{}” must be {form}, not “{typed}”", self.label))
        };
        match &self.kind {
            FieldKind::Text | FieldKind::Audience => Ok(typed.into()),
            FieldKind::Number(range) => match typed.parse() {
                Ok(number) if range.contains(&number) => Ok(number.into()),
                Ok(_) | Err(_) => {
                    let least = range.start().text();
                    let most = range.end().text();
                    unlike(format!("a whole number from {least} to {most}"))
                }
            },
            FieldKind::Instant => match local_time(typed, zone) {
                Some(at) => Ok(json!(at)),
                None => unlike(format!("a time that exists in {}", zone.name())),
            },
        }
    }

    /// Shows a value of the API, in the coupon's zone.
    pub(super) fn show(&self, value: &Value, zone: Option<Tz>) -> String {
        let mut choices = self.choices.iter();
        let chosen = choices.find(|choice| value == choice.value);
        match (chosen, value) {
            (Some(choice), _) => choice.label.to_owned(),
            (None, Value::Null) => self.none.to_owned(),
            (None, _) => shown(value, zone),
        }
    }

    /// Returns the text of the input that shows this value of the API.
    pub(super) fn input_text(&self, value: &Value, zone: Tz) -> String {
        match (&self.kind, value) {
            (_, Value::Null) => String::new(),
            (FieldKind::Instant, Value::String(text)) => match text.parse::<DateTime<Utc>>() {
                Ok(at) => zone.local(at).format("%Y-%m-%dT%H:%M").to_string(),
                Err(_) => String::new(),
            },
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        }
    }

    fn has_group(&self) -> bool {
        matches!(self.kind, FieldKind::Audience)
    }
}

/// Shows a value of a record.
pub(super) fn shown(value: &Value, zone: Option<Tz>) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(number) => number.text(),
            None => number.to_string(),
        },
        Value::String(text) => match text.parse::<DateTime<Utc>>() {
            Ok(at) => short(at, zone),
            Err(_) => text.text(),
        },
        other => other.to_string(),
    }
}

/// Replaces the names of fields in a refusal of the API by their labels.
pub(crate) fn labelled(why: &str) -> String {
    // Names without an underscore are also words of sentences.
    let fields = FIELDS.iter().filter(|field| field.name.contains('_'));
    let why = why.replace("send close_now", "close it early");
    fields.fold(why, |why, field| {
        why.replace(field.name, &format!("“{}”", field.label))
    })
}

/// The fields that a coupon with these settings has.
fn fields_of(settings: &Value) -> impl Iterator<Item = &'static CouponField> {
    let schedule = settings["schedule"]["type"].as_str().unwrap_or_default();
    FIELDS.iter().filter(move |field| field.is_of(schedule))
}

/// The fields whose values can be changed in a coupon with these settings.
pub(super) fn changeable(settings: &Value) -> impl Iterator<Item = &'static CouponField> {
    fields_of(settings).filter(|field| !field.is_fixed)
}

/// A setting of a coupon as its page shows it.
pub(super) struct CouponFact {
    pub(super) label: &'static str,
    pub(super) text: String,
}

pub(super) fn facts(settings: &Value, zone: Option<Tz>) -> Vec<CouponFact> {
    let facts = fields_of(settings).map(|field| CouponFact {
        label: field.label,
        text: field.show(field.value(settings), zone),
    });
    facts.collect()
}

/// An input of a form, with its text.
pub(super) struct FilledInput {
    pub(super) field: &'static CouponField,
    pub(super) typed: String,
}

impl FilledInput {
    /// Returns the inputs of the form of a new coupon, with what was typed.
    pub(super) fn of_a_new_coupon(typed: &FormFields) -> Vec<Self> {
        let nothing = Value::Null;
        let inputs = FIELDS.iter();
        inputs
            .map(|field| Self::new(field, typed, &nothing, Tz::utc()))
            .collect()
    }

    /// Returns the inputs of the form of changes, with what was typed or else the present settings.
    pub(super) fn of_a_change(typed: &FormFields, present: &Value, zone: Tz) -> Vec<Self> {
        changeable(present)
            .map(|field| Self::new(field, typed, present, zone))
            .collect()
    }

    fn new(field: &'static CouponField, typed: &FormFields, present: &Value, zone: Tz) -> Self {
        let typed = field.typed_in(typed);
        Self {
            field,
            typed: typed.unwrap_or_else(|| field.input_text(field.value(present), zone)),
        }
    }

    pub(super) fn is_chosen(&self, choice: &FieldChoice) -> bool {
        let typed = self.typed.as_str();
        typed == choice.value || (typed.starts_with("group:") && choice.value == "group")
    }

    /// The name of the group, if the field has one.
    pub(super) fn group(&self) -> Option<&str> {
        let group = self.typed.strip_prefix("group:").unwrap_or_default();
        self.field.has_group().then_some(group)
    }
}
