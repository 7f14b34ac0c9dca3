//! YAML: what is read, printed and read again is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = wire::yaml::to_value(data) {
        let mut text = Vec::new();
        wire::yaml::encode_any(&value, &mut text);
        let again = wire::yaml::to_value(&text).expect("what was printed is readable");
        assert_eq!(value, again);
    }
});
