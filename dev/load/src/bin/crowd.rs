//! `firstcome-crowd`: see [`firstcome_load::workload`].

use std::process::ExitCode;

use firstcome_load::{ended, workload};

#[tokio::main]
async fn main() -> ExitCode {
    ended(
        "firstcome-crowd",
        workload::main().await.map(|()| ExitCode::SUCCESS),
    )
}
