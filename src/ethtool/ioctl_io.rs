//! The SIOCETHTOOL ioctl, names of devices, and the system calls that no crate offers safely.
//!
//! Owns the only `unsafe` code of the project: an ioctl whose argument holds a pointer, socket options and the address
//! of a packet socket, which rustix does not have, leaving the network namespace, and borrowing neli's descriptor. Only
//! the safe functions here call it.
//! The functions for the ioctl take the size of their buffers from `ethtool::structs`, which tests the layouts.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Features, structs};
use crate::fault::Fault;
use crate::netlink::filter::Instruction;
use crate::netlink::until_nul;
use crate::text::IfName;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/sockios.h
const SIOCGIFNAME: Opcode = 0x8910;
const SIOCETHTOOL: Opcode = 0x8946;

/// The ioctls that [`Call`] is sound for.
#[derive(Clone, Copy)]
enum Request {
    Name,
    Ethtool,
}

const IFNAMSIZ: usize = 16;

/// `struct ifreq`. The kernel copies all of it, and its union is as large as `struct ifmap`.
///
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/if.h#L234>
#[repr(C)]
struct Ifreq {
    name: [u8; IFNAMSIZ],
    data: Data,
}

#[repr(C)]
union Data {
    ifindex: i32,
    pointer: *mut c_void,
    ifmap: [u64; 3],
}

impl Ifreq {
    fn new(name: &[u8]) -> Self {
        let mut padded = [0; IFNAMSIZ];
        padded[..name.len()].copy_from_slice(name);
        Self {
            name: padded,
            data: Data { ifmap: [0; 3] },
        }
    }
}

struct Call<'a> {
    request: Request,
    ifreq: &'a mut Ifreq,
}

// SAFETY: for both requests the kernel reads and writes one `struct ifreq`. For SIOCETHTOOL it also accesses the buffer
// behind its pointer, which `Socket::ethtool` keeps borrowed during the call.
unsafe impl Ioctl for Call<'_> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        match self.request {
            Request::Name => SIOCGIFNAME,
            Request::Ethtool => SIOCETHTOOL,
        }
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.ifreq).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// A socket for ioctls on the devices of the network namespace that the thread was in when it opened the socket.
pub struct Socket(OwnedFd);

impl Socket {
    /// AF_UNIX passes device ioctls on in every kernel, also without IPv4. A sandbox already allows this address family
    /// for the log.
    ///
    /// # Errors
    /// The errno of `socket`.
    pub fn open() -> Result<Self, Errno> {
        socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map(Self)
    }

    /// The current name of the device with this ifindex. `ENODEV` if there is no such device.
    ///
    /// # Errors
    /// The errno of the ioctl.
    pub fn name(&self, ifindex: u32) -> Result<IfName, Errno> {
        let mut ifreq = Ifreq::new(b"");
        ifreq.data.ifindex = ifindex.cast_signed();
        self.call(Request::Name, &mut ifreq)?;
        IfName::new(until_nul(&ifreq.name)).ok_or(Errno::NODEV)
    }

    /// The driver of a device, as `ethtool -i` prints it. `None` if it has no driver.
    ///
    /// # Errors
    /// The errno of the ioctl.
    pub fn driver(&self, name: &IfName) -> Result<Option<String>, Errno> {
        let mut buffer = structs::drvinfo_request();
        self.ethtool(name, &mut buffer)?;
        Ok(structs::drvinfo_driver(&buffer))
    }

    /// The names of all features. Every device gives the same names.
    ///
    /// # Errors
    /// The errno of the ioctl, or an answer that is malformed.
    pub fn feature_names(&self, operation: &str, name: &IfName) -> Result<Vec<String>, Fault> {
        let refused = |e| Fault::kernel(operation, e, None);
        let malformed = |e| Fault::malformed(operation, e);
        let mut buffer = structs::sset_info_request();
        self.ethtool(name, &mut buffer).map_err(refused)?;
        // The kernel writes all its names and ignores the count in the request. The count is constant while the kernel
        // runs, so the buffer is large enough.
        let mut buffer = structs::gstrings_request(structs::sset_info(&buffer).map_err(malformed)?);
        self.ethtool(name, &mut buffer).map_err(refused)?;
        structs::gstrings(&buffer).map_err(malformed)
    }

