//! `attach` as a program: its start, its HTTP API and page, `--once`, and its death.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod http;
mod once;
mod program;
mod start;
mod stopped;
