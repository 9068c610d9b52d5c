//! A drop that a mail is about.

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::DropReport;
use firstcome_shared::report::wording::grouped;
use firstcome_shared::subject::Subject;

pub(crate) struct DescribedDrop<'a> {
    pub(crate) id: DropId,
    pub(super) coupon: Option<CouponId>,
    pub(crate) name: String,
    pub(crate) report: Option<&'a DropReport>,
}

impl DescribedDrop<'_> {
    /// Describes the drop: its name, its day, the numbers that the API and the command line need,
    /// and what is issued. A campaign has no numbers.
    pub(super) fn place(&self) -> String {
        let name = &self.name;
        let id = self.id;
        let ids = match id.subject() {
            Subject::Drop => {
                let coupon = self.coupon.map(|coupon| format!("coupon {coupon}, "));
                format!(" ({}drop {id})", coupon.unwrap_or_default())
            }
            Subject::Campaign => String::new(),
        };
        let day = self
            .report
            .and_then(|report| report.day)
            .map_or_else(String::new, |day| format!(", {day}"));
        let issued = self.issued();
        let space = if issued.is_empty() { "" } else { " " };
        format!("{name}{day}{ids}:{space}{issued}")
    }

    /// Returns text such as "100 of 100 issued"; without a report the drop's label, which is empty
    /// for a campaign.
    pub(super) fn issued(&self) -> String {
        match self.report {
            None => self.id.label().unwrap_or_default(),
            Some(report) => {
                let [rows, quantity] = [report.after.rows, report.quantity.into()].map(grouped);
                format!("{rows} of {quantity} issued")
            }
        }
    }
}
