//! Byte streams through the server: logs, exec, attach, port-forward, proxy.

use std::sync::Arc;

use api::Status;
use hyper::body::Incoming;

use crate::Response;
use crate::chain::Server;
use crate::resource::Target;

/// Proxies a request to its target.
pub async fn proxy(
    server: &Arc<Server>,
    target: Target,
    request: http::Request<Incoming>,
) -> Result<Response, Status> {
    let _ = (server, target, request);
    Err(Status::failure(
        501,
        "NotImplemented",
        "streams are not served",
    ))
}
