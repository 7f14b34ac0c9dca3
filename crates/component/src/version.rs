//! What the daemons say they are.

use serde_json::{Value, json};

/// As `--version` and `/version` show it.
pub const GIT_VERSION: &str = "v1.37.0";
/// Major version.
pub const MAJOR: &str = "1";
/// Minor version.
pub const MINOR: &str = "37";
/// Go's name for the platform.
pub const PLATFORM: &str = if cfg!(target_arch = "aarch64") {
    "linux/arm64"
} else {
    "linux/amd64"
};
/// The compiler's version where upstream names Go's.
pub const COMPILER: &str = "rustc";

/// The document of `GET /version`.
pub fn info() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": COMPILER,
        "platform": PLATFORM,
    })
}

/// `User-Agent` of a daemon: `kubelet/v1.37.0 (linux/amd64) kubernetes/keelson`.
pub fn user_agent(daemon: &str) -> String {
    format!("{daemon}/{GIT_VERSION} ({PLATFORM}) kubernetes/keelson")
}
