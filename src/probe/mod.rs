//! The probe measures whether the running kernel corrupts the outer checksum of VXLAN packets that NAT rewrites or that
//! the kernel forwards.
//!
//! Owns the types of a run: its cases, observations and results. Pure: `probe::run_io` builds the namespace that `plan`
//! describes, sends and captures; `verdict` judges; `stored` keeps a run for the rest of the boot.

use core::time::Duration;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ethtool::Feature;
use crate::kernel::{BugId, Measured, Measurements, PerBug, Trigger};
use crate::link::OuterChecksum;

pub mod burst;
mod burst_verdict;
mod capture_io;
pub(crate) mod file_io;
mod forward_io;
pub mod frame;
pub(crate) mod link_setup;
pub(crate) mod log_io;
pub(crate) mod nat_setup;
pub(crate) mod plan;
pub(crate) mod render;
pub mod run_io;
mod stored;
mod verdict;

use burst::{Burst, Forwarding};
use frame::Checksum;

/// The version of the JSON form of [`ProbeRun`].
pub const SCHEMA_VERSION: u32 = 1;

/// The time limits of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the whole run. Cases without an answer by then are inconclusive.
    pub total: Duration,
    /// For the packets of one half of the cases to arrive after they were sent.
    pub packets: Duration,
}

/// The network namespace for the devices of the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The probe creates a network namespace, which needs `CAP_SYS_ADMIN`.
    NewNamespace,
    /// The probe uses its current network namespace, which the service manager created for it (`PrivateNetwork=`). It
    /// refuses a namespace with devices.
    PrivateNetwork,
}

/// Devices that every new network namespace has.
///
/// <https://docs.kernel.org/6.12/admin-guide/sysctl/net.html#fb-tunnels-only-for-init-net>
const BUILT_IN_DEVICES: &[&str] = &[
    "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
    "ip6gre0",
];

/// The first device in a `/proc/net/dev` that is not in every new network namespace.
pub fn first_foreign_device(proc_net_dev: &str) -> Option<&str> {
    proc_net_dev
        .lines()
        .skip(2)
        .map(|line| line.split_once(':').map_or(line, |(name, _)| name).trim())
        .find(|name| !BUILT_IN_DEVICES.contains(name))
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(2),
            packets: Duration::from_millis(250),
        }
    }
}

codes! {
    /// The family of the outer packets.
    #[derive(Deserialize)]
    pub enum Family {
        /// VXLAN over IPv4.
        Ipv4 = "ipv4",
        /// VXLAN over IPv6.
        Ipv6 = "ipv6",
    }
}

codes! {
    /// The change that NAT makes to the outer packet.
    #[derive(Deserialize)]
    pub enum CaseNat {
        /// No change. These cases are the control: they show that the capture works.
        None = "none",
        /// NAT sets another source address.
        Address = "address",
        /// NAT sets another source port, chosen as `random-fully` does.
        Port = "port",
    }
}

codes! {
    /// The protocol of the encapsulated packet.
    #[derive(Deserialize)]
    pub enum InnerProtocol {
        /// One datagram.
        Udp = "udp",
        /// One SYN.
        Tcp = "tcp",
    }
}

/// One packet of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The outer checksum mode of the device.
    pub outer_checksum: OuterChecksum,
    /// `tx-checksum-ip-generic` of the VXLAN device.
    pub feature_on: bool,
    /// The family of the underlay.
    pub family: Family,
    /// The change that NAT makes to the outer packet.
    pub nat: CaseNat,
    /// The encapsulated packet.
    pub inner: InnerProtocol,
    /// The packet at the other end.
    pub observed: Observed,
}

/// The packet at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Observed {
    /// The packet arrived.
    Frame {
        /// True if the outer source differs from the source that the device sets.
        rewritten: bool,
        /// The outer UDP checksum.
        outer: Checksum,
        /// The inner UDP or TCP checksum.
        inner: Checksum,
        /// The bytes from the Ethernet header on.
        frame: Hex,
    },
    /// No packet arrived.
    Missing(Inconclusive),
}

/// The result of a run for one bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BugOutcome {
    /// Packets left with a wrong outer checksum because NAT rewrote them, or because they were segmented twice.
    Affected,
    /// Such packets left with a correct outer checksum in every case, or this kernel has no such packets.
    NotAffected,
    /// The run proves neither.
    Inconclusive(Inconclusive),
}

