//! Latency of claims while two hundred slow clients hold sockets and never finish a request.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use firstcome_load::launch::{Installation, Service};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::figures::{Ratios, median};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "slow";
const SLOW: usize = 200;
/// Number of turns. The sides alternate, so that background load affects both.
const TURNS: u32 = 3;
/// Requests per second. This is far below the API's capacity, so that the waiting time is measured
/// and not the load.
const RATE: f64 = 1_000.0;
/// The request of a slow client, sent one byte at a time. Half of the clients never finish the
/// headers, and half never finish the body.
const HEAD: &[u8] = b"POST /v1/coupons/1/claims HTTP/1.1\r\nhost: x\r\nx-slow: ";
const BODY: &[u8] =
    b"POST /v1/coupons HTTP/1.1\r\nhost: x\r\ncontent-length: 16000\r\nauthorization: Bearer ";
const A_BYTE_EVERY: Duration = Duration::from_millis(100);

/// Measures the 99th percentile alternately with and without the slow clients.
pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("slow").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let consumer = installation.consumer().await?;
    step(format!(
        "claims with {SLOW} slow clients, in turns with claims without them"
    ));
    let mut alone = Vec::new();
    let mut beside = Vec::new();
    // The first crowd is a warm-up.
    p99(&installation, &api, size).await?;
    for _ in 0..TURNS {
        alone.push(p99(&installation, &api, size).await?);
        let slow = hold(api.address()?, installation.setting("OPS_TOKEN")).await?;
        beside.push(p99(&installation, &api, size).await?);
        drop(slow);
    }
    consumer.stop().await?;
    api.kill().await?;
    reconciler.stop().await?;
    let what = format!("p99 of claims with {SLOW} slow clients ÷ without them");
    let ratios = Ratios::of(&beside, &alone);
    let difference = if ratios.least <= 1.0 && 1.0 <= ratios.most {
        ": no measurable difference"
    } else {
        ""
    };
    let measurement = Measurement::ratio(
        PART,
        what,
        ("ms with them", median(beside)),
        ("ms without", median(alone)),
    );
    let note = format!(
        "open loop, {RATE} claims per second; everyone wins; {ratios} in {TURNS} turns{difference}"
    );
    Ok(vec![
        measurement.target(FigureTarget::AtMost(2.0)).note(note),
    ])
}

async fn p99(installation: &Installation, api: &Service, size: &BenchSize) -> Result<f64> {
    let people = (size.winners / 20).clamp(1_000, 5_000);
    let coupon = installation.coupon(api, people).await?;
    let workload = Workload {
        rate: Some(RATE),
        ..Workload::once_each(api.address()?, coupon.id, people, size.connections)
    };
    let tally = workload.run().await?;
    tally.everyone_won()?;
    Ok(tally.winners.p99_ms)
}

/// Holds slow clients until the set is dropped. Each reconnects when its connection is closed.
async fn hold(target: SocketAddr, token: &str) -> Result<JoinSet<()>> {
    let body = [BODY, token.as_bytes(), b"\r\n\r\n"].concat();
    let mut slow = JoinSet::new();
    for client in 0..SLOW {
        let connection = TcpStream::connect(target).await?;
        let (begins, first) = if client % 2 == 0 {
            (HEAD.to_vec(), 0)
        } else {
            (body.clone(), body.len())
        };
        slow.spawn(dawdle(connection, target, begins, first));
    }
    Ok(slow)
}

/// Sends the first bytes of `begins` immediately, and the rest and filler one byte at a time.
async fn dawdle(mut connection: TcpStream, target: SocketAddr, begins: Vec<u8>, first: usize) {
    loop {
        let sent = connection.write_all(&begins[..first]).await;
        let mut rest = begins[first..]
            .iter()
            .copied()
            .chain(std::iter::repeat(b'x'));
        let mut answer = [0; 256];
        let mut is_open = sent.is_ok();
        while is_open {
            let byte = rest.next().unwrap_or(b'x');
            is_open = connection.write_all(&[byte]).await.is_ok();
            // The connection is over at the end of the stream, or after a response to the
            // incomplete request.
            is_open &= tokio::time::timeout(A_BYTE_EVERY, connection.read(&mut answer))
                .await
                .is_err();
        }
        match TcpStream::connect(target).await {
            Ok(again) => connection = again,
            Err(_) => return,
        }
    }
}
