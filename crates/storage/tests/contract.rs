//! The contract suite against every backend.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod suite;

use storage::embedded::{Embedded, Options};
use suite::Traits;

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default())
        .await
        .unwrap();
    suite::run(
        &store,
        &Traits {
            tells_revisions: true,
            too_large: (8 << 20) + 1,
        },
    )
    .await;
}
