//! The pages in a real browser: the coupon page and the operations page.

mod claiming;
mod from_mails;
mod looks;
mod operations;
mod operations_live;
mod support;
mod waiting;
