//! Supervises the processes of the product: restarts every process that ends, unless a fault keeps
//! it down.

use parking_lot::Mutex;
use std::time::Duration;

use anyhow::Result;
use firstcome_testkit::{Clocks, Process, ProcessClock, World};

use crate::fault::{Fault, ProcessRole};
use crate::schedule::FaultSchedule;

/// Interval at which the supervisor checks the processes.
const CHECK_EVERY: Duration = Duration::from_millis(30);

/// One supervised process.
pub struct Supervised {
    role: ProcessRole,
    /// A separate clock, if the schedule shifts the clock of this process.
    clock: Option<ProcessClock>,
    state: Mutex<ProcessState>,
    /// Allows one fault per process at a time. The next fault waits.
    pub busy: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct ProcessState {
    process: Option<Process>,
    away: bool,
    /// The value of `FIRSTCOME_CRASH_AT` for the next start.
    crash_at: Option<String>,
    /// Number of deaths at a crash point.
    crashes: u32,
}

pub struct Supervisor {
    processes: Vec<Supervised>,
    _clocks: Option<Clocks>,
}

impl Supervisor {
    /// Creates the processes of the schedule without starting them.
    pub fn new(schedule: &FaultSchedule) -> Result<Self> {
        let stepped = |role, number| {
            schedule.faults.iter().any(
                |timed| matches!(&timed.fault, Fault::Clock { role: r, number: n, .. } if (*r, *n) == (role, number)),
            )
        };
        let mut clocks = None;
        let mut processes = Vec::new();
        for role in ProcessRole::ALL {
            for number in 0..how_many(schedule, role) {
                let mut clock = None;
                if stepped(role, number) {
                    let clocks = if let Some(clocks) = &clocks {
                        clocks
                    } else {
                        clocks.insert(Clocks::new()?)
                    };
                    clock = Some(clocks.clock(&format!("{}-{number}", role.name()))?);
                }
                let state = Mutex::default();
                let busy = tokio::sync::Mutex::default();
                processes.push(Supervised {
                    role,
                    clock,
                    state,
                    busy,
                });
            }
        }
        Ok(Self {
            processes,
            _clocks: clocks,
        })
    }

    /// Returns the process with this number, modulo the number of processes of its kind.
    pub fn process(&self, role: ProcessRole, number: usize) -> &Supervised {
        let of_role: Vec<&Supervised> = self
            .processes
            .iter()
            .filter(|process| process.role == role)
            .collect();
        of_role[number % of_role.len()]
    }

    /// Returns every process, in a fixed order.
    pub fn all(&self) -> &[Supervised] {
        &self.processes
    }

    /// Keeps all processes running, forever.
    pub async fn supervise(&self, world: &World) {
        loop {
            for process in &self.processes {
                process.start_if_ended(world);
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    /// Returns the addresses of the APIs that currently accept requests.
    pub fn apis(&self) -> Vec<String> {
        let apis = self
            .processes
            .iter()
            .filter(|process| process.role == ProcessRole::Api);
        apis.filter_map(Supervised::address).collect()
    }

    /// Returns the address of a random API that accepts requests.
    pub fn any_api(&self) -> Option<String> {
        let mut apis = self.apis();
        (!apis.is_empty()).then(|| apis.swap_remove(rand::random_range(0..apis.len())))
    }
}

/// Returns the number of processes of this kind. There are two daemons, unless a fault targets the
/// daemon of a schedule with one process of each kind.
fn how_many(schedule: &FaultSchedule, role: ProcessRole) -> usize {
    let taken = schedule
        .faults
        .iter()
        .any(|timed| timed.fault.role() == Some(ProcessRole::Reconciler));
    if role == ProcessRole::Reconciler && !taken {
        schedule.processes.max(2)
    } else {
        schedule.processes
    }
}

impl Supervised {
    /// Restarts the process if it has ended by itself: at a crash point, or because a store was
    /// down for longer than the process waits during startup.
    fn start_if_ended(&self, world: &World) {
        let mut state = self.state.lock();
        if state.away
            || state
                .process
                .as_ref()
                .is_some_and(|process| process.status().is_none())
        {
            return;
        }
        state.crashes += u32::from(
            state
                .process
                .as_ref()
                .is_some_and(|process| process.log().contains("crash point ")),
        );
        let crash_at = state.crash_at.take();
        state.process = Some(self.start(world, crash_at.as_deref()));
    }

    fn start(&self, world: &World, crash_at: Option<&str>) -> Process {
        let (program, verb) = match self.role {
            ProcessRole::Api => ("firstcome-api", "serve"),
            ProcessRole::Consumer => ("firstcome-api", "consume"),
            ProcessRole::Reconciler => ("firstcome-reconciler", "daemon"),
        };
        let clock = self
            .clock
            .iter()
            .flat_map(ProcessClock::env)
            .collect::<Vec<_>>();
        let mut env: Vec<(&str, &str)> = clock
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        env.extend(crash_at.map(|point| ("FIRSTCOME_CRASH_AT", point)));
        world.start(program, &[verb], &env)
    }

    pub fn role(&self) -> ProcessRole {
        self.role
    }

    /// Returns the address at which the process accepts requests.
    pub fn address(&self) -> Option<String> {
        let state = self.state.lock();
        let process = state
            .process
            .as_ref()
            .filter(|process| process.status().is_none())?;
        let stdout = process.stdout();
        stdout
            .lines()
            .find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
    }

    /// Sends SIGKILL. The process stays down until [`Supervised::come_back`]. Returns whether it
    /// was running.
    pub async fn kill(&self) -> bool {
        let process = {
            let mut state = self.state.lock();
            state.away = true;
            state.process.take()
        };
        let Some(process) = process else { return false };
        let ran = process.status().is_none();
        process.kill().await;
        ran
    }

    /// Allows the process to be restarted. With a crash point, it dies there.
    pub fn come_back(&self, crash_at: Option<&str>) {
        let mut state = self.state.lock();
        state.away = false;
        state.crash_at = crash_at.map(str::to_owned);
    }

    /// Sends SIGSTOP. Returns whether it was running.
    pub fn freeze(&self) -> bool {
        let state = self.state.lock();
        let Some(process) = state
            .process
            .as_ref()
            .filter(|process| process.status().is_none())
        else {
            return false;
        };
        process.freeze();
        true
    }

    pub fn thaw(&self) {
        if let Some(process) = &self.state.lock().process {
            process.thaw();
        }
    }

    /// Returns the process ID while the process runs.
    pub fn pid(&self) -> Option<u32> {
        self.state
            .lock()
            .process
            .as_ref()
            .filter(|process| process.status().is_none())
            .map(Process::pid)
    }

    /// Returns the number of deaths at a crash point, each followed by a restart.
    pub fn crashes(&self) -> u32 {
        self.state.lock().crashes
    }

    /// Shifts the clock of the process. Returns whether it is running and has a separate clock.
    pub fn set_clock(&self, seconds: i64) -> Result<bool> {
        let Some(clock) = &self.clock else {
            return Ok(false);
        };
        clock.set(seconds)?;
        Ok(self.pid().is_some())
    }
}
