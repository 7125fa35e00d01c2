//! Notices as requests to a URL.
//!
//! A receiver that shares a key with us knows by `X-Nightshift-Signature: t=<seconds>,v1=<hex>` that a request comes
//! from us: `v1` is the HMAC-SHA256 of the seconds since 1970, a dot and the body. It should compare in constant time,
//! refuse old times, and remember `X-Nightshift-Delivery`, which is the same when it is told again.

use super::{Fault, Notice, hexadecimal, json, root_cause};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Error, StatusCode, redirect};
use sha2::Sha256;
use std::time::Duration;
use url::Url;

/// What a request may take, from the name of the host to the answer.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Sends a notice, signed if there is a key.
pub(super) async fn send(
    url: &str,
    key: Option<&str>,
    notice: &Notice,
    id: &str,
    limit: Duration,
) -> Result<(), Fault> {
    let body = json(notice)?;
    // Redirects are not followed: what is signed is for this receiver.
    let client = Client::builder()
        .timeout(limit)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("nightshift/", env!("CARGO_PKG_VERSION")))
        .build();
    let mut request = client
        .map_err(|error| fault_of(error, limit))?
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("X-Nightshift-Event", notice.about.as_str())
        .header("X-Nightshift-Delivery", id);
    if let Some(key) = key {
        request = request.header("X-Nightshift-Signature", signature(key, Utc::now(), &body)?);
    }
    let answer = request.body(body).send().await.map_err(|error| fault_of(error, limit))?;
    // What it says besides is not shown: some receivers repeat what they were sent.
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => {
            let reason = match status.is_redirection() {
                true => format!("it answers {status}, and redirects are not followed"),
                false => format!("it answers {status}"),
            };
            Err(Fault::Refused { reason, can_pass: can_pass(status) })
        }
    }
}

/// A URL as it may be shown: its user, its path and its query can be secrets.
pub(super) fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let rest = url.path() != "/" || url.query().is_some();
            let origin = url.origin().ascii_serialization();
            if rest { format!("{origin}/…") } else { origin }
        }
        Err(_) => "with an unreadable URL".to_string(),
    }
}

fn signature(key: &str, at: DateTime<Utc>, body: &str) -> Result<String, Fault> {
    let seconds = at.timestamp();
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes())
        .map_err(|error| Fault::Unusable(error.to_string()))?;
    mac.update(format!("{seconds}.{body}").as_bytes());
    Ok(format!("t={seconds},v1={}", hexadecimal(&mac.finalize().into_bytes())))
}

fn can_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

