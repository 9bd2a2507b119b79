//! The probe's network namespace: building it, sending into it, capturing what comes out.
//!
//! Owns the thread of the namespace. Does not judge what it captures. All work happens in a thread that first leaves the
//! host's network namespace and never returns. The namespace and everything in it belong to that thread and its sockets,
//! and the kernel removes them together with the last of these, however the process ends. Nothing gets a name outside,
//! and no file is written. If the service manager has already given the process a namespace, the probe uses that, and
//! refuses one with devices.
//!
//! Kernels with modules load missing ones: veth, vxlan (with `udp_tunnel`), macvlan, nfnetlink, `nf_tables`, its `nat`
//! chain and expression (`nft_chain_nat`, `nft_nat`, `nf_nat`, `nf_conntrack`), `af_packet`. They stay loaded.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use neli::consts::socket::NlFamily;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::burst::Forwarding;
use super::capture_io::Capture;
use super::forward_io;
use super::plan::{self, Step};
use super::{
    Case, Cause, Family, Host, Inconclusive, InnerProtocol, Limits, Observations, Observed, Place,
    ProbeRun, first_foreign_device, observe,
};
use crate::ethtool::ioctl_io;
use crate::fault::{describe_errno, describe_io};
use crate::kernel::read_io;
use crate::netlink::requests::{Answer, Requests};
use crate::netlink::socket_io::Netlink;
use crate::text::{IfName, escape};

/// <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/ethtool.h#L1613>
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// The machine: uname(2) and the boot id.
pub fn host() -> Host {
    let uname = rustix::system::uname();
    Host {
        release: uname.release().to_string_lossy().into_owned(),
        version: uname.version().to_string_lossy().into_owned(),
        boot_id: read_io::boot_id(),
    }
}

/// Runs the probe. Never fails: the result contains the error.
///
/// If the time is over, the run leaves its thread behind, which waits for the kernel. The thread ends at the latest
/// with the process.
pub fn run(limits: &Limits, place: Place) -> ProbeRun {
    let begun = Instant::now();
    let limits = *limits;
    let (sender, receiver) = mpsc::channel();
    let measured = thread::Builder::new()
        .name("vxcsum-probe".to_owned())
        .spawn(move || {
            let measured = measure(place, begun + limits.total, limits.packets);
            // Nobody receives the result if the time is over.
            let _ = sender.send(measured);
        })
        .map_err(|error| Step::Namespace.failed(errno_of(&error)))
        .and_then(|thread| match receiver.recv_timeout(limits.total) {
            Ok(measured) => {
                // The sockets are closed. Without the thread, the namespace is gone too.
                let _ = thread.join();
                measured
            }
            Err(RecvTimeoutError::Timeout) => Err(timeout()),
            Err(RecvTimeoutError::Disconnected) => Err(Inconclusive {
                code: Cause::SetupFailed,
                text: "probe: its thread ended without a result".to_owned(),
            }),
        });
    ProbeRun::new(measured, host(), begun.elapsed())
}

fn measure(
    place: Place,
    deadline: Instant,
    packet_timeout: Duration,
) -> Result<Observations, Inconclusive> {
    match place {
        Place::NewNamespace => {
            ioctl_io::unshare_network().map_err(|e| Step::Namespace.failed(e))?;
        }
        Place::PrivateNetwork => require_empty()?,
    }
    let (requests, steps) = plan::devices();
    let mut unusable = build(&requests, &steps)?;
    let switches = ioctl_io::Socket::open().map_err(|e| Step::Offload.failed(e))?;
    for end in [plan::UNDERLAY, plan::PEER] {
        switch(&switches, end.name, false)?;
    }
    let capture = Capture::open(plan::PEER.ifindex)?;
    // Before NAT, because connection tracking would also see forwarded packets. On a slow machine the NAT bugs get the
    // other half of the time.
    let now = Instant::now();
    let half = now + deadline.saturating_duration_since(now) / 2;
    let forwarding =
        forward_io::measure(&switches, &capture, unusable.as_ref(), half, packet_timeout)
            .unwrap_or_else(Forwarding::Failed);
    let cases = install_nat(&mut unusable).and_then(|()| {
        translate(
            &switches,
            &capture,
            unusable.as_ref(),
            deadline,
            packet_timeout,
        )
    });
    Ok(Observations { cases, forwarding })
}

/// Sends every packet of the cases through NAT.
fn translate(
    switches: &ioctl_io::Socket,
    capture: &Capture,
    unusable: Option<&Inconclusive>,
    deadline: Instant,
    packet_timeout: Duration,
) -> Result<Vec<Case>, Inconclusive> {
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .map_err(|e| Step::Offload.failed(errno_of(&e)))?;
    let mut cases = Vec::new();
    for feature_on in [true, false] {
        for (family, _, device) in plan::VXLANS {
            if family == Family::Ipv4 || unusable.is_none() {
                switch(switches, device.name, feature_on)?;
            }
        }
        let mut half = plan::cases(feature_on);
        if let Some(reason) = unusable {
            for case in half.iter_mut().filter(|c| c.family == Family::Ipv6) {
                case.observed = Observed::Missing(reason.clone());
            }
        }
        let _connections = send_all(&udp, &mut half);
        collect(
            capture,
            &mut half,
            deadline.min(Instant::now() + packet_timeout),
        )?;
        cases.append(&mut half);
    }
    Ok(cases)
}

