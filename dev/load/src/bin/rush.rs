//! `rush` sends a crowd to a running system. See [`firstcome_load::rush`].

use std::process::ExitCode;

use clap::Parser as _;
use firstcome_load::ended;
use firstcome_load::rush::{RushOptions, run};

#[tokio::main]
async fn main() -> ExitCode {
    ended("rush", run(RushOptions::parse()).await)
}
