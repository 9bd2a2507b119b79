//! libFuzzer on one decoder of `vxcsum::fuzzing`. `VXCSUM_FUZZ` names it.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vxcsum::fuzzing::DECODERS;

static DECODE: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let wanted = std::env::var("VXCSUM_FUZZ").unwrap_or_default();
    let found = DECODERS.iter().find(|(name, _)| *name == wanted);
    let names = DECODERS.map(|(name, _)| name).join(" ");
    found.unwrap_or_else(|| panic!("VXCSUM_FUZZ is none of: {names}")).1
}

fuzz_target!(|data: &[u8]| DECODE.get_or_init(chosen)(data));
