//! Request bodies: limits and media types.

use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

use super::status::ApiError;

/// Largest accepted body, as in Kubernetes.
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let found = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) async fn read_bytes(request: Request) -> Result<Bytes, ApiError> {
    Ok(read_bytes_with_type(request).await?.0)
}

pub(crate) async fn read_bytes_with_type(request: Request) -> Result<(Bytes, String), ApiError> {
    let media = media_type(request.headers());
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if declared
        .and_then(|text| text.parse::<usize>().ok())
        .is_some_and(|length| length > BODY_LIMIT)
    {
        return Err(ApiError::too_large(BODY_LIMIT));
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT);
    let bytes = tokio::time::timeout(Duration::from_mins(1), body)
        .await
        .map_err(|_| ApiError::bad_request("timed out after 60 s waiting for the request body"))?
        .map_err(|error| {
            if error.to_string().contains("length limit") {
                ApiError::too_large(BODY_LIMIT)
            } else {
                ApiError::bad_request(format!("cannot read the request body: {error}"))
            }
        })?;
    Ok((bytes, media))
}

pub(crate) async fn read_object(request: Request) -> Result<Value, ApiError> {
    let (bytes, media) = read_bytes_with_type(request).await?;
    decode(&media, &bytes)
}

pub(crate) fn decode(media: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    match media {
        "application/json" | "" | "*/*" => decode_json(bytes),
        "application/vnd.kubernetes.protobuf" => super::protobuf::decode(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => decode_yaml(bytes),
        _ => Err(ApiError::unsupported_media_type("application/json, application/yaml")),
    }
}

pub(crate) fn decode_json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the request body could not be parsed as JSON: {error}")))
}

pub(crate) fn decode_yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| ApiError::bad_request(error.to_string()))?;
    serde_yaml::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("the request body could not be parsed as YAML: {error}")))
}
