//! The MESSAGE_ID of each kind of event.
//!
//! Owns the 128-bit ids by which journald and programs recognise the events. They never change.
//! `systemd/vxcsum.catalog` explains each of them for `journalctl -x`, and a test compares the two. Does not log.
//!
//! <https://systemd.io/CATALOG/>

/// The feature was turned off on a device.
pub const CHANGED: &str = "8041eac474844b7f998b3b9459639caf";
/// The feature must be off on a device, but the kernel does not turn it off.
pub const REFUSED: &str = "ee75f40ecca44a6c877d29d4b4d84356";
/// Reading or setting the feature of a device failed.
pub const FAILED: &str = "4108c5f52ec74979b8f65fff36390d88";
/// Another program keeps turning the feature back on, and vxcsum stopped turning it off.
pub const CONFLICT: &str = "7e4270e274dc4b7fbbb8e836ad179bfe";
/// `vxcsum revert` turned the feature of a device on again.
pub const REVERTED: &str = "d71ae08f5da043eb80ea9a9121a56b99";
/// The feature of a device was turned on again, because it need not be off any more.
pub const GIVEN_BACK: &str = "3c1ff4fa1c7e4b2f8a5e60b2b7d9c4a1";
/// A rule was added that keeps NAT off the packets of a device.
pub const UNTRACKED: &str = "8789b8862abe4f44abfe86a296798f17";
/// That rule was removed.
pub const TRACKED: &str = "0f05c2bbac5042b09d1cd4271bc038bc";
/// A policy is not valid and was refused. `watch` keeps the policy before it.
pub const POLICY_REJECTED: &str = "9b8f77c4a0014cef8bb188690997c3b3";
/// `watch` lost events and looked at every device again.
pub const RESYNC: &str = "e18f8008d4fa475d8f638fe63125373c";
/// `probe` measured whether the kernel has a bug.
pub const PROBED: &str = "5e1faeba329f48b0876140ad5bda5fdc";

/// Each event with its id.
#[allow(dead_code, reason = "tests compare it with the catalog")]
pub const ALL: [(&str, &str); 11] = [
    ("changed", CHANGED),
    ("refused", REFUSED),
    ("failed", FAILED),
    ("conflict", CONFLICT),
    ("reverted", REVERTED),
    ("given-back", GIVEN_BACK),
    ("untracked", UNTRACKED),
    ("tracked", TRACKED),
    ("policy-rejected", POLICY_REJECTED),
    ("resync", RESYNC),
    ("probed", PROBED),
];
