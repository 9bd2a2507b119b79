//! Reads the underlay of a device, and the stack of devices below it.
//!
//! Owns the requests to rtnetlink and ethtool. `link::underlay` decides what follows from the answers.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::HashMap;

use super::segmentation::LongPackets;
use super::underlay::{MAX_DEPTH, StackedDevice, finishes_checksums};
use super::{Underlay, rtnl, segmentation};
use crate::ethtool::FeatureTable;
use crate::ethtool::backend_io::Backend;
use crate::ethtool::ioctl_io::Socket;
use crate::netlink::socket_io::Netlink;

const READ: &str = "read the underlay";

pub(crate) struct Reader<'a> {
    pub route: &'a mut Netlink,
    pub socket: &'a Socket,
    pub backend: &'a mut Backend,
    pub table: &'a FeatureTable,
}

impl Reader<'_> {
    /// The underlay with this ifindex. `None` if the device is gone, because its name is not known then. `driver` is
    /// `None` if the device reports no driver.
    pub fn underlay(&mut self, ifindex: u32) -> Option<Underlay> {
        let name = self.socket.name(ifindex).ok()?;
        let driver = self.socket.driver(&name).ok().flatten();
        let mut stack = HashMap::new();
        let master = self.add(ifindex, &mut stack, MAX_DEPTH);
        let vrf = master.filter(|master| {
            // A master of unknown kind counts as a VRF.
            let kind = self.link(*master).map(|link| link.kind);
            kind.is_none_or(|kind| kind.as_deref() == Some("vrf"))
        });
        Some(Underlay {
            ifindex,
            name,
            driver,
            finishes_checksums: finishes_checksums(ifindex, &stack),
            segmentation: segmentation::below(ifindex, &stack),
            vrf,
        })
    }

    /// Adds a device and the devices below it. Returns its master, if it has one.
    fn add(
        &mut self,
        ifindex: u32,
        stack: &mut HashMap<u32, StackedDevice>,
        depth: u32,
    ) -> Option<u32> {
        if depth == 0 || stack.contains_key(&ifindex) {
            return None;
        }
        let link = self.link(ifindex)?;
        let below = match link.kind.as_deref() {
            Some("bond" | "team") => self.ports(ifindex),
            _ => link.below.into_iter().collect(),
        };
        let count = u32::try_from(self.table.names.len()).unwrap_or(u32::MAX);
        let features = self.backend.read(&[(ifindex, &link.name)], count).pop();
        let features = features.and_then(Result::ok);
        let bits = |names: &[&str]| self.table.bits(|name| names.contains(&name));
        let checksums = bits(&[
            "tx-checksum-ip-generic",
            "tx-checksum-ipv4",
            "tx-checksum-ipv6",
        ]);
        let tunnels = bits(&["tx-udp_tnl-segmentation"]);
        // With any of these, `skb_segment` cuts packets into long pieces.
        let tunnel_any = bits(&[
            "tx-udp_tnl-segmentation",
            "tx-udp_tnl-csum-segmentation",
            "tx-gso-partial",
        ]);
        let fraglist = bits(&["tx-scatter-gather-fraglist"]);
        let device = StackedDevice {
            driver: self.socket.driver(&link.name).ok().flatten(),
            // A feature that could not be read counts as on.
            checksums_off: checksums != 0 && features.is_some_and(|f| f.active & checksums == 0),
            tunnel_segmentation: features
                .is_none_or(|f| (f.active | (f.hw & !f.nochange)) & tunnels != 0),
            long_packets: features.map(|f| {
                match (f.active & tunnel_any != 0, f.active & fraglist != 0) {
                    (false, _) => LongPackets::Segments,
                    (true, true) => LongPackets::HandsOn,
                    (true, false) => LongPackets::Splits,
                }
            }),
            name: link.name,
            kind: link.kind,
            bus: link.bus,
            macvlan_mode: link.macvlan_mode,
            below: below.clone(),
        };
        stack.insert(ifindex, device);
        for ifindex in below {
            self.add(ifindex, stack, depth - 1);
        }
        link.master
    }

    fn link(&mut self, ifindex: u32) -> Option<rtnl::Link> {
        let write = |w: &mut _, seq| rtnl::get_by_index(w, seq, ifindex);
        self.route.request(READ, write, rtnl::link).ok()?.ok()?
    }

    /// The ports of a bond. Empty if they cannot be listed.
    fn ports(&mut self, master: u32) -> Vec<u32> {
        let write = |w: &mut _, seq| rtnl::dump_ports(w, seq, master);
        // Kernels before 4.6 answer with all links.
        let port = |link: rtnl::Link| (link.master == Some(master)).then_some(link.ifindex);
        self.route
            .dump(READ, write, |m| Ok(rtnl::link(m)?.and_then(port)))
            .unwrap_or_default()
    }
}
