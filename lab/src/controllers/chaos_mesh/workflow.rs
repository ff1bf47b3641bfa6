//! x
use super::Shared;
use super::worker::{Again, Key};
pub(super) async fn pass(_shared: &Shared, _key: Key) -> Again { Again::OnChange }
pub(super) async fn pass_node(_shared: &Shared, _key: Key) -> Again { Again::OnChange }
