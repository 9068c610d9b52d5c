//! The pages in a real browser: the coupon page and the operations page.

mod attached;
mod claiming;
mod from_mail;
mod pictures;
mod support;
