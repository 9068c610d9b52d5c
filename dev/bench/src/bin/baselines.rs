//! `firstcome-baselines`: the API of one of the other designs.

use std::process::ExitCode;

use clap::Parser as _;
use firstcome_bench::designs::{DesignArgs, serve};
use firstcome_load::ended;

#[tokio::main]
async fn main() -> ExitCode {
    let served = serve(&DesignArgs::parse()).await;
    ended("firstcome-baselines", served.map(|()| ExitCode::SUCCESS))
}
