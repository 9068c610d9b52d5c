//! Explanations: which condition hides which. A strict partial order, in which no cause is less
//! severe than what it hides from users. A cause explains while it is present, shortly after, and
//! while it is open and nobody knows whether it lasts.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::report::{AlertKind, FailureCause, Kind};

use crate::alert::Alerts;
use crate::condition::{Cases, Condition, Facts};
use crate::times::Policy;

/// The conditions that may explain others.
#[derive(Debug, Default)]
pub(crate) struct Causes {
    /// In the order in which they are named: stores first.
    kinds: BTreeSet<AlertKind>,
    closed: HashSet<CouponId>,
    /// It is not known which ones are.
    all_closed: bool,
    /// Coupons with repairs that wait for a confirmation.
    braked: BTreeSet<i64>,
}

impl Causes {
    pub(crate) fn new(
        seen: &[&Condition],
        known: &Alerts,
        is_unknown: &impl Fn(AlertKind) -> bool,
        policy: &Policy,
        now: DateTime<Utc>,
    ) -> Self {
        let mut causes = Self::default();
        for condition in seen {
            causes.add(condition.kind, condition.coupon, Some(&condition.cases));
        }
        let names: HashSet<&str> = seen.iter().map(|it| it.name.as_str()).collect();
        let absent = known
            .all()
            .filter(|alert| !names.contains(alert.name.as_str()));
        for alert in absent {
            let Some(kind) = AlertKind::from_word(&alert.kind) else {
                continue;
            };
            // One that was there at the last evaluation has just gone.
            let gone_at = alert.gone_at.or(alert.ended_at).unwrap_or(now);
            let was_here = now - gone_at < policy.settle();
            let is_open_and_unknown = alert.ended_at.is_none() && is_unknown(kind);
            if was_here || is_open_and_unknown {
                causes.add(kind, alert.coupon_id, None);
            }
        }
        causes
    }

    /// Adds a cause. Of one that is gone, `cases` are not known.
    fn add(&mut self, kind: AlertKind, coupon: Option<CouponId>, cases: Option<&Cases>) {
        self.kinds.insert(kind);
        match (kind, cases) {
            (AlertKind::AdmissionClosed, Some(Cases::Each(coupons))) => {
                self.closed.extend(coupons.iter().copied().map(CouponId));
            }
            // The coupons that were told are not those that were closed last.
            (AlertKind::AdmissionClosed, _) => self.all_closed = true,
            (AlertKind::Braked, _) => self.braked.extend(coupon.map(|coupon| coupon.0)),
            _ => {}
        }
    }

    /// Returns the kind of what explains a condition.
    pub(crate) fn explaining(&self, condition: &Condition) -> Option<AlertKind> {
        if self.unexplained(condition).is_empty() && !condition.cases.is_empty() {
            return Some(AlertKind::Braked);
        }
        let coupon = condition.coupon;
        if condition.kind == AlertKind::Left(Kind::RedisLost) {
            if coupon.is_some_and(|coupon| self.braked.contains(&coupon.0)) {
                return Some(AlertKind::Braked);
            }
            if coupon.is_some_and(|coupon| self.all_closed || self.closed.contains(&coupon)) {
                return Some(AlertKind::AdmissionClosed);
            }
        }
        let mut causes = self.kinds.iter().copied();
        causes.find(|cause| hides(*cause, condition.kind, &condition.facts))
    }

    /// Returns the cases that nothing explains: of closed coupons, those without repairs that wait
    /// for a confirmation.
    pub(crate) fn unexplained(&self, condition: &Condition) -> Cases {
        match condition.kind {
            AlertKind::AdmissionClosed => condition.cases.without(&self.braked),
            _ => condition.cases.clone(),
        }
    }
}

/// Whether a condition of the kind `cause` hides one of `kind`, wherever both are. Those that hide
/// by coupon are in `Causes`.
pub fn hides(cause: AlertKind, kind: AlertKind, facts: &Facts) -> bool {
    let store = match cause {
        AlertKind::RedisUnreachable | AlertKind::RedisRefuses => FailureCause::Redis,
        AlertKind::KafkaUnreachable | AlertKind::KafkaRefuses => FailureCause::Kafka,
        AlertKind::MysqlUnreachable | AlertKind::MysqlRefuses => FailureCause::Mysql,
        AlertKind::RunFailed => return kind == AlertKind::RunMissed,
        AlertKind::ConsumerStands
        | AlertKind::TheirsRedis
        | AlertKind::TheirsDatabase
        | AlertKind::TheirsKafka
        | AlertKind::TheirsQueue => return kind == AlertKind::Repaired,
        AlertKind::AdmissionClosed
        | AlertKind::RunMissed
        | AlertKind::Braked
        | AlertKind::UnsafeSetting
        | AlertKind::Forged
        | AlertKind::Repaired
        | AlertKind::Left(_) => return false,
    };
    match kind {
        AlertKind::RunMissed | AlertKind::Repaired => true,
        AlertKind::RunFailed => matches!(facts, Facts::Failing { cause, .. } if *cause == store),
        AlertKind::ConsumerStands => store != FailureCause::Redis,
        AlertKind::AdmissionClosed | AlertKind::Left(Kind::RedisLost) => {
            store == FailureCause::Redis
        }
        _ => false,
    }
}
