//! ethtool netlink: reading and setting the feature sets of a device.
//!
//! Owns the bytes of the generic netlink family look-up, `ETHTOOL_MSG_STRSET_GET`, `ETHTOOL_MSG_FEATURES_GET` and
//! `ETHTOOL_MSG_FEATURES_SET`. Pure. <https://docs.kernel.org/networking/ethtool-netlink.html>

use super::Features;
use crate::fault::Malformed;
use crate::netlink::{Attr, Message, NLM_F_DUMP, Open, Writer, attrs};
use crate::text::IfName;

const GENL_ID_CTRL: u16 = 0x10;
const GENL_HDRLEN: usize = 4;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_OPS: u16 = 6;
const CTRL_ATTR_OP_ID: u16 = 1;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/ethtool_netlink.h#L16
const ETHTOOL_GENL_VERSION: u8 = 1;
const ETHTOOL_MSG_STRSET_GET: u8 = 1;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_MSG_STRSET_GET_REPLY: u8 = 1;
const ETHTOOL_MSG_FEATURES_GET_REPLY: u8 = 11;

const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_COMPACT_BITSETS: u32 = 1;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;

// The header attribute has this number in every message.
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_FEATURES_NOCHANGE: u16 = 5;
const ETHTOOL_A_BITSET_SIZE: u16 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_VALUE: u16 = 4;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

const ETHTOOL_A_STRSET_STRINGSETS: u16 = 2;
const ETHTOOL_A_STRINGSETS_STRINGSET: u16 = 1;
const ETHTOOL_A_STRINGSET_ID: u16 = 1;
const ETHTOOL_A_STRINGSET_STRINGS: u16 = 3;
const ETHTOOL_A_STRINGS_STRING: u16 = 1;
const ETHTOOL_A_STRING_INDEX: u16 = 1;
const ETHTOOL_A_STRING_VALUE: u16 = 2;
const ETH_SS_FEATURES: u32 = 4;

/// Asks for the family `ethtool`.
pub fn get_family(w: &mut Writer, seq: u32) {
    let open = w.message(GENL_ID_CTRL, 0, seq, &[CTRL_CMD_GETFAMILY, 1, 0, 0]);
    w.put_string(CTRL_ATTR_FAMILY_NAME, b"ethtool");
    w.end_message(&open);
}

/// The generic netlink family `ethtool` of this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenlFamily {
    /// The message type of requests to the family.
    pub id: u16,
    /// The kernel has `FEATURES_GET` and `FEATURES_SET`. 5.6 has the family without them.
    pub has_features: bool,
}

/// Reads the answer to [`get_family`].
///
/// # Errors
/// Malformed bytes, or no family id.
pub fn family(message: &Message<'_>) -> Result<GenlFamily, Malformed> {
    let (mut id, mut get, mut set) = (None, false, false);
    for attr in attrs(body(message, None)?.unwrap_or_default()) {
        let attr = attr?;
        match attr.kind {
            CTRL_ATTR_FAMILY_ID => id = Some(attr.u16()?),
            CTRL_ATTR_OPS => {
                for op in attr.nested() {
                    let number = find(&op?, CTRL_ATTR_OP_ID)?
                        .map(|id| id.u32())
                        .transpose()?;
                    get |= number == Some(u32::from(ETHTOOL_MSG_FEATURES_GET));
                    set |= number == Some(u32::from(ETHTOOL_MSG_FEATURES_SET));
                }
            }
            _ => {}
        }
    }
    Ok(GenlFamily {
        id: id.ok_or(Malformed("generic netlink family"))?,
        has_features: get && set,
    })
}

/// Asks for the names of all features: a string set of the kernel that is the same for every device.
pub fn get_feature_names(w: &mut Writer, family: u16, seq: u32) {
    let open = begin(w, family, 0, seq, ETHTOOL_MSG_STRSET_GET);
    put_header(w, None, 0);
    let sets = w.nest(ETHTOOL_A_STRSET_STRINGSETS);
    let set = w.nest(ETHTOOL_A_STRINGSETS_STRINGSET);
    w.put(ETHTOOL_A_STRINGSET_ID, &ETH_SS_FEATURES.to_ne_bytes());
    w.end(&set);
    w.end(&sets);
    w.end_message(&open);
}

