//! Requests that add source NAT to a network namespace, for `nf_tables` netlink.
//!
//! Owns the rules of a batch with one table and one postrouting chain. Pure: sends nothing.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use crate::nat::nft::write::{BaseChain, Batch, nfproto};
use crate::nat::uapi::{NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC, NFT_PAYLOAD_NETWORK_HEADER};
use crate::netlink::requests::Requests;
use crate::text::octets;

const TABLE: &[u8] = b"vxcsum-probe";
const CHAIN: &[u8] = b"postrouting";

/// The change that a rule makes to the source of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Another address, of the family of the rule's destination. The port stays if it is free.
    Address(IpAddr),
    /// A port from this range, chosen as `random-fully` does. The address stays.
    Port(RangeInclusive<u16>),
}

/// Source NAT for all packets to one destination address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNat {
    /// The destination of the packets.
    pub dst: IpAddr,
    pub rewrite: Rewrite,
}

/// A batch that creates a table, a postrouting chain of type `nat`, and these rules. All destinations must have one
/// family: IPv6 if `ipv6` is set, else IPv4. Needs `nf_tables` with its `nat` chain type and expression.
pub fn source_nat(ipv6: bool, rules: &[SourceNat]) -> Requests {
    let mut batch = Batch::of(nfproto(ipv6), TABLE);
    batch.create(None);
    batch.chain(&BaseChain {
        name: CHAIN,
        kind: b"nat",
        hook: NF_INET_POST_ROUTING,
        priority: NF_IP_PRI_NAT_SRC,
    });
    for rule in rules {
        batch.rule(CHAIN, None, |e| {
            // The offset of the destination address in the IP header.
            let offset = if rule.dst.is_ipv6() { 24 } else { 16 };
            e.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, &octets(rule.dst));
            match &rule.rewrite {
                Rewrite::Address(address) => e.source_address(*address),
                Rewrite::Port(range) => e.source_port(ipv6, range),
            }
        });
    }
    batch.end()
}

/// Netlink messages as text, for tests of writers.
#[cfg(test)]
pub mod text {
    use std::fmt::Write as _;

