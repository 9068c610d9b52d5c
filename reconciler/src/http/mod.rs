//! The reconciler's HTTP API for operators.

pub(crate) mod alerts;
mod coupons;
mod deadline;
mod failed_claims;
mod openapi;
mod overview;
mod people;
mod reader;
pub(crate) mod reconcile;
pub(crate) mod requests;
pub(crate) mod runs;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use firstcome_console::{Console, Screens};
use firstcome_shared::http::health::{self, check};
use firstcome_shared::http::openapi::{bearer, completed};
use firstcome_shared::http::ops::{OpsToken, require};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::refusing::text_of;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Mutex;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::reader::Reader;
use crate::context::Stores;
use crate::notify::Notifier;
use crate::passes::Passes;
use crate::report::{COMMITS_HANG, FailureCause, StoreRefusal};

/// Returns the routes with the document that describes them.
fn contract() -> OpenApiRouter<RouteState> {
    passes_and_alerts(OpenApiRouter::with_openapi(openapi::Description::openapi()))
        .routes(routes!(reconcile::reconcile))
        .routes(routes!(alerts::list))
        .routes(routes!(overview::read))
        .routes(routes!(coupons::drops))
        .routes(routes!(coupons::drop))
        .routes(routes!(coupons::ready))
        .routes(routes!(failed_claims::list))
        .routes(routes!(failed_claims::read))
        .routes(routes!(failed_claims::correct))
        .routes(routes!(failed_claims::discard))
        .routes(routes!(people::search))
        .routes(routes!(people::explain))
        .routes(routes!(people::give_up))
}

/// Adds the routes that are the same for an attached system: they need nothing but MySQL and the
/// passes of the process.
pub(crate) fn passes_and_alerts<S>(router: OpenApiRouter<S>) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Db: FromRef<S>,
    Passes: FromRef<S>,
{
    router
        .routes(routes!(runs::list))
        .routes(routes!(runs::read))
        .routes(routes!(runs::csv))
        .routes(routes!(alerts::acknowledge))
}

/// State that the routes share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RouteState {
    stores: Stores,
    passes: Passes,
    notifier: Notifier,
    overview: Arc<Mutex<Reader>>,
}

impl FromRef<RouteState> for Db {
    fn from_ref(state: &RouteState) -> Self {
        state.stores.db.clone()
    }
}

impl FromRef<RouteState> for Passes {
    fn from_ref(state: &RouteState) -> Self {
        state.passes.clone()
    }
}

/// The parts that [`router`] needs.
pub(crate) struct Front {
    pub(crate) stores: Stores,
    pub(crate) passes: Passes,
    pub(crate) notifier: Notifier,
    /// The operators' tokens, which are also used to log in and to sign cookies.
    pub(crate) token: OpsToken,
    pub(crate) public_url: Option<String>,
    /// `API_URL` and a file of additional certificate authorities, if they are set.
    pub(crate) api: Option<(String, Option<PathBuf>)>,
    pub(crate) metrics: PrometheusHandle,
}

/// Number of MySQL connections for all requests together.
pub(crate) const CONNECTIONS: usize = 4;

/// Creates the router: the routes, with the operations page in front of them.
pub(crate) fn router(front: Front) -> anyhow::Result<Router> {
    let Stores { db, redis, .. } = front.stores.clone();
    // Use separate connections, so that many requests cannot take those of passes.
    let mut stores = front.stores;
    stores.db_settings.pool_size = CONNECTIONS;
    stores.db = Db::new(&stores.db_settings)?;
    let app = RouteState {
        overview: Arc::new(Mutex::new(Reader::new(stores.clone()))),
        stores,
        passes: front.passes,
        notifier: front.notifier,
    };
    let (operations, document) = contract().split_for_parts();
    let tokens = [(
        "ops",
        bearer("The OPS_TOKEN; for GET also the OPS_VIEW_TOKEN"),
    )];
    let document = completed(document, &tokens).to_json()?;
    let openapi = get(async || ([(header::CONTENT_TYPE, "application/json")], document));
    let ops = operations
        .route_layer(from_fn_with_state(front.token.clone(), require))
        .with_state(app);
    let pages = firstcome_console::routes(Console {
        reconciler: guarded(ops.clone()),
        api: front.api,
        token: front.token,
        public_url: front.public_url,
        screens: Screens::All(redis.clone()),
    })?;
    let routes = ops
        .merge(pages)
        .route("/openapi.json", openapi)
        .merge(health::routes(checks(db, redis), Vec::new()))
        .merge(health::metrics_route(front.metrics));
    Ok(guarded(routes))
}

fn checks(db: Db, redis: Redis) -> Vec<(&'static str, health::HealthCheck)> {
    let mysql = move || {
        let db = db.clone();
        async move {
            let written = match db.commits_hang().await {
                Ok(true) => return Err(unusable(FailureCause::Mysql, COMMITS_HANG)),
                Ok(false) => db.check_writes().await,
                Err(error) => Err(error),
            };
            written.map_err(|error| unusable(FailureCause::Mysql, &error.to_string()))
        }
    };
    let redis = move || {
        let redis = redis.clone();
        async move {
            let written = redis.check_writes().await;
            written.map_err(|error| unusable(FailureCause::Redis, &text_of(&error)))
        }
    };
    vec![("mysql", check(mysql)), ("redis", check(redis))]
}

/// Says what a store refuses and what to do, or quotes the error.
fn unusable(store: FailureCause, error: &str) -> String {
    match StoreRefusal::from_error(store, error) {
        Some(refusal) => format!("{} ({error})", refusal.sentence()),
        None => error.to_owned(),
    }
}

/// Adds the layers that apply to every request.
pub(crate) fn guarded(routes: Router) -> Router {
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(deadline::DEADLINE, deadline::guarded))
}
