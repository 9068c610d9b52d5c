//! Watches the gates of coupons that must stay open.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::system::SystemUnderTest;
use crate::wait::pause;

/// The gates of the coupons that must stay open.
#[derive(Default)]
pub(crate) struct Gates {
    /// The last value of each gate.
    seen: Mutex<HashMap<i64, String>>,
    closings: Mutex<Vec<String>>,
}

impl Gates {
    /// Reads the gates forever. A gate never has the same value twice, so a closing between two
    /// reads is noticed, too.
    pub(crate) async fn watch(&self, system: &SystemUnderTest) {
        loop {
            for coupon in system.coupons() {
                let redis = system.redis();
                let key = redis.of_coupon(coupon.id, "gate");
                // A read that failed shows nothing about the gate.
                if let Ok(now) = redis.try_command::<Option<String>>(&["GET", &key]).await {
                    self.note(coupon.id, &now.unwrap_or_default());
                }
            }
            pause(50).await;
        }
    }

    fn note(&self, coupon: i64, now: &str) {
        let before = self.seen.lock().insert(coupon, now.to_owned());
        let was_open = before.filter(|before| before.ends_with(" open") && before != now);
        let closing = was_open.map(|open| format!("coupon {coupon}: `{open}` became `{now}`"));
        self.closings.lock().extend(closing);
    }

    pub(crate) fn closings(&self) -> Vec<String> {
        self.closings.lock().clone()
    }
}
