//! A pipeline that is run for many days makes what one run over all of them would.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::path::Path;
use support::*;

const DAILY: &str = "INSERT OVERWRITE x.daily SELECT day, item, count(*) AS clicks, sum(seconds) AS seconds \
                     FROM x.logs WHERE day = CAST('${run_date}' AS DATE) GROUP BY day, item";

const LOGS: &str = "CREATE TABLE x.logs AS SELECT CAST('2026-01-01' AS DATE) + CAST(d.value AS INTEGER) AS day, \
                    (d.value * 31 + c.value * c.value) % 17 AS item, c.value % 90 AS seconds \
                    FROM generate_series(0, 29) AS d CROSS JOIN generate_series(1, 200) AS c;\
                    CREATE TABLE x.daily (day DATE, item BIGINT, clicks BIGINT, seconds BIGINT) PARTITIONED BY (day)";

const WHOLE: &str = "SELECT CAST(day AS VARCHAR) AS day, item, count(*) AS clicks, sum(seconds) AS seconds \
                     FROM x.logs GROUP BY day, item ORDER BY day, item";

const MADE: &str =
    "SELECT CAST(day AS VARCHAR) AS day, item, clicks, seconds FROM x.daily ORDER BY day, item";

fn backfill(folder: &Path, from: &str, to: &str) -> Vec<Value> {
    let arguments =
        ["backfill", "p", "--from", from, "--to", to, "--parallel", "2", "--format", "json"];
    serde_json::from_str(&succeed(nightshift(folder).args(arguments))).unwrap()
}

#[test]
fn thirty_days_two_at_a_time_are_what_one_run_makes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let sql = |sql: &str| drop(succeed(nightshift(here).args(["sql", "-c", sql])));
    sql(LOGS);
    pipeline(here, "p", &[("daily.sql", DAILY)]);
    let days = backfill(here, "2026-01-01", "2026-01-30");
    assert_eq!(days.len(), 30);
    assert!(days.iter().all(|day| day["error"].is_null() && day["run"].is_string()), "{days:?}");
    let whole = query(here, WHOLE);
    assert_eq!(query(here, MADE), whole);

    // A day again, with other logs, changes its partition only.
    sql("DELETE FROM x.logs WHERE day = CAST('2026-01-07' AS DATE) AND item > 3");
    backfill(here, "2026-01-07", "2026-01-07");
    assert_eq!(query(here, MADE), query(here, WHOLE));
    let log = contents(&here.join("warehouse/x/daily/_delta_log"));
    let mut commits = log.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "json"));
    let (_, last) = commits.next_back().unwrap();
    let actions = std::str::from_utf8(last).unwrap().lines();
    let actions = actions.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let days = actions.flat_map(|action| {
        let files = ["add", "remove"].map(|kind| action[kind]["partitionValues"]["day"].clone());
        files.into_iter().filter(|day| !day.is_null())
    });
    let days: Vec<_> = days.collect();
    assert!(days.len() >= 2 && days.iter().all(|day| day == "2026-01-07"), "{days:?}");
    let wrong = ["backfill", "p", "--from", "2026-01-02", "--to", "2026-01-01"];
    let wrong = nightshift(here).args(wrong).output().unwrap();
    assert!(
        text(&wrong).contains("--to 2026-01-01 is before --from 2026-01-02"),
        "{}",
        text(&wrong)
    );
}

/// The same with a query over all days, of which a run makes those of its interval.
#[test]
fn an_incremental_table_is_made_day_by_day() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let sql = |sql: &str| drop(succeed(nightshift(here).args(["sql", "-c", sql])));
    sql(LOGS);
    sql("DROP TABLE x.daily");
    let daily = |more: &str| {
        format!(
            "-- incremental: partition day\n\
             CREATE OR REPLACE TABLE x.daily PARTITIONED BY (day) AS \
             SELECT day, item, count(*) AS clicks, sum(seconds) AS seconds{more} FROM x.logs GROUP BY day, item"
        )
    };
    let p = pipeline(here, "p", &[("daily.sql", &daily(""))]);
    let run =
        |day: &str| text(&nightshift(here).args(["run", "p", "--date", day]).output().unwrap());
    // There is nothing yet, so all of it is made.
    run("2026-01-03");
    assert_eq!(query(here, MADE), query(here, WHOLE));

    // What has changed on other days shows when they are made again, and what is gone is gone.
    let before = query(here, MADE);
    sql("DELETE FROM x.logs WHERE item > 3");
    sql("DELETE FROM x.logs WHERE day = CAST('2026-01-05' AS DATE)");
    run("2026-01-05");
    let kept: Vec<_> = before.iter().filter(|row| row["day"] != "2026-01-05").cloned().collect();
    assert_eq!(query(here, MADE), kept);
    let unchanged = run("2026-01-05");
    assert!(unchanged.contains("nothing has changed"), "{unchanged}");
    backfill(here, "2026-01-01", "2026-01-30");
    assert_eq!(query(here, MADE), query(here, WHOLE));

    // A table that has other columns has no partitions that could stay.
    std::fs::write(p.join("daily.sql"), daily(", max(seconds) AS longest")).unwrap();
    let said = run("2026-01-05");
    assert!(said.contains("all of x.daily is made anew"), "{said}");
    assert_eq!(query(here, MADE), query(here, WHOLE));
    let wrong = daily("").replace("SELECT day,", "SELECT CAST(day AS TIMESTAMP) AS day,");
    std::fs::write(p.join("daily.sql"), wrong).unwrap();
    let checked = text(&nightshift(here).args(["check", "p"]).output().unwrap());
    assert!(checked.contains("an incremental table is partitioned by days"), "{checked}");
}