/// Reads the answer to [`get_feature_names`]. Name n belongs to bit n.
///
/// # Errors
/// Malformed bytes, or an index is missing.
pub fn feature_names(message: &Message<'_>) -> Result<Vec<String>, Malformed> {
    let bad = Malformed("feature names");
    let mut names = Vec::new();
    let top = Attr {
        kind: 0,
        payload: body(message, Some(ETHTOOL_MSG_STRSET_GET_REPLY))?.ok_or(bad)?,
    };
    let sets = find(&top, ETHTOOL_A_STRSET_STRINGSETS)?.ok_or(bad)?;
    for set in sets.nested() {
        let set = set?;
        if find(&set, ETHTOOL_A_STRINGSET_ID)?
            .map(|id| id.u32())
            .transpose()?
            != Some(ETH_SS_FEATURES)
        {
            continue;
        }
        for string in find(&set, ETHTOOL_A_STRINGSET_STRINGS)?
            .ok_or(bad)?
            .nested()
        {
            let string = string?;
            if string.kind != ETHTOOL_A_STRINGS_STRING {
                continue;
            }
            let index = find(&string, ETHTOOL_A_STRING_INDEX)?.ok_or(bad)?.u32()?;
            if index as usize != names.len() {
                return Err(bad);
            }
            let value = find(&string, ETHTOOL_A_STRING_VALUE)?.ok_or(bad)?;
            names.push(crate::text::escape(value.string()));
        }
    }
    Ok(names)
}

/// Asks for the features of every device.
pub fn dump_features(w: &mut Writer, family: u16, seq: u32) {
    let open = begin(w, family, NLM_F_DUMP, seq, ETHTOOL_MSG_FEATURES_GET);
    put_header(w, None, ETHTOOL_FLAG_COMPACT_BITSETS);
    w.end_message(&open);
}

/// Asks for the features of one device. The answer ends with the features or with a refusal: `ENODEV` unless ifindex
/// and name belong to one device.
pub fn get_features(w: &mut Writer, family: u16, seq: u32, device: (u32, &IfName)) {
    let open = begin(w, family, 0, seq, ETHTOOL_MSG_FEATURES_GET);
    put_header(w, Some(device), ETHTOOL_FLAG_COMPACT_BITSETS);
    w.end_message(&open);
}

/// Sets or clears one feature in the `wanted` set. The request names no other feature, so no other feature changes. The
/// kernel answers `ENODEV` unless ifindex and name belong to one device.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/ethtool/netlink.c#L153> (`ethnl_parse_header_dev_get`)
pub fn set_feature(
    w: &mut Writer,
    family: u16,
    (seq, flags): (u32, u16),
    device: (u32, &IfName),
    feature: &str,
    wanted: bool,
) {
    let open = begin(w, family, flags, seq, ETHTOOL_MSG_FEATURES_SET);
    put_header(w, Some(device), ETHTOOL_FLAG_OMIT_REPLY);
    let bitset = w.nest(ETHTOOL_A_FEATURES_WANTED);
    let bits = w.nest(ETHTOOL_A_BITSET_BITS);
    let bit = w.nest(ETHTOOL_A_BITSET_BITS_BIT);
    w.put_string(ETHTOOL_A_BITSET_BIT_NAME, feature.as_bytes());
    if wanted {
        w.put(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
    }
    w.end(&bit);
    w.end(&bits);
    w.end(&bitset);
    w.end_message(&open);
}

fn begin(w: &mut Writer, family: u16, flags: u16, seq: u32, command: u8) -> Open {
    w.message(family, flags, seq, &[command, ETHTOOL_GENL_VERSION, 0, 0])
}

fn put_header(w: &mut Writer, device: Option<(u32, &IfName)>, flags: u32) {
    let header = w.nest(ETHTOOL_A_FEATURES_HEADER);
    if let Some((ifindex, name)) = device {
        w.put(ETHTOOL_A_HEADER_DEV_INDEX, &ifindex.to_ne_bytes());
        w.put_string(ETHTOOL_A_HEADER_DEV_NAME, name.as_bytes());
    }
    w.put(ETHTOOL_A_HEADER_FLAGS, &flags.to_ne_bytes());
    w.end(&header);
}

/// The features of one device in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFeatures<'a> {
    pub ifindex: u32,
    pub name: &'a [u8],
    pub features: Features,
}

