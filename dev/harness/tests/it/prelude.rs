//! Names that most tests use.

pub(crate) use crate::drift::support::{
    CLEAN, DRIFT, REPAIRED, assert_settled, clean_pass, close, inject, injector, mailed, order,
    pass_ends, until_sealed,
};
pub(crate) use firstcome_harness::{
    Answer, Fixture, HeldTransaction, Http, LIMIT, MadeCoupon, OPS_TOKEN, ReconcilerClient, World,
    WorldStores, all_issued, assert_exact, assert_kept, coupon_body, drift::Drift, eventually,
    eventually_some, people, rows, rush, rush_until_answered,
};
pub(crate) use firstcome_reconciler::report::Kind;
pub(crate) use firstcome_stack::{
    FaultProxy, MysqlOptions, MysqlServer, ProxyFault, RedisOptions, RedisServer, Stack,
};
pub(crate) use reqwest::Method;
pub(crate) use serde_json::{Value, json};
pub(crate) use std::time::{Duration, Instant};
