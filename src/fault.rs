//! A request that failed: what was tried, on what, what the kernel said, and what to do.
//!
//! Owns the names of the errno values that users meet here, and the advice for them. Pure. A failure of one device is
//! data; `error::Error` means that the command could do nothing.

use std::fmt;
use std::ops::{Deref, DerefMut};

use rustix::io::Errno;
use serde::Serialize;

/// Bytes that do not follow the kernel's protocol. Holds the name of the message or structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.0)
    }
}

/// A refusal by the kernel, from a `NLMSG_ERROR` message or the end of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// Positive.
    pub errno: i32,
    /// The message of the extended acknowledgement. `None` if the kernel sent no message.
    pub extack: Option<String>,
}

/// A failed system call, which has no extended acknowledgement.
impl From<Errno> for KernelError {
    fn from(code: Errno) -> Self {
        Self {
            errno: code.raw_os_error(),
            extack: None,
        }
    }
}

impl KernelError {
    /// `EIO` for a number that no kernel uses and rustix does not accept.
    pub fn code(&self) -> Errno {
        if (1..4096).contains(&self.errno) {
            Errno::from_raw_os_error(self.errno)
        } else {
            Errno::IO
        }
    }
}

/// A request that failed, on the heap: a result of each of thousands of devices has room for one, and hardly any has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Fault(Box<Failure>);

/// A request that failed: what was tried, what the kernel said, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Failure {
    /// A verb and its object, such as `set tx-checksum-ip-generic off`.
    pub operation: String,
    /// The name of the errno, such as `EPERM`. Null if the failure does not come from the kernel.
    pub errno: Option<String>,
    /// What the kernel or the decoder said.
    pub text: String,
    /// What to do. Null if there is no advice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    #[serde(skip)]
    code: Option<Errno>,
}

impl Deref for Fault {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl DerefMut for Fault {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.0
    }
}

impl Fault {
    /// A failed system call or a refusal in a netlink answer.
    pub fn kernel(operation: impl Into<String>, code: Errno, extack: Option<&str>) -> Self {
        let description = describe(code);
        Self(Box::new(Failure {
            operation: operation.into(),
            errno: Some(errno_name(code)),
            text: extack.map_or_else(
                || description.clone(),
                |said| format!("{description}: {said}"),
            ),
            advice: advice(code).map(str::to_owned),
            code: Some(code),
        }))
    }

    /// A refusal in a netlink answer.
    pub fn netlink(operation: impl Into<String>, error: &KernelError) -> Self {
        Self::kernel(operation, error.code(), error.extack.as_deref())
    }

    /// An answer that does not follow the protocol.
    pub fn malformed(operation: impl Into<String>, error: Malformed) -> Self {
        Self::other(operation, format!("the kernel answered with a {error}"))
    }

    pub fn other(operation: impl Into<String>, text: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            operation: operation.into(),
            errno: None,
            text: text.into(),
            advice: None,
            code: None,
        }))
    }

    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The errno. `None` if the failure does not come from the kernel.
    pub fn code(&self) -> Option<Errno> {
        self.code
    }

    /// The device does not exist any more, or has another name.
    pub fn gone(&self) -> bool {
        matches!(self.code, Some(Errno::NODEV | Errno::NXIO))
    }

    /// The answer was lost or not understood: the kernel may have carried out the request.
    pub fn lost(&self) -> bool {
        matches!(self.code, None | Some(Errno::NOBUFS | Errno::NOMEM))
    }

    /// The caller lacks CAP_NET_ADMIN.
    pub fn forbidden(&self) -> bool {
        matches!(self.code, Some(Errno::PERM | Errno::ACCESS))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.text)?;
        if let Some(errno) = &self.errno {
            write!(f, " ({errno})")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

/// The system's text for an errno, without its name or number.
fn describe(code: Errno) -> String {
    let text = std::io::Error::from(code).to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The system's text for an errno, and its name: `Operation not permitted (EPERM)`.
pub(crate) fn describe_errno(code: Errno) -> String {
    format!("{} ({})", describe(code), errno_name(code))
}

/// An I/O error as text, with the name of its errno instead of the number that the standard library writes.
pub(crate) fn describe_io(error: &std::io::Error) -> String {
    Errno::from_io_error(error).map_or_else(|| error.to_string(), describe_errno)
}

fn advice(code: Errno) -> Option<&'static str> {
    match code {
        Errno::PERM | Errno::ACCESS => {
            Some("this needs CAP_NET_ADMIN in the network namespace of the device: run it as root")
        }
        Errno::NOBUFS | Errno::NOMEM => {
            Some("the kernel is short of memory for answers: run it again")
        }
        _ => None,
    }
}

/// The name, because people search for `EPERM`, not for `Operation not permitted`.
fn errno_name(code: Errno) -> String {
    let name = match code {
        Errno::PERM => "EPERM",
        Errno::NOENT => "ENOENT",
        Errno::INTR => "EINTR",
        Errno::IO => "EIO",
        Errno::NXIO => "ENXIO",
        Errno::BADF => "EBADF",
        Errno::AGAIN => "EAGAIN",
        Errno::NOMEM => "ENOMEM",
        Errno::ACCESS => "EACCES",
        Errno::FAULT => "EFAULT",
        Errno::BUSY => "EBUSY",
        Errno::EXIST => "EEXIST",
        Errno::NODEV => "ENODEV",
        Errno::NOTDIR => "ENOTDIR",
        Errno::ISDIR => "EISDIR",
        Errno::INVAL => "EINVAL",
        Errno::NFILE => "ENFILE",
        Errno::MFILE => "EMFILE",
        Errno::FBIG => "EFBIG",
        Errno::NOSPC => "ENOSPC",
        Errno::ROFS => "EROFS",
        Errno::PIPE => "EPIPE",
        Errno::RANGE => "ERANGE",
        Errno::NOLCK => "ENOLCK",
        Errno::LOOP => "ELOOP",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NOSYS => "ENOSYS",
        Errno::MSGSIZE => "EMSGSIZE",
        Errno::NOPROTOOPT => "ENOPROTOOPT",
        Errno::PROTONOSUPPORT => "EPROTONOSUPPORT",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::AFNOSUPPORT => "EAFNOSUPPORT",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::NETDOWN => "ENETDOWN",
        Errno::NOBUFS => "ENOBUFS",
        Errno::TIMEDOUT => "ETIMEDOUT",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::DQUOT => "EDQUOT",
        other => return format!("errno {}", other.raw_os_error()),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl schemars::JsonSchema for Fault {
        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Fault".into()
        }

        fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
            Failure::json_schema(generator)
        }
    }

    #[test]
    fn errnos_have_names() {
        let io = std::io::Error::from;
        for (error, text) in [
            (io(Errno::NOSPC), "No space left on device (ENOSPC)"),
            (
                std::io::Error::other("not a regular file"),
                "not a regular file",
            ),
        ] {
            assert_eq!(describe_io(&error), text);
        }
        for (errno, code) in [(19, Errno::NODEV), (0, Errno::IO), (i32::MAX, Errno::IO)] {
            let extack = None;
            assert_eq!(KernelError { errno, extack }.code(), code);
        }
    }
}
