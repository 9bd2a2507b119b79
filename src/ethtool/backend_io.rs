//! Reading and setting a feature on many devices, through ethtool netlink or the SIOCETHTOOL ioctl.
//!
//! Owns the choice of the backend. Does not decide what to set. Both backends support every operation and return the
//! same results.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use super::ioctl_io::Socket;
use super::{BackendName, Feature, Features, netlink};
use crate::fault::Fault;
use crate::netlink::Message;
use crate::netlink::socket_io::{Answers, Netlink};
use crate::text::IfName;
use neli::consts::socket::NlFamily;
use rustix::io::Errno;

const READ_NAMES: &str = "read the names of the features";
const READ: &str = "read the features";

/// The backend that the command line asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Netlink. The ioctl if the kernel does not have the netlink interface.
    #[default]
    Auto,
    /// This backend, or an error.
    Only(BackendName),
}

/// Above this number of devices, one dump of all devices of the namespace is faster than a request for each device,
/// unless the other devices outnumber them by far. At or below it, requests are fast however many other devices exist.
const DUMP_ABOVE: usize = 256;

/// Ifindex and name, as every request states them. If they do not belong to one device, the answer is `ENODEV`.
pub type DeviceRef<'a> = (u32, &'a IfName);

pub struct Backend(Interface);

enum Interface {
    Netlink { socket: Netlink, family: u16 },
    Ioctl { socket: Socket },
}

impl Backend {
    /// Asks the kernel which interface it has. Never guesses from its version.
    ///
    /// # Errors
    /// The chosen interface is missing, or the kernel refuses. With [`Choice::Auto`], only a missing netlink interface
    /// leads to the ioctl, never a refusal.
    pub fn open(choice: Choice) -> Result<Self, Fault> {
        if choice != Choice::Only(BackendName::Ioctl) {
            if let Some(netlink) = open_netlink()? {
                return Ok(Self(netlink));
            }
            if choice != Choice::Auto {
                let text = "this kernel has no ethtool netlink with features (it came with 5.7)";
                return Err(Fault::other("open ethtool netlink", text)
                    .advise("use --backend ioctl or auto"));
            }
        }
        let socket =
            Socket::open().map_err(|e| Fault::kernel("open a socket for SIOCETHTOOL", e, None))?;
        Ok(Self(Interface::Ioctl { socket }))
    }

    pub fn name(&self) -> BackendName {
        match self.0 {
            Interface::Netlink { .. } => BackendName::Netlink,
            Interface::Ioctl { .. } => BackendName::Ioctl,
        }
    }

    /// The names of all features in the order of their bits. The ioctl needs a device; any device gives the same names.
    ///
    /// # Errors
    /// The kernel refuses, or its answer is malformed.
    pub fn feature_names(&mut self, any: &IfName) -> Result<Vec<String>, Fault> {
        match &mut self.0 {
            Interface::Netlink { socket, family } => {
                let write = |w: &mut _, seq| netlink::get_feature_names(w, *family, seq);
                let names =
                    socket.request(READ_NAMES, write, |m| netlink::feature_names(m).map(Some))?;
                names
                    .map_err(|e| Fault::netlink(READ_NAMES, &e))?
                    .ok_or_else(|| Fault::other(READ_NAMES, "the kernel named none"))
            }
            Interface::Ioctl { socket } => socket.feature_names(READ_NAMES, any),
        }
    }

    /// The features of these devices, in the same order. `count` is the number of features in this kernel.
    pub fn read(&mut self, devices: &[DeviceRef<'_>], count: u32) -> Vec<Result<Features, Fault>> {
        match &mut self.0 {
            Interface::Netlink { socket, family } if devices.len() <= DUMP_ABOVE => {
                let write = |w: &mut _, seq, _, n: usize| {
                    netlink::get_features(w, *family, seq, devices[n]);
                };
                let read = |m: &Message<'_>| {
                    Ok(netlink::features(m, |_, _| true)?.map(|device| device.features))
                };
                let answers = socket.batch(READ, devices.len(), Answers::Each, write, read);
                spread(answers, devices.len(), READ, |answer| {
                    answer.ok_or_else(|| Fault::other(READ, "the kernel gave none"))
                })
            }
            Interface::Netlink { socket, family } => read_by_dump(socket, *family, devices),
            Interface::Ioctl { socket } => devices
                .iter()
                .map(|device| {
                    same_device(socket, *device, READ)?;
                    socket.features(READ, device.1, count)
                })
                .collect(),
        }
    }

