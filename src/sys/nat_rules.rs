//! Reads the rules of this thread's network namespace: `nf_tables` by netlink, iptables-legacy by getsockopt, ipsets by netlink.
//!
//! Owns the sockets and the retries. Judges nothing. Of iptables-legacy it asks only for tables that are there already: asking
//! for another would create it. A part that cannot be read is data in the result.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::ioctl::get_option;
use crate::exposure::rules::{Expr, Family, IpSet, Match, NatRules, Table, Unread};
use crate::wire::nft::{self, Get, Ruleset};
use crate::wire::{self, DumpError, DumpReader, Malformed, Message, xt};

/// How often a read is tried again that others disturb by changing the rules.
const ATTEMPTS: u32 = 5;
/// A netlink message of a dump is at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Why one part of the rules could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// A call failed.
    Io(io::Error),
    /// The kernel's answer made no sense.
    Malformed(Malformed),
    /// It changed during every attempt.
    Changing,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => match e.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::PERM | Errno::ACCESS) => {
                    write!(f, "not permitted (needs CAP_NET_ADMIN)")
                }
                _ => write!(f, "{e}"),
            },
            Self::Malformed(e) => write!(f, "{e}"),
            Self::Changing => write!(f, "the rules changed during each of {ATTEMPTS} reads"),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Malformed> for ReadError {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

impl ReadError {
    fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Io(e) if e.raw_os_error() == Some(errno.raw_os_error()))
    }
}

/// Reads everything; what cannot be read is named in the result.
pub fn read() -> NatRules {
    let mut rules = NatRules::default();
    let mut part = |what: String, result: Result<Vec<Table>, ReadError>| match result {
        Ok(tables) => rules.tables.extend(tables),
        Err(e) => rules.unread.push(Unread {
            what,
            why: e.to_string(),
        }),
    };
    part("nf_tables".into(), retry(nf_tables));
    for (family, names) in [
        (Family::Ip, "ip_tables_names"),
        (Family::Ip6, "ip6_tables_names"),
    ] {
        match legacy_names(names) {
            Ok(names) => {
                for name in names {
                    let what = format!(
                        "legacy {} table {}",
                        family.word(),
                        crate::facts::escape(&name)
                    );
                    part(what, retry(|| Ok(legacy(family, &name)?.map(|t| vec![t]))));
                }
            }
            Err(e) => part(names.into(), Err(e)),
        }
    }
    let asks = rules
        .tables
        .iter()
        .flat_map(|t| &t.chains)
        .flat_map(|c| &c.rules)
        .any(|r| {
            r.exprs
                .iter()
                .any(|e| matches!(e, Expr::Match(Match::Set { .. })))
        });
    if asks && let Ok(sets) = retry(ipsets) {
        rules.ipsets = sets;
        rules.ipsets_known = true;
    }
    rules
}

/// None asks for another attempt.
fn retry<T>(mut read: impl FnMut() -> Result<Option<T>, ReadError>) -> Result<T, ReadError> {
    for _ in 0..ATTEMPTS {
        if let Some(done) = read()? {
            return Ok(done);
        }
    }
    Err(ReadError::Changing)
}

struct Netlink {
    socket: NlSocket,
    seq: u32,
    buffer: Vec<u8>,
    interrupted: bool,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let socket = NlSocket::connect(NlFamily::Netfilter, None, Groups::empty())?;
        Ok(Self {
            socket,
            seq: 0,
            buffer: vec![0; BUFFER],
            interrupted: false,
        })
    }

    /// Sends one request and gives every message of the answer to `each`, up to its end.
    fn ask(
        &mut self,
        request: impl FnOnce(u32) -> Vec<u8>,
        mut each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), ReadError> {
        self.seq += 1;
        let request = request(self.seq);
        let flags = u16::from_ne_bytes([request[6], request[7]]);
        let dump = flags & wire::NLM_F_DUMP == wire::NLM_F_DUMP;
        self.socket.send(&request, Msg::empty())?;
        let mut reader = DumpReader::new(self.seq);
        let errno = |e: wire::KernelError| ReadError::from(io::Error::from_raw_os_error(e.errno));
        loop {
            let (len, _) = self.socket.recv(&mut self.buffer[..], Msg::empty())?;
            let datagram = &self.buffer[..len];
            if dump {
                match reader.feed(datagram, |m| each(&m)) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(DumpError::Interrupted) => {
                        self.interrupted = true;
                        return Ok(());
                    }
                    Err(DumpError::Malformed(e)) => return Err(e.into()),
                    Err(DumpError::Kernel(e)) => return Err(errno(e)),
                }
                continue;
            }
            for message in wire::messages(datagram) {
                let message = message?;
                if message.seq != self.seq {
                    continue;
                }
                return if wire::is_acknowledgement(&message) {
                    wire::acknowledgement(&message)?.map_err(errno)
                } else {
                    Ok(each(&message)?)
                };
            }
        }
    }

    fn generation(&mut self) -> Result<u32, ReadError> {
        let mut out = 0;
        self.ask(
            |seq| nft::request(Get::Generation, seq),
            |m| {
                out = nft::generation(m)?;
                Ok(())
            },
        )?;
        Ok(out)
    }
}

