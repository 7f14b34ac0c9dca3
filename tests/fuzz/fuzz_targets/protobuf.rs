//! Protobuf of a Pod: the tree, the printed JSON and the re-encoded bytes agree, or all refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use wire::json::Strictness;

fuzz_target!(|data: &[u8]| {
    let Some(msg) = api::schema::message("v1", "Pod") else {
        return;
    };
    let mut json = Vec::new();
    let printed =
        wire::transcode::proto_to_json(data, msg, "v1", "Pod", &Default::default(), &mut json);
    let _ = wire::transcode::with_resource_version(data, msg, "1");
    if let Ok(tree) = wire::proto::from_slice::<Value>(data, msg) {
        let bytes = wire::proto::value_to_vec(&tree, msg);
        if let (Ok(bytes), Ok(())) = (bytes, printed) {
            assert!(wire::proto::from_slice::<Value>(&bytes, msg).is_ok());
            let _ = wire::json::decode(&json, msg, Strictness::Collect);
        }
    }
});
