//! Waits until everything is exact after the last fault, and checks that it stays so.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::clients::Clients;
use crate::excuses::Excuses;
use crate::operators;
use crate::schedule::FaultSchedule;
use crate::system::SystemUnderTest;
use crate::verify;
use crate::wait::pause;

/// A system after the last fault.
pub(crate) struct Recovery<'a> {
    pub(crate) system: &'a SystemUnderTest,
    pub(crate) schedule: &'a FaultSchedule,
    pub(crate) excuses: &'a Excuses,
    pub(crate) clients: &'a Clients<'a>,
    /// Time limit until everything is exact.
    pub(crate) limit: Duration,
}

impl Recovery<'_> {
    /// Waits until everything is exact, and then checks that it stays so.
    pub(crate) async fn until_exact(&self, healed: Instant) -> Result<Instant, String> {
        let deadline = healed + self.limit + self.schedule.clock_lead();
        let exact_at = self.until_repaired(deadline).await?;
        // The system may have become exact just before the deadline.
        let deadline = Instant::now() + self.limit;
        self.stays_exact(deadline).await?;
        Ok(exact_at)
    }

    /// Waits until the stores agree, and a pass that begins afterwards finds nothing. If a fault
    /// restored an older state, repairs above the limit are confirmed meanwhile, as an operator
    /// would.
    async fn until_repaired(&self, deadline: Instant) -> Result<Instant, String> {
        let Self {
            system,
            excuses,
            clients,
            ..
        } = self;
        let mut why = String::new();
        while Instant::now() < deadline {
            let is_exact = async || {
                verify::exact(system, excuses).await?;
                let at = Instant::now();
                let earlier = verify::begun_passes(system).await?;
                let unclean = verify::unclean_pass(system, &earlier, deadline, excuses);
                unclean.await?.map_or(Ok(at), |unclean| bail!(unclean))
            };
            match is_exact().await {
                Ok(at) => return Ok(at),
                // An attempt that the deadline ended tells less than the one before.
                Err(_) if !why.is_empty() && Instant::now() >= deadline => {}
                Err(not_yet) => why = format!("{not_yet:#}"),
            }
            match verify::waits_for_person(system).await {
                // Only after a restore of an older state may repairs exceed the limit.
                Ok(waits) if waits && excuses.listed_promise() => {
                    operators::read_and_confirm(system).await;
                }
                Ok(_) => {}
                Err(error) => why = error.to_string(),
            }
            // A freed slot goes to the next user who claims. If promises may be lost, this may be a
            // user who believes that they hold a slot.
            if excuses.may_lose_slots() {
                clients.ask_all(clients.everyone()).await;
            } else {
                clients.the_others_ask_again().await;
            }
            pause(500).await;
        }
        Err(why)
    }

    /// Lets all users claim again and look up their claims, and fails at once if a pass is not clean
    /// meanwhile or afterwards: retries are always safe, so there must be nothing to repair. Only a
    /// missing or late answer, a missing pass or a row that is not written yet is waited for.
    async fn stays_exact(&self, deadline: Instant) -> Result<(), String> {
        let Self {
            system,
            excuses,
            clients,
            ..
        } = self;
        let earlier = verify::begun_passes(system).await;
        let earlier = earlier.map_err(|error| format!("{error:#}"))?;
        let mut why = String::new();
        while Instant::now() < deadline {
            let unclean = async || {
                let answered = clients.ask_all(clients.everyone()).await;
                ensure!(answered, "a user who claimed again got no answer");
                let unclean = verify::unclean_pass(system, &earlier, deadline, excuses);
                if let Some(unclean) = unclean.await? {
                    return Ok(Some(unclean));
                }
                // A late change of the allow list may have admitted a user who claimed again.
                verify::exact(system, excuses).await?;
                let rows = verify::rows(system, self.schedule).await?;
                clients.all_see_their_rows(&rows).await?;
                Ok(None)
            };
            match unclean().await {
                Ok(None) => return Ok(()),
                Ok(Some(unclean)) => return Err(format!("after it was exact, {unclean}")),
                Err(_) if !why.is_empty() && Instant::now() >= deadline => {}
                Err(not_yet) => why = format!("{not_yet:#}"),
            }
            pause(500).await;
        }
        Err(why)
    }
}