/// All tables of `nf_tables` but dormant ones; none of them if the kernel has none.
fn nf_tables() -> Result<Option<Vec<Table>>, ReadError> {
    let mut nl = match Netlink::open() {
        Ok(nl) => nl,
        Err(e) if e.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => {
            return Ok(Some(Vec::new()));
        }
        Err(e) => return Err(e.into()),
    };
    let before = match nl.generation() {
        // Nobody answers for this subsystem.
        Err(e) if e.is(Errno::INVAL) || e.is(Errno::OPNOTSUPP) => return Ok(Some(Vec::new())),
        other => other?,
    };
    let mut rules = Ruleset::default();
    for get in [Get::Tables, Get::Chains, Get::Sets, Get::Rules] {
        nl.ask(|seq| nft::request(get, seq), |m| rules.add(get, m))?;
    }
    for wanted in rules.wanted() {
        rules.begin_elements(&wanted);
        let (family, table) = (wanted.key.family, &wanted.key.name);
        let done = nl.ask(
            |seq| nft::elements_request(family, table, &wanted.name, seq),
            |m| rules.add_elements(&wanted, m),
        );
        match done {
            // Gone since: the analysis treats it as not known.
            Err(ReadError::Io(_)) => rules.forget_elements(&wanted),
            other => other?,
        }
    }
    let same = !nl.interrupted && nl.generation()? == before;
    Ok(same.then(|| rules.finish()))
}

/// The legacy tables that this namespace has.
fn legacy_names(file: &str) -> Result<Vec<Vec<u8>>, ReadError> {
    let read = |dir: &str| std::fs::read(format!("/proc/{dir}/net/{file}"));
    // Kernels before 3.17 have no thread-self.
    let names = match read("thread-self") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => read("self"),
        other => other,
    };
    match names {
        Ok(text) => Ok(text
            .split(|&b| b == b'\n')
            .filter(|n| !n.is_empty())
            .map(<[u8]>::to_vec)
            .collect()),
        // No such module, so no such table.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

/// One legacy table; none if it changed meanwhile.
fn legacy(family: Family, name: &[u8]) -> Result<Option<Table>, ReadError> {
    const GET_INFO: i32 = 64;
    const GET_ENTRIES: i32 = 65;
    let (domain, level) = if family == Family::Ip6 {
        (AddressFamily::INET6, 41)
    } else {
        (AddressFamily::INET, 0)
    };
    let socket = socket_with(domain, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)?;
    let mut info = vec![0; xt::INFO_LEN];
    let n = name.len().min(xt::TABLE_NAME - 1);
    info[..n].copy_from_slice(&name[..n]);
    get_option(socket.as_fd(), level, GET_INFO, &mut info).map_err(io::Error::from)?;
    let info = xt::decode_info(&info)?;
    let mut entries = xt::entries_request(name, &info);
    let read = get_option(socket.as_fd(), level, GET_ENTRIES, &mut entries);
    match read.map_err(|e| ReadError::Io(e.into())) {
        // The size is no longer what it was.
        Err(e) if e.is(Errno::AGAIN) || e.is(Errno::INVAL) => return Ok(None),
        other => other?,
    }
    Ok(Some(xt::decode_table(
        family,
        name,
        &info,
        &entries[xt::ENTRIES_HEADER..],
    )?))
}

fn ipsets() -> Result<Option<Vec<IpSet>>, ReadError> {
    let mut nl = Netlink::open()?;
    let mut out: Vec<IpSet> = Vec::new();
    nl.ask(
        |seq| nft::request(Get::IpSets, seq),
        |m| {
            let set = nft::sets::ipset(m)?;
            match out.iter_mut().find(|s| s.name == set.name) {
                Some(known) => known.members.extend(set.members),
                None => out.push(set),
            }
            Ok(())
        },
    )?;
    Ok((!nl.interrupted).then_some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_read_is_tried_again_but_not_for_ever() {
        for (calm_after, reads, done) in [(0, 1, true), (4, 5, true), (5, 5, false)] {
            let mut count = 0;
            let result = retry(|| {
                count += 1;
                Ok((count > calm_after).then_some(()))
            });
            assert_eq!((count, result.is_ok()), (reads, done));
        }
        let error = retry::<()>(|| Ok(None)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the rules changed during each of 5 reads"
        );
    }

    #[test]
    fn an_error_says_what_to_do() {
        for (errno, text) in [
            (Errno::PERM, "not permitted (needs CAP_NET_ADMIN)"),
            (Errno::ACCESS, "not permitted (needs CAP_NET_ADMIN)"),
            (Errno::NOMEM, "Cannot allocate memory (os error 12)"),
        ] {
            assert_eq!(ReadError::Io(errno.into()).to_string(), text);
        }
    }
}
