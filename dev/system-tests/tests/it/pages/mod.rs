//! The coupon page in a real browser, as people use it.

mod claiming;
mod looks;
mod support;
mod waiting;
