//! Limits on concurrent expensive requests, separate for operators and viewers. The viewers' token
//! is shared with more users, who must not block operators.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::ops::Allowed;

#[derive(Clone)]
pub struct Seats {
    operators: Arc<Semaphore>,
    viewers: Arc<Semaphore>,
}

impl Seats {
    pub fn new(operators: usize, viewers: usize) -> Self {
        Self {
            operators: Arc::new(Semaphore::new(operators)),
            viewers: Arc::new(Semaphore::new(viewers)),
        }
    }

    pub fn of(&self, allowed: Allowed) -> &Arc<Semaphore> {
        match allowed {
            Allowed::All => &self.operators,
            Allowed::View => &self.viewers,
        }
    }
}
