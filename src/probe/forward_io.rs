//! Forwarding in the probe's namespace: injects bursts and counts the packets that arrive.
//!
//! Owns the order of these steps. Does not judge the result.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::time::{Duration, Instant};

use super::burst::{self, Burst, BurstObserved, Counts, Forwarding};
use super::capture_io::{Capture, Injector};
use super::plan;
use super::run_io::{build, switch, timeout};
use super::{Cause, Family, Inconclusive};
use crate::ethtool::{Feature, FeatureState, FeatureTable, ioctl_io};
use crate::fault::{describe_errno, describe_io};
use crate::kernel::read_io;
use crate::text::IfName;

/// <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/ethtool.h#L1624>
const ETHTOOL_SGRO: u32 = 0x2c;

/// Forwards every burst until the deadline is over. Needs the devices of the NAT bugs. `unusable` is the reason if
/// those over IPv6 are missing.
pub(super) fn measure(
    switches: &ioctl_io::Socket,
    capture: &Capture,
    unusable: Option<&Inconclusive>,
    deadline: Instant,
    mut packet_timeout: Duration,
) -> Result<Forwarding, Inconclusive> {
    let fraglist = Fraglist::of(switches, plan::UNDERLAY.name)?;
    // No network card has this feature. A macvlan device has it if the device below it has it.
    fraglist.set(plan::UNDERLAY.name, false)?;
    let (requests, steps) = burst::devices();
    let unusable = unusable.cloned().or(build(&requests, &steps)?);
    switch(switches, burst::OUTSIDE.name, false)?;
    // If veth has no GRO, the control shows it.
    let ingress = name(burst::INGRESS.name)?;
    let _ = switches.ethtool_value(&ingress, ETHTOOL_SGRO, 1);
    let injector = Injector::open(burst::OUTSIDE.ifindex)?;
    let mut bursts = burst::bursts();
    for (n, one) in (0..).zip(&mut bursts) {
        if let (Family::Ipv6, Some(reason)) = (one.family, &unusable) {
            one.observed = BurstObserved::Missing(reason.clone());
            continue;
        }
        if Instant::now() >= deadline {
            one.observed = BurstObserved::Missing(timeout());
            continue;
        }
        let (vxlan, _) = burst::path(one);
        if !fraglist.has(vxlan.name)? {
            return Ok(Forwarding::NoFraglist);
        }
        switch(switches, vxlan.name, one.off != Some(Feature::Checksum))?;
        fraglist.set(vxlan.name, one.off != Some(Feature::Fraglist))?;
        let begun = Instant::now();
        forward(
            n,
            one,
            &injector,
            capture,
            deadline.min(begun + packet_timeout),
        )?;
        packet_timeout = packet_timeout.saturating_sub(begun.elapsed());
    }
    Ok(Forwarding::Bursts(bursts))
}

/// Injects one burst and counts the packets that arrive.
fn forward(
    n: u16,
    burst: &mut Burst,
    injector: &Injector,
    capture: &Capture,
    deadline: Instant,
) -> Result<(), Inconclusive> {
    let to = burst::destination(n, burst);
    let (vxlan, below) = burst::path(burst);
    let mut counts = Counts::default();
    let before = sent([vxlan.name, below.name])?;
    injector.send(&burst::injected(to))?;
    capture.frames(deadline, |frame, bytes| {
        if burst::is_to(to, frame) {
            counts.add(frame, bytes);
        }
        !counts.whole()
    })?;
    let after = sent([vxlan.name, below.name])?;
    counts.vxlan = after[0].saturating_sub(before[0]);
    counts.below = after[1].saturating_sub(before[1]);
    if counts.arrived() > 0 {
        burst.observed = BurstObserved::Counted(counts);
    }
    Ok(())
}

/// The packets that each of these devices has sent.
fn sent(devices: [&str; 2]) -> Result<[u64; 2], Inconclusive> {
    let failed = |text| Inconclusive {
        code: Cause::SetupFailed,
        text,
    };
    let file = read_io::proc_own("net/dev");
    let text = read_io::read_text(&file).map_err(|e| {
        failed(format!(
            "probe: read {}: {}",
            file.display(),
            describe_io(&e)
        ))
    })?;
    let of = |device| {
        burst::tx_packets(&text, device)
            .ok_or_else(|| failed(format!("probe: {} has no {device}", file.display())))
    };
    Ok([of(devices[0])?, of(devices[1])?])
}

/// `tx-scatter-gather-fraglist`.
struct Fraglist<'a> {
    socket: &'a ioctl_io::Socket,
    count: u32,
    /// `None` if the kernel does not have the feature.
    index: Option<u32>,
}

impl<'a> Fraglist<'a> {
    fn of(socket: &'a ioctl_io::Socket, any: &str) -> Result<Self, Inconclusive> {
        let names = socket
            .feature_names("list features", &name(any)?)
            .map_err(|fault| stuck(any, &fault.to_string()))?;
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let index = FeatureTable { names }.index(Feature::Fraglist);
        Ok(Self {
            socket,
            count,
            index,
        })
    }

    /// Whether the device has the feature, on or off.
    fn has(&self, device: &str) -> Result<bool, Inconclusive> {
        let state = self.state(device)?;
        Ok(state.is_some_and(|state| state.active || !state.fixed()))
    }

    /// Turns the feature on or off and reads it back. A device without the feature is off.
    fn set(&self, device: &str, on: bool) -> Result<(), Inconclusive> {
        let active = || Ok(self.state(device)?.is_some_and(|state| state.active));
        if active()? == on {
            return Ok(());
        }
        if let Some(index) = self.index {
            self.socket
                .set_feature(&name(device)?, self.count, index, on)
                .map_err(|e| stuck(device, &describe_errno(e)))?;
        }
        if active()? == on {
            return Ok(());
        }
        Err(stuck(
            device,
            &format!("does not turn {}", if on { "on" } else { "off" }),
        ))
    }

    fn state(&self, device: &str) -> Result<Option<FeatureState>, Inconclusive> {
        let Some(index) = self.index else {
            return Ok(None);
        };
        let features = self
            .socket
            .features("read features", &name(device)?, self.count)
            .map_err(|fault| stuck(device, &fault.to_string()))?;
        Ok(Some(features.state(index)))
    }
}

fn name(device: &str) -> Result<IfName, Inconclusive> {
    IfName::new(device.as_bytes()).ok_or_else(|| stuck(device, "not the name of a device"))
}

fn stuck(device: &str, why: &str) -> Inconclusive {
    Inconclusive {
        code: Cause::FeatureStuck,
        text: format!("probe: {device}: {}: {why}", Feature::Fraglist.as_str()),
    }
}
