//! Raises `RLIMIT_NOFILE` to fit the maximum number of connections. Many shells allow a process
//! only 1,024 open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors for anything other than clients' connections: stores, logs, libraries.
const OTHERS: u64 = 256;

pub(super) fn raise(connections: u32) {
    let needed = u64::from(connections) + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if enough(current) {
        return;
    }
    let wanted = maximum.map_or(needed, |most| most.min(needed));
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(wanted),
            maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    if !enough(maximum) {
        tracing::warn!(
            allowed = wanted,
            needed,
            "fewer connections fit than this process can serve: raise the limit of open files (`ulimit -n`)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raises_the_limit_as_far_as_needed_and_allowed() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        raise(2_000);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.maximum, maximum);
        assert!(
            now.current
                .is_none_or(|files| files >= maximum.map_or(2_256, |most| most.min(2_256)))
        );
    }
}
