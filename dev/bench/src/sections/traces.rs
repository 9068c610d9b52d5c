//! The cost of traces: claims per second with one trace in a hundred exported and with none. With
//! `--against`, it is also compared with another build.

use anyhow::{Context as _, Result, ensure};
use firstcome_load::answer::AnswerKind;
use firstcome_load::launch::{Installation, InstallationCoupon, Service};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use firstcome_stack::OtlpReceiver;

use super::figures::{Ratios, median};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "traces";
/// Number of turns of each crowd. They alternate, so that background load affects all sides. Two
/// turns differ by a tenth, so only the median of many is accurate enough for the target.
const TURNS: [usize; 2] = [31, 41];
const RATIO: &str = "0.01";

/// One crowd in which every claim wins, and one that is too late.
const CROWDS: [&str; 2] = ["everyone wins", "sold-out claims"];

struct Side {
    installation: Installation,
    api: Service,
    consumer: Service,
    reconciler: Service,
    /// For each crowd and turn: claims per second, and the API's CPU microseconds per claim.
    turns: [Vec<(f64, f64)>; 2],
    /// A sold-out coupon.
    sold_out: Option<InstallationCoupon>,
}

impl Side {
    async fn start(
        mut installation: Installation,
        collector: Option<&OtlpReceiver>,
    ) -> Result<Self> {
        if let Some(collector) = collector {
            let settings = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
                ("OTEL_TRACES_SAMPLER_ARG", RATIO.into()),
            ];
            installation.settings.extend(settings);
        }
        let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
        let consumer = installation.consumer().await?;
        Ok(Self {
            installation,
            api,
            consumer,
            reconciler,
            turns: Default::default(),
            sold_out: None,
        })
    }

    /// Runs a crowd in which every user gets a coupon of a new drop.
    async fn all_win(&mut self, size: &BenchSize) -> Result<()> {
        let people = size.winners / 10;
        let coupon = self.installation.coupon(&self.api, people).await?;
        let crowd = Workload::once_each(self.api.address()?, coupon.id, people, size.connections);
        let (won, cpu) = crowd.run_metered(self.api.pid()).await?;
        won.everyone_won()?;
        self.turns[0].push((won.per_second, cpu));
        self.installation.every_row(coupon).await?;
        self.sold_out = Some(coupon);
        Ok(())
    }

    /// Runs a crowd in which no user gets a coupon, because it is sold out.
    async fn all_lose(&mut self, size: &BenchSize) -> Result<()> {
        let coupon = self.sold_out.context("no coupon is sold out yet")?;
        let crowd = Workload::once_each(
            self.api.address()?,
            coupon.id,
            size.many_requests,
            size.connections,
        );
        let (lost, cpu) = crowd.named("late-").run_metered(self.api.pid()).await?;
        ensure!(
            lost.count(AnswerKind::SoldOut) == u64::from(size.many_requests),
            "not all lost: {:?}",
            lost.answers
        );
        self.turns[1].push((lost.per_second, cpu));
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.consumer.stop().await?;
        self.api.stop().await?;
        self.reconciler.stop().await
    }

    fn middle(&self, crowd: usize, pick: fn(&(f64, f64)) -> f64) -> f64 {
        median(self.turns[crowd].iter().map(pick).collect())
    }
}

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let collector = OtlpReceiver::start().await?;
    let mut sides = vec![
        Side::start(bench.install("traces_off").await?, None).await?,
        Side::start(bench.install("traces_on").await?, Some(&collector)).await?,
    ];
    if let Some(build) = &bench.other_build {
        let before = Installation::named(&bench.servers, "traces_before", Some(build)).await?;
        sides.push(Side::start(before, None).await?);
    }
    for (crowd, turns) in TURNS.into_iter().enumerate() {
        step(format!(
            "{} with traces off and at {RATIO}, {turns} turns",
            CROWDS[crowd]
        ));
        for turn in 0..turns {
            // The side that goes first rotates.
            for at in 0..sides.len() {
                let at = (at + turn) % sides.len();
                let side = &mut sides[at];
                if crowd == 0 {
                    side.all_win(size).await?;
                } else {
                    side.all_lose(size).await?;
                }
            }
        }
    }
    let mut measurements = Vec::new();
    for crowd in 0..CROWDS.len() {
        measurements.push(compared(
            crowd,
            &NamedSide {
                side: &sides[1],
                name: "a hundredth traced",
            },
            &NamedSide {
                side: &sides[0],
                name: "none",
            },
        ));
        if let Some(before) = sides.get(2) {
            measurements.push(compared(
                crowd,
                &NamedSide {
                    side: &sides[0],
                    name: "none traced",
                },
                &NamedSide {
                    side: before,
                    name: "the other build",
                },
            ));
        }
    }
    for side in sides {
        side.stop().await?;
    }
    let spans = collector.spans().len();
    ensure!(spans > 0, "no span was exported");
    step(format!("{spans} spans were exported"));
    Ok(measurements)
}

/// One side of the comparison, with its name in the report.
struct NamedSide<'a> {
    side: &'a Side,
    name: &'a str,
}

fn compared(crowd: usize, own: &NamedSide<'_>, other: &NamedSide<'_>) -> Measurement {
    let what = own.name;
    let beside = other.name;
    let own = own.side;
    let other = other.side;
    let rates = |side: &Side| {
        side.turns[crowd]
            .iter()
            .map(|turn| turn.0)
            .collect::<Vec<_>>()
    };
    let ratios = Ratios::of(&rates(own), &rates(other));
    Measurement::of(
        PART,
        format!("{}, {what} ÷ {beside}", CROWDS[crowd]),
        ratios.median,
        "×",
    )
    .with("own/s", own.middle(crowd, |turn| turn.0))
    .with("other/s", other.middle(crowd, |turn| turn.0))
    .with("own CPU µs", own.middle(crowd, |turn| turn.1))
    .with("other CPU µs", other.middle(crowd, |turn| turn.1))
    .target(FigureTarget::AtLeast(0.97))
    .note(format!(
        "median of {} turns ({ratios}); CPU of the API per claim",
        TURNS[crowd]
    ))
}
