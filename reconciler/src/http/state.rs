//! The state that all routes share.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::overview::Reader;
use crate::notify::Notifier;
use crate::passes::Passes;
use crate::stores::Stores;

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RouteState {
    pub(crate) stores: Stores,
    pub(crate) passes: Passes,
    pub(crate) notifier: Notifier,
    pub(crate) overview: Arc<Mutex<Reader>>,
    /// A separate reader, so that reading one drop does not delay the overview.
    pub(crate) one_drop: Arc<Mutex<Reader>>,
}