    /// Sets or clears the feature `index` (of `count`) in the `wanted` set of these devices. `Ok` means that the kernel
    /// accepted the request, not that the feature changed: read it back.
    pub fn set(
        &mut self,
        devices: &[DeviceRef<'_>],
        feature: Feature,
        (index, count): (u32, u32),
        on: bool,
    ) -> Vec<Result<(), Fault>> {
        let operation = feature.set(on);
        match &mut self.0 {
            Interface::Netlink { socket, family } => {
                let write = |w: &mut _, seq, flags, n: usize| {
                    let device = devices[n];
                    netlink::set_feature(w, *family, (seq, flags), device, feature.as_str(), on);
                };
                let answers = socket.batch(
                    operation,
                    devices.len(),
                    Answers::OnlyRefusals,
                    write,
                    |_| Ok(None::<()>),
                );
                spread(answers, devices.len(), operation, |_| Ok(()))
            }
            Interface::Ioctl { socket } => devices
                .iter()
                .map(|device| {
                    same_device(socket, *device, operation)?;
                    socket
                        .set_feature(device.1, count, index, on)
                        .map_err(|e| Fault::kernel(operation, e, None))
                })
                .collect(),
        }
    }
}

fn read_by_dump(
    socket: &mut Netlink,
    family: u16,
    devices: &[DeviceRef<'_>],
) -> Vec<Result<Features, Fault>> {
    let mut wanted: Vec<(u32, usize)> = (0..devices.len()).map(|n| (devices[n].0, n)).collect();
    wanted.sort_unstable();
    let place = |ifindex| {
        wanted
            .binary_search_by_key(&ifindex, |(own, _)| *own)
            .ok()
            .map(|at| wanted[at].1)
    };
    let dumped = socket.dump(
        READ,
        |w, seq| netlink::dump_features(w, family, seq),
        |m| {
            let is_wanted = |ifindex, name: &[u8]| {
                place(ifindex).is_some_and(|n| devices[n].1.as_bytes() == name)
            };
            let device = netlink::features(m, is_wanted)?;
            Ok(device.and_then(|device| Some((place(device.ifindex)?, device.features))))
        },
    );
    let mut found: Vec<Option<Features>> = vec![None; devices.len()];
    match dumped {
        Ok(dumped) => dumped
            .into_iter()
            .for_each(|(n, features)| found[n] = Some(features)),
        Err(fault) => return vec![Err(fault); devices.len()],
    }
    let gone = || {
        Fault::kernel(
            READ,
            Errno::NODEV,
            Some("deleted or renamed in the meantime"),
        )
    };
    found
        .into_iter()
        .map(|features| features.ok_or_else(gone))
        .collect()
}

fn open_netlink() -> Result<Option<Interface>, Fault> {
    const OPEN: &str = "look up the ethtool netlink family";
    let mut socket = match Netlink::open(NlFamily::Generic) {
        Ok(socket) => socket,
        Err(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => return Ok(None),
        Err(e) => return Err(Fault::kernel(OPEN, e, None)),
    };
    match socket.request(OPEN, netlink::get_family, |m| netlink::family(m).map(Some))? {
        Ok(Some(family)) if family.has_features => Ok(Some(Interface::Netlink {
            socket,
            family: family.id,
        })),
        Ok(_) => Ok(None),
        Err(e) if e.errno == Errno::NOENT.raw_os_error() => Ok(None),
        Err(e) => Err(Fault::netlink(OPEN, &e)),
    }
}

/// The ioctl takes a name. Checks just before the call that the name still belongs to the device.
fn same_device(
    socket: &Socket,
    (ifindex, name): DeviceRef<'_>,
    operation: &str,
) -> Result<(), Fault> {
    let gone = |text: String| Fault::kernel(operation, Errno::NODEV, Some(&text));
    match socket.name(ifindex) {
        Ok(now) if now == *name => Ok(()),
        Ok(now) => Err(gone(format!("ifindex {ifindex} is now called {now}"))),
        Err(Errno::NODEV) => Err(gone(format!("ifindex {ifindex} does not exist any more"))),
        Err(e) => Err(Fault::kernel(operation, e, None)),
    }
}

/// Returns one result for each device: a failure of the socket is a failure of every device.
fn spread<T, U>(
    answers: Result<Vec<Result<Option<T>, crate::fault::KernelError>>, Fault>,
    count: usize,
    operation: &str,
    each: impl Fn(Option<T>) -> Result<U, Fault>,
) -> Vec<Result<U, Fault>> {
    match answers {
        Ok(answers) => answers
            .into_iter()
            .map(|answer| each(answer.map_err(|e| Fault::netlink(operation, &e))?))
            .collect(),
        Err(fault) => (0..count).map(|_| Err(fault.clone())).collect(),
    }
}
