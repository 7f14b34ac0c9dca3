//! Envelopes, lists and watch events.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(u) = wire::envelope::unwrap(data) {
        let bytes = wire::envelope::wrap(u.api_version, u.kind, u.raw);
        let again = wire::envelope::unwrap(&bytes).expect("what was wrapped unwraps");
        assert_eq!(
            (again.api_version, again.kind, again.raw),
            (u.api_version, u.kind, u.raw)
        );
    }
    let _ = wire::envelope::watch_event(data);
    let _ = wire::envelope::list_parts(data);
});
