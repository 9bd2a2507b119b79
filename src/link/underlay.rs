//! Whether packets leave a device with finished checksums, so that NAT outside this kernel cannot corrupt them.
//!
//! Owns the criterion. Pure: `link::underlay_io` reads the facts.
//!
//! The kernel finishes the inner checksum of an encapsulated packet in software at the first device that does not offer
//! checksums for such packets. If every device offers them, the hardware finishes it. The kind of each device in the
//! stack and a few features decide this, not the name of the driver.
//! <https://github.com/torvalds/linux/blob/v6.1/net/core/dev.c#L3555> (`validate_xmit_skb`, `netif_skb_features`)

use std::collections::HashMap;

use super::segmentation::LongPackets;
use crate::text::IfName;

/// The properties of one device of a stack that matter for checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StackedDevice {
    pub name: IfName,
    /// `IFLA_INFO_KIND`. `None` for hardware and `lo`.
    pub kind: Option<String>,
    /// `ETHTOOL_GDRVINFO`.
    pub driver: Option<String>,
    /// `IFLA_PARENT_DEV_BUS_NAME`, since 5.14. `None` also for a device without a parent.
    pub bus: Option<String>,
    /// No transmit checksum feature is on.
    pub checksums_off: bool,
    /// `tx-udp_tnl-segmentation` is on or can be turned on.
    pub tunnel_segmentation: bool,
    /// How the device handles long packets of a forwarding node. `None` if its features could not be read.
    pub long_packets: Option<LongPackets>,
    /// `IFLA_MACVLAN_MODE`.
    pub macvlan_mode: Option<u32>,
    /// The devices below: `IFLA_LINK` in this namespace, or the ports.
    pub below: Vec<u32>,
}

/// The deepest stack to follow. The limit of the kernel is 8.
pub(crate) const MAX_DEPTH: u32 = 8;

/// <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/if_link.h#L681>
const MACVLAN_PRIVATE: u32 = 1;
const MACVLAN_VEPA: u32 = 2;
const MACVLAN_PASSTHRU: u32 = 8;

/// Network cards of hypervisors: with tunnel segmentation they pass an unfinished inner checksum to the host. virtio
/// does so since 6.17 (`virtnet_probe`). For `vmxnet3` the behaviour of ESXi before its own NAT is not known.
const PARAVIRTUAL_BUSES: [&str; 3] = ["virtio", "vmbus", "xen"];
const PARAVIRTUAL_DRIVERS: [&str; 5] =
    ["virtio_net", "hv_netvsc", "vif", "vmxnet3", "net_failover"];

/// True if packets leave the kernel with finished checksums when they are sent through this device. False for what is
/// not understood.
pub(crate) fn finishes_checksums(ifindex: u32, devices: &HashMap<u32, StackedDevice>) -> bool {
    finishes(ifindex, devices, MAX_DEPTH)
}

fn finishes(ifindex: u32, devices: &HashMap<u32, StackedDevice>, depth: u32) -> bool {
    let Some(device) = devices.get(&ifindex).filter(|_| depth > 0) else {
        return false;
    };
    if device.checksums_off {
        return true;
    }
    let all_below = || {
        let below = |ifindex: &u32| finishes(*ifindex, devices, depth - 1);
        !device.below.is_empty() && device.below.iter().all(below)
    };
    match device.kind.as_deref() {
        // A bridge never offers checksums for encapsulated packets, whatever its ports offer.
        // https://github.com/torvalds/linux/blob/v6.1/net/bridge/br_device.c#L484 (br_dev_setup)
        Some("bridge") => true,
        // These pass packets on unchanged, and the device below decides again.
        Some("vlan" | "bond" | "team") => all_below(),
        // In bridge mode, a packet to a sibling device is delivered directly.
        Some("macvlan") => {
            let upwards = [MACVLAN_PRIVATE, MACVLAN_VEPA, MACVLAN_PASSTHRU];
            device
                .macvlan_mode
                .is_some_and(|mode| upwards.contains(&mode))
                && all_below()
        }
        _ => is_hardware(device) && !(is_paravirtual(device) && device.tunnel_segmentation),
    }
}

pub(crate) fn is_hardware(device: &StackedDevice) -> bool {
    match (
        device.bus.as_deref(),
        &device.kind,
        device.driver.as_deref(),
    ) {
        (Some(bus), ..) => bus != "netdevsim",
        // Before 5.14. Virtual devices have a kind, except those of Open vSwitch before 4.0.
        (None, None, Some(driver)) => driver != "openvswitch",
        _ => false,
    }
}