/// systemd runs a service without `PrivateNetwork=` if it may not create namespaces. Then the probe must not run in the
/// host's namespace.
fn require_empty() -> Result<(), Inconclusive> {
    let not_private = |text| Inconclusive {
        code: Cause::NoNetworkNamespace,
        text,
    };
    let file = read_io::proc_own("net/dev");
    let devices = read_io::read_text(&file).map_err(|e| {
        not_private(format!(
            "probe: read {}: {}",
            file.display(),
            describe_io(&e)
        ))
    })?;
    match first_foreign_device(&devices) {
        None => Ok(()),
        Some(name) => Err(not_private(format!(
            "probe: this network namespace is not the process's own: it has {}; --private-network is for services with \
             PrivateNetwork=yes",
            escape(name.as_bytes())
        ))),
    }
}

/// Creates devices. Returns why those over IPv6 are not possible, if they are not.
pub(super) fn build(
    requests: &Requests,
    steps: &[(u32, Step)],
) -> Result<Option<Inconclusive>, Inconclusive> {
    let mut unusable = None;
    for (seq, answer) in exchange(NlFamily::Route, requests, Step::Netlink)? {
        let step = steps.iter().find(|(s, _)| *s == seq);
        let step = step.map_or(Step::Netlink, |(_, step)| *step);
        if let Err(errno) = answer {
            note(&mut unusable, step, errno)?;
        }
    }
    Ok(unusable)
}

/// Installs NAT for both families. Stores the first failure over IPv6 in `unusable`.
fn install_nat(unusable: &mut Option<Inconclusive>) -> Result<(), Inconclusive> {
    for family in [Family::Ipv4, Family::Ipv6] {
        let step = Step::Nat(family);
        let answers = exchange(NlFamily::Netfilter, &plan::nat(family), step)?;
        if let Some(errno) = answers.into_iter().find_map(|(_, answer)| answer.err()) {
            note(unusable, step, errno)?;
        }
    }
    Ok(())
}

/// A failure is an error, unless only IPv6 needs the step.
fn note(unusable: &mut Option<Inconclusive>, step: Step, errno: Errno) -> Result<(), Inconclusive> {
    let reason = step.failed(errno);
    if step.family() == Some(Family::Ipv6) {
        unusable.get_or_insert(reason);
        Ok(())
    } else {
        Err(reason)
    }
}

/// Sends requests through a socket of this thread's namespace.
fn exchange(
    family: NlFamily,
    requests: &Requests,
    step: Step,
) -> Result<Vec<Answer>, Inconclusive> {
    Netlink::open(family)
        .and_then(|mut socket| socket.send_all(requests))
        .map_err(|errno| step.failed(errno))
}

/// Turns `tx-checksum-ip-generic` on or off, and checks the result. Uses the oldest ethtool command, which every kernel
/// has. On a VXLAN device it changes no other feature.
pub(super) fn switch(
    socket: &ioctl_io::Socket,
    device: &str,
    on: bool,
) -> Result<(), Inconclusive> {
    let fail = |errno: Errno| Inconclusive {
        text: format!(
            "probe: {device}: switch checksum offload: {}",
            describe_errno(errno)
        ),
        ..Step::Offload.failed(errno)
    };
    let name = IfName::new(device.as_bytes()).ok_or_else(|| fail(Errno::INVAL))?;
    socket
        .ethtool_value(&name, ETHTOOL_STXCSUM, on.into())
        .map_err(fail)?;
    let active = socket
        .ethtool_value(&name, ETHTOOL_GTXCSUM, 0)
        .map_err(fail)?;
    if (active != 0) == on {
        return Ok(());
    }
    Err(Inconclusive {
        code: Cause::FeatureStuck,
        text: format!(
            "probe: {device}: checksum offload does not turn {}",
            if on { "on" } else { "off" }
        ),
    })
}

/// Sends every packet of these cases that can be sent. Returns the sockets, because closing them resets half-open
/// connections.
fn send_all(udp: &UdpSocket, cases: &mut [Case]) -> Vec<OwnedFd> {
    let mut connections = Vec::new();
    for case in cases {
        let Observed::Missing(Inconclusive {
            code: Cause::NoPacket,
            ..
        }) = case.observed
        else {
            continue;
        };
        let to = plan::destination(case);
        let sent = match case.inner {
            InnerProtocol::Udp => udp.send_to(b"vxcsum probe", to).map(|_| ()),
            InnerProtocol::Tcp => syn(to, &mut connections).map_err(io::Error::from),
        };
        if let Err(error) = sent {
            case.observed = Observed::Missing(Inconclusive {
                code: Cause::NoPacket,
                text: format!("probe: send a packet: {}", describe_io(&error)),
            });
        }
    }
    connections
}

fn syn(to: SocketAddrV4, connections: &mut Vec<OwnedFd>) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {
            connections.push(socket);
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// Fills in observations until every sent packet has arrived or the deadline is over.
fn collect(capture: &Capture, cases: &mut [Case], deadline: Instant) -> Result<(), Inconclusive> {
    let mut open = cases.iter().filter(|c| awaited(c)).count();
    if open == 0 {
        return Ok(());
    }
    capture.frames(deadline, |parsed, bytes| {
        let owner = cases.iter_mut().find(|c| plan::is_of(c, parsed));
        if let Some(case) = owner.filter(|c| awaited(c)) {
            case.observed = observe(case.family, parsed, bytes);
            open -= 1;
        }
        open > 0
    })
}

fn awaited(case: &Case) -> bool {
    matches!(&case.observed, Observed::Missing(reason) if reason.code == Cause::NoPacket)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

pub(super) fn timeout() -> Inconclusive {
    Inconclusive {
        code: Cause::Timeout,
        text: "probe: out of time before the kernel had answered".to_owned(),
    }
}
