//! The trace of a message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedHeaders, Headers as _};

use crate::trace::{TRACEPARENT, TraceContext};

/// The span that sent a message, by its header.
pub fn trace_of(headers: &BorrowedHeaders) -> Option<TraceContext> {
    unless_it_panics(|| {
        let header = headers.iter().find(|header| header.key == TRACEPARENT)?;
        TraceContext::parse(header.value?)
    })
}

/// rdkafka panics at a header whose name is not UTF-8, and anybody who writes to the topic can send
/// one: it must cost the trace, not the consumer.
fn unless_it_panics<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_that_makes_the_client_panic_is_left_out() {
        let odd = vec![0xff];
        assert_eq!(unless_it_panics(|| Some(1)), Some(1));
        assert_eq!(unless_it_panics(|| Some(str::from_utf8(&odd).unwrap().len())), None);
    }
}
