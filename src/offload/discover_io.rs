//! Finding the VXLAN and Geneve devices of this network namespace.
//!
//! Owns the order of the requests: links, underlays, features. Does not decide what to do with a device.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use neli::consts::socket::NlFamily;
use rustix::io::Errno;

use super::facts::{Device, Exposure, RuleHistory};
use super::record_io::netns;
use crate::error::Error;
use crate::ethtool::backend_io::Backend;
use crate::ethtool::ioctl_io::Socket;
use crate::ethtool::{FeatureTable, Features, PerFeature};
use crate::fault::Fault;
use crate::link::forwarding_io::forwards;
use crate::link::segmentation::Segmentation;
use crate::link::underlay_io::Reader;
use crate::link::{
    OuterChecksum, OwnAddress, TunnelKind, TunnelLink, Underlay, UnderlayLink, route, rtnl,
};
use crate::nat::exposure::{OtherEgress, OuterFlow, Routed};
use crate::netlink::Writer;
use crate::netlink::socket_io::{Answers, Netlink};
use crate::text::IfName;

const LIST: &str = "list the VXLAN and Geneve devices";
const LOOK_UP: &str = "look up a device";
/// The errnos for a destination without a route.
const UNREACHABLE: [Errno; 2] = [Errno::NETUNREACH, Errno::HOSTUNREACH];

/// `SO_NETNS_COOKIE` of the network namespace that exists since boot. Devices are moved from there, hardly to there.
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/net_namespace.c> (`net_ns_init`)
const FIRST_NAMESPACE: u64 = 1;