/// The result for one bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BugResult {
    pub id: BugId,
    /// Whether the kernel has the bug.
    pub outcome: BugOutcome,
    /// For an affected kernel, whether the same packets left intact with `tx-checksum-ip-generic` off. Null if the run
    /// does not show that.
    pub cured: Option<bool>,
    /// For an affected kernel, whether the same packets left intact with `tx-scatter-gather-fraglist` off. Absent for
    /// bugs that this does not cure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cured_by_fraglist_off: Option<bool>,
    /// The family with another observation, if IPv4 and IPv6 differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<OtherFamily>,
}

/// The observation over one family, if the outcome comes from the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OtherFamily {
    /// The family of the underlay.
    pub family: Family,
    /// The outcome over it.
    pub outcome: BugOutcome,
}

impl Case {
    /// True if the bug can corrupt the packet of this case.
    pub fn tests(&self, bug: BugId) -> bool {
        bug.describe().trigger == Trigger::Nat && bug.meets(self.outer_checksum)
    }

    /// The bytes of the packet, if one arrived.
    pub fn frame(&self) -> Option<&Hex> {
        match &self.observed {
            Observed::Frame { frame, .. } => Some(frame),
            Observed::Missing(_) => None,
        }
    }
}

impl BugResult {
    /// The outcome in one word.
    pub fn word(&self) -> &'static str {
        match self.outcome {
            BugOutcome::Affected => "affected",
            BugOutcome::NotAffected => "not-affected",
            BugOutcome::Inconclusive(_) => "inconclusive",
        }
    }

    /// The meaning of the outcome, or why there is no answer, for users.
    pub fn meaning(&self) -> String {
        let packets = match (self.id.describe().trigger, &self.outcome) {
            (Trigger::Nat, BugOutcome::Affected) => "packets that NAT rewrites leave corrupt",
            (Trigger::Nat, BugOutcome::NotAffected) => "packets that NAT rewrites leave intact",
            (Trigger::Segmentation, BugOutcome::Affected) => {
                "forwarded packets that are segmented twice leave corrupt"
            }
            (Trigger::Segmentation, BugOutcome::NotAffected) => {
                "no forwarded packet that is segmented twice leaves corrupt"
            }
            (_, BugOutcome::Inconclusive(reason)) => return reason.text.clone(),
        };
        let with_off = |cured: bool| {
            let features = [
                (Feature::Fraglist, self.cured_by_fraglist_off),
                (Feature::Checksum, self.cured),
            ];
            let names: Vec<&str> = features
                .iter()
                .filter(|(_, seen)| *seen == Some(cured))
                .map(|(feature, _)| feature.as_str())
                .collect();
            let then = if cured {
                "they do not"
            } else {
                "they still do"
            };
            match &*names.join(" or ") {
                "" => String::new(),
                names => format!("; with {names} off {then}"),
            }
        };
        let other = self.other.as_ref().map(OtherFamily::meaning);
        [
            packets.to_owned(),
            with_off(true),
            with_off(false),
            other.unwrap_or_default(),
        ]
        .concat()
    }
}

