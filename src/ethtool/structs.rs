//! The structures of the SIOCETHTOOL ioctl.
//!
//! Owns their layout (`include/uapi/linux/ethtool.h`) as buffers of bytes that `ethtool::ioctl_io` exchanges with the
//! kernel. Pure. <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/ethtool.h>

use super::Features;
use crate::fault::Malformed;
use crate::netlink::{get_u32, until_nul};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
const DRVINFO_LEN: usize = 196;

/// A larger `ETH_SS_FEATURES` is an error, because feature sets are read into 128 bits.
const MAX_FEATURES: u32 = u128::BITS;

/// `struct ethtool_sset_info` with space for the one count that the kernel appends.
pub fn sset_info_request() -> Vec<u8> {
    let mut bytes = words(&[ETHTOOL_GSSET_INFO, 0]);
    bytes.extend_from_slice(&(1u64 << ETH_SS_FEATURES).to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// The number of features.
///
/// # Errors
/// The kernel has no such string set, or more than 128 features.
pub fn sset_info(bytes: &[u8]) -> Result<u32, Malformed> {
    let mask = bytes
        .get(8..)
        .and_then(|b| b.first_chunk())
        .copied()
        .map(u64::from_ne_bytes);
    match (mask, get_u32(bytes, 16)) {
        (Some(mask), Some(count))
            if mask == 1 << ETH_SS_FEATURES && (1..=MAX_FEATURES).contains(&count) =>
        {
            Ok(count)
        }
        _ => Err(Malformed("number of features")),
    }
}

/// `struct ethtool_value`.
pub fn value_request(command: u32, data: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&command.to_ne_bytes());
    bytes[4..].copy_from_slice(&data.to_ne_bytes());
    bytes
}

/// The field `data` of a `struct ethtool_value`.
pub fn value(bytes: [u8; 8]) -> u32 {
    let [.., a, b, c, d] = bytes;
    u32::from_ne_bytes([a, b, c, d])
}

/// `struct ethtool_gstrings` with space for `count` names.
pub fn gstrings_request(count: u32) -> Vec<u8> {
    let mut bytes = words(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count]);
    bytes.resize(bytes.len() + count as usize * ETH_GSTRING_LEN, 0);
    bytes
}

/// The names. Name n belongs to bit n.
///
/// # Errors
/// The answer has fewer names than it announces.
pub fn gstrings(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let bad = Malformed("feature names");
    let count = get_u32(bytes, 8).ok_or(bad)? as usize;
    let names = bytes
        .get(12..)
        .and_then(|b| b.get(..count.checked_mul(ETH_GSTRING_LEN)?))
        .ok_or(bad)?;
    Ok(names
        .chunks_exact(ETH_GSTRING_LEN)
        .map(|name| crate::text::escape(until_nul(name)))
        .collect())
}

/// `struct ethtool_gfeatures` with space for the sets of `count` features.
pub fn gfeatures_request(count: u32) -> Vec<u8> {
    let blocks = count.div_ceil(32);
    let mut bytes = words(&[ETHTOOL_GFEATURES, blocks]);
    bytes.resize(bytes.len() + blocks as usize * 16, 0);
    bytes
}

/// The four sets. The ioctl calls them `available`, `requested`, `active` and `never_changed`.
///
/// # Errors
/// The answer has fewer blocks than it announces, or more than four.
pub fn gfeatures(bytes: &[u8]) -> Result<Features, Malformed> {
    let bad = Malformed("features");
    let blocks = get_u32(bytes, 4).filter(|blocks| *blocks <= 4).ok_or(bad)? as usize;
    let mut features = Features::default();
    for block in 0..blocks {
        let word = |n: usize| {
            get_u32(bytes, 8 + block * 16 + n * 4)
                .map(|w| u128::from(w) << (32 * block))
                .ok_or(bad)
        };
        features.hw |= word(0)?;
        features.wanted |= word(1)?;
        features.active |= word(2)?;
        features.nochange |= word(3)?;
    }
    Ok(features)
}

/// `struct ethtool_sfeatures` in which only the feature with this index is valid, so no other feature changes.
pub fn sfeatures_request(count: u32, index: u32, wanted: bool) -> Vec<u8> {
    let blocks = count.div_ceil(32);
    let mut bytes = words(&[ETHTOOL_SFEATURES, blocks]);
    for block in 0..blocks {
        let valid = if index / 32 == block {
            1u32 << (index % 32)
        } else {
            0
        };
        bytes.extend(words(&[valid, if wanted { valid } else { 0 }]));
    }
    bytes
}

/// `struct ethtool_drvinfo`.
pub fn drvinfo_request() -> Vec<u8> {
    let mut bytes = words(&[ETHTOOL_GDRVINFO]);
    bytes.resize(DRVINFO_LEN, 0);
    bytes
}

/// `None` if the device has no driver.
pub fn drvinfo_driver(bytes: &[u8]) -> Option<String> {
    let name = until_nul(bytes.get(4..36)?);
    (!name.is_empty()).then(|| crate::text::escape(name))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_layout_of_the_header_file() {
        assert_eq!(
            sset_info_request(),
            [
                0x37, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(
            gstrings_request(3)[..12],
            [0x1b, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0]
        );
        assert_eq!(gstrings_request(3).len(), 12 + 3 * 32);
        assert_eq!(gfeatures_request(64).len(), 8 + 2 * 16);
        assert_eq!(gfeatures_request(65).len(), 8 + 3 * 16);
        assert_eq!(drvinfo_request().len(), 196);
        let off = [
            0x3b, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(sfeatures_request(40, 34, false), off);
        let mut on = off;
        on[20] = 4;
        assert_eq!(sfeatures_request(40, 34, true), on);
    }

    #[test]
    fn answers() {
        let mut info = sset_info_request();
        info[16] = 60;
        assert_eq!(sset_info(&info), Ok(60));
        for (name, at, value) in [
            ("no such set", 8, 0),
            ("no features", 16, 0),
            ("over 128", 16, 129),
        ] {
            let mut bytes = info.clone();
            bytes[at] = value;
            assert!(sset_info(&bytes).is_err(), "{name}");
        }
        let mut names = gstrings_request(2);
        names[12..20].copy_from_slice(b"tx-scat\x1b");
        names[44..48].copy_from_slice(b"lro\0");
        assert_eq!(
            gstrings(&names),
            Ok(vec![r"tx-scat\x1b".to_owned(), "lro".to_owned()])
        );
        names[8] = 3;
        assert!(gstrings(&names).is_err());
        let mut bits = gfeatures_request(64);
        for (word, value) in [(0, 1u8), (1, 2), (2, 4), (3, 8), (4, 16)] {
            bits[8 + word * 4] = value;
        }
        assert_eq!(
            gfeatures(&bits),
            Ok(Features {
                hw: 1 | 16 << 32,
                wanted: 2,
                active: 4,
                nochange: 8
            })
        );
        bits[4] = 5;
        assert!(gfeatures(&bits).is_err());
        assert!(gfeatures(&[0; 7]).is_err());
        let mut driver = drvinfo_request();
        assert_eq!(drvinfo_driver(&driver), None);
        driver[4..8].copy_from_slice(b"veth");
        assert_eq!(drvinfo_driver(&driver).as_deref(), Some("veth"));
    }
}