    /// The four feature sets of a device. `count` is the number of features in this kernel.
    ///
    /// # Errors
    /// The errno of the ioctl, or an answer that is malformed.
    pub fn features(&self, operation: &str, name: &IfName, count: u32) -> Result<Features, Fault> {
        let mut buffer = structs::gfeatures_request(count);
        self.ethtool(name, &mut buffer)
            .map_err(|e| Fault::kernel(operation, e, None))?;
        structs::gfeatures(&buffer).map_err(|e| Fault::malformed(operation, e))
    }

    /// Sets or clears one feature in the `wanted` set of a device. The caller must read back whether the feature
    /// changed.
    ///
    /// # Errors
    /// The errno of the ioctl.
    pub fn set_feature(
        &self,
        name: &IfName,
        count: u32,
        index: u32,
        wanted: bool,
    ) -> Result<(), Errno> {
        self.ethtool(name, &mut structs::sfeatures_request(count, index, wanted))
            .map(|_| ())
    }

    /// One of the ethtool commands that take a `struct ethtool_value`, such as `ETHTOOL_STXCSUM`. Returns its `data`.
    ///
    /// # Errors
    /// The errno of the ioctl.
    pub fn ethtool_value(&self, name: &IfName, command: u32, data: u32) -> Result<u32, Errno> {
        let mut buffer = structs::value_request(command, data);
        self.ethtool(name, &mut buffer)?;
        Ok(structs::value(buffer))
    }

    fn ethtool(&self, name: &IfName, buffer: &mut [u8]) -> Result<i32, Errno> {
        let mut ifreq = Ifreq::new(name.as_bytes());
        ifreq.data.pointer = buffer.as_mut_ptr().cast();
        self.call(Request::Ethtool, &mut ifreq)
    }

    fn call(&self, request: Request, ifreq: &mut Ifreq) -> Result<i32, Errno> {
        // SAFETY: see `Call`.
        unsafe { ioctl(&self.0, Call { request, ifreq }) }
    }
}

/// Moves the calling thread, and no other, to a new and empty network namespace.
///
/// # Errors
/// The errno of unshare(2): `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` without namespaces in the kernel.
pub fn unshare_network() -> Result<(), Errno> {
    // SAFETY: unsafe only for CLONE_FILES, which is not set.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// The descriptor of a netlink socket, for poll. neli's socket has no `AsFd`.
pub fn borrow(socket: &neli::socket::NlSocket) -> BorrowedFd<'_> {
    // SAFETY: the socket owns the descriptor and is borrowed at least as long.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// `getsockopt` with any level, name and buffer. The kernel reads and writes the buffer.
///
/// # Errors
/// The errno of `getsockopt`.
pub fn get_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    let mut len = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointer is valid for `len` bytes for the length of the call, and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            buffer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    result_of(result)
}

/// `setsockopt` with any level and name, for an option with an `int` value.
///
/// # Errors
/// The errno of `setsockopt`.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(size_of::<i32>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads one `int`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size,
        )
    };
    result_of(result)
}

/// Binds a packet socket to one device and one ethertype (`ETH_P_IP`, ...). 0 is for a socket that only sends.
///
/// # Errors
/// The errno of `bind`: `ENODEV` if there is no such device.
pub fn bind_packet(socket: BorrowedFd<'_>, ifindex: u32, ethertype: u16) -> Result<(), Errno> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(|_| Errno::INVAL)?,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads one `sockaddr_ll` of the given size, which lives until the call returns.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size,
        )
    };
    result_of(result)
}

/// Attaches a classic BPF program: the kernel drops messages that the program does not accept.
///
/// # Errors
/// The errno of `setsockopt`: `EINVAL` for an invalid program.
pub fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> Result<(), Errno> {
    let mut filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter {
            code: i.code,
            jt: i.jt,
            jf: i.jf,
            k: i.k,
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let size =
        libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| Errno::INVAL)?;
    let fprog = libc::sock_fprog {
        len,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads one `sock_fprog` of the given size and `len` instructions behind its pointer. Both live
    // until the call returns, and by then the kernel has copied them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&fprog).cast(),
            size,
        )
    };
    result_of(result)
}

/// The result of a system call that returns 0 or sets `errno`.
fn result_of(result: i32) -> Result<(), Errno> {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