impl OtherFamily {
    fn meaning(&self) -> String {
        let (one, other) = match self.family {
            Family::Ipv4 => ("IPv6", "IPv4"),
            Family::Ipv6 => ("IPv4", "IPv6"),
        };
        let what = match &self.outcome {
            BugOutcome::Affected => "they leave corrupt",
            BugOutcome::NotAffected => "they leave intact",
            BugOutcome::Inconclusive(reason) => &reason.text,
        };
        format!("; seen over {one} only, over {other}: {what}")
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Inconclusive {
    pub code: Cause,
    /// What was tried, the cause, and what to do.
    pub text: String,
}

codes! {
    /// Why there is no answer, as a stable code.
    #[derive(Deserialize)]
    pub enum Cause {
        /// A capability is missing, or a sandbox forbids it.
        NoPermission = "no-permission",
        /// The kernel has no network namespaces.
        NoNetworkNamespace = "no-network-namespace",
        /// The kernel has no veth devices, or their module is missing.
        NoVeth = "no-veth",
        /// The kernel has no VXLAN devices, or their module is missing.
        NoVxlan = "no-vxlan",
        /// The kernel has no macvlan devices, or their module is missing.
        NoMacvlan = "no-macvlan",
        /// The kernel has no `nf_tables` NAT, or a module of it is missing.
        NoNfTables = "no-nf-tables",
        /// The kernel has no packet sockets, or their module is missing.
        NoPacketSocket = "no-packet-socket",
        /// An IPv6 underlay is not possible.
        NoIpv6 = "no-ipv6",
        /// A checksum feature could not be turned on or off.
        FeatureStuck = "feature-stuck",
        /// Another step failed.
        SetupFailed = "setup-failed",
        /// The time was over.
        Timeout = "timeout",
        /// A packet was sent, and no packet was captured.
        NoPacket = "no-packet",
        /// A packet was captured before its checksums were finished.
        Unfinished = "unfinished",
        /// NAT did not rewrite a packet that it should have rewritten.
        NotRewritten = "not-rewritten",
        /// A packet was rewritten although no rule is for it.
        RewrittenWithoutNat = "rewritten-without-nat",
        /// A device sent an outer checksum although it should not, or did not although it should.
        ModeNotKept = "mode-not-kept",
        /// An outer checksum was wrong without NAT. These bugs are not the cause.
        WrongWithoutNat = "wrong-without-nat",
        /// GRO on veth (since 5.13) did not merge the forwarded segments.
        NotMerged = "not-merged",
        /// Packets were not segmented twice on their path.
        NotSegmentedTwice = "not-segmented-twice",
        /// An outer checksum was wrong although packets were segmented only once. These bugs are not the cause.
        WrongSegmentedOnce = "wrong-segmented-once",
        /// An outer checksum was wrong with the feature off and correct with it on. These bugs are not the cause.
        WrongWithFeatureOff = "wrong-with-feature-off",
    }
}

/// One run of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProbeRun {
    /// The version of this JSON form.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    pub schema_version: u32,
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `/proc/sys/kernel/random/boot_id`. Empty if it could not be read; such a run is never used as evidence.
    pub boot_id: String,
    /// The packets behind the results for the NAT bugs. Empty if the run failed before the first of these packets.
    pub cases: Vec<Case>,
    /// Why there are no cases.
    pub failed: Option<Inconclusive>,
    /// The packets behind the result for gso-lco-csum. Absent in a run of a vxcsum that did not know that bug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// The result for each bug that the probe measures, in the order of [`BugId::ALL`].
    pub results: Vec<BugResult>,
    /// The length of the run in microseconds.
    #[serde(rename = "elapsed_us", with = "stored::micros")]
    #[cfg_attr(test, schemars(with = "u64"))]
    pub elapsed: Duration,
}

/// The observations of a run.
pub struct Observations {
    /// The packets that NAT should rewrite, or why there are none.
    pub cases: Result<Vec<Case>, Inconclusive>,
    /// The forwarded packets.
    pub forwarding: Forwarding,
}

impl ProbeRun {
    /// Judges the measured cases.
    pub fn new(
        measured: Result<Observations, Inconclusive>,
        host: Host,
        elapsed: Duration,
    ) -> Self {
        let Observations { cases, forwarding } = measured.unwrap_or_else(|reason| Observations {
            cases: Err(reason.clone()),
            forwarding: Forwarding::Failed(reason),
        });
        let (cases, failed) = match cases {
            Ok(cases) => (cases, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Self {
            schema_version: SCHEMA_VERSION,
            release: host.release,
            version: host.version,
            boot_id: host.boot_id,
            results: verdict::results(&cases, failed.as_ref(), Some(&forwarding)),
            cases,
            failed,
            forwarding: Some(forwarding),
            elapsed,
        }
    }

    /// The measurements for the verdict on the kernel.
    pub fn measurements(&self) -> Measurements {
        PerBug::new(|id| {
            let result = self.result(id)?;
            match result.outcome {
                BugOutcome::Inconclusive(_) => None,
                BugOutcome::Affected | BugOutcome::NotAffected => Some(Measured {
                    affected: result.outcome == BugOutcome::Affected,
                    cured: result.cured,
                    cured_by_fraglist_off: result.cured_by_fraglist_off,
                }),
            }
        })
    }

    /// The result for one bug. `None` if the probe does not measure the bug.
    pub fn result(&self, bug: BugId) -> Option<&BugResult> {
        self.results.iter().find(|result| result.id == bug)
    }

    /// The first frame that proves that a kernel has this bug, or does not have it.
    pub fn telling_frame(&self, bug: BugId, affected: bool) -> Option<&Hex> {
        let rewritten = |case: &'_ Case| match &case.observed {
            Observed::Frame {
                rewritten: true,
                outer,
                ..
            } => case.tests(bug) && matches!(outer, Checksum::Invalid { .. }) == affected,
            _ => false,
        };
        match (bug.describe().trigger, &self.forwarding) {
            (Trigger::Nat, _) => self.cases.iter().find(|case| rewritten(case))?.frame(),
            (Trigger::Segmentation, Some(Forwarding::Bursts(bursts))) => {
                let mut counts = bursts.iter().filter_map(Burst::counts);
                counts
                    .find(|counts| counts.segmented_twice() && (counts.wrong > 0) == affected)
                    .map(|counts| &counts.frame)
            }
            (Trigger::Segmentation, _) => None,
        }
    }

    /// True if the run has an answer for at least one bug.
    pub fn answers(&self) -> bool {
        self.results
            .iter()
            .any(|result| !matches!(result.outcome, BugOutcome::Inconclusive(_)))
    }

    /// True if the run was made on this machine since boot.
    pub fn is_of(&self, host: &Host) -> bool {
        !host.boot_id.is_empty()
            && self.boot_id == host.boot_id
            && self.release == host.release
            && self.version == host.version
    }
}

/// Identifies the machine, the kernel and the boot of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `/proc/sys/kernel/random/boot_id` without the line feed. Empty if not known.
    pub boot_id: String,
}

/// The observation in a frame. `frame` is `bytes` after parsing.
pub(crate) fn observe(family: Family, frame: &frame::VxlanFrame, bytes: &[u8]) -> Observed {
    Observed::Frame {
        rewritten: plan::rewritten(family, &frame.outer),
        outer: frame.outer.checksum,
        inner: frame.inner.checksum,
        frame: Hex(bytes.to_vec()),
    }
}

/// Bytes, written as hexadecimal digits.
#[derive(Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(into = "String"))]
pub struct Hex(pub Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Inconclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BugOutcome, BugResult, Cause, Family, Inconclusive, OtherFamily, first_foreign_device,
    };
    use crate::kernel::BugId;

