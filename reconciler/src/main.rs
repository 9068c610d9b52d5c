//! The program `firstcome-reconciler`: the library, with the operations page in front of its
//! routes.

use std::process::ExitCode;

use firstcome_reconciler::cli;
use firstcome_reconciler::http::Pages;

fn main() -> ExitCode {
    cli::main(PAGES)
}

#[cfg(not(feature = "console"))]
const PAGES: Option<Pages> = None;

#[cfg(feature = "console")]
const PAGES: Option<Pages> = Some(console::pages);

#[cfg(feature = "console")]
mod console {
    use std::sync::Arc;
    use std::time::Duration;

    use axum::Router;
    use firstcome_console::{Console, LogOuts, routes};
    use firstcome_reconciler::http::Mount;
    use firstcome_shared::redis::Redis;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    /// Creates the operations page.
    pub(super) fn pages(mount: Mount) -> anyhow::Result<Router> {
        routes(Console {
            reconciler: mount.routes,
            api: mount.api,
            token: mount.token,
            log_outs: Arc::new(InRedis(mount.redis)),
        })
    }

    /// Stores log-outs in Redis, so that they apply on every replica.
    struct InRedis(Redis);

    impl LogOuts for InRedis {
        fn was_ended<'a>(&'a self, session: &'a str) -> BoxFuture<'a, anyhow::Result<bool>> {
            async move { Ok(self.0.session_was_ended(session).await?) }.boxed()
        }

        fn end<'a>(
            &'a self,
            session: &'a str,
            remembered: Duration,
        ) -> BoxFuture<'a, anyhow::Result<()>> {
            async move { Ok(self.0.end_session(session, remembered).await?) }.boxed()
        }
    }
}
