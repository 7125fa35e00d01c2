//! What a training would make, without training.

use super::checkpoint::Checkpoints;
use super::options::{ModelSpec, model_spec};
use super::select::select;
use super::{Training, als, details, pagerank, quoted};
use crate::Result;
use crate::progress::Progress;
use crate::session::Session;
use crate::statement::CreateModel;
use crate::superstep::{FactorsExport, IdType, NumberedIds, Partitioned, RanksExport, Reuse};
use crate::view::View;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;
use nightshift_catalog::delta::Contents;
use nightshift_catalog::schema::stored;
use nightshift_catalog::warehouse::{StagedModel, StagedTable, Warehouse};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model whose tables have the columns that training would give them, and no files. Nothing is read or written.
///
/// # Errors
/// What is wrong in the options, and in the columns of the training query and of the teleport table.
pub async fn rehearse(
    session: &Session,
    view: &View,
    statement: &CreateModel,
    progress: &dyn Progress,
) -> Result<StagedModel> {
    let spec = model_spec(statement)?;
    let plan = view.plan_query(session, &statement.query).await?;
    let selected = session.analyze(select(&statement.name, plan, &spec.columns())?)?;
    let schema = stored(selected.schema().as_arrow())?;
    let types = [0, 1].map(|column| schema.field(column).data_type().clone());
    let (name, folder) = (&statement.name, "rehearsal".to_string());
    let checkpoints = Checkpoints::none(&session.warehouse().storage().folder(&folder), "");
    let (run, reuse) = ("", Reuse::default());
    let training = Training { session, view, name, run, folder, progress, checkpoints, reuse };
    let plans = training.planned_tables(&spec, &types).await?;
    let mut tables = BTreeMap::new();
    for (table, plan) in plans {
        let contents = Contents::plain(Arc::new(stored(plan.schema().as_arrow())?), Vec::new());
        let folder = Warehouse::model_table_folder(name, table);
        let planned = StagedTable { folder, contents, base: None, appended: None };
        tables.insert(table.to_string(), planned);
    }
    let mut details = details(statement, &spec, view)?;
    // Queries are planned with these; they are not run.
    details.metrics.extend(["items", "mean"].map(|figure| (figure.to_string(), 1.0)));
    Ok(StagedModel { tables, details })
}

impl Training<'_> {
    /// Plans of the model's tables, which have the right columns and can't be run.
    async fn planned_tables(
        &self,
        spec: &ModelSpec,
        types: &[DataType; 2],
    ) -> Result<Vec<(&'static str, LogicalPlan)>> {
        let (nowhere, cut) = (self.folder("planned"), Partitioned::new(0, 0));
        let ids = |id_type: &DataType| NumberedIds {
            folder: nowhere.clone(),
            name: String::new(),
            id_type: IdType::new(id_type),
        };
        match spec {
            ModelSpec::MatrixFactorization(spec) => {
                if spec.warm_start {
                    self.published_factors(spec, &types[1]).await?;
                }
                let export = |id_type, seen| FactorsExport {
                    ids: ids(id_type),
                    cut,
                    state: nowhere.clone(),
                    factors: spec.factors,
                    width: spec.factors,
                    offset: None,
                    seen,
                };
                let users = export(&types[0], Some(nowhere.clone()));
                let items = export(&types[1], None);
                Ok(vec![
                    ("user_factors", self.plan_factors(&spec.user, users).await?),
                    ("item_factors", self.plan_factors(&spec.item, items).await?),
                    ("training_info", self.plan_measures(&als::MEASURES).await?),
                ])
            }
            ModelSpec::PageRank(spec) => {
                self.check_node_types(spec, types)?;
                if spec.warm_start {
                    self.published_ranks_table(spec, &types[0]).await?;
                }
                let teleport = self.teleport_columns(spec).await?;
                let by = spec.teleport_by.as_deref().map(quoted);
                let mut topics = None;
                if let (Some(teleport), Some(by), Some(quoted)) =
                    (&teleport, &spec.teleport_by, &by)
                {
                    let topic = teleport.table.schema().field_with_name(by)?.data_type().clone();
                    let columns = vec![
                        Field::new("topic", topic, true),
                        Field::new("number", DataType::Int64, false),
                    ];
                    let table: Arc<dyn TableProvider> =
                        Arc::new(EmptyTable::new(Arc::new(Schema::new(columns))));
                    topics = Some((quoted.as_str(), table));
                }
                let export = RanksExport { cut, ids: ids(&types[0]), vectors: Vec::new() };
                Ok(vec![
                    ("ranks", self.plan_ranks(export, topics).await?),
                    ("training_info", self.plan_measures(&pagerank::MEASURES).await?),
                ])
            }
        }
    }

    async fn plan_measures(&self, measures: &[&str]) -> Result<LogicalPlan> {
        self.plan_training_info(measures, &[vec![0.0; measures.len()]]).await
    }
}