    #[test]
    fn what_a_result_means() {
        let reason = Inconclusive {
            code: Cause::NoIpv6,
            text: "probe: no IPv6".to_owned(),
        };
        let inconclusive = || BugOutcome::Inconclusive(reason.clone());
        let over = |family, outcome| Some(OtherFamily { family, outcome });
        let (nat, gso) = (BugId::NatLcoCsum, BugId::GsoLcoCsum);
        let (yes, no) = (BugOutcome::Affected, BugOutcome::NotAffected);
        for (id, outcome, cured, cured_by_fraglist_off, other, text) in [
            (
                nat,
                no.clone(),
                None,
                None,
                None,
                "packets that NAT rewrites leave intact",
            ),
            (
                gso,
                no.clone(),
                None,
                None,
                None,
                "no forwarded packet that is segmented twice leaves corrupt",
            ),
            (nat, inconclusive(), None, None, None, "probe: no IPv6"),
            (
                nat,
                yes.clone(),
                None,
                None,
                None,
                "packets that NAT rewrites leave corrupt",
            ),
            (
                nat,
                yes.clone(),
                Some(true),
                None,
                over(Family::Ipv6, no.clone()),
                "packets that NAT rewrites leave corrupt; with tx-checksum-ip-generic off they do not; seen over IPv4 only, \
                 over IPv6: they leave intact",
            ),
            (
                nat,
                no.clone(),
                None,
                None,
                over(Family::Ipv6, inconclusive()),
                "packets that NAT rewrites leave intact; seen over IPv4 only, over IPv6: probe: no IPv6",
            ),
            (
                gso,
                yes.clone(),
                Some(true),
                Some(true),
                None,
                "forwarded packets that are segmented twice leave corrupt; with tx-scatter-gather-fraglist or \
                 tx-checksum-ip-generic off they do not",
            ),
            (
                gso,
                yes,
                Some(true),
                Some(false),
                over(Family::Ipv4, no),
                "forwarded packets that are segmented twice leave corrupt; with tx-checksum-ip-generic off they do not; with \
                 tx-scatter-gather-fraglist off they still do; seen over IPv6 only, over IPv4: they leave intact",
            ),
        ] {
            let result = BugResult {
                id,
                outcome,
                cured,
                cured_by_fraglist_off,
                other,
            };
            assert_eq!(result.meaning(), text);
        }
    }

    #[test]
    fn other_devices_are_foreign() {
        let head = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets\n";
        for (devices, found) in [
            (&[][..], None),
            (&["    lo"], None),
            (&["    lo", " tunl0", "  sit0", "ip6_vti0"], None),
            (&["    lo", "  eth0"], Some("eth0")),
            (&[" lo2"], Some("lo2")),
            (&["a name"], Some("a name")),
        ] {
            let mut text = head.to_owned();
            for name in devices {
                text.push_str(name);
                text.push_str(":       0       0    0\n");
            }
            assert_eq!(first_foreign_device(&text), found, "{devices:?}");
        }
    }
}
