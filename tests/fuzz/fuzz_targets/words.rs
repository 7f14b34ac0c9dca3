//! Quantities, selectors, durations, times, addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(canonical) = api::quantity::Quantity::canonical(text) {
        let (a, b) = (
            api::quantity::Quantity::parse(text),
            api::quantity::Quantity::parse(&canonical),
        );
        assert_eq!(a.ok(), b.ok());
    }
    if let Ok(s) = api::selector::Selector::parse(text) {
        let _ = api::selector::Selector::parse(&s.to_string());
    }
    let _ = api::selector::FieldSelector::parse(text);
    if let Ok(n) = api::duration::parse(text) {
        assert_eq!(api::duration::parse(&api::duration::format(n)), Ok(n));
    }
    if let Ok(m) = api::time::parse_rfc3339(text)
        && (wire::time::ZERO_SECONDS..253_402_300_800).contains(&m.seconds)
    {
        assert_eq!(
            api::time::parse_rfc3339(&m.rfc3339()).map(|m| m.seconds),
            Ok(m.seconds)
        );
    }
    let _ = api::validate::parse_cidr_sloppy(text);
});
