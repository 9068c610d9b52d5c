//! `attach` as a program: its start, its HTTP API and page, and `--once`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod http;
mod once;
mod program;
mod start;
