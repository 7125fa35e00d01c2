//! What the statements of a run read and make.

use super::Run;
use super::effect::Effect;
use crate::lineage::{self, Lineage};
use crate::statement::Located;
use std::path::Path;

impl Run {
    /// What a statement has read and made that was executed and is not applied yet. Nothing of it can make the run
    /// fail.
    pub(super) async fn lineage(
        &self,
        statement: &Located,
        folder: Option<&Path>,
        effect: &Effect,
    ) -> Option<Lineage> {
        if !self.recorded || effect.is_none() {
            return None;
        }
        if let Some((name, files)) = &effect.external {
            return Some(Lineage::of_files(files.location().unwrap_or_else(|| name.clone())));
        }
        lineage::of(&self.session, &self.view, statement, folder).await
    }

    /// What a check has read.
    pub async fn lineage_of_check(&self, check: &Located) -> Option<Lineage> {
        match self.recorded {
            true => lineage::of(&self.session, &self.view, check, None).await,
            false => None,
        }
    }
}
