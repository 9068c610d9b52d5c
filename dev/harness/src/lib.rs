//! The harness: real servers, the real binaries as processes, and tools to drive and judge them.
//! Nothing here judges results with the product's code: answers are read from the wire, rows and
//! keys from the stores. (A run is deserialised with `firstcome_reconciler::report`, whose JSON is
//! the contract.)
//!
//! A [`System`] has the settings of the programs, and starts and supervises them: in tests, the
//! demo, `make run`, the bench and fault schedules.
//!
//! A test creates a [`World`]: its own database, key prefix, topic and mail sink on servers that
//! all tests share, or on private ones if a test breaks them. The world starts the processes of its
//! system: [`World::serve`], [`World::consume`], [`World::daemon`], `once`.
//!
//! [`drift`] damages the data in the stores, and `firstcome_oracle` judges answers offline, without
//! any of the above.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // a missing part fails the test

mod answer;
mod browser;
mod check;
pub mod drift;
mod fixture;
mod history;
mod http;
mod kafka;
mod logs;
mod mysql;
mod old_copy;
mod process;
mod redis;
mod reply;
mod roles;
mod rush;
mod service;
mod shell;
mod system;
mod world;

pub use answer::Answer;
pub use browser::{Browser, Look};
pub use check::{
    PromisedAnswer, agreed, all_issued, assert_exact, assert_kept, exact, holders, rows, try_rows,
};
pub use firstcome_stack::{LOCK_WAITS, TABLE_LOCK_WAITS, eventually, eventually_some};
pub use fixture::{Fixture, open_world};
pub use http::{
    ApiClient, Http, MadeCoupon, OPS_TOKEN, ReconcilerClient, SIGNING_KEY, coupon_body, daily_body,
};
pub use kafka::{OpenTransaction, TestTopic};
pub use mysql::{HeldTransaction, Sql, SqlRefusal};
pub use old_copy::OldCopy;
pub use process::Process;
pub use redis::PrefixedKeys;
pub use reply::HttpReply;
pub use roles::{Once, Running};
pub use rush::{assert_sold_out, people, rush, rush_until_answered, rush_until_settled, tally};
pub use service::Service;
pub use shell::{OperatorsShell, commands_of};
pub use system::{Role, System};
pub use world::{StoreUrls, World, WorldStores};

/// Time limit of most waits. It is long enough for a busy machine, and is only reached if something
/// is broken.
pub const LIMIT: std::time::Duration = std::time::Duration::from_secs(90);
