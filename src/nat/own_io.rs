//! Makes, reads and removes vxcsum's own table of `nf_tables` in this thread's network namespace.
//!
//! Owns the requests and the look at what came of them. `nat::nft::own` says what is in the table. No other program is run.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use neli::consts::socket::NlFamily;
use rustix::io::Errno;

use super::nft::own::{self, Packets};
use super::nft::{self, Get, Ruleset};
use super::read_io::Dumps;
use crate::fault::{Fault, Malformed};
use crate::netlink::DumpError;
use crate::netlink::requests::Requests;
use crate::netlink::socket_io::Netlink;

/// The table as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnTable {
    /// There is none, or this kernel has no `nf_tables`.
    Absent,
    /// It is as vxcsum makes it, for these packets.
    Made(Packets),
    /// There is one of this name that is not, so that nothing is known of what it does.
    Changed,
}

/// Reads it.
///
/// # Errors
/// The kernel refuses, or it changed while it was read.
pub fn read() -> Result<OwnTable, Fault> {
    // None there, no netfilter, or nobody who answers for this subsystem.
    let absent = [
        Errno::NOENT,
        Errno::PROTONOSUPPORT,
        Errno::INVAL,
        Errno::OPNOTSUPP,
    ];
    match try_read() {
        Err(e) if absent.iter().any(|code| e.is(*code)) => Ok(OwnTable::Absent),
        other => other.map_err(|e| {
            let operation = format!("read nf_tables table {}", own::TEXT);
            e.fault(operation, "the rules changed while they were read")
        }),
    }
}

fn try_read() -> Result<OwnTable, DumpError> {
    let mut dumps = Dumps::open()?;
    let mut rules = Ruleset::default();
    let mut objects = None;
    dumps.one(
        |w, seq| nft::table_request(w, seq, (own::FAMILY, own::NAME)),
        |m| {
            objects = nft::objects(m)?;
            rules.add(Get::Tables, m)
        },
    )?;
    let chain = dumps.one(
        |w, seq| nft::chain_request(w, seq, (own::FAMILY, own::NAME, own::CHAIN)),
        |m| rules.add(Get::Chains, m),
    );
    match chain {
        Err(e) if e.is(Errno::NOENT) => {
            return Ok(OwnTable::Changed);
        }
        other => other?,
    }
    // One that is dormant is not there for packets.
    let Some(of) = rules.begin_rules(0, 0) else {
        return Ok(OwnTable::Changed);
    };
    dumps.dump(
        |w, seq| nft::chain_rules_request(w, seq, (own::FAMILY, own::NAME, own::CHAIN)),
        |m| rules.add_rule_of(&of, m),
    )?;
    if dumps.interrupted {
        return Err(DumpError::Interrupted);
    }
    let [table] = <[_; 1]>::try_from(rules.finish()).map_err(|_| Malformed("table"))?;
    // Its one chain is all that is in it.
    let made = own::recognise(&table).filter(|_| objects == Some(1));
    Ok(made.map_or(OwnTable::Changed, OwnTable::Made))
}

/// Makes the table for these packets in one step, or removes it if there are none, and reads back what came of it.
///
/// # Errors
/// The kernel refuses, or the table is not as it was made: then nothing is known of it.
pub fn set(packets: &Packets) -> Result<(), Fault> {
    let (requests, verb, wanted) = if packets.is_empty() {
        (own::remove(), "remove", OwnTable::Absent)
    } else {
        (
            own::replace(packets),
            "make",
            OwnTable::Made(packets.clone()),
        )
    };
    let operation = format!("{verb} nf_tables table {}", own::TEXT);
    send(&requests).map_err(|e| Fault::kernel(&*operation, e, None))?;
    let found = read()?;
    if found == wanted {
        return Ok(());
    }
    let text = "the kernel accepted it and the table is not as it was made";
    Err(Fault::other(operation, text).advise("see whether another program changes it: nft monitor"))
}

fn send(requests: &Requests) -> Result<(), Errno> {
    let answers = Netlink::open(NlFamily::Netfilter)?.send_all(requests)?;
    answers.into_iter().try_for_each(|(_, answer)| answer)
}
