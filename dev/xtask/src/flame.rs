//! Flame graphs of the API in target/flame: of sold-out claims, and of winners (a drop that lasts).
//! Installs perf (Debian) and inferno (crates.io) if they are missing.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::programs::{BENCH, Profile, SYSTEM, build, target};
use crate::shell::{cargo, command, has, install, run};

const INFERNO: &str = "0.12.8";

/// One graph: a part of the bench, and how long its API is profiled.
struct Graph {
    name: &'static str,
    part: &'static str,
    seconds: u32,
}

const GRAPHS: [Graph; 2] = [
    Graph {
        name: "sold_out",
        part: "ceilings",
        seconds: 6,
    },
    Graph {
        name: "winners",
        part: "claims",
        seconds: 8,
    },
];

pub(crate) fn run_all() -> Result<()> {
    let profile = Profile::new("release".to_owned());
    build(&profile, &[&SYSTEM, &BENCH])?;
    if !has("perf") {
        install(&["linux-perf"])?;
    }
    let tools = target().join("tools");
    if !tools.join("bin/inferno-flamegraph").exists() {
        run(cargo(&[
            "install",
            "--quiet",
            "--locked",
            "--version",
            INFERNO,
            "inferno",
            "--root",
        ])
        .arg(&tools))?;
    }
    let out = target().join("flame");
    fs::create_dir_all(&out)?;
    for graph in &GRAPHS {
        graph.draw(
            &profile,
            &Folders {
                tools: tools.join("bin"),
                out: out.clone(),
            },
        )?;
    }
    Ok(())
}

struct Folders {
    tools: PathBuf,
    out: PathBuf,
}

/// A program that is killed on drop.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Graph {
    fn draw(&self, profile: &Profile, Folders { tools, out }: &Folders) -> Result<()> {
        let Self {
            name,
            part,
            seconds,
        } = self;
        eprintln!("[flame] {name}: firstcome-bench {part}, {seconds} s of its API");
        let log = File::create(out.join(format!("{part}.log")))?;
        let mut bench = profile.program("firstcome-bench");
        bench.args([part, "--out"]).arg(out.join(part));
        bench.stdout(log.try_clone()?).stderr(log);
        let mut bench = Ended(bench.spawn().context("cannot start firstcome-bench")?);
        let api = self.api_of(&mut bench)?;
        let data = out.join(format!("{name}.data"));
        let mut perf = command("perf");
        perf.args([
            "record",
            "-q",
            "-F",
            "499",
            "--call-graph",
            "dwarf,16384",
            "-p",
            &api,
            "-o",
        ]);
        run(perf.arg(&data).args(["--", "sleep", &seconds.to_string()]))?;
        drop(bench);

        let mut script = command("perf");
        script
            .args(["script", "-i"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut script = script.spawn()?;
        let stacks = script.stdout.take().context("perf script has no output")?;
        let mut collapse = command(tools.join("inferno-collapse-perf"));
        collapse
            .args(["--skip-after", "tokio::runtime::task::raw::poll"])
            .stdin(stacks);
        let folded = crate::shell::output(&mut collapse)?;
        script.wait()?;
        let mut stacks = String::new();
        for line in folded
            .lines()
            .filter(|line| line.starts_with("tokio-rt-worker"))
        {
            stacks.extend([line, "\n"]);
        }
        let folded = out.join(format!("{name}.folded"));
        fs::write(&folded, stacks)?;
        let svg = out.join(format!("{name}.svg"));
        let mut draw = command(tools.join("inferno-flamegraph"));
        draw.args(["--title", &format!("API, {name}"), "--minwidth", "0.2"])
            .arg(&folded);
        run(draw.stdout(File::create(&svg)?))?;
        fs::remove_file(&data)?;
        eprintln!("[flame] {}", svg.display());
        Ok(())
    }

    /// The process id of the bench's first API.
    fn api_of(&self, bench: &mut Ended) -> Result<String> {
        loop {
            let mut find = command("pgrep");
            find.args(["-P", &bench.0.id().to_string(), "-f", "firstcome-api serve"]);
            let found = find.output()?.stdout;
            if let Some(api) = String::from_utf8_lossy(&found).lines().next() {
                return Ok(api.to_owned());
            }
            if bench.0.try_wait()?.is_some() {
                bail!("the bench ended early: see target/flame/{}.log", self.part);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
