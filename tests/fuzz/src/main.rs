//! libFuzzer over one target, which the environment names: `FUZZ_TARGET=json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod targets;

fuzz_target!(init: targets::init(), |data: &[u8]| targets::run(data));
