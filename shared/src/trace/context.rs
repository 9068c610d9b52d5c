//! Trace contexts in the W3C `traceparent` format.

use std::fmt;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header of requests, responses and messages.
pub const TRACEPARENT: &str = "traceparent";

/// A span of a trace; the next span becomes its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    /// Whether its spans are exported.
    pub sampled: bool,
}

impl TraceContext {
    /// Starts a new trace.
    pub fn root() -> Self {
        Self {
            // An id of zeros is invalid.
            trace_id: TraceId::from_bytes(rand::random::<u128>().max(1).to_be_bytes()),
            span_id: span_id(rand::random()),
            sampled: true,
        }
    }

    /// Creates a new span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: span_id(rand::random()),
            ..self
        }
    }

    /// Parses a `traceparent`. For an unknown version, reads the known parts.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [a, b, b'-', trace @ .., b'-', flag_a, flag_b] = known else {
            return None;
        };
        let span = trace.get(32..)?.strip_prefix(b"-")?;
        let trace = trace.get(..32)?;
        let version = number(&[*a, *b])?;
        let has_its_length = if version == 0 {
            rest.is_empty()
        } else {
            rest.first().is_none_or(|next| *next == b'-')
        };
        let high = number(&trace[..16])?;
        let low = number(&trace[16..])?;
        let trace_id = (u128::from(high) << 64) | u128::from(low);
        let span_id = number(span)?;
        let flags = number(&[*flag_a, *flag_b])?;
        let is_valid = version != 0xff && has_its_length && trace_id != 0 && span_id != 0;
        is_valid.then(|| Self {
            trace_id: TraceId::from_bytes(trace_id.to_be_bytes()),
            span_id: SpanId::from_bytes(span_id.to_be_bytes()),
            sampled: flags & 1 == 1,
        })
    }

    /// Converts the context to OpenTelemetry's type.
    pub(super) fn as_span(self) -> SpanContext {
        let flags = if self.sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        };
        SpanContext::new(self.trace_id, self.span_id, flags, false, TraceState::NONE)
    }
}

/// Writes the `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

fn span_id(number: u64) -> SpanId {
    SpanId::from_bytes(number.max(1).to_be_bytes())
}

/// Accepts only lower-case digits, at most 16, as the standard requires.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn w3c_example_round_trips_byte_for_byte() {
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(
            context.trace_id.to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert!(context.sampled);
        assert_eq!(context.to_string(), GOOD);
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!TraceContext::parse(unsampled.as_bytes()).unwrap().sampled);
    }

    #[test]
    fn invalid_traceparent_is_ignored_and_later_version_is_partly_read() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-x"),
            &format!("{GOOD} "),
            &GOOD.to_uppercase(),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.replace("00-4", "0x-4"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("-01", "-+1"),
            &GOOD.replace("-00f", "_00f"),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad:?}");
        }
        let later = GOOD.replace("00-4", "cc-4");
        for good in [later.clone(), format!("{later}-what-comes-then")] {
            assert!(TraceContext::parse(good.as_bytes()).is_some(), "{good}");
        }
        assert_eq!(TraceContext::parse(format!("{later}.").as_bytes()), None);
    }

    proptest! {
        #[test]
        fn parses_or_refuses_any_bytes_and_round_trips_its_output(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let _ = TraceContext::parse(&bytes);
            let made = TraceContext::root();
            prop_assert_eq!(TraceContext::parse(made.to_string().as_bytes()), Some(made));
            let child = made.child();
            prop_assert!(child.trace_id == made.trace_id && child.span_id != made.span_id);
        }
    }
}
