//! A sum (CRC-32) in the files of `/run/vxcsum` that nothing else protects: with one changed digit a record is still valid
//! JSON, and would be believed.
//!
//! Owns the first key of such a file, `sum`. Pure.

use std::borrow::Cow;

use crc32fast::hash;
use serde::Serialize;

const START: &str = "{\"sum\":\"";
const END: &str = "\",";
const DIGITS: usize = 8;

/// An object as JSON, with the sum. The object has at least one key.
///
/// # Errors
/// Those of the object's types.
pub fn seal(object: &impl Serialize) -> serde_json::Result<String> {
    let sum_of = |rest: &[u8]| format!("{START}{:0DIGITS$x}{END}", hash(rest));
    // In one buffer, because the record of ten thousand devices is megabytes. The comma replaces the brace of the object.
    let mut text = sum_of(b"").into_bytes();
    let end = text.len();
    text.pop();
    serde_json::to_writer(&mut text, object)?;
    let start = sum_of(&text[end..]);
    text[..end].copy_from_slice(start.as_bytes());
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// The object without its sum. Text without a sum is returned as it is: the types of these files know no key `sum`, so a
/// damaged one is an error of theirs.
///
/// # Errors
/// A part of a sentence: the sum is wrong.
pub fn unseal(text: &str) -> Result<Cow<'_, str>, String> {
    let sealed = text
        .strip_prefix(START)
        .and_then(|rest| rest.split_at_checked(DIGITS))
        .and_then(|(digits, rest)| Some((digits, rest.strip_prefix(END)?)));
    match sealed {
        None => Ok(Cow::Borrowed(text)),
        Some((digits, rest)) if digits == format!("{:0DIGITS$x}", hash(rest.as_bytes())) => {
            Ok(Cow::Owned(format!("{{{rest}")))
        }
        Some(_) => Err("is damaged: its sum is wrong".to_owned()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Every way in which a file is damaged here: cut at every length, zeroes from there on, and one byte changed, at
    /// every place.
    pub fn damaged(text: &str) -> impl Iterator<Item = (String, String)> {
        let bytes = text.as_bytes();
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (0..bytes.len()).flat_map(move |at| {
            let cut = [
                (format!("cut at {at}"), lossy(&bytes[..at])),
                (
                    format!("zeroes from {at}"),
                    lossy(&[&bytes[..at], &vec![0; bytes.len() - at][..]].concat()),
                ),
            ];
            let flips = (0..8).map(move |bit| bytes[at] ^ 1 << bit);
            let others = *b"01 \"}{,x\xff";
            let changed = flips.chain(others).filter(move |new| *new != bytes[at]);
            let changed = changed.map(move |new| {
                let mut all = bytes.to_vec();
                all[at] = new;
                (format!("byte {at} is {new:#04x}"), lossy(&all))
            });
            cut.into_iter().chain(changed)
        })
    }

    #[test]
    fn a_sealed_object_comes_back_and_a_damaged_one_does_not() {
        for json in ["{\"a\":1}", "{\"a\":12345678}", "{\"b\":\"\u{e9}\"}"] {
            let object: serde_json::Value = serde_json::from_str(json).unwrap();
            let sealed = seal(&object).unwrap();
            assert_eq!(unseal(&sealed).as_deref(), Ok(json));
            assert!(serde_json::from_str::<serde_json::Value>(&sealed).is_ok());
            assert_eq!(unseal(json).as_deref(), Ok(json), "without a sum");
            for (how, text) in damaged(&sealed) {
                let end = START.len() + DIGITS + END.len();
                match unseal(&text) {
                    Err(_) => {}
                    // A damaged sum: not JSON, or an unknown key.
                    Ok(read) => assert!(
                        read == text && !text.as_bytes().starts_with(&sealed.as_bytes()[..end]),
                        "{how}: {text}"
                    ),
                }
            }
        }
    }
}
