//! VXLAN frames: parsing, and checking their checksums.
//!
//! Owns the formats between the first Ethernet header and the inner transport header. Pure: captures nothing. Ethernet
//! II, IPv4 (RFC 791), IPv6 without extension headers (RFC 8200), UDP (RFC 768), TCP (RFC 9293), VXLAN (RFC 7348), the
//! checksum (RFC 1071). Numbers are in host byte order, addresses as in `std::net`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::octets;

/// `ETH_P_IP`.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `IPPROTO_TCP`.
pub const PROTOCOL_TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const PROTOCOL_UDP: u8 = 17;
/// The port that IANA assigned to VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// The transport checksum of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// Zero, which in UDP means "no checksum".
    #[serde(rename = "none")]
    Absent,
    /// It matches the bytes.
    #[serde(rename = "right")]
    Valid,
    /// It does not match the bytes: the receiver drops the packet.
    #[serde(rename = "wrong")]
    Invalid {
        /// The checksum in the packet.
        found: u16,
        /// The checksum that matches the bytes.
        expected: u16,
    },
}

/// One UDP datagram or TCP segment in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Source address of the IP header.
    pub src: IpAddr,
    /// Destination address of the IP header.
    pub dst: IpAddr,
    /// [`PROTOCOL_UDP`] or [`PROTOCOL_TCP`].
    pub protocol: u8,
    pub src_port: u16,
    pub dst_port: u16,
    /// The checksum over pseudo header, header and payload.
    pub checksum: Checksum,
}

/// A VXLAN packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanFrame {
    /// The UDP datagram that carries the VXLAN header.
    pub outer: Transport,
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The encapsulated packet.
    pub inner: Transport,
}

/// Why bytes are not a VXLAN frame with UDP or TCP inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The bytes end before the end of the named part.
    Short(&'static str),
    /// The named part has another type, or a length or version that is impossible.
    Other(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(part) => write!(f, "frame ends inside {part}"),
            Self::Other(part) => write!(f, "{part} is not what a VXLAN frame has there"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Parses a frame from the outer Ethernet header on. The outer UDP destination port must be [`VXLAN_PORT`].
///
/// # Errors
/// The bytes are not a whole Ethernet, IPv4 or IPv6, UDP, VXLAN, Ethernet, IPv4 or IPv6, UDP or TCP packet.
pub fn parse(frame: &[u8]) -> Result<VxlanFrame, FrameError> {
    let (outer, payload) = ethernet(frame)?;
    if outer.protocol != PROTOCOL_UDP || outer.dst_port != VXLAN_PORT {
        return Err(FrameError::Other("the outer transport header"));
    }
    let (header, inner) = payload
        .split_first_chunk::<8>()
        .ok_or(FrameError::Short("the VXLAN header"))?;
    // The I flag means that the VNI is valid. The other bits are reserved, or belong to extensions that the probe does
    // not use.
    if header[0] != 0x08 {
        return Err(FrameError::Other("the VXLAN header"));
    }
    Ok(VxlanFrame {
        outer,
        vni: u32::from_be_bytes([0, header[4], header[5], header[6]]),
        inner: ethernet(inner)?.0,
    })
}

fn ethernet(frame: &[u8]) -> Result<(Transport, &[u8]), FrameError> {
    let (header, packet) = frame
        .split_first_chunk::<14>()
        .ok_or(FrameError::Short("an Ethernet header"))?;
    match u16::from_be_bytes([header[12], header[13]]) {
        ETHERTYPE_IPV4 => ipv4(packet),
        ETHERTYPE_IPV6 => ipv6(packet),
        _ => Err(FrameError::Other("an Ethernet type")),
    }
}

fn ipv4(packet: &[u8]) -> Result<(Transport, &[u8]), FrameError> {
    let header = packet
        .first_chunk::<20>()
        .ok_or(FrameError::Short("an IPv4 header"))?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // An offset or the more-fragments bit: the transport header is not complete.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] >> 4 != 4 || header_len < 20 || total < header_len || fragment != 0 {
        return Err(FrameError::Other("an IPv4 header"));
    }
    let segment = packet
        .get(header_len..total)
        .ok_or(FrameError::Short("an IPv4 packet"))?;
    let address = |at: usize| {
        let mut octets = [0; 4];
        octets.copy_from_slice(&header[at..at + 4]);
        IpAddr::from(Ipv4Addr::from(octets))
    };
    transport(address(12), address(16), header[9], segment)
}

fn ipv6(packet: &[u8]) -> Result<(Transport, &[u8]), FrameError> {
    let (header, rest) = packet
        .split_first_chunk::<40>()
        .ok_or(FrameError::Short("an IPv6 header"))?;
    if header[0] >> 4 != 6 {
        return Err(FrameError::Other("an IPv6 header"));
    }
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let segment = rest.get(..len).ok_or(FrameError::Short("an IPv6 packet"))?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(octets))
    };
    transport(address(8), address(24), header[6], segment)
}

