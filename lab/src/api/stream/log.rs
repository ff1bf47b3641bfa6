//! `GET pods/{name}/log`.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::Value;

use super::{Query, choose_container, reference};
use crate::api::status::ApiError;
use crate::backend::{LogOptions, PodBackend};

/// Answers with the log as chunked plain text.
pub(super) async fn serve(pod: &Value, query: &Query, backend: &dyn PodBackend) -> Result<Response, ApiError> {
    let container = choose_container(pod, query.text("container"))?;
    let options = options(query, jiff::Timestamp::now())?;
    let chunks = backend.logs(reference(pod), container, options).await?;
    let mut response = Response::new(Body::from_stream(chunks));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn options(query: &Query, now: jiff::Timestamp) -> Result<LogOptions, ApiError> {
    let mut since_seconds: Option<u64> = query.number("sinceSeconds")?;
    if let Some(text) = query.text("sinceTime") {
        if since_seconds.is_some() {
            return Err(ApiError::bad_request(
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        let since: jiff::Timestamp = text.parse().map_err(|error| {
            ApiError::bad_request(format!("invalid value {text:?} of parameter sinceTime: {error}"))
        })?;
        // Rounded up: rather a line too many than one that is missing.
        let milliseconds = now.duration_since(since).as_millis().max(0);
        since_seconds = Some(u64::try_from(milliseconds).unwrap_or(u64::MAX).div_ceil(1000));
    }
    let limit_bytes = query.number("limitBytes")?;
    if limit_bytes == Some(0) {
        return Err(ApiError::bad_request("limitBytes must be greater than 0"));
    }
    Ok(LogOptions {
        follow: query.is_true("follow"),
        previous: query.is_true("previous"),
        tail_lines: query.number("tailLines")?,
        since_seconds,
        timestamps: query.is_true("timestamps"),
        limit_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Query {
        Query(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn parameters_become_options() {
        let now: jiff::Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let options = options(
            &query(&[
                ("follow", "true"),
                ("previous", "false"),
                ("tailLines", "0"),
                ("sinceTime", "2026-01-01T00:00:30.5Z"),
                ("timestamps", ""),
                ("limitBytes", "10"),
            ]),
            now,
        )
        .unwrap();
        assert!(options.follow && !options.previous && options.timestamps);
        assert_eq!(
            (options.tail_lines, options.since_seconds, options.limit_bytes),
            (Some(0), Some(30), Some(10))
        );
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for pairs in [
            &[("tailLines", "-1")],
            &[("limitBytes", "0")],
            &[("sinceTime", "yesterday")],
        ] {
            assert_eq!(options(&query(pairs), jiff::Timestamp::now()).unwrap_err().code, 400);
        }
    }
}
