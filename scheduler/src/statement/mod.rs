//! A statement that a client sends, in whatever way it is connected: its text, its parameters, what it is
//! executed by, and what is told about it.
//!
//! | module | what it holds |
//! |---|---|
//! | `parameters` | placeholders and the values that are bound to them |
//! | `error` | errors and their SQLSTATEs |

pub(crate) mod error;
pub(crate) mod parameters;

use error::{SYNTAX, SqlError, TEXT};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nightshift_jobs::connection::{Connection, Made};
use nightshift_jobs::external::Externals;
use nightshift_jobs::progress::Progress;
use nightshift_jobs::queries::Query;
use nightshift_jobs::statement::{Located, STACK, parse};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The one statement of a request.
pub(crate) fn parse_one(sql: &str) -> Result<Located, SqlError> {
    let mut statements = parse(TEXT, sql)?;
    match (statements.pop(), statements.last()) {
        (Some(statement), None) => Ok(statement),
        (None, _) => Err(SqlError::new(SYNTAX, "there is no statement")),
        (Some(second), Some(_)) => {
            Err(SqlError::at(SYNTAX, second.line, None, "send one statement at a time"))
        }
    }
}

/// Whether a statement is one that can be planned before it is executed.
pub(crate) fn is_query(located: &Located) -> bool {
    located.statement.returns_rows()
}

/// Executes a statement that changes something. Returns the files that the connection reads in place
/// afterwards, besides what was changed.
pub(crate) async fn change(
    mut connection: Connection,
    query: Query,
    located: Located,
) -> Result<(Made, Externals), SqlError> {
    supervised(move |gone| async move {
        let made = connection.change(query, &located, gone).await?;
        Ok((made, connection.externals().clone()))
    })
    .await
}

/// Resolves when the request that something is done for has gone away.
pub(crate) type Gone = Shared<BoxFuture<'static, ()>>;

/// Does something that has to tidy up after itself even when nobody waits for it any more, in a thread
/// of its own: the futures of runs need not be such that they can move between threads.
pub(crate) async fn supervised<T, E, F>(
    work: impl FnOnce(Gone) -> F + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<SqlError> + Send + 'static,
    F: Future<Output = Result<T, E>>,
{
    let (waiting, gone) = oneshot::channel::<()>();
    // Nothing is ever sent: the other end is dropped together with this future.
    let gone = gone.map(drop).boxed().shared();
    let (answer, answered) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("statement".to_string()).stack_size(STACK);
    let started = thread.spawn(move || {
        // When nobody waits for the answer, it is not missed.
        let _ = answer.send(runtime.block_on(work(gone)));
    });
    started.map_err(SqlError::internal)?;
    let done = answered.await;
    drop(waiting);
    done.map_err(SqlError::internal)?
}

/// Tells the log of the server.
pub(crate) struct Log;

impl Progress for Log {
    fn step(&self, number: usize, total: usize, name: &str) {
        tracing::debug!(number, total, name, "step");
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        tracing::debug!(model, iteration, total, measure, value, "iteration");
    }

    fn note(&self, text: &str) {
        tracing::info!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_statement() {
        assert!(is_query(&parse_one("SELECT 1;").unwrap()));
        assert!(!is_query(&parse_one("CREATE TABLE a.b AS SELECT 1 AS x").unwrap()));
        let two = parse_one("SELECT 1;\nSELECT 2").unwrap_err();
        assert!(two.to_string().starts_with("statement:2: send one"), "{two}");
        let none = parse_one(" ; ").unwrap_err();
        assert!(none.to_string().starts_with("there is no statement"), "{none}");
        let wrong = parse_one("SELEC 1").unwrap_err();
        assert!(wrong.to_string().starts_with("statement:1:1: "), "{wrong}");
        assert_eq!(wrong.kind, SYNTAX);
    }

    #[tokio::test]
    async fn what_is_supervised_is_told_when_nobody_waits() {
        let (done, told) = oneshot::channel();
        let work = supervised(move |gone| async move {
            gone.await;
            done.send("tidied up").map_err(SqlError::internal)
        });
        tokio::select! {
            biased;
            _ = work => panic!("nobody was gone"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(told.await.unwrap(), "tidied up");
        assert_eq!(supervised(|_| async { Ok::<_, SqlError>(5) }).await.unwrap(), 5);
    }
}
