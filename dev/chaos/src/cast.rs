//! Our processes: kept running, except while a fault holds one away.

use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firstcome_testkit::{Process, World};

use crate::fault::Role;
use crate::schedule::EACH;

/// How often processes are looked after.
const LOOK: Duration = Duration::from_millis(30);

/// One of our processes and who keeps it running.
pub struct Member {
    pub role: Role,
    pub number: usize,
    clock: Option<PathBuf>,
    state: Mutex<State>,
    /// One fault at a time: the next waits.
    pub busy: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    process: Option<Process>,
    away: bool,
    /// `FIRSTCOME_CRASH_AT` of the next start.
    crash_at: Option<String>,
    starts: u32,
}

pub struct Cast {
    members: Vec<Arc<Member>>,
}

impl Cast {
    /// Two of each kind, none started yet.
    pub fn new(clock: Option<&Clock>) -> Self {
        let roles = [Role::Api, Role::Consumer, Role::Reconciler];
        let member = |role, number| {
            let clock = clock.map(|clock| clock.file(role, number));
            Arc::new(Member { role, number, clock, state: Mutex::default(), busy: tokio::sync::Mutex::default() })
        };
        let members = roles.into_iter().flat_map(|role| (0..EACH).map(move |number| member(role, number))).collect();
        Self { members }
    }

    pub fn member(&self, role: Role, number: usize) -> &Arc<Member> {
        let found = self.members.iter().find(|member| member.role == role && member.number == number);
        found.unwrap_or(&self.members[0])
    }

    /// Keeps all of them running, for ever.
    pub async fn look_after(&self, world: &World) {
        loop {
            for member in &self.members {
                member.look(world);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Addresses of the APIs that accept requests now.
    pub fn apis(&self) -> Vec<String> {
        let apis = self.members.iter().filter(|member| member.role == Role::Api);
        apis.filter_map(|member| member.address()).collect()
    }

    /// Every clock is right again.
    pub fn set_clocks_right(&self) -> std::io::Result<()> {
        self.members.iter().filter_map(|member| member.clock.as_ref()).try_for_each(|path| std::fs::write(path, "+0"))
    }
}

impl Member {
    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    fn look(&self, world: &World) {
        let mut state = self.state();
        if state.away {
            return;
        }
        // One that ended by itself did so at a crash point, or because a store was away for longer than it waits at start-up.
        if state.process.as_ref().is_some_and(|process| process.status().is_none()) {
            return;
        }
        let crash_at = state.crash_at.take();
        state.starts += 1;
        state.process = Some(self.start(world, crash_at.as_deref()));
    }

    fn start(&self, world: &World, crash_at: Option<&str>) -> Process {
        let (program, verb) = match self.role {
            Role::Api => ("firstcome-api", "serve"),
            Role::Consumer => ("firstcome-api", "consume"),
            Role::Reconciler => ("firstcome-reconciler", "daemon"),
        };
        let clock = self.clock.as_ref().map(|path| path.to_string_lossy().into_owned());
        let env: Vec<(&str, &str)> = [
            clock.as_deref().map(|path| ("FAKETIME_TIMESTAMP_FILE", path)),
            crash_at.map(|point| ("FIRSTCOME_CRASH_AT", point)),
        ]
        .into_iter()
        .flatten()
        .collect();
        world.start(program, &[verb], &env)
    }

    /// Where it accepts requests.
    pub fn address(&self) -> Option<String> {
        let state = self.state();
        let process = state.process.as_ref().filter(|process| process.status().is_none())?;
        let stdout = process.stdout();
        stdout.lines().find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
    }

    /// SIGKILL; it stays away until [`Member::come_back`]. False when it did not run.
    pub async fn kill(&self) -> bool {
        let process = {
            let mut state = self.state();
            state.away = true;
            state.process.take()
        };
        let Some(process) = process else { return false };
        let ran = process.status().is_none();
        process.kill().await;
        ran
    }

    /// Lets it run again, to die at this point if one is given.
    pub fn come_back(&self, crash_at: Option<&str>) {
        let mut state = self.state();
        state.away = false;
        state.crash_at = crash_at.map(str::to_owned);
    }

    /// SIGSTOP. False when it did not run.
    pub fn freeze(&self) -> bool {
        let state = self.state();
        let Some(process) = state.process.as_ref().filter(|process| process.status().is_none()) else { return false };
        process.freeze();
        true
    }

    pub fn thaw(&self) {
        if let Some(process) = &self.state().process {
            process.thaw();
        }
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.state().process.as_ref().filter(|process| process.status().is_none()).map(Process::pid)
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.state().starts
    }

    /// Steps its clock. False where clocks can't be stepped here, or it does not run.
    pub fn step_clock(&self, seconds: i64) -> std::io::Result<bool> {
        let Some(path) = &self.clock else { return Ok(false) };
        std::fs::write(path, format!("{seconds:+}"))?;
        Ok(self.state().process.as_ref().is_some_and(|process| process.status().is_none()))
    }
}

/// Clocks that can be stepped, by libfaketime (Debian's package of that name): a file says by how much.
pub struct Clock {
    folder: tempfile::TempDir,
    library: PathBuf,
}

impl Clock {
    /// Where the machine has libfaketime.
    pub fn find() -> std::io::Result<Option<Self>> {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        let library = PathBuf::from(library);
        if !library.is_file() {
            return Ok(None);
        }
        Ok(Some(Self { folder: tempfile::tempdir()?, library }))
    }

    /// Gives the processes of a world clocks of their own. Durations are not touched: they come from another clock.
    pub fn wind(&self, world: &World) {
        world.set("LD_PRELOAD", &self.library.to_string_lossy());
        world.set("FAKETIME_NO_CACHE", "1");
        world.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    fn file(&self, role: Role, number: usize) -> PathBuf {
        let path = self.folder.path().join(format!("{}-{number}", role.name()));
        // What can't be written is found missing when the clock is stepped.
        let _ = std::fs::write(&path, "+0");
        path
    }
}
