//! Requests that a web page may have made somebody's browser send are refused: nobody logs in, so whoever
//! can reach the server may do everything.
//!
//! A page of another site can send simple requests to a server on the same machine, and with a host name
//! of its own that leads there (DNS rebinding) it can read the answers too. So the name that is asked for
//! must be one of this server's, a request that changes something must not come from a page of another
//! site, and the content of one must be of a type that browsers don't send to other sites unasked.

use super::answer::Refusal;
use crate::statement::error::{FORBIDDEN, PROTOCOL};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;

/// Lets a request through, or refuses it.
pub(super) async fn check(
    State(names): State<Arc<Vec<String>>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    allowed(request.method(), request.headers(), &names)?;
    Ok(next.run(request).await)
}

fn allowed(method: &Method, headers: &HeaderMap, names: &[String]) -> Result<(), Refusal> {
    let host = text(headers, header::HOST).unwrap_or_default();
    if !is_own(host_name(host), names) {
        let reason = format!(
            "Host: {host}: this server is not known by this name; use its address, localhost, or the name \
             that it was started with (--advertise)"
        );
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, FORBIDDEN, reason));
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    // The header says `null` for pages that have no address.
    if let Some(origin) = text(headers, header::ORIGIN)
        && origin.split_once("://").map(|(_, host)| host) != Some(host)
    {
        let reason = format!("Origin: {origin}: a page of another site may not change anything");
        return Err(Refusal::new(StatusCode::FORBIDDEN, FORBIDDEN, reason));
    }
    let content = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    let content = content.split(';').next().unwrap_or_default().trim();
    if *method != Method::DELETE && !content.eq_ignore_ascii_case("application/json") {
        let reason = "the content of a request is JSON: send Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, PROTOCOL, reason));
    }
    Ok(())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    // What is not text is not allowed either.
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// The host of `host:port`.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn is_own(name: &str, names: &[String]) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, headers: &[(header::HeaderName, &str)]) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let checked = allowed(&method, &headers.collect(), &["scheduler.example".to_string()]);
        checked.map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_names_of_this_server_are_answered() {
        let get = |host| status(Method::GET, &[(header::HOST, host)]);
        for host in ["127.0.0.1:8080", "localhost", "[::1]:80", "10.0.0.7", "Scheduler.Example:1"] {
            assert_eq!(get(host), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "", "127.0.0.1.evil.example"] {
            assert_eq!(get(host), 421, "{host}");
        }
        assert_eq!(status(Method::GET, &[]), 421);
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let host = (header::HOST, "localhost:80");
        let json = (header::CONTENT_TYPE, "application/json; charset=utf-8");
        let post =
            |headers: &[_]| status(Method::POST, &[std::slice::from_ref(&host), headers].concat());
        assert_eq!(post(std::slice::from_ref(&json)), 200);
        assert_eq!(post(&[json.clone(), (header::ORIGIN, "http://localhost:80")]), 200);
        for origin in ["http://evil.example", "null", "http://localhost:81"] {
            assert_eq!(post(&[json.clone(), (header::ORIGIN, origin)]), 403, "{origin}");
        }
        assert_eq!(post(&[]), 415);
        assert_eq!(post(&[(header::CONTENT_TYPE, "text/plain")]), 415);
        assert_eq!(status(Method::DELETE, std::slice::from_ref(&host)), 200);
        let foreign = [host, (header::ORIGIN, "http://evil.example")];
        assert_eq!(status(Method::DELETE, &foreign), 403);
        assert_eq!(status(Method::GET, &foreign), 200);
    }
}
