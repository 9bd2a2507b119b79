//! Reads whether this network namespace forwards packets between its devices.
//!
//! Owns the order of the requests. `link::segmentation` decides what follows.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use rustix::io::Errno;

use super::rtnl::{self, AF_INET, AF_INET6};
use crate::netlink::socket_io::{Answers, Netlink};

const READ: &str = "read whether devices forward";
const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

/// True if IPv4 or IPv6 packets that arrive at a device are forwarded. `None` if that could not be read.
///
/// <https://docs.kernel.org/networking/ip-sysctl.html> (`conf/interface/forwarding`)
pub(crate) fn forwards(route: &mut Netlink) -> Option<bool> {
    let write = |w: &mut _, seq, _, n: usize| rtnl::get_settings_of_all(w, seq, FAMILIES[n]);
    let (count, read) = (FAMILIES.len(), rtnl::forwards);
    let all = route.batch(READ, count, Answers::Each, write, read).ok()?;
    // This setting decides on most forwarding nodes.
    if all.contains(&Ok(Some(true))) {
        return Some(true);
    }
    for (family, all) in FAMILIES.into_iter().zip(all) {
        match all {
            // The kernel does not have this family.
            Err(e) if family == AF_INET6 && e.code() == Errno::OPNOTSUPP => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        let dump = |w: &mut _, seq| rtnl::dump_settings(w, seq, family);
        if route.dump(READ, dump, rtnl::forwards).ok()?.contains(&true) {
            return Some(true);
        }
    }
    Some(false)
}
