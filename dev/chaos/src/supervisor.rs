//! Supervises the processes of the product: restarts every process that ends, unless a fault keeps
//! it down.

use anyhow::Result;
use firstcome_harness::{Process, World};
use firstcome_stack::{Clocks, ProcessClock};
use parking_lot::Mutex;

use crate::fault::{Fault, ProcessRole};
use crate::schedule::FaultSchedule;
use crate::wait::pause;

/// One supervised process.
pub(crate) struct Supervised {
    pub(crate) role: ProcessRole,
    clock: ProcessClock,
    state: Mutex<ProcessState>,
    /// Allows one fault per process at a time. The next fault waits.
    pub(crate) busy: tokio::sync::Mutex<()>,
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

impl ProcessState {
    fn running(&self) -> Option<&Process> {
        let process = self.process.as_ref();
        process.filter(|process| process.status().is_none())
    }
}

pub(crate) struct Supervisor {
    processes: Vec<Supervised>,
}

impl Supervisor {
    /// Creates the processes of the schedule without starting them.
    pub(crate) fn new(schedule: &FaultSchedule, clocks: &Clocks) -> Result<Self> {
        let mut processes = Vec::new();
        for role in ProcessRole::ALL {
            for number in 0..how_many(schedule, role) {
                processes.push(Supervised {
                    role,
                    clock: clocks.clock(&format!("{role:?}-{number}"))?,
                    state: Mutex::default(),
                    busy: tokio::sync::Mutex::default(),
                });
            }
        }
        Ok(Self { processes })
    }

    pub(crate) fn of_role(&self, role: ProcessRole) -> Vec<&Supervised> {
        let all = self.processes.iter();
        all.filter(|process| process.role == role).collect()
    }

    /// Returns the process with this number, modulo the number of processes of its kind.
    pub(crate) fn process(&self, role: ProcessRole, number: usize) -> &Supervised {
        let of_role = self.of_role(role);
        of_role[number % of_role.len()]
    }

    /// Returns every process, in a fixed order.
    pub(crate) fn all(&self) -> &[Supervised] {
        &self.processes
    }

    /// Keeps all processes running, forever.
    pub(crate) async fn supervise(&self, world: &World) {
        loop {
            for process in &self.processes {
                process.start_if_ended(world);
            }
            pause(30).await;
        }
    }

    /// Returns the addresses of the APIs that currently accept requests.
    pub(crate) fn apis(&self) -> Vec<String> {
        let apis = self.of_role(ProcessRole::Api).into_iter();
        apis.filter_map(Supervised::address).collect()
    }

    /// Returns the address of a random API that accepts requests.
    pub(crate) fn any_api(&self) -> Option<String> {
        let mut apis = self.apis();
        (!apis.is_empty()).then(|| apis.swap_remove(rand::random_range(0..apis.len())))
    }
}

/// Returns the number of processes of this kind. There are two daemons, unless a fault targets the
/// daemon of a schedule with one process of each kind.
fn how_many(schedule: &FaultSchedule, role: ProcessRole) -> usize {
    let daemon = ProcessRole::Reconciler;
    let strikes_it = |fault: &Fault| {
        matches!(fault, Fault::Kill { role, .. } | Fault::Freeze { role, .. }
            | Fault::Crash { role, .. } | Fault::Clock { role, .. } if *role == daemon)
    };
    if role == daemon && !schedule.has(strikes_it) {
        schedule.processes.max(2)
    } else {
        schedule.processes
    }
}

impl Supervised {
    /// Starts the process, or restarts it if it has ended by itself, for example at a crash point,
    /// or because a store was down for longer than the process waits during startup. Does nothing
    /// while a fault keeps it down.
    fn start_if_ended(&self, world: &World) {
        let mut state = self.state.lock();
        if state.away || state.running().is_some() {
            return;
        }
        let log = state.process.as_ref().map(Process::log);
        let crashed = log.is_some_and(|log| log.contains("crash point "));
        state.crashes += u32::from(crashed);
        let crash_at = state.crash_at.take();
        let clock = self.clock.env();
        let mut env: Vec<(&str, &str)> = clock.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let crash_at = crash_at.as_deref();
        env.extend(crash_at.map(|point| ("FIRSTCOME_CRASH_AT", point)));
        state.process = Some(world.begin(self.role, &env));
    }

    /// Returns the address at which the process accepts requests.
    pub(crate) fn address(&self) -> Option<String> {
        let state = self.state.lock();
        let stdout = state.running()?.stdout();
        let mut lines = stdout.lines();
        lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
    }

    pub(crate) fn runs(&self) -> bool {
        self.state.lock().running().is_some()
    }

    /// Sends SIGKILL. The process stays down until [`Supervised::come_back`]. Returns whether it
    /// was running.
    pub(crate) async fn kill(&self) -> bool {
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
    pub(crate) fn come_back(&self, crash_at: Option<&str>) {
        let mut state = self.state.lock();
        state.away = false;
        state.crash_at = crash_at.map(str::to_owned);
    }

    /// Sends SIGSTOP. Returns whether the process was running.
    pub(crate) fn freeze(&self) -> bool {
        let state = self.state.lock();
        state.running().map(Process::freeze).is_some()
    }

    pub(crate) fn thaw(&self) {
        if let Some(process) = &self.state.lock().process {
            process.thaw();
        }
    }

    /// Returns the number of deaths at a crash point, each followed by a restart.
    pub(crate) fn crashes(&self) -> u32 {
        self.state.lock().crashes
    }

    /// Shifts the clock of the process. Returns whether it is running.
    pub(crate) fn set_clock(&self, seconds: i64) -> Result<bool> {
        self.clock.shift_ms(seconds * 1_000)?;
        Ok(self.runs())
    }
}
