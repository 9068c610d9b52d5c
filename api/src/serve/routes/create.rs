//! `POST /v1/coupons`

use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::Extension;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::coupon::{Allow, Coupon, CouponSettings, Drop};
use firstcome_shared::http::Problem;
use firstcome_shared::http::headers::only_value;
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::CouponView;
use firstcome_shared::mysql::catalogue::{EarlierRequest, IdempotencyKey};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropMeta;

use super::extract::{JsonBody, invalid};
use super::follow_up::{check_audience, reread, write_allow_list};
use super::view::show_one;
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::{App, Services};

/// Create a coupon
///
/// The coupon and its first drops exist once this returns. If Redis is unavailable, claims get 503
/// until the reconciler has written the drops to it. With an `Idempotency-Key`, repeat the
/// request until it succeeds: one coupon is created.
#[utoipa::path(
    post, path = "/v1/coupons", tag = "operators", security(("ops" = [])),
    request_body = CouponSettings,
    params((
        "Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 printable ASCII characters", example = "winter-2026"
    )),
    responses(
        (
            status = 201, description = "The coupon; `Location` has its path", body = CouponView,
            headers(("ETag" = String, description = "Its revision, in quotes"))
        ),
        (status = 422, description = "`idempotency_key_used`: with another body")
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CouponSettings>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers, &body)?;
    let services = Arc::clone(&app);
    let made = async move { make_once(&services, body, key, by).await };
    let made = app.in_flight.run_unlimited(made).await??;
    let location = [(LOCATION, format!("/v1/coupons/{}", made.coupon.id))];
    let shown = show_one(&app, &made, StatusCode::CREATED).await;
    Ok((location, shown).into_response())
}

/// Returns the request's key with a hash of the parsed body, so that the formatting of the JSON is
/// irrelevant.
fn idempotency_key(
    headers: &HeaderMap,
    body: &CouponSettings,
) -> Result<Option<IdempotencyKey>, Problem> {
    let bad =
        || invalid("Idempotency-Key must be one value of 1 to 255 printable ASCII characters");
    let Some(value) = only_value(headers, "idempotency-key").map_err(|_| bad())? else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()))
        .ok_or_else(bad)?;
    let body = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "a coupon's settings cannot be written as JSON");
        Problem::internal()
    })?;
    Ok(Some(IdempotencyKey::new(key.to_owned(), &body)))
}

async fn make_once(
    services: &Services,
    body: CouponSettings,
    key: Option<IdempotencyKey>,
    by: Operator,
) -> Result<Arc<CouponWithDrops>, Problem> {
    let db = &services.mysql.operators;
    let away = |error| {
        tracing::warn!(%error, "a coupon could not be created");
        Problem::unavailable(
            "MySQL did not answer; repeat the request with the same Idempotency-Key, or look at \
            the list of coupons before you try again",
        )
    };
    let now = services.clock.earliest();
    let made = match body.checked_new(now) {
        Ok(new) => {
            check_audience(&services.identity, new.allow.as_ref())?;
            db.create_coupon(new, key, now, by).await.map_err(away)?
        }
        // The windows may have ended since an earlier request created it.
        Err(why) => {
            let earlier = db.earlier_request(key).await.map_err(away)?;
            Err(earlier.ok_or_else(|| invalid(why))?)
        }
    };
    let (coupon, drops) = match made {
        Ok(made) => made,
        Err(EarlierRequest::Made(id)) => return Ok(services.catalogue.find(id).await?),
        Err(EarlierRequest::OtherBody) => {
            let detail = "an earlier request with this Idempotency-Key created a coupon with other \
                settings: look for it in the list of coupons. Nothing was created now";
            return Err(Problem::new(Code::IdempotencyKeyUsed, detail));
        }
    };
    tracing::info!(coupon_id = %coupon.id, drops = drops.len(), "a coupon was created");
    if coupon.allow == Some(Allow::List) {
        // Write the list even if it is empty: while the list is missing from Redis, no claim gets
        // `not_allowed`.
        write_allow_list(services, coupon.id).await;
    }
    if let Err(error) = load(services, &coupon, &drops).await {
        tracing::warn!(
            %error, coupon_id = %coupon.id,
            "a new coupon is not in Redis yet; the reconciler writes it"
        );
    }
    // The client may request the coupon from this process next. Other processes look it up.
    Ok(reread(services, coupon, drops).await)
}

/// Loads a new coupon's drops into Redis and opens it, unless a reconciler has begun another era.
async fn load(services: &Services, coupon: &Coupon, drops: &[Drop]) -> anyhow::Result<()> {
    let redis = &services.redis;
    let id = coupon.id;
    let servers = redis.servers().await?;
    let server = servers
        .holding(id)
        .context("the server that holds the coupon is not a master")?;
    let gate = Gate::default();
    let Some(fence) = redis.begin_era_on(id, server, &gate, coupon.era).await? else {
        return Ok(());
    };
    let keys: Vec<_> = drops.iter().map(|drop| redis.keys(id, drop.id)).collect();
    for (drop, keys) in drops.iter().zip(&keys) {
        let meta = DropMeta::new(coupon, drop);
        redis.load(keys, &fence, coupon.revision, &meta).await?;
    }
    // If this process was paused until now, a reconciler may have begun another era in which users
    // were admitted, and Redis may have been emptied since. Do not open the old era.
    let era = services.mysql.operators.of_primary().era(id).await?;
    if era != Some(coupon.era) {
        bail!("another era has begun");
    }
    redis.open(id, &fence, &keys).await?;
    Ok(())
}
