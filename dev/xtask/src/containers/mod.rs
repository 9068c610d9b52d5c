//! Builds the image from dev/Dockerfile, starts docker-compose.yml, and checks that the
//! whole system in containers hands out a coupon exactly, before and after an outage of MySQL and a
//! restart of everything.
//!
//! Podman is for machines that cannot pull images, so it uses stand-ins for third-party images
//! (`images`).

mod compose;
mod images;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::compose::Compose;
pub(crate) use self::compose::Engine;
use crate::programs::{self, Profile};
use crate::shell::{command, install, output, run as run_command, unchecked};

const API: &str = "http://127.0.0.1:8083";
const GATEWAY: &str = "http://127.0.0.1:8080";
const RECONCILER: &str = "http://127.0.0.1:8081";

const QUANTITY: usize = 100;
/// How long the containers may take to become ready. Kafka and MySQL make their files first.
const START: Duration = Duration::from_secs(120);
/// How long MySQL is away. The outage is short if the programs are prebuilt, as in the check of
/// every change.
const OUTAGE: Duration = Duration::from_secs(60);
const SHORT_OUTAGE: Duration = Duration::from_secs(15);
/// How long a pass may take to make a coupon exact.
const REPAIR: Duration = Duration::from_secs(90);

/// Packages that building and running an image needs and that not every machine has.
const PACKAGES: [&str; 8] = [
    "podman",
    "runc",
    "netavark",
    "aardvark-dns",
    "iptables",
    "catatonit",
    "mmdebstrap",
    "curl",
];

/// Checks the containers. With `prebuilt`, podman's image gets the programs of target/debug
/// (`cargo xtask setup` has built them) instead of building a release inside, which takes a quarter
/// of an hour, and the demos do not run.
pub(crate) fn run(engine: Engine, prebuilt: bool) -> Result<()> {
    let profile = Profile::new("dev".to_owned());
    let compose = Compose::new(engine)?;
    match engine {
        Engine::Podman => {
            if let Err(reason) = tools() {
                return unchecked(&format!("containers: {reason:#}"));
            }
            if !prebuilt {
                programs::setup()?;
            }
            images::stand_ins()?;
            images::firstcome(prebuilt.then_some(&profile))?;
        }
        Engine::Docker => {
            programs::build_system(&profile)?;
            compose.build()?;
        }
    }
    attach(&compose)?;
    if !prebuilt {
        demo(&compose, engine)?;
    }
    compose.remove()?;
    let outage = if prebuilt { SHORT_OUTAGE } else { OUTAGE };
    let checked = check(&compose, &profile, outage);
    if checked.is_err() {
        compose.print_logs();
    }
    let removed = compose.remove();
    checked.and(removed)?;
    eprintln!("[containers] exact: {QUANTITY} of each coupon, after an outage and a restart");
    Ok(())
}

/// Checks that the service `attach` reads a file of this folder: here one whose login is not given.
fn attach(compose: &Compose) -> Result<()> {
    const FILE: &str = "target/attach-check.toml";
    let check = "[[check]]\nname = \"One\"\nsql = \"SELECT 1\"\nto_do = \"Nothing.\"\n";
    fs::write(FILE, format!("database = \"$SHOP\"\n{check}"))?;
    let said = compose.run_attach(&[FILE, "--once"])?;
    ensure!(
        said.contains("the variable SHOP is not set"),
        "the service `attach` said: {said}"
    );
    Ok(())
}

/// Builds the image of the service `demo` and runs it, as README says: the whole system, which must
/// end with "exactly 100", and systems of others.
fn demo(compose: &Compose, engine: Engine) -> Result<()> {
    match engine {
        Engine::Podman => images::demo()?,
        Engine::Docker => compose.build_demo()?,
    }
    let begun = Instant::now();
    let printed = compose.run_demo(&[]);
    let attached = compose.run_demo(&["firstcome-demo", "--attach"]);
    compose.remove()?;
    let printed = printed?;
    print!("{printed}");
    let is_exact = |line: &str| line.trim() == "exactly 100, each used once";
    ensure!(
        printed.lines().any(is_exact),
        "the demo ended without \"exactly 100\""
    );
    attached.context("the demo of attach")?;
    let seconds = begun.elapsed().as_secs();
    eprintln!("[containers] the two demos in a container took {seconds} s");
    Ok(())
}

fn tools() -> Result<()> {
    let has = |program: &str| command(program).arg("--version").output().is_ok();
    if [
        "podman",
        "runc",
        "mmdebstrap",
        "iptables",
        "curl",
        "catatonit",
    ]
    .into_iter()
    .all(has)
    {
        return Ok(());
    }
    install(&PACKAGES)
}

