use super::*;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use std::sync::Arc;

async fn traced(sql: &str) -> Traced {
    let context = SessionContext::new();
    let list = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
    let number = DataType::Int64;
    let tables = [
        ("t", vec![("id", number.clone()), ("a", number.clone()), ("b", number.clone())]),
        ("u", vec![("id", number.clone()), ("c", number.clone()), ("l", list)]),
    ];
    for (name, columns) in tables {
        let fields = columns.into_iter().map(|(name, kind)| Field::new(name, kind, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let table = MemTable::try_new(schema, vec![vec![]]).unwrap();
        context.register_table(name, Arc::new(table)).unwrap();
    }
    let plan = context.state().create_logical_plan(sql).await.unwrap();
    trace(&plan, &|scan| Some(scan.table_name.table().to_string()))
}

fn shown(sources: &[Source]) -> String {
    let how = |source: &Source| {
        let words = source.how.iter().map(|how| format!("{how:?}"));
        words.collect::<Vec<_>>().join("+")
    };
    let source = |from: &Source| format!("{}.{} {}", from.table, from.column, how(from));
    sources.iter().map(source).collect::<Vec<_>>().join(", ")
}

/// The columns with what they come from, and what all of them come from indirectly.
async fn lineage(sql: &str) -> (Vec<String>, String) {
    let Traced { columns, indirect } = traced(sql).await;
    let columns = columns.iter().map(|it| format!("{} <- {}", it.name, shown(&it.from)));
    (columns.collect(), shown(&indirect))
}

#[tokio::test]
async fn columns_are_followed_through_names() {
    let (columns, indirect) = lineage(
        "WITH x AS (SELECT id AS k, a + b AS s, 1 AS one FROM t WHERE b > 3) \
         SELECT k, s, one, CAST(k AS VARCHAR) AS text FROM x AS y ORDER BY s LIMIT 3",
    )
    .await;
    let expected = [
        "k <- t.id Identity",
        "s <- t.a Transformation, t.b Transformation",
        "one <- ",
        "text <- t.id Transformation",
    ];
    assert_eq!(columns, expected);
    assert_eq!(indirect, "t.a Sort, t.b Filter+Sort");
}

#[tokio::test]
async fn joins_and_groups_decide_about_rows() {
    let (columns, indirect) = lineage(
        "SELECT t.a, sum(u.c) AS total, count(*) AS n, max(u.c) FILTER (WHERE t.b > 0) + 1 AS m \
         FROM t JOIN u ON t.id = u.id GROUP BY t.a HAVING sum(u.c) > 1",
    )
    .await;
    let expected = [
        "a <- t.a Identity",
        "total <- u.c Aggregation",
        "n <- ",
        "m <- t.b Filter, u.c Aggregation",
    ];
    assert_eq!(columns, expected);
    assert_eq!(indirect, "t.a GroupBy, t.id Join, u.c Filter, u.id Join");
    let (columns, _) = lineage("SELECT id, c FROM t JOIN u USING (id)").await;
    assert_eq!(columns, ["id <- t.id Identity", "c <- u.c Identity"]);
    let (columns, _) = lineage("SELECT t.a, u.c FROM t CROSS JOIN u").await;
    assert_eq!(columns, ["a <- t.a Identity", "c <- u.c Identity"]);
}

#[tokio::test]
async fn grouping_sets_keep_their_columns_apart() {
    let sql = "SELECT a, b, sum(id) AS s FROM t GROUP BY ROLLUP (a, b)";
    let (columns, indirect) = lineage(sql).await;
    let expected = ["a <- t.a Identity", "b <- t.b Identity", "s <- t.id Aggregation"];
    assert_eq!(columns, expected);
    assert_eq!(indirect, "t.a GroupBy, t.b GroupBy");
}

#[tokio::test]
async fn windows_and_conditions_are_those_of_a_column() {
    let (columns, indirect) = lineage(
        "SELECT row_number() OVER (PARTITION BY a ORDER BY b) AS n, \
         sum(id) OVER (PARTITION BY a) AS s, CASE WHEN a > 1 THEN b ELSE 0 END AS k FROM t",
    )
    .await;
    let expected = [
        "n <- t.a Window, t.b Window",
        "s <- t.a Window, t.id Aggregation",
        "k <- t.a Conditional, t.b Transformation",
    ];
    assert_eq!(columns, expected);
    assert_eq!(indirect, "");
}

#[tokio::test]
async fn unions_are_of_all_their_inputs() {
    let (columns, _) =
        lineage("SELECT id, a FROM t UNION ALL SELECT c + 1 AS id, id AS a FROM u").await;
    let expected = ["id <- t.id Identity, u.c Transformation", "a <- t.a Identity, u.id Identity"];
    assert_eq!(columns, expected);
    let (columns, indirect) = lineage("SELECT DISTINCT a FROM t").await;
    assert_eq!(
        (columns, indirect.as_str()),
        (vec!["a <- t.a Identity".to_string()], "t.a GroupBy")
    );
}

#[tokio::test]
async fn subqueries_are_followed() {
    let (columns, indirect) = lineage(
        "SELECT a, (SELECT max(c) FROM u WHERE u.id = t.id) AS m FROM t \
         WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.b) AND a IN (SELECT c FROM u)",
    )
    .await;
    let expected = ["a <- t.a Identity", "m <- t.id Filter, u.c Aggregation, u.id Filter"];
    assert_eq!(columns, expected);
    assert_eq!(indirect, "t.a Filter, t.b Filter, u.c Filter, u.id Filter");
}

#[tokio::test]
async fn lists_are_taken_apart() {
    let (columns, _) = lineage("SELECT id, unnest(l) AS item FROM u").await;
    assert_eq!(columns, ["id <- u.id Identity", "item <- u.l Transformation"]);
}

#[tokio::test]
async fn what_is_not_known_is_left_out() {
    let recursive = "WITH RECURSIVE r AS (SELECT id AS n FROM t UNION ALL SELECT n + 1 FROM r WHERE n < 9) \
                     SELECT n, n + 1 AS next FROM r";
    let (columns, _) = lineage(recursive).await;
    assert_eq!(columns, ["n <- ", "next <- "]);
    let (columns, indirect) = lineage("SELECT * FROM (VALUES (1, 'x'), (2, 'y')) AS v(n, s)").await;
    assert_eq!(columns, ["n <- ", "s <- "]);
    assert_eq!(indirect, "");
    assert_eq!(traced("SELECT 1 AS n").await.columns[0].data_type, "BIGINT");
}