fn transport(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    segment: &[u8],
) -> Result<(Transport, &[u8]), FrameError> {
    let (sum_at, header_len) = match protocol {
        PROTOCOL_UDP => (6, 8),
        PROTOCOL_TCP => (16, 20),
        _ => return Err(FrameError::Other("an IP protocol")),
    };
    let field = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    if segment.len() < header_len {
        return Err(FrameError::Short("a transport header"));
    }
    if protocol == PROTOCOL_UDP && usize::from(field(4)) != segment.len() {
        return Err(FrameError::Other("a UDP length"));
    }
    let found = field(sum_at);
    let expected = checksum(src, dst, protocol, segment, sum_at);
    let checksum = match found {
        0 if protocol == PROTOCOL_UDP => Checksum::Absent,
        // Receivers accept both forms of zero. Linux sends 0xffff in UDP, which needs it, and in every other checksum
        // that it finishes in software (skb_checksum_help).
        _ if found == expected || (found, expected) == (0xffff, 0) => Checksum::Valid,
        _ => Checksum::Invalid {
            found,
            expected: if protocol == PROTOCOL_UDP && expected == 0 {
                0xffff
            } else {
                expected
            },
        },
    };
    let transport = Transport {
        src,
        dst,
        protocol,
        src_port: field(0),
        dst_port: field(2),
        checksum,
    };
    Ok((transport, &segment[header_len..]))
}

/// The transport checksum over pseudo header and segment. The two bytes at `sum_at` count as zero.
fn checksum(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8], sum_at: usize) -> u16 {
    let pseudo = pseudo_header(src, dst, protocol, segment.len());
    !fold(pseudo + words(&segment[..sum_at]) + words(&segment[sum_at + 2..]))
}

/// The sum over the pseudo header of a segment with this length in bytes.
pub(super) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    words(&octets(src)) + words(&octets(dst)) + u64::from(protocol) + len as u64
}

