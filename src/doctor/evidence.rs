//! The evidence on a node: error counters of the receiver, and VXLAN flows in connection tracking.
//!
//! Owns the decoding of `/proc/net/snmp`, `snmp6` and `nf_conntrack`. Pure: `doctor::read_io` reads them.

use serde::Serialize;

use crate::text::escape;

/// `InCsumErrors` of the receiver, since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Count {
    /// UDP over IPv4. Counts outer packets with a wrong checksum.
    pub udp: u64,
    /// UDP over IPv6.
    pub udp6: u64,
    /// TCP over IPv4 and IPv6.
    pub tcp: u64,
}

impl Count {
    /// Reads the texts of `/proc/net/snmp` and `/proc/net/snmp6`. `None` if the first is malformed.
    pub fn parse(snmp: &str, snmp6: &str) -> Option<Self> {
        let of = |protocol: &str| {
            let mut lines = snmp
                .lines()
                .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
            let (names, values) = (lines.next()?, lines.next()?);
            let at = names.split(' ').position(|name| name == "InCsumErrors")?;
            values.split(' ').nth(at)?.parse().ok()
        };
        let udp6 = snmp6
            .lines()
            .find_map(|line| line.strip_prefix("Udp6InCsumErrors")?.trim().parse().ok());
        Some(Self {
            udp: of("Udp")?,
            udp6: udp6.unwrap_or(0),
            tcp: of("Tcp")?,
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            udp: self.udp.saturating_sub(before.udp),
            udp6: self.udp6.saturating_sub(before.udp6),
            tcp: self.tcp.saturating_sub(before.tcp),
        }
    }
}

/// The counters, and how they changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counters {
    /// At the start of the sample. Null if reading failed.
    pub since_boot: Option<Count>,
    /// The length of the sample.
    pub seconds: Option<u32>,
    /// The increase during the sample.
    pub change: Option<Count>,
}

impl Counters {
    /// Takes one reading, or two readings and the seconds between them.
    pub fn new(before: Option<Count>, after: Option<(u32, Option<Count>)>) -> Self {
        let change = after.as_ref().and_then(|(_, after)| {
            let (before, after) = (before.as_ref()?, after.as_ref()?);
            Some(after.since(before))
        });
        Self {
            since_boot: before,
            seconds: after.map(|(seconds, _)| seconds),
            change,
        }
    }
}

/// VXLAN flows in connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Flows {
    /// Why the flows are not known. Null if they are.
    pub unreadable: Option<String>,
    /// The number of VXLAN flows.
    pub seen: usize,
    /// The number of VXLAN flows that NAT rewrote.
    pub rewritten: usize,
    /// The first rewritten flows, as lines of `/proc/net/nf_conntrack`.
    pub examples: Vec<String>,
}

impl Flows {
    const EXAMPLES: usize = 3;

    /// Adds one line of `/proc/net/nf_conntrack`.
    pub fn add(&mut self, line: &str, ports: &[u16]) {
        let Some(rewritten) = vxlan_flow(line, ports) else {
            return;
        };
        self.seen += 1;
        if rewritten {
            self.rewritten += 1;
            if self.examples.len() < Self::EXAMPLES {
                self.examples.push(escape(line.trim().as_bytes()));
            }
        }
    }
}

/// `None` if the line is no flow to one of these UDP ports. True if NAT rewrites the flow: then the expected reply goes
/// to another address or port than the sender's.
fn vxlan_flow(line: &str, ports: &[u16]) -> Option<bool> {
    line.split_ascii_whitespace().find(|word| *word == "udp")?;
    let values = |key: &str| {
        line.split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .filter(|(k, _)| *k == key)
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    let (src, dst) = (values("src"), values("dst"));
    let (sport, dport) = (values("sport"), values("dport"));
    let port: u16 = dport.first()?.parse().ok()?;
    if !ports.contains(&port) {
        return None;
    }
    Some(
        dst.get(1)? != src.first()?
            || src.get(1)? != dst.first()?
            || dport.get(1)? != sport.first()?
            || sport.get(1)? != dport.first()?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let snmp = "Tcp: InSegs InCsumErrors\nTcp: 5 2\nUdp: InDatagrams InCsumErrors IgnoredMulti\nUdp: 9 7 1\nUdpLite: InCsumErrors\nUdpLite: 3\n";
        let snmp6 = "Ip6InReceives 1\nUdp6InCsumErrors               \t4\n";
        let count = |udp, udp6, tcp| Count { udp, udp6, tcp };
        assert_eq!(Count::parse(snmp, snmp6), Some(count(7, 4, 2)));
        assert_eq!(Count::parse(snmp, ""), Some(count(7, 0, 2)));
        for broken in ["", "Udp: InCsumErrors\n", "Udp: A\nUdp: 1\n"] {
            assert_eq!(Count::parse(broken, snmp6), None, "{broken:?}");
        }
        let after = Some((5, Some(count(9, 4, 1))));
        let counters = Counters::new(Some(count(7, 4, 2)), after);
        assert_eq!(
            (counters.seconds, counters.change),
            (Some(5), Some(count(2, 0, 0)))
        );
    }

    #[test]
    fn flows_that_nat_has_rewritten() {
        let flow = |reply: &str| {
            format!(
                "ipv4     2 udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=8472 [UNREPLIED] {reply} mark=0 zone=0 use=2"
            )
        };
        for (line, expected) in [
            (
                flow("src=10.0.0.2 dst=10.0.0.1 sport=8472 dport=40000"),
                Some(false),
            ),
            (
                flow("src=10.0.0.2 dst=10.0.0.1 sport=8472 dport=7103"),
                Some(true),
            ),
            (
                flow("src=10.0.0.2 dst=10.0.0.9 sport=8472 dport=40000"),
                Some(true),
            ),
            (
                flow("src=10.0.0.9 dst=10.0.0.1 sport=8472 dport=40000"),
                Some(true),
            ),
            (flow("src=10.0.0.2"), None),
            (flow("").replace("8472", "53"), None),
            (
                flow("src=10.0.0.2 dst=10.0.0.1 sport=8472 dport=1").replace("udp", "tcp"),
                None,
            ),
            (String::new(), None),
        ] {
            assert_eq!(vxlan_flow(&line, &[4789, 8472]), expected, "{line}");
        }
    }
}
