//! Creates, reads and removes vxcsum's own table of `nf_tables` in this thread's network namespace.
//!
//! Owns the requests and the check of the result. `nat::nft::own` defines the contents. Runs no other program.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use neli::consts::socket::NlFamily;
use rustix::io::Errno;

use super::nft::own::{self, OwnTable, Packets};
use super::nft::{self, Get, Ruleset};
use super::read_io::{Dumps, retry};
use crate::fault::{Fault, Malformed};
use crate::netlink::DumpError;
use crate::netlink::requests::Requests;
use crate::netlink::socket_io::Netlink;

/// Looks before a table counts as changed by another program.
const LOOKS: usize = 3;

/// # Errors
/// The kernel refuses, or the table changed during the read.
pub fn read() -> Result<OwnTable, Fault> {
    // The kernel counts the objects of a batch before it commits the batch: a look in between sees too few or too many.
    for _ in 1..LOOKS {
        match read_once()? {
            OwnTable::Changed => std::thread::sleep(std::time::Duration::from_millis(1)),
            found => return Ok(found),
        }
    }
    read_once()
}

fn read_once() -> Result<OwnTable, Fault> {
    // No netfilter, or no such subsystem.
    let absent = [Errno::PROTONOSUPPORT, Errno::INVAL, Errno::OPNOTSUPP];
    match retry(try_read) {
        Err(e) if absent.iter().any(|code| e.is(*code)) => Ok(OwnTable::Absent),
        other => other.map_err(|e| {
            let operation = format!("read nf_tables table {}", own::TEXT);
            e.fault(operation, "the rules changed while they were read")
        }),
    }
}

/// `None` means: retry, because the rules changed during the read.
fn try_read() -> Result<Option<OwnTable>, DumpError> {
    let mut dumps = Dumps::open()?;
    let before = dumps.generation()?;
    let found = match find(&mut dumps) {
        Err(e) if e.is(Errno::NOENT) => OwnTable::Absent,
        other => other?,
    };
    let same = !dumps.interrupted && dumps.generation()? == before;
    Ok(same.then_some(found))
}

fn find(dumps: &mut Dumps) -> Result<OwnTable, DumpError> {
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
    // A dormant table does not affect packets.
    let Some(of) = rules.begin_rules(0, 0) else {
        return Ok(OwnTable::Changed);
    };
    dumps.dump(
        |w, seq| nft::chain_rules_request(w, seq, (own::FAMILY, own::NAME, own::CHAIN)),
        |m| rules.add_rule_of(&of, m),
    )?;
    let [table] = <[_; 1]>::try_from(rules.finish()).map_err(|_| Malformed("table"))?;
    // The table has nothing besides its one chain.
    let made = own::recognise(&table).filter(|_| objects == Some(1));
    Ok(made.map_or(OwnTable::Changed, OwnTable::Made))
}

/// Creates the table for these packets in one step, or removes it if there are no packets, and reads the result back.
///
/// # Errors
/// The kernel refuses, or the table differs from the request: then its state is not known.
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