/// Reads an answer to [`dump_features`] or [`get_features`]. `None` for any other message, and for a device whose
/// ifindex and name are not `wanted`: most devices of a node are not VXLAN devices.
///
/// # Errors
/// Malformed bytes, a missing set, or more than 128 features.
pub fn features<'a>(
    message: &Message<'a>,
    wanted_device: impl Fn(u32, &[u8]) -> bool,
) -> Result<Option<DeviceFeatures<'a>>, Malformed> {
    let Some(attributes) = body(message, Some(ETHTOOL_MSG_FEATURES_GET_REPLY))? else {
        return Ok(None);
    };
    let (mut ifindex, mut name) = (None, None);
    let (mut hw, mut wanted, mut active, mut nochange) = (None, None, None, None);
    for attr in attrs(attributes) {
        let attr = attr?;
        match attr.kind {
            ETHTOOL_A_FEATURES_HEADER => {
                ifindex = find(&attr, ETHTOOL_A_HEADER_DEV_INDEX)?
                    .map(|index| index.u32())
                    .transpose()?;
                name = find(&attr, ETHTOOL_A_HEADER_DEV_NAME)?.map(|name| name.string());
                if let (Some(ifindex), Some(name)) = (ifindex, name)
                    && !wanted_device(ifindex, name)
                {
                    return Ok(None);
                }
            }
            ETHTOOL_A_FEATURES_HW => hw = Some(bitset(&attr)?),
            ETHTOOL_A_FEATURES_WANTED => wanted = Some(bitset(&attr)?),
            ETHTOOL_A_FEATURES_ACTIVE => active = Some(bitset(&attr)?),
            ETHTOOL_A_FEATURES_NOCHANGE => nochange = Some(bitset(&attr)?),
            _ => {}
        }
    }
    match (ifindex, name, hw, wanted, active, nochange) {
        (Some(ifindex), Some(name), Some(hw), Some(wanted), Some(active), Some(nochange)) => {
            Ok(Some(DeviceFeatures {
                ifindex,
                name,
                features: Features {
                    hw,
                    wanted,
                    active,
                    nochange,
                },
            }))
        }
        _ => Err(Malformed("features without one of their sets")),
    }
}

fn bitset(attr: &Attr<'_>) -> Result<u128, Malformed> {
    let (mut size, mut value) = (0, 0);
    for part in attr.nested() {
        let part = part?;
        match part.kind {
            ETHTOOL_A_BITSET_SIZE => size = part.u32()?,
            ETHTOOL_A_BITSET_VALUE => value = words(part.payload)?,
            _ => {}
        }
    }
    if size > u128::BITS {
        Err(Malformed("feature set: more than 128 features"))
    } else {
        Ok(value)
    }
}

/// Reads 32-bit words, the lowest first: both interfaces encode feature sets in this way.
fn words(bytes: &[u8]) -> Result<u128, Malformed> {
    let (words, rest) = bytes.as_chunks::<4>();
    if words.len() > 4 || !rest.is_empty() {
        return Err(Malformed("feature set"));
    }
    let shifted = words
        .iter()
        .zip((0..).step_by(32))
        .map(|(word, shift)| u128::from(u32::from_ne_bytes(*word)) << shift);
    Ok(shifted.fold(0, |set, word| set | word))
}

/// The attributes after a generic netlink header. `None` if the message has another command.
fn body<'a>(message: &Message<'a>, command: Option<u8>) -> Result<Option<&'a [u8]>, Malformed> {
    let bad = Malformed("generic netlink message");
    let is = message.payload.first().ok_or(bad)?;
    let attributes = message.payload.get(GENL_HDRLEN..).ok_or(bad)?;
    Ok((command.is_none() || command == Some(*is)).then_some(attributes))
}

fn find<'a>(attr: &Attr<'a>, kind: u16) -> Result<Option<Attr<'a>>, Malformed> {
    for inner in attr.nested() {
        let inner = inner?;
        if inner.kind == kind {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}
