//! What an operator can do about a problem: links, commands, and the reasons.

use firstcome_shared::report::{AlertKind, Kind, KindFacts, Remedy, Run, StoreRefusal, wording};

use super::document::Block;
use super::links::Links;
use super::place::DescribedDrop;
use super::reasons::{FindingState, PlacedFinding, reasons};
use super::section::Section;

/// A section, and what its mail knows of it.
pub(super) struct Placed<'a> {
    pub(super) section: &'a Section,
    pub(super) links: &'a Links,
    pub(super) facts: KindFacts,
    pub(super) drop: Option<&'a DescribedDrop<'a>>,
    /// The pass that found it.
    pub(super) run: Option<&'a Run>,
}

impl Placed<'_> {
    /// Describes the problem without its title.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let links = self.links;
        let mut blocks = Vec::new();
        blocks.extend(self.drop.map(|drop| Block::Paragraph(drop.place())));
        match self.section.refusal.map(StoreRefusal::facts) {
            Some(refusal) => {
                let [command, what] = refusal.command;
                blocks.push(Block::Todo(refusal.to_do.to_owned()));
                blocks.push(Block::command(what, command));
            }
            None => blocks.push(Block::Todo(self.facts.to_do.to_owned())),
        }
        blocks.extend(self.remedy());
        if let Some(id) = self.section.alert_id() {
            blocks.extend(links.screen(&Links::alert(id), "Acknowledge it"));
            blocks.extend(links.acknowledge(id));
        }
        if let Some(why) = Block::list(self.why()) {
            blocks.push(Block::Paragraph("Why:".to_owned()));
            blocks.push(why);
        }
        blocks.push(links.section(self.section.kind.word()));
        blocks
    }

    /// The reasons, unless the title says everything.
    fn why(&self) -> Vec<String> {
        let findings: Vec<PlacedFinding<'_>> = self
            .section
            .findings
            .iter()
            .map(|it| (self.section.alert.drop_id, it))
            .collect();
        let state = match self.links.campaign(self.section.alert.coupon_id) {
            Some(campaign) if !campaign.is_repaired => FindingState::Observed,
            Some(_) | None => FindingState::Open,
        };
        reasons(&findings, state)
    }

    /// Links to what an operator can do, and commands for it.
    fn remedy(&self) -> Vec<Block> {
        let links = self.links;
        let mut blocks = Vec::new();
        match self.facts.remedy {
            Remedy::Look => {
                blocks.extend(links.screen("/", "Closed coupons and unavailable stores"));
                if self.drop.is_some() {
                    blocks.extend(self.screen("See this drop"));
                }
            }
            Remedy::LookAtRuns => blocks.extend(last_runs(links)),
            Remedy::Pass => {
                blocks.extend(self.screen("This drop"));
                let is_deep = self.section.kind == AlertKind::Left(Kind::BadUse);
                let options = if is_deep { " --deep" } else { "" };
                blocks.push(Block::command("Try again now", self.once(options)));
            }
            Remedy::Confirm => {
                let label = "Pause the coupon, or list and confirm the repairs";
                blocks.extend(self.screen(label));
                if let Some(coupon) = self.section.alert.coupon_id {
                    let what = "Pause the coupon: nobody can claim until it is resumed";
                    blocks.extend(links.coupon(&format!("pause {coupon}"), what));
                }
                let list = "List the repairs, with their fingerprint";
                blocks.push(Block::command(list, self.once(" --dry-run")));
                let confirm = "Confirm exactly these";
                let options = " --confirm FINGERPRINT";
                blocks.push(Block::command(confirm, self.once(options)));
            }
            Remedy::Raise => blocks.extend(self.raise()),
            Remedy::DeadLetters => blocks.extend(self.dead_letters()),
            Remedy::Attached => blocks.extend(self.attached()),
        }
        blocks
    }

    /// Links to the drop or, without one, to the screen of passes.
    fn screen(&self, label: &str) -> Option<Block> {
        let links = self.links;
        match self.section.alert.coupon_id.zip(self.section.alert.drop_id) {
            Some((coupon, drop)) => links.screen(&format!("/coupons/{coupon}/drops/{drop}"), label),
            None => links.screen("/runs", "Run a pass over all live drops"),
        }
    }

    /// The command of a pass over its coupon, or over all.
    fn once(&self, options: &str) -> String {
        match self.section.alert.coupon_id {
            Some(coupon) => format!("firstcome-reconciler once --coupon {coupon}{options}"),
            None => format!("firstcome-reconciler once{options}"),
        }
    }

    fn dead_letters(&self) -> Vec<Block> {
        let links = self.links;
        if self.section.kind == AlertKind::Forged {
            let forged = "/dead-letters?reason=forged";
            return Vec::from_iter(links.screen(forged, "See and discard them"));
        }
        let path = match self.drop {
            Some(drop) => format!("/dead-letters?drop={}", drop.id),
            None => "/dead-letters".to_owned(),
        };
        let mut blocks = Vec::from_iter(links.screen(&path, "See them, with their reasons"));
        blocks.extend(self.screen("Run a pass over this drop"));
        blocks.push(Block::command("Once they are corrected", self.once("")));
        blocks
    }

    fn raise(&self) -> Vec<Block> {
        let links = self.links;
        let Some(coupon) = self.section.alert.coupon_id else {
            return Vec::new();
        };
        let report = self.drop.and_then(|drop| drop.report);
        let may_raise = report.is_none_or(|report| !report.sealed);
        let quantity = format!("/coupons/{coupon}#quantity");
        let raise = links.screen(&quantity, "Raise the quantity");
        let mut blocks = Vec::from_iter(raise.filter(|_| may_raise));
        if let Some(run) = self.run {
            blocks.extend(links.screen(&format!("/runs/{}", run.run_id), "Who they are"));
        }
        if let Some(report) = report.filter(|_| may_raise) {
            let from = u64::from(report.quantity);
            // With this quantity each user gets a slot.
            let to = from + self.section.size;
            let what = format!(
                "While the drop is open, give each of them a slot (quantity {from} → {to})"
            );
            blocks.extend(links.coupon(&format!("raise {coupon} {to}"), &what));
            blocks.push(Block::command("Then", self.once("")));
        }
        blocks
    }

    fn attached(&self) -> Vec<Block> {
        let links = self.links;
        let Some(file) = &links.file else {
            return Vec::new();
        };
        let once = format!("firstcome-reconciler attach {file} --once");
        let list = format!("{once} --dry-run --full-ids");
        let what = "List the differences, with the ids of users";
        let mut blocks = vec![Block::command(what, list)];
        if let Some(drop) = self.drop
            && self.section.kind == AlertKind::Braked
        {
            let path = self.run.map(|run| format!("/runs/{}", run.run_id));
            let plan = path.and_then(|path| links.screen(&path, "See and confirm the repairs"));
            blocks.splice(0..0, plan);
            // The name of a daily drop says its day, too.
            let name = links
                .campaign(self.section.alert.coupon_id)
                .map_or(&drop.name, |campaign| &campaign.name);
            let campaign = wording::shell_word(name);
            let confirm = format!("{once} --campaign {campaign} --confirm RUN");
            let what = "Confirm what is held back; RUN is the run that the list names at its end";
            blocks.push(Block::command(what, confirm));
        }
        blocks
    }
}

/// Links to the last runs, or gives a command that reads them.
pub(super) fn last_runs(links: &Links) -> impl Iterator<Item = Block> {
    let what = "The last runs";
    let runs = [
        links.screen("/runs", what),
        links.read("/v1/runs?limit=20", what),
    ];
    runs.into_iter().flatten()
}

/// Links to the firing alerts, or gives a command that reads them.
pub(super) fn open_problems(links: &Links) -> impl Iterator<Item = Block> {
    let what = "All open problems";
    let alerts = [
        links.screen("/alerts", what),
        links.read("/v1/alerts?status=firing", what),
    ];
    alerts.into_iter().flatten()
}
