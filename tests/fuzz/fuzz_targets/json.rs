//! JSON of a Deployment: what decodes, encodes and decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::json::Strictness;

fuzz_target!(|data: &[u8]| {
    let Some(msg) = api::schema::message("apps/v1", "Deployment") else {
        return;
    };
    if let Ok(first) = wire::json::decode(data, msg, Strictness::Collect) {
        let mut text = Vec::new();
        if wire::json::encode(&first.value, msg, &mut text).is_ok() {
            let second = wire::json::decode(&text, msg, Strictness::Collect)
                .expect("what was printed is readable");
            let mut again = Vec::new();
            wire::json::encode(&second.value, msg, &mut again).expect("it was printed before");
            assert_eq!(text, again);
        }
    }
    let _ = wire::json::parse_strict(data);
});