    /// One line for each message: kind, flags, sequence number, header, attributes. Nested attributes are in brackets.
    /// `skip` is the number of bytes before the nested attributes of an attribute, by the path of kinds to it.
    ///
    /// # Panics
    /// A length or the padding is malformed.
    pub fn messages(mut bytes: &[u8], header_len: usize, skip: fn(&[u16]) -> usize) -> Vec<String> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            let len = usize::from(u16_at(0));
            let (kind, flags, seq) = (u16_at(4), u16_at(6), u16_at(8));
            assert!(len % 4 == 0 && bytes[2..4] == [0, 0] && bytes[10..16] == [0; 6]);
            let start = 16 + header_len;
            let mut line = format!("{kind:x} {flags:x} #{seq} {}", hex(&bytes[16..start]));
            attributes(&bytes[start..len], &mut Vec::new(), skip, &mut line);
            lines.push(line);
            bytes = &bytes[len..];
        }
        lines
    }

    fn attributes(
        mut bytes: &[u8],
        path: &mut Vec<u16>,
        skip: fn(&[u16]) -> usize,
        out: &mut String,
    ) {
        while !bytes.is_empty() {
            let len = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
            let padded = len.next_multiple_of(4);
            assert!(bytes[len..padded].iter().all(|b| *b == 0));
            if kind & crate::netlink::NLA_F_NESTED == 0 {
                let _ = write!(out, " {kind}={}", hex(&bytes[4..len]));
            } else {
                let kind = kind & !crate::netlink::NLA_F_NESTED;
                path.push(kind);
                let start = 4 + skip(path);
                let _ = write!(out, " {kind}[{}", hex(&bytes[4..start]));
                attributes(&bytes[start..len], path, skip, out);
                out.push_str(" ]");
                path.pop();
            }
            bytes = &bytes[padded..];
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::netlink::requests::acks;
    use rustix::io::Errno;

    /// The messages of nft 1.0 for `add table`, `add chain ... { type nat hook postrouting priority 100; }`, `add rule
    /// ... ip daddr 192.0.2.3 snat to 192.0.2.9` and, without its match of the protocol, `add rule ... ip daddr
    /// 192.0.2.4 ip protocol udp snat to :20000-29999 fully-random`.
    #[test]
    fn a_batch() {
        let rules = [
            SourceNat {
                dst: "192.0.2.3".parse().unwrap(),
                rewrite: Rewrite::Address("192.0.2.9".parse().unwrap()),
            },
            SourceNat {
                dst: "192.0.2.4".parse().unwrap(),
                rewrite: Rewrite::Port(20_000..=29_999),
            },
        ];
        let requests = source_nat(false, &rules);
        let table = "76786373756d2d70726f626500";
        let chain = "706f7374726f7574696e6700";
        let payload = "1[ 1=7061796c6f616400 2[ 1=00000001 2=00000001 3=00000010 4=00000004 ] ]";
        let cmp =
            |address: &str| format!("1[ 1=636d7000 2[ 1=00000001 2=00000000 3[ 1={address} ] ] ]");
        let immediate = |register: u8, value: &str| {
            format!("1[ 1=696d6d65646961746500 2[ 1=0000000{register} 2[ 1={value} ] ] ]")
        };
        let nat = |rest: &str| format!("1[ 1=6e617400 2[ 1=00000000 2=00000002 {rest} ] ]");
        let rule = |seq: u8, expressions: [String; 3]| {
            format!(
                "a06 c05 #{seq} 02000000 1={table} 2={chain} 4[ {payload} {} ]",
                expressions.join(" ")
            )
        };
        assert_eq!(
            text::messages(requests.bytes(), 4, |_| 0),
            [
                "10 1 #1 0000000a".to_owned(),
                format!("a00 605 #2 02000000 1={table}"),
                format!(
                    "a03 605 #3 02000000 1={table} 3={chain} 4[ 1=00000004 2=00000064 ] 7=6e617400"
                ),
                rule(
                    4,
                    [cmp("c0000203"), immediate(1, "c0000209"), nat("3=00000001"),]
                ),
                rule(
                    5,
                    [
                        cmp("c0000204"),
                        format!("{} {}", immediate(1, "4e20"), immediate(2, "752f")),
                        nat("5=00000001 6=00000002 7=00000012"),
                    ]
                ),
                "11 1 #6 0000000a".to_owned(),
            ]
        );
        assert_eq!(requests.acks, [2, 3, 4, 5]);
    }

    #[test]
    fn ipv6_addresses_are_further_back_and_longer() {
        let rule = SourceNat {
            dst: "2001:db8::3".parse().unwrap(),
            rewrite: Rewrite::Address("2001:db8::9".parse().unwrap()),
        };
        let lines = text::messages(source_nat(true, &[rule]).bytes(), 4, |_| 0);
        for part in [
            "a06 c05 #4 0a000000",
            "3=00000018 4=00000010",
            "1=20010db8000000000000000000000003",
            "1=20010db8000000000000000000000009",
            "2=0000000a 3=00000001",
        ] {
            assert!(lines[3].contains(part), "{part} not in {}", lines[3]);
        }
    }

    #[test]
    fn answers() {
        let answer = |kind: u8, seq: u8, code: i32| {
            let mut message = vec![36, 0, 0, 0, kind, 0, 0, 0, seq, 0, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&code.to_ne_bytes());
            message.resize(36, 0);
            message
        };
        let two = [answer(2, 7, 0), answer(2, 8, -95)].concat();
        assert_eq!(acks(&two), [(7, Ok(())), (8, Err(Errno::OPNOTSUPP))]);
        assert_eq!(
            acks(&[answer(3, 1, -1), answer(2, 2, 0)].concat()),
            [(2, Ok(()))]
        );
        assert_eq!(acks(&answer(2, 1, i32::MIN)), [(1, Err(Errno::IO))]);
        // Truncated, or with impossible lengths.
        for len in 0..36 {
            assert_eq!(acks(&two[..len]), []);
            assert_eq!(acks(&two[..36 + len]), [(7, Ok(()))]);
        }
        for len in [0, 15, 16, 19] {
            let mut message = answer(2, 1, -1);
            message[0] = len;
            assert_eq!(acks(&message), [], "length {len}");
        }
    }
}
