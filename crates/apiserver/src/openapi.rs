//! `/openapi/v3`.

use std::sync::Arc;

use http::HeaderMap;

use crate::Response;
use crate::chain::Server;

/// Answers a path under `/openapi`; `None` for those that do not exist.
pub fn serve(server: &Arc<Server>, path: &str, headers: &HeaderMap) -> Option<Response> {
    let _ = (server, path, headers);
    None
}