pub(crate) fn is_paravirtual(device: &StackedDevice) -> bool {
    let is = |list: &[&str], name: &Option<String>| {
        name.as_deref().is_some_and(|name| list.contains(&name))
    };
    is(&PARAVIRTUAL_BUSES, &device.bus) || is(&PARAVIRTUAL_DRIVERS, &device.driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: &str, driver: &str, bus: &str) -> StackedDevice {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        StackedDevice {
            name: IfName::new(b"eth0").unwrap(),
            kind: given(kind),
            driver: given(driver),
            bus: given(bus),
            checksums_off: false,
            tunnel_segmentation: false,
            long_packets: None,
            macvlan_mode: None,
            below: Vec::new(),
        }
    }

    fn over(kind: &str, below: &[u32]) -> StackedDevice {
        StackedDevice {
            below: below.to_vec(),
            ..device(kind, kind, "")
        }
    }

    fn macvlan(mode: u32, below: u32) -> StackedDevice {
        StackedDevice {
            macvlan_mode: Some(mode),
            ..over("macvlan", &[below])
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn which_devices_finish() {
        let nic = || device("", "ixgbe", "pci");
        let veth = || device("veth", "veth", "");
        let tunnels = |device| StackedDevice {
            tunnel_segmentation: true,
            ..device
        };
        let off = |device| StackedDevice {
            checksums_off: true,
            ..device
        };
        // Ifindexes count from 1 in the order of the list.
        let rows: Vec<(&str, Vec<StackedDevice>, bool)> = vec![
            ("not read", vec![], false),
            ("NIC", vec![nic()], true),
            ("NIC that segments tunnels", vec![tunnels(nic())], true),
            (
                "NIC that no list knows",
                vec![device("", "new", "pci")],
                true,
            ),
            ("NIC before 5.14", vec![device("", "ixgbe", "")], true),
            (
                "NIC of a platform",
                vec![device("", "bcmgenet", "platform")],
                true,
            ),
            ("InfiniBand", vec![device("ipoib", "ib_ipoib", "pci")], true),
            (
                "Open vSwitch",
                vec![device("openvswitch", "openvswitch", "")],
                false,
            ),
            (
                "old Open vSwitch",
                vec![device("", "openvswitch", "")],
                false,
            ),
            ("lo", vec![device("", "", "")], false),
            ("virtio", vec![device("", "virtio_net", "virtio")], true),
            (
                "virtio, tunnels",
                vec![tunnels(device("", "virtio_net", "virtio"))],
                false,
            ),
            (
                "virtio before 5.14",
                vec![tunnels(device("", "virtio_net", ""))],
                false,
            ),
            ("Hyper-V", vec![device("", "hv_netvsc", "vmbus")], true),
            ("vmxnet3", vec![device("", "vmxnet3", "pci")], true),
            (
                "vmxnet3, tunnels",
                vec![tunnels(device("", "vmxnet3", "pci"))],
                false,
            ),
            (
                "netdevsim",
                vec![device("netdevsim", "netdevsim", "netdevsim")],
                false,
            ),
            ("veth", vec![veth()], false),
            ("veth without checksums", vec![off(veth())], true),
            ("tap", vec![device("tun", "tun", "")], false),
            ("ipvlan", vec![over("ipvlan", &[2]), nic()], false),
            ("bridge of veth", vec![over("bridge", &[2]), veth()], true),
            ("VLAN on NIC", vec![over("vlan", &[2]), nic()], true),
            ("VLAN on veth", vec![over("vlan", &[2]), veth()], false),
            ("VLAN in another namespace", vec![over("vlan", &[])], false),
            (
                "VLAN on bridge",
                vec![over("vlan", &[2]), over("bridge", &[])],
                true,
            ),
            ("bond", vec![over("bond", &[2, 3]), nic(), nic()], true),
            (
                "bond, one veth",
                vec![over("bond", &[2, 3]), nic(), veth()],
                false,
            ),
            ("bond without ports", vec![over("bond", &[])], false),
            (
                "VLAN on bond",
                vec![over("vlan", &[2]), over("team", &[3]), nic()],
                true,
            ),
            ("macvlan, private", vec![macvlan(1, 2), nic()], true),
            ("macvlan, vepa", vec![macvlan(2, 2), nic()], true),
            ("macvlan, bridge", vec![macvlan(4, 2), nic()], false),
            ("macvlan, passthru", vec![macvlan(8, 2), nic()], true),
            ("macvlan, vepa on veth", vec![macvlan(2, 2), veth()], false),
            (
                "macvlan, no mode",
                vec![over("macvlan", &[2]), nic()],
                false,
            ),
            (
                "a loop",
                vec![over("vlan", &[2]), over("vlan", &[1])],
                false,
            ),
        ];
        for (name, devices, want) in rows {
            let devices = (1..).zip(devices).collect();
            assert_eq!(finishes_checksums(1, &devices), want, "{name}");
        }
    }
}
