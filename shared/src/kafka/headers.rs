//! Reads headers of a message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedHeaders, Headers as _};

pub(super) fn header_of<'m>(headers: Option<&'m BorrowedHeaders>, name: &str) -> Option<&'m [u8]> {
    let headers = headers?;
    unless_it_panics(|| headers.iter().find(|header| header.key == name)?.value)
}

/// rdkafka panics on a header whose name is not UTF-8, which any client with write access to the
/// topic can send. Losing the message's headers is acceptable; stopping the consumer is not.
fn unless_it_panics<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_that_would_panic_the_client_is_omitted() {
        let odd = vec![0xff];
        assert_eq!(unless_it_panics(|| Some(1)), Some(1));
        assert_eq!(
            unless_it_panics(|| Some(str::from_utf8(&odd).unwrap().len())),
            None
        );
    }
}