/// The devices to look at.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    All,
    /// Devices with these names. Each must be a VXLAN or Geneve device.
    Named(&'a [IfName]),
    /// Devices with these names. Skips missing devices and other kinds of links.
    NamedIfPresent(&'a [IfName]),
    /// Devices with these ifindexes. Skips missing devices and other kinds of links.
    ByIfindex(&'a [u32]),
}

impl Selection<'_> {
    /// True if a device with this ifindex that the look did not find does not exist.
    pub fn covers(self, ifindex: u32) -> bool {
        match self {
            Selection::All => true,
            Selection::ByIfindex(ifindexes) => ifindexes.contains(&ifindex),
            Selection::Named(_) | Selection::NamedIfPresent(_) => false,
        }
    }
}

/// The sockets of discovery.
pub struct Discovery {
    route: Netlink,
    socket: Socket,
    /// The names of the features, which are constant while the kernel runs. Empty before the first device.
    table: FeatureTable,
}

impl Discovery {
    /// # Errors
    /// The kernel has no rtnetlink, or no more sockets.
    pub fn open() -> Result<Self, Fault> {
        let route =
            Netlink::open(NlFamily::Route).map_err(|e| Fault::kernel("open rtnetlink", e, None))?;
        let socket =
            Socket::open().map_err(|e| Fault::kernel("open a socket for SIOCETHTOOL", e, None))?;
        Ok(Self {
            route,
            socket,
            table: FeatureTable::default(),
        })
    }

    /// The VXLAN and Geneve devices, by ifindex, and the names of the kernel's features.
    ///
    /// # Errors
    /// A request fails, or a device that must be a VXLAN or Geneve device is another kind of link: the error names it.
    pub fn devices(
        &mut self,
        backend: &mut Backend,
        which: Selection<'_>,
    ) -> Result<(FeatureTable, Vec<Device>), Error> {
        let mut links = match which {
            Selection::All => dump_tunnels(&mut self.route)?,
            Selection::Named(names) => self.get_named(names)?,
            Selection::NamedIfPresent(names) => {
                let found = self.get_links(names.len(), |w, seq, n| {
                    rtnl::get_by_name(w, seq, &names[n]);
                })?;
                present(found)?
            }
            Selection::ByIfindex(ifindexes) => {
                let found = self.get_links(ifindexes.len(), |w, seq, n| {
                    rtnl::get_by_index(w, seq, ifindexes[n]);
                })?;
                present(found)?
            }
        };
        if links.is_empty() {
            return Ok((FeatureTable::default(), Vec::new()));
        }
        // The kernel does not say that a Geneve device was moved to this namespace. Its packets leave in the namespace in which
        // it was created.
        let geneve = |link: &TunnelLink| link.kind == TunnelKind::Geneve;
        if links.iter().any(geneve) && netns().cookie != Some(FIRST_NAMESPACE) {
            for link in links.iter_mut().filter(|link| geneve(link)) {
                link.underlay = UnderlayLink::OtherNamespace;
            }
        }
        if self.table.names.is_empty() {
            // The first device that still exists answers for all. If none does, there are no features to read.
            let names = links
                .iter()
                .map(|link| backend.feature_names(&link.name))
                .find(|names| !names.as_ref().is_err_and(Fault::gone));
            self.table.names = names.transpose()?.unwrap_or_default();
        }
        let table = self.table.clone();
        let underlays = self.underlays(&links, backend, &table)?;
        let features = read_features(backend, &links, &table);
        let not_asked = Rc::new(Exposure::not_asked());
        let devices =
            links
                .into_iter()
                .zip(underlays)
                .zip(features)
                .map(|((link, underlay), features)| Device {
                    link,
                    underlay,
                    features,
                    exposure: Rc::clone(&not_asked),
                    segmentation: Segmentation::NOT_ASKED,
                    remotes: Vec::new(),
                    no_peers: false,
                    history: PerFeature::default(),
                    rule: RuleHistory::default(),
                });
        Ok((table, devices.collect()))
    }

    /// True if these are the names of all VXLAN and Geneve devices.
    pub fn are_all(&mut self, names: &[IfName]) -> bool {
        let links = dump_tunnels(&mut self.route).unwrap_or_default();
        let there: BTreeSet<_> = links.iter().map(|link| link.name).collect();
        there == names.iter().copied().collect()
    }

    /// The outer flow of each device, in the same order, and true for a device that certainly has no destination yet.
    /// The outer flow has the facts on which the matching NAT rules depend.
    ///
    /// The destinations come from the forwarding entries at this moment, and their routes from routing. A node that
    /// joins later is found only by the next look: `watch` looks every minute, the timer of the packages every five.
    /// Entries of a multicast database (`bridge mdb` on a VXLAN device, 6.4) are not read.
    ///
    /// # Errors
    /// A request fails.
    pub fn outer_flows(&mut self, devices: &[Device]) -> Result<Vec<(OuterFlow, bool)>, Fault> {
        let mut addresses: HashMap<u32, Vec<OwnAddress>> = HashMap::new();
        for own in self.addresses()? {
            addresses.entry(own.ifindex).or_default().push(own);
        }
        let mut entries = self.entries(devices);
        let mut flows: Vec<OuterFlow> = Vec::with_capacity(devices.len());
        let mut no_peers = Vec::with_capacity(devices.len());
        let mut routed = Vec::new();
        for (index, device) in devices.iter().enumerate() {
            let entries = entries.remove(&device.link.ifindex).unwrap_or_default();
            let underlay = device.underlay.as_deref();
            let owned = underlay.and_then(|underlay| addresses.get(&underlay.ifindex));
            let other = |ifindex: &u32| underlay.is_none_or(|u| u.ifindex != *ifindex);
            let vrf = underlay.and_then(|underlay| underlay.vrf);
            let other_egress = entries.underlays.iter().copied().find(other).or(vrf);
            // On an `external` device each packet brings these values.
            let external = device.link.outer_checksum == OuterChecksum::External;
            let own_port = !entries.other_port && !external;
            no_peers.push(entries.no_peers(&device.link));
            let looked_up = entries.routed(&device.link);
            let remotes = entries.remotes(&device.link);
            if !remotes.is_empty() {
                routed.extend(looked_up.into_iter().map(|remote| (index, remote)));
            }
            flows.push(OuterFlow {
                device: device.link.name,
                ifindex: device.link.ifindex,
                enslaved: device.link.enslaved,
                underlay: underlay.map(|underlay| underlay.name),
                underlay_ifindex: underlay.map(|underlay| underlay.ifindex),
                underlay_driver: underlay.and_then(|underlay| underlay.driver.clone()),
                underlay_finishes: underlay.is_some_and(|underlay| underlay.finishes_checksums),
                underlay_addresses: owned.cloned().unwrap_or_default(),
                other_egress: other_egress.map(OtherEgress::Device),
                local: device.link.local.filter(|_| !external),
                routed: None,
                dst_port: device.link.dst_port.filter(|_| own_port),
                remotes,
                vni: device.link.vni,
            });
        }
        self.check_routes(&mut flows, &routed);
        // Without an answer nothing is certain.
        let _ = self.find_sources(&mut flows);
        Ok(flows.into_iter().zip(no_peers).collect())
    }

    /// True if this network namespace forwards packets between its devices. `None` if that could not be read.
    pub fn forwards(&mut self) -> Option<bool> {
        forwards(&mut self.route)
    }

    /// The forwarding entries of these devices. An empty map if they cannot be listed: then nothing is known.
    fn entries(&mut self, devices: &[Device]) -> HashMap<u32, Entries> {
        let mut out: HashMap<u32, Entries> = devices
            .iter()
            .map(|device| (device.link.ifindex, Entries::default()))
            .collect();
        // Each pod has a device with entries of its own.
        let only = match devices {
            [] => return out,
            [device] => device.link.ifindex,
            _ => 0,
        };
        let entries = self.route.dump(
            "list the forwarding entries",
            |w, seq| rtnl::dump_forwarding(w, seq, only),
            |m| Ok(rtnl::forwarding(m)?.filter(|entry| out.contains_key(&entry.ifindex))),
        );
        let Ok(entries) = entries else {
            for entries in out.values_mut() {
                entries.incomplete = true;
            }
            return out;
        };
        for entry in entries {
            if let Some(entries) = out.get_mut(&entry.ifindex) {
                entries.add(&entry);
            }
        }
        out
    }

    /// Looks up the route to each destination that routing decides, given as an index in `flows` and an address.
    /// Unreachable destinations get no packets.
    fn check_routes(&mut self, flows: &mut [OuterFlow], routed: &[(usize, IpAddr)]) {
        if routed.is_empty() {
            return;
        }
        let routing_rules = self.routing_rules();
        let answers = self.route.batch(
            "look up a route",
            routed.len(),
            Answers::Each,
            |w, seq, _, n| {
                let (index, remote) = routed[n];
                route::look_up(w, seq, remote, flows[index].local, None, true);
            },
            route::route,
        );
        let (Ok(routing_rules), Ok(answers)) = (routing_rules, answers) else {
            for (index, _) in routed {
                flows[*index].other_egress = Some(OtherEgress::NotKnown);
            }
            return;
        };
        for ((index, remote), route) in routed.iter().zip(answers) {
            let flow = &mut flows[*index];
            let found = match route {
                Err(e) if UNREACHABLE.contains(&e.code()) => None,
                Ok(Some(route)) if !route.ifindexes.is_empty() => {
                    let other = |ifindex: &&u32| Some(**ifindex) != flow.underlay_ifindex;
                    let diverted = |d: &&route::RoutingRule| {
                        d.v6 == remote.is_ipv6() && d.table != Some(route.table)
                    };
                    match route.ifindexes.iter().find(other) {
                        Some(ifindex) => Some(OtherEgress::Device(*ifindex)),
                        None => routing_rules
                            .iter()
                            .find(diverted)
                            .map(|_| OtherEgress::Diverted),
                    }
                }
                _ => Some(OtherEgress::NotKnown),
            };
            flow.other_egress = flow.other_egress.or(found);
        }
    }

    /// Looks up the source and the next hops of the packets if the decision needs them: the device has no source, or
    /// the underlay has several addresses. Leaves `None` if they are not certain.
    fn find_sources(&mut self, flows: &mut [OuterFlow]) -> Result<(), Fault> {
        let needs = |flow: &OuterFlow| {
            let oif = flow.certain_egress()?.1?;
            (flow.local.is_none() || flow.underlay_addresses.len() > 1).then_some(oif)
        };
        let asked: Vec<(usize, u32)> = (0..flows.len())
            .filter_map(|index| Some((index, needs(&flows[index])?)))
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let routing_rules = self.routing_rules()?;
        let packets: Vec<(&OuterFlow, u32, IpAddr)> = asked
            .iter()
            .flat_map(|(index, oif)| {
                let flow = &flows[*index];
                flow.remotes.iter().map(move |to| (flow, *oif, *to))
            })
            .collect();
        let mut ask = |whole| {
            let write = |w: &mut Writer, seq, _, n: usize| {
                let (flow, oif, to) = packets[n];
                route::look_up(w, seq, to, flow.local, Some(oif), whole);
            };
            let (count, read) = (packets.len(), route::route);
            self.route
                .batch("look up a route", count, Answers::Each, write, read)
        };
        // This answer has the whole route. The other answer has one next hop of it, and the chosen source.
        let mut answers = ask(true)?.into_iter().zip(ask(false)?);
        let found: Vec<Option<Routed>> = asked
            .iter()
            .map(|(index, oif)| {
                let flow = &flows[*index];
                // Takes the answers of this flow even if one of them ends the search.
                let own: Vec<_> = answers.by_ref().take(flow.remotes.len()).collect();
                let mut routed = Routed::default();
                for (remote, answers) in flow.remotes.iter().zip(own) {
                    let (whole, chosen) = match answers {
                        // An unreachable destination gets no packets.
                        (Err(e), _) if UNREACHABLE.contains(&e.code()) => continue,
                        (Ok(whole), Ok(chosen)) => (whole?, chosen?),
                        _ => return None,
                    };
                    let diverted = |d: &route::RoutingRule| {
                        d.v6 == remote.is_ipv6() && d.table != Some(whole.table)
                    };
                    if whole.ifindexes != [*oif] || chosen.via || routing_rules.iter().any(diverted)
                    {
                        return None;
                    }
                    routed.sources.extend(flow.local.or(chosen.source));
                    routed.nexthops.push(chosen.gateway.unwrap_or(*remote));
                    if remote.is_ipv6() {
                        // The answer names it whatever source the request has.
                        let by_itself = chosen.source.filter(|_| whole.source.is_none());
                        routed.chosen_ipv6.push(by_itself);
                    }
                }
                Some(routed)
            })
            .collect();
        for ((index, _), routed) in asked.into_iter().zip(found) {
            flows[index].routed = routed;
        }
        Ok(())
    }

    fn routing_rules(&mut self) -> Result<Vec<route::RoutingRule>, Fault> {
        self.route.dump(
            "list the routing rules",
            route::dump_rules,
            route::routing_rule,
        )
    }

    fn addresses(&mut self) -> Result<Vec<OwnAddress>, Fault> {
        self.route.dump(
            "list the addresses",
            rtnl::dump_addresses,
            rtnl::own_address,
        )
    }

    /// One result for each request: a link of any kind, or the error.
    fn get_links(
        &mut self,
        count: usize,
        mut write: impl FnMut(&mut Writer, u32, usize),
    ) -> Result<Vec<Result<rtnl::Link, Fault>>, Fault> {
        let write = |w: &mut Writer, seq, _, n| write(w, seq, n);
        let answers = self
            .route
            .batch(LOOK_UP, count, Answers::Each, write, rtnl::link)?;
        let link = |answer: Result<Option<_>, _>| match answer {
            Ok(link) => link.ok_or_else(|| Fault::other(LOOK_UP, "the kernel did not describe it")),
            Err(e) => Err(Fault::netlink(LOOK_UP, &e)),
        };
        Ok(answers.into_iter().map(link).collect())
    }

    /// The existing devices, for a user who named another one: `; its VXLAN devices are flannel.1, vx1`.
    fn names(&mut self) -> String {
        const MAX: usize = 8;
        let Ok(links) = dump_tunnels(&mut self.route) else {
            return String::new();
        };
        let kinds = TunnelKind::names(links.iter().map(|link| link.kind));
        let names: Vec<_> = links.iter().map(|link| link.name.to_string()).collect();
        match names.as_slice() {
            [] => ", which has no VXLAN or Geneve device".to_owned(),
            [one] => format!("; its {kinds} device is {one}"),
            all if all.len() <= MAX => format!("; its {kinds} devices are {}", all.join(", ")),
            all => format!(
                "; among its {} {kinds} devices are {}",
                all.len(),
                all[..MAX].join(", ")
            ),
        }
    }

    fn get_named(&mut self, names: &[IfName]) -> Result<Vec<TunnelLink>, Error> {
        let mut found = BTreeMap::new();
        let links = self.get_links(names.len(), |w, seq, n| {
            rtnl::get_by_name(w, seq, &names[n]);
        })?;
        for (name, link) in names.iter().zip(links) {
            let link = link.map_err(|fault| {
                if fault.gone() {
                    let others = self.names();
                    Error::Device(format!(
                        "{name}: there is no such device in this network namespace{others}"
                    ))
                } else {
                    Error::Kernel(fault)
                }
            })?;
            let kind = link
                .kind
                .unwrap_or_else(|| "plain network device".to_owned());
            let tunnel = link.tunnel.ok_or_else(|| {
                Error::Device(format!("{name}: not a VXLAN or Geneve device but a {kind}"))
            })?;
            found.insert(tunnel.ifindex, tunnel);
        }
        Ok(found.into_values().collect())
    }

    /// The devices to which routing sends packets for the remotes of Geneve devices, which have one destination and name no
    /// underlay. A remote without a route, or with several next hops, has none.
    fn routed_underlays(&mut self, links: &[TunnelLink]) -> Result<HashMap<IpAddr, u32>, Fault> {
        let remotes: Vec<IpAddr> = links
            .iter()
            .filter(|link| link.kind == TunnelKind::Geneve)
            .filter(|link| link.underlay == UnderlayLink::NotSet)
            .filter_map(|link| link.remote)
            .collect();
        if remotes.is_empty() {
            return Ok(HashMap::new());
        }
        let write = |w: &mut Writer, seq, _, n: usize| {
            route::look_up(w, seq, remotes[n], None, None, true);
        };
        let answers = self.route.batch(
            "look up a route",
            remotes.len(),
            Answers::Each,
            write,
            route::route,
        )?;
        let only = |(remote, answer): (&IpAddr, Result<Option<route::Route>, _>)| match answer
            .ok()??
            .ifindexes
            .as_slice()
        {
            [one] => Some((*remote, *one)),
            _ => None,
        };
        Ok(remotes.iter().zip(answers).filter_map(only).collect())
    }

    /// The underlay of each link, in the same order.
    fn underlays(
        &mut self,
        links: &[TunnelLink],
        backend: &mut Backend,
        table: &FeatureTable,
    ) -> Result<Vec<Option<Rc<Underlay>>>, Fault> {
        let by_address =
            |link: &TunnelLink| link.underlay == UnderlayLink::NotSet && link.local.is_some();
        let owners: HashMap<_, _> = if links.iter().any(by_address) {
            self.addresses()?
                .into_iter()
                .map(|own| (own.address, own.ifindex))
                .collect()
        } else {
            HashMap::new()
        };
        let routed = self.routed_underlays(links)?;
        let ifindexes: Vec<Option<u32>> = links
            .iter()
            .map(|link| match (link.underlay, link.local) {
                (UnderlayLink::Ifindex(ifindex), _) => Some(ifindex),
                (UnderlayLink::OtherNamespace, _) => None,
                (UnderlayLink::NotSet, Some(local)) => owners.get(&local).copied(),
                (UnderlayLink::NotSet, None) => routed.get(&link.remote?).copied(),
            })
            .collect();
        let mut reader = Reader {
            route: &mut self.route,
            socket: &self.socket,
            backend,
            table,
        };
        let mut known: HashMap<u32, Option<Rc<Underlay>>> = HashMap::new();
        for ifindex in ifindexes.iter().flatten() {
            known
                .entry(*ifindex)
                .or_insert_with(|| reader.underlay(*ifindex).map(Rc::new));
        }
        Ok(ifindexes
            .into_iter()
            .map(|ifindex| known.get(&ifindex?).cloned().flatten())
            .collect())
    }
}

/// The forwarding entries of one device, as far as they are about outer packets.
#[derive(Default)]
struct Entries {
    remotes: BTreeSet<IpAddr>,
    /// The destinations whose route routing chooses.
    routed: BTreeSet<IpAddr>,
    /// The underlays that entries name.
    underlays: BTreeSet<u32>,
    other_port: bool,
    /// Some destinations are not among the entries.
    incomplete: bool,
}

impl Entries {
    fn add(&mut self, entry: &rtnl::Forwarding) {
        self.remotes.extend(entry.remote);
        match entry.underlay {
            Some(ifindex) => {
                self.underlays.insert(ifindex);
            }
            None => self.routed.extend(entry.remote),
        }
        self.other_port |= entry.port.is_some();
        self.incomplete |= entry.nexthops;
    }

    /// The destinations whose route routing chooses. Packets to the device's own destination leave through its own
    /// underlay, if it has one.
    fn routed(&self, link: &TunnelLink) -> BTreeSet<IpAddr> {
        let mut out = self.routed.clone();
        if link.underlay == UnderlayLink::NotSet {
            out.extend(link.remote);
        }
        out
    }

    /// The device certainly has no peer: no entry names a machine, there is no default destination, and the device does
    /// not learn from received packets.
    fn no_peers(&self, link: &TunnelLink) -> bool {
        let external = link.outer_checksum == OuterChecksum::External;
        let entries = self.remotes.len() + self.underlays.len();
        entries == 0
            && link.remote.is_none()
            && !(self.incomplete || self.other_port || link.learning || external)
    }

    /// Every destination. Empty if others are possible: an `external` device has one for each packet, a learning device
    /// one for each machine that sends to it, and a device without destinations is new and gets them later.
    fn remotes(mut self, link: &TunnelLink) -> Vec<IpAddr> {
        let external = link.outer_checksum == OuterChecksum::External;
        if self.incomplete || link.learning || external {
            return Vec::new();
        }
        // Old kernels have no entry for it.
        self.remotes.extend(link.remote);
        self.remotes.into_iter().collect()
    }
}

/// The VXLAN and Geneve devices among these links. A deleted device is not an error; every other failure is.
fn present(found: Vec<Result<rtnl::Link, Fault>>) -> Result<Vec<TunnelLink>, Fault> {
    found
        .into_iter()
        .filter(|link| !link.as_ref().is_err_and(Fault::gone))
        .filter_map(|link| link.map(|link| link.tunnel).transpose())
        .collect()
}

/// The current features of these links.
pub fn read_features<'a>(
    backend: &mut Backend,
    links: impl IntoIterator<Item = &'a TunnelLink>,
    table: &FeatureTable,
) -> Vec<Result<Features, Fault>> {
    let refs: Vec<_> = links
        .into_iter()
        .map(|link| (link.ifindex, &link.name))
        .collect();
    backend.read(&refs, u32::try_from(table.names.len()).unwrap_or(u32::MAX))
}

fn dump_tunnels(route: &mut Netlink) -> Result<Vec<TunnelLink>, Fault> {
    let mut found = Vec::new();
    for kind in TunnelKind::ALL.into_iter().filter(|kind| loaded(*kind)) {
        // The kind is checked again: kernels before 4.6 answer with every link.
        found.extend(route.dump(
            LIST,
            |w, seq| rtnl::dump_kind(w, seq, kind),
            |m| Ok(rtnl::link(m)?.and_then(|link| link.tunnel)),
        )?);
    }
    // By ifindex, and once each: a device that moves in the kernel's tables during a dump can be seen twice.
    found.sort_by_key(|link| link.ifindex);
    found.dedup_by_key(|link| link.ifindex);
    Ok(found)
}

/// Whether the kernel has the module of this kind, loaded or built in. Without it there is no such device, and the answer to a
/// dump is every link of the node.
fn loaded(kind: TunnelKind) -> bool {
    let modules = Path::new("/sys/module");
    // Where sysfs is not mounted, nothing is known.
    kind == TunnelKind::Vxlan || modules.join(kind.as_str()).exists() || !modules.exists()
}