fn fault_of(error: Error, limit: Duration) -> Fault {
    if error.is_timeout() {
        return Fault::TimedOut(limit);
    }
    let unusable = error.is_builder();
    // The URL may be a secret.
    let reason = root_cause(&error.without_url());
    if unusable { Fault::Unusable(reason) } else { Fault::Unreachable(reason) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{notice, told};
    use super::*;
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::response::{IntoResponse, Redirect, Response};
    use axum::routing::any;
    use nightshift_jobs::pipeline::Channel;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);

    type Received = mpsc::UnboundedReceiver<(HeaderMap, String)>;

    /// A receiver that always answers the same.
    async fn receiver(
        answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
    ) -> (String, Received) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, received) = mpsc::unbounded_channel();
        let handler = any(move |head: HeaderMap, body: String| {
            sender.send((head, body)).unwrap();
            std::future::ready(answer())
        });
        let service = Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, service).await });
        (url, received)
    }

    fn error(fault: Fault, url: &str) -> super::super::NotifyError {
        told(fault, &Channel::Webhook { url: url.to_string(), secret_env: None })
    }

    #[tokio::test]
    async fn a_receiver_can_verify_who_tells_it() {
        let (url, mut received) = receiver(|| StatusCode::NO_CONTENT.into_response()).await;
        send(&url, Some("the key"), &notice(), "id-1", LONG).await.unwrap();
        send(&url, None, &notice(), "id-1", LONG).await.unwrap();
        let (head, body) = received.recv().await.unwrap();
        assert_eq!(head["content-type"], "application/json");
        assert_eq!(head["x-nightshift-event"], "failure");
        assert_eq!(head["x-nightshift-delivery"], "id-1");
        assert_eq!(body, json(&notice()).unwrap());

        let signature = head["x-nightshift-signature"].to_str().unwrap();
        let (time, sum) = signature.split_once(",v1=").unwrap();
        let time = time.strip_prefix("t=").unwrap();
        let age = Utc::now().timestamp() - time.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
        let sum: Vec<u8> = (0..sum.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&sum[at..at + 2], 16).unwrap())
            .collect();
        let verify = |key: &str, text: String| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
            mac.update(text.as_bytes());
            mac.verify_slice(&sum).is_ok()
        };
        assert!(verify("the key", format!("{time}.{body}")));
        assert!(!verify("another", format!("{time}.{body}")));
        assert!(!verify("the key", format!("{time}.{body} ")));

        let (head, _) = received.recv().await.unwrap();
        assert!(!head.contains_key("x-nightshift-signature"));
    }

    #[test]
    fn the_signature_is_what_others_compute() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(signature("key", at, "{}").unwrap(), format!("t=1700000000,v1={expected}"));
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let (target, mut received) = receiver(|| StatusCode::OK.into_response()).await;
        let (url, mut asked) = receiver(move || Redirect::temporary(&target).into_response()).await;
        let fault = send(&url, None, &notice(), "id", LONG).await.unwrap_err();
        let error = error(fault, &url);
        assert!(error.to_string().contains("307 Temporary Redirect"), "{error}");
        assert!(!error.can_pass());
        assert!(asked.try_recv().is_ok());
        assert!(received.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_receiver_that_hangs_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let limit = Duration::from_millis(50);
        // Connections are made by the system, and nobody answers.
        let fault = send(&url, None, &notice(), "id", limit).await.unwrap_err();
        assert!(matches!(fault, Fault::TimedOut(_)), "{fault:?}");
        let error = error(fault, &url);
        assert_eq!(
            error.to_string(),
            format!("webhook {}: it has taken more than 50ms", shown(&url))
        );
        assert!(error.can_pass());
        drop(listener);
    }

    #[tokio::test]
    async fn encryption_is_not_left_out() {
        let (url, mut received) = receiver(|| StatusCode::OK.into_response()).await;
        let url = url.replace("http:", "https:");
        let fault = send(&url, Some("s3cret"), &notice(), "id", LONG).await.unwrap_err();
        assert!(matches!(fault, Fault::Unreachable(_)), "{fault:?}");
        assert!(received.try_recv().is_err());
    }

    #[tokio::test]
    async fn some_answers_may_be_better_later() {
        let cases = [
            (400, false),
            (401, false),
            (404, false),
            (408, true),
            (410, false),
            (429, true),
            (500, true),
            (503, true),
        ];
        for (status, expected) in cases {
            let answer = StatusCode::from_u16(status).unwrap();
            let (url, _received) = receiver(move || (answer, "s3cret").into_response()).await;
            let fault = send(&url, None, &notice(), "id", LONG).await.unwrap_err();
            let error = error(fault, &url);
            assert_eq!(error.can_pass(), expected, "{error}");
            assert_eq!(error.to_string(), format!("webhook {}: it answers {answer}", shown(&url)));
        }
    }

    #[tokio::test]
    async fn urls_that_are_none_are_not_tried_again() {
        for url in ["", "https://", "s3cret", "http://user:s3cret@:1/"] {
            let fault = send(url, None, &notice(), "id", LONG).await.unwrap_err();
            assert!(matches!(fault, Fault::Unusable(_)), "{fault:?}");
            let error = error(fault, url);
            assert!(!error.can_pass());
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn only_the_host_of_a_url_is_shown() {
        let cases = [
            ("https://hooks.example.com", "https://hooks.example.com"),
            ("https://hooks.example.com:8443/T0/B0/s3cret", "https://hooks.example.com:8443/…"),
            ("https://user:s3cret@hooks.example.com/", "https://hooks.example.com"),
            ("https://hooks.example.com?token=s3cret", "https://hooks.example.com/…"),
            ("s3cret", "with an unreadable URL"),
        ];
        for (url, expected) in cases {
            assert_eq!(shown(url), expected);
        }
    }
}