/// The sum of big-endian 16-bit words. Less than 2^48 bytes cannot overflow it.
pub(super) fn words(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

/// Folds the carries into a sum. Does not invert it.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    #[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sent by Linux 6.18.44: an inner SYN over IPv4 with outer checksum, source port rewritten by NAT, offload off.
    const GOOD: &str = "0e03c7817dc70e03c7817dc708004500006e69b7000040118cc2c0000201c0000204628a12b5005a3a16080000000000020002000000000432f0edb2259008004500003c7e34400040062e5ec6120101c61201049c84232ae1a396de00000000a002fd5c7a8a0000020405820402080a2ee4db08000000000103030a";
    /// As [`GOOD`] with the offload on. tcpdump says `bad udp cksum 0xea7f -> 0x3766!`.
    const CORRUPT: &str = "0e03c7817dc70e03c7817dc708004500006e69b3000040118cc6c0000201c0000204653a12b5005aea7f080000000000020002000000000432f0edb2259008004500003c3c6e400040067024c6120101c6120104bc3e2329a21a1bc900000000a002fd5c860f0000020405820402080a368762c6000000000103030a";
    /// An inner datagram over IPv6 without outer checksum.
    const OVER_IPV6: &str = "0e03c7817dc70e03c7817dc786dd600000000046114020010db800000000000000000000000120010db8000000000000000000000004727212b5004600000800000000000300020000000004a69ddb6ac7fb080045000028d07540004011da25c6120201c612020487b623290014801e76786373756d2070726f6265";

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |c: &u8| u8::try_from(char::from(*c).to_digit(16).unwrap()).unwrap();
        let pairs = hex.as_bytes().chunks(2);
        pairs.map(|p| digit(&p[0]) << 4 | digit(&p[1])).collect()
    }

    #[test]
    fn frames_that_a_kernel_sent() {
        let good = parse(&bytes(GOOD)).unwrap();
        assert_eq!(
            good,
            VxlanFrame {
                outer: Transport {
                    src: "192.0.2.1".parse().unwrap(),
                    dst: "192.0.2.4".parse().unwrap(),
                    protocol: PROTOCOL_UDP,
                    src_port: 25_226,
                    dst_port: 4789,
                    checksum: Checksum::Valid,
                },
                vni: 2,
                inner: Transport {
                    src: "198.18.1.1".parse().unwrap(),
                    dst: "198.18.1.4".parse().unwrap(),
                    protocol: PROTOCOL_TCP,
                    src_port: 40_068,
                    dst_port: 9002,
                    checksum: Checksum::Valid,
                },
            }
        );
        let corrupt = parse(&bytes(CORRUPT)).unwrap();
        assert_eq!(
            corrupt.outer.checksum,
            Checksum::Invalid {
                found: 0xea7f,
                expected: 0x3766
            }
        );
        assert_eq!(corrupt.inner.checksum, Checksum::Valid);
        let over_ipv6 = parse(&bytes(OVER_IPV6)).unwrap();
        assert_eq!(
            over_ipv6.outer.src,
            "2001:db8::1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(over_ipv6.outer.checksum, Checksum::Absent);
        assert_eq!(over_ipv6.inner.checksum, Checksum::Valid);
        assert_eq!(over_ipv6.inner.protocol, PROTOCOL_UDP);
    }

    #[test]
    fn malformed_frames_are_errors() {
        // Offset and value of one changed byte of GOOD, and the error.
        for (at, value, error) in [
            (13, 0x06, "an Ethernet type"),
            (14, 0x65, "an IPv4 header"),
            (14, 0x44, "an IPv4 header"),
            (17, 0x13, "an IPv4 header"),
            (20, 0x20, "an IPv4 header"),
            (21, 0x01, "an IPv4 header"),
            (23, 1, "an IP protocol"),
            (23, PROTOCOL_TCP, "the outer transport header"),
            (37, 0x00, "the outer transport header"),
            (39, 0x00, "a UDP length"),
            (42, 0x00, "the VXLAN header"),
            (62, 0x06, "an Ethernet type"),
            (73, 1, "an IP protocol"),
        ] {
            let mut frame = bytes(GOOD);
            frame[at] = value;
            assert_eq!(parse(&frame), Err(FrameError::Other(error)), "byte {at}");
        }
        let frame = bytes(GOOD);
        for len in 0..frame.len() {
            assert!(
                matches!(parse(&frame[..len]), Err(FrameError::Short(_))),
                "{len} bytes"
            );
        }
        // Ethernet padding is not part of the packet.
        let padded = [frame.clone(), vec![0xaa; 9]].concat();
        assert_eq!(parse(&padded), parse(&frame));
    }

    /// A sum of zero may be sent as 0xffff. UDP must send 0xffff, because there zero means "no checksum".
    #[test]
    fn zero_sums() {
        let address = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let udp = |sum: [u8; 2]| [0, 0, 0xff, 0xde, 0, 8, sum[0], sum[1], 0, 0];
        let sum = |segment: &[u8], protocol| {
            let parsed = transport(address, address, protocol, segment);
            parsed.map(|(t, _)| t.checksum)
        };
        // Pseudo header 17 + 8, ports 0xffde, length 8: 0xffff.
        assert_eq!(
            sum(&udp([0xff, 0xff])[..8], PROTOCOL_UDP),
            Ok(Checksum::Valid)
        );
        assert_eq!(sum(&udp([0, 0])[..8], PROTOCOL_UDP), Ok(Checksum::Absent));
        // Pseudo header 6 + 20, and 0xffe5.
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&[0xff, 0xe5]);
        assert_eq!(sum(&tcp, PROTOCOL_TCP), Ok(Checksum::Valid));
        tcp[16..18].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(sum(&tcp, PROTOCOL_TCP), Ok(Checksum::Valid));
        tcp[17] = 0xfe;
        let wrong = Checksum::Invalid {
            found: 0xfffe,
            expected: 0,
        };
        assert_eq!(sum(&tcp, PROTOCOL_TCP), Ok(wrong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_or_refused(
            prefix in 0..110_usize, tail in prop::collection::vec(any::<u8>(), 0..80), at in 0..110_usize, value: u8,
        ) {
            let mut frame = bytes(GOOD);
            frame.truncate(prefix.min(frame.len()));
            frame.extend(tail);
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
            // The same bytes always give the same result, and no bytes cause a panic.
            prop_assert_eq!(parse(&frame), parse(&frame.clone()));
        }
    }
}
