//! Every input that the fuzzer kept, without the fuzzer.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use super::DECODERS;

/// The inputs of a decoder: each line is one, in hexadecimal.
fn inputs(name: &str) -> Vec<Vec<u8>> {
    let path = format!(
        "{}/tests/fuzz/corpus/{name}.hex",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let bytes = |line: &str| -> Vec<u8> {
        let pairs = line.as_bytes().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| {
            let digits = str::from_utf8(pair).expect("digits");
            u8::from_str_radix(digits, 16).expect("a byte")
        };
        pairs.iter().map(byte).collect()
    };
    text.lines().map(bytes).collect()
}

#[test]
fn what_the_fuzzer_found_is_read_without_a_panic() {
    for (name, decode) in DECODERS {
        let inputs = inputs(name);
        assert!(inputs.len() > 3, "{name}: {} inputs", inputs.len());
        for input in &inputs {
            decode(input);
        }
    }
}