fn check(compose: &Compose, profile: &Profile, outage: Duration) -> Result<()> {
    compose.up()?;
    wait_until("API and reconciler are ready", START, || Ok(is_ready()))?;
    let token = compose.secret("OPS_TOKEN")?;

    let first = create_coupon(&token)?;
    let everybody = claims_through_gateway(&first, QUANTITY + 20)?;
    ensure!(
        everybody == QUANTITY,
        "{everybody} of {} browsers were accepted, with {QUANTITY} coupons",
        QUANTITY + 20
    );
    open_pages(&first)?;
    wait_until("the first coupon is exact", REPAIR, || {
        is_exact(&token, &first)
    })?;

    let second = create_coupon(&token)?;
    // The API has read the new coupon once it answers a claim.
    ensure!(
        claims_through_gateway(&second, 1)? == 1,
        "the first claim was refused"
    );
    eprintln!(
        "[containers] MySQL is away for {} s, during a rush",
        outage.as_secs()
    );
    compose.stop("mysql")?;
    let stopped = Instant::now();
    rush(profile, &second, &token)?;
    std::thread::sleep(outage.saturating_sub(stopped.elapsed()));
    compose.start("mysql")?;
    wait_until("the second coupon is exact", REPAIR, || {
        is_exact(&token, &second)
    })?;

    eprintln!("[containers] everything stops and starts again");
    compose.down()?;
    compose.up()?;
    wait_until("API and reconciler are ready again", START, || {
        Ok(is_ready())
    })?;
    for coupon in [&first, &second] {
        wait_until("the coupon is exact after the restart", REPAIR, || {
            is_exact(&token, coupon)
        })?;
        let more = claims_through_gateway(coupon, 3)?;
        ensure!(
            more == 0,
            "coupon {coupon}: {more} more were accepted after the restart"
        );
    }
    Ok(())
}

/// Creates a coupon that stays open until 2036, and returns its ID.
fn create_coupon(token: &str) -> Result<String> {
    let body = format!(
        r#"{{"name":"Containers","quantity":{QUANTITY},"once_per":"coupon","waiting_list":0,
            "schedule":{{"type":"once","opens_at":"2026-01-01T00:00:00Z","closes_at":"2036-01-01T00:00:00Z"}}}}"#
    );
    let answer = output(
        curl(&format!("{API}/v1/coupons"))
            .args(["--fail", "--data", &body])
            .args(["--header", &format!("Authorization: Bearer {token}")]),
    )?;
    let id: String = answer
        .trim_start_matches(r#"{"id":"#)
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    ensure!(!id.is_empty(), "no coupon was created: {answer}");
    Ok(id)
}

/// Claims as this number of new browsers, each without a cookie. Returns how many were accepted.
fn claims_through_gateway(coupon: &str, browsers: usize) -> Result<usize> {
    let mut accepted = 0;
    for _ in 0..browsers {
        let url = format!("{GATEWAY}/v1/coupons/{coupon}/claims");
        let answer = output(curl(&url).args(["--request", "POST", "--retry", "5"]))?;
        if answer.contains(r#""status":"accepted""#) {
            accepted += 1;
        } else if !answer.contains(r#""code":"sold_out""#) {
            bail!("a claim through the gateway was answered: {answer}");
        }
    }
    Ok(accepted)
}

fn rush(profile: &Profile, coupon: &str, token: &str) -> Result<()> {
    let mut rush = profile.program("rush");
    rush.args(["--url", API, "--coupon", coupon, "--people", "2000"])
        .env("OPS_TOKEN", token);
    run_command(&mut rush).context("the rush during the outage")
}

fn open_pages(coupon: &str) -> Result<()> {
    let pages = [
        format!("{GATEWAY}/c/{coupon}"),
        format!("{RECONCILER}/login"),
        format!("{API}/openapi.json"),
    ];
    for page in pages {
        run_command(curl(&page).args(["--fail", "--output", "/dev/null"]))
            .with_context(|| format!("{page} does not open"))?;
    }
    Ok(())
}

fn is_ready() -> bool {
    [API, RECONCILER].into_iter().all(|program| {
        let tried = curl(&format!("{program}/readyz"))
            .args(["--fail", "--output", "/dev/null"])
            .output();
        tried.is_ok_and(|tried| tried.status.success())
    })
}

/// Runs a pass, which repairs what it finds, and reports whether the coupon then has exactly its
/// quantity of users in Redis and of rows.
fn is_exact(token: &str, coupon: &str) -> Result<bool> {
    let answer = output(
        curl(&format!("{RECONCILER}/v1/reconcile"))
            .args(["--data", &format!(r#"{{"coupon_id":{coupon}}}"#)])
            .args(["--header", &format!("Authorization: Bearer {token}")]),
    )?;
    let after = format!(r#""after":{{"count":{QUANTITY},"users":{QUANTITY},"rows":{QUANTITY},"#);
    Ok(answer.contains(r#""exact":true"#) && answer.contains(&after))
}

fn curl(url: &str) -> Command {
    let mut curl = command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", url]);
    curl
}

fn wait_until(what: &str, limit: Duration, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(500);
    let begun = Instant::now();
    while !is_so().unwrap_or(false) {
        if begun.elapsed() > limit {
            is_so().with_context(|| what.to_owned())?;
            bail!("not within {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    eprintln!(
        "[containers] {what}: {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
