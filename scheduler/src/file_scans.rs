//! Which task reads which part of which file.

use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use nightshift_catalog::row_groups::with_whole_row_groups;
use std::sync::Arc;

/// The rule that plans the distribution of rows, and cuts files into ranges.
const DISTRIBUTION: &str = "EnsureRequirements";

/// The engine's rule about the distribution of rows, which cuts files whatever the configuration says, and then
/// moves the cuts to where row groups begin.
#[derive(Debug)]
struct CutFiles {
    distribution: Arc<dyn PhysicalOptimizerRule + Send + Sync>,
    footers: Arc<FileMetadataCache>,
}

impl PhysicalOptimizerRule for CutFiles {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut cutting = config.clone();
        cutting.optimizer.repartition_file_scans = true;
        let plan = self.distribution.optimize(plan, &cutting)?;
        with_whole_row_groups(plan, self.footers.as_ref())
    }

    fn name(&self) -> &str {
        self.distribution.name()
    }

    fn schema_check(&self) -> bool {
        self.distribution.schema_check()
    }
}

/// The rules of a session that cut files into ranges of whole row groups, of files whose footers are among these.
pub(crate) fn with_files_cut(
    rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>,
    footers: &Arc<FileMetadataCache>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let cut = |rule: Arc<dyn PhysicalOptimizerRule + Send + Sync>| match rule.name() {
        DISTRIBUTION => Arc::new(CutFiles { distribution: rule, footers: Arc::clone(footers) }),
        _ => rule,
    };
    rules.into_iter().map(cut).collect()
}

/// The configuration of a session whose files only [`with_files_cut`] cuts. Ballista plans the distribution of
/// rows again for each stage, and would move the cuts to where ranges have equally many bytes.
pub(crate) fn without_cutting_again(config: SessionConfig) -> SessionConfig {
    config.with_repartition_file_scans(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{ParquetReadOptions, SessionContext};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use std::fs::File;

    /// The ranges of a file in a plan.
    fn ranges(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        let (_, groups) = shown.split_once("file_groups={").unwrap();
        let (groups, _) = groups.split_once('}').unwrap();
        let range =
            |file: &str| Some(file.split_once(".parquet:")?.1.trim_matches(']').to_string());
        groups.split(", ").filter_map(range).collect()
    }

    #[tokio::test]
    async fn files_are_cut_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let path = path.to_str().unwrap();
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .set_u64("datafusion.optimizer.repartition_file_min_size", 0);
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(without_cutting_again(config))
            .build();
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let rules = with_files_cut(state.physical_optimizers().to_vec(), &footers);
        let builder = SessionStateBuilder::new_from_existing(state);
        let context =
            SessionContext::new_with_state(builder.with_physical_optimizer_rules(rules).build());
        let numbers = Arc::new(Int64Array::from_iter_values(0..40_000));
        let rows = RecordBatch::try_from_iter([("i", numbers as _)]).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(10_000))
            .set_dictionary_enabled(false)
            .build();
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        context.register_parquet("t", path, ParquetReadOptions::default()).await.unwrap();
        let plan = context.sql("SELECT i FROM t WHERE i % 2 = 1").await.unwrap();
        let plan = plan.create_physical_plan().await.unwrap();
        let cut = ranges(&plan);
        let [first, second] = cut.as_slice() else { panic!("{cut:?}") };
        assert_eq!(first.split_once("..").unwrap().1, second.split_once("..").unwrap().0);
        let ends: Vec<u64> = second.split("..").map(|at| at.parse().unwrap()).collect();
        assert_ne!(ends[0], ends[1].div_ceil(2), "the file is cut in its middle");
        let state = context.state();
        let again = EnsureRequirements::new().optimize(plan, state.config_options()).unwrap();
        assert_eq!(ranges(&again), cut);
    }
}
