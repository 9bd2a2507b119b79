//! Errors that end a command.
//!
//! Owns the error type of the whole program, and the exit codes. Pure. A failure of one device is data (`Fault`);
//! `Error` means that the command could do nothing.

use std::fmt;

use crate::fault::Fault;
use crate::policy::{PolicyErrors, ProblemKind};

/// The exit codes. docs/man/vxcsum.8 lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Nothing failed, and with `--exit-code` nothing is pending.
    Ok = 0,
    /// Changes are pending; only with `--exit-code`.
    Pending = 2,
    /// A device failed, or the command could do nothing.
    Failed = 1,
    /// `EX_USAGE` of sysexits.h.
    Usage = 64,
    /// `EX_NOPERM`.
    Permission = 77,
    /// `EX_CONFIG`.
    Policy = 78,
}

/// Why the command could do nothing.
#[derive(Debug)]
pub enum Error {
    /// The options contradict each other or name something impossible.
    Usage(String),
    /// CAP_NET_ADMIN is missing.
    Permission(String),
    /// The policy is not valid, or could not be read.
    Policy(PolicyErrors),
    /// A `--device` that is not a VXLAN or Geneve device.
    Device(String),
    /// A question to the kernel failed.
    Kernel(Fault),
    /// Reading a file or writing the output failed.
    Io(String),
}

codes! {
    /// Why the command could do nothing, as a stable code.
    pub enum ErrorCode {
        /// The options contradict each other or name something impossible.
        Usage = "usage",
        /// CAP_NET_ADMIN is missing.
        Permission = "permission",
        /// The policy is not valid.
        Policy = "policy",
        /// No VXLAN or Geneve device has this name.
        Device = "device",
        /// A question to the kernel failed.
        Kernel = "kernel",
        /// Reading a file or writing the output failed.
        Io = "io",
    }
}

impl Error {
    /// The stable code in JSON.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Usage(_) => ErrorCode::Usage,
            Self::Permission(_) => ErrorCode::Permission,
            Self::Policy(_) => ErrorCode::Policy,
            Self::Device(_) => ErrorCode::Device,
            Self::Kernel(_) => ErrorCode::Kernel,
            Self::Io(_) => ErrorCode::Io,
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::Permission(_) => ExitCode::Permission,
            Self::Kernel(fault) if fault.forbidden() => ExitCode::Permission,
            Self::Policy(errors) => match errors.kind() {
                ProblemKind::Content | ProblemKind::Missing => ExitCode::Policy,
                ProblemKind::Denied => ExitCode::Permission,
                ProblemKind::Root => ExitCode::Usage,
                ProblemKind::System => ExitCode::Failed,
            },
            Self::Device(_) | Self::Kernel(_) | Self::Io(_) => ExitCode::Failed,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Permission(text) | Self::Device(text) | Self::Io(text) => {
                f.write_str(text)
            }
            Self::Policy(errors) => f.write_str(&errors.render(false)),
            Self::Kernel(fault) => fault.fmt(f),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Kernel(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{KernelError, Malformed};

    #[test]
    fn faults_say_what_was_tried_what_the_kernel_said_and_what_to_do() {
        let e = |errno, extack: Option<&str>| KernelError {
            errno,
            extack: extack.map(str::to_owned),
        };
        for (fault, text) in [
            (
                Fault::netlink(
                    "set tx-checksum-ip-generic off",
                    &e(19, Some("ifindex and name do not match")),
                ),
                "set tx-checksum-ip-generic off: No such device: ifindex and name do not match (ENODEV)",
            ),
            (
                Fault::netlink("set tx-checksum-ip-generic off", &e(1, None)),
                "set tx-checksum-ip-generic off: Operation not permitted (EPERM); this needs CAP_NET_ADMIN in the network \
                 namespace of the device: run it as root",
            ),
            (
                Fault::netlink("list links", &e(523, None)),
                "list links: Unknown error 523 (errno 523)",
            ),
            (
                Fault::malformed("list links", Malformed("netlink attribute")),
                "list links: the kernel answered with a malformed netlink attribute",
            ),
        ] {
            assert_eq!(fault.to_string(), text);
        }
    }
}
