//! The state that all routes share.

use std::sync::Arc;

use super::overview::Looks;
use crate::notify::Notifier;
use crate::passes::Passes;
use crate::stores::Stores;

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RouteState {
    pub(crate) stores: Stores,
    pub(crate) passes: Passes,
    pub(crate) notifier: Notifier,
    pub(crate) looks: Arc<Looks>,
}
