//! Workflows of the double: not yet worked on.

use std::future::{Ready, ready};

use super::Shared;
use super::worker::{Again, Key};

pub(super) fn pass(_shared: &Shared, _key: Key) -> Ready<Again> {
    ready(Again::OnChange)
}

pub(super) fn pass_node(_shared: &Shared, _key: Key) -> Ready<Again> {
    ready(Again::OnChange)
}
