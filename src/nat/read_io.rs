//! Reads the rules of this thread's network namespace: `nf_tables` by netlink, iptables-legacy by getsockopt, ipsets by
//! netlink.
//!
//! Owns the requests and the retries. Decides nothing. Reads only iptables-legacy tables that exist, because the
//! request for another table would create it. A part that cannot be read is data in the result.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use neli::consts::socket::NlFamily;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::nft::{self, Get, Ruleset, SetOf};
use super::rules::{IpSet, NatRules, Table, TableFamily};
use super::xt;
use crate::ethtool::ioctl_io::get_option;
use crate::fault::{Fault, Malformed};
use crate::kernel::read_io::proc_own;
use crate::netlink::socket_io::Netlink;
use crate::netlink::{DumpError, Message, Writer};

/// Attempts when the rules change during a read.
const ATTEMPTS: u32 = 5;

/// Reads everything. The result names the parts that could not be read.
pub fn read() -> NatRules {
    let mut rules = NatRules {
        marks_are_answered: marks_are_answered(),
        ..NatRules::default()
    };
    part(&mut rules, "read nf_tables".into(), retry(nf_tables));
    read_legacy(&mut rules, true);
    if rules.uses_ipsets()
        && let Ok(sets) = retry(ipsets)
    {
        rules.ipsets = sets;
        rules.ipsets_known = true;
        rules.mark_updated_ipsets();
    }
    rules
}

/// True if one of the sysctls is set. The files show the values of this process's network namespace. A file that exists
/// and cannot be read counts as set.
pub(super) fn marks_are_answered() -> bool {
    [
        "ipv4/tcp_fwmark_accept",
        "ipv4/fwmark_reflect",
        "ipv6/fwmark_reflect",
    ]
    .iter()
    .any(
        |name| match std::fs::read_to_string(format!("/proc/sys/net/{name}")) {
            Ok(value) => value.trim() != "0",
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        },
    )
}

/// Modules that TEE and nft's `dup` need to copy packets.
const COPY: [&str; 2] = ["nf_dup_ipv4", "nf_dup_ipv6"];

/// True if the kernel has nothing that copies packets: no such module is loaded, and the files of the kernel show that
/// none is built in. A unit may see only the second kind of file.
pub(super) fn no_copies(root: &Path) -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let files = [
        format!("lib/modules/{release}/modules.builtin"),
        format!("boot/config-{release}"),
    ];
    let mut texts = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(root.join(file)).ok());
    let loaded = match std::fs::read_to_string("/proc/modules") {
        // A kernel without modules.
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(_) => return false,
        Ok(text) => text,
    };
    texts
        .find(|text| !text.is_empty())
        .is_some_and(|built_in| shows_no_copies(&loaded, &built_in))
}

/// Decides with the text of /proc/modules, and of `modules.builtin` or the kernel's configuration.
pub(crate) fn shows_no_copies(loaded: &str, built_in: &str) -> bool {
    let is_loaded = |name: &str| loaded.lines().any(|l| l.split(' ').next() == Some(name));
    let is_built_in = |name: &str| {
        let option = format!("CONFIG_{}=y", name.to_uppercase());
        built_in.contains(&format!("/{name}.ko")) || built_in.lines().any(|l| l == option)
    };
    !COPY.iter().any(|name| is_loaded(name) || is_built_in(name))
}

fn part(rules: &mut NatRules, operation: String, result: Result<Vec<Table>, DumpError>) {
    match result {
        Ok(tables) => rules.tables.extend(tables),
        Err(e) => {
            let changing = format!("the rules changed during each of {ATTEMPTS} reads");
            let mut fault = e.fault(operation, changing);
            // The advice depends on the caller: see `offload::health`.
            fault.advice = None;
            rules.unread.push(fault);
        }
    }
}

const LEGACY: [(TableFamily, &str); 2] = [
    (TableFamily::Ip, "ip_tables_names"),
    (TableFamily::Ip6, "ip6_tables_names"),
];

/// The tables of iptables-legacy: all chains decoded if `whole`, else only the base chains, with the entries to decode
/// the others later.
pub(super) fn read_legacy(rules: &mut NatRules, whole: bool) -> Vec<xt::Entries> {
    let mut out = Vec::new();
    for (family, names) in LEGACY {
        match legacy_names(names) {
            Ok(names) => {
                for name in names {
                    let operation = format!(
                        "read legacy {} table {}",
                        family.word(),
                        crate::text::escape(&name)
                    );
                    let table = retry(|| {
                        let Some((mut table, entries)) = legacy(family, &name)? else {
                            return Ok(None);
                        };
                        if whole {
                            entries.decode_all(&mut table)?;
                        } else {
                            out.push(entries);
                        }
                        Ok(Some(vec![table]))
                    });
                    part(rules, operation, table);
                }
            }
            Err(e) => part(rules, format!("read {names}"), Err(e)),
        }
    }
    out
}

/// True if a table of iptables-legacy exists, or if that is not known.
pub(super) fn has_legacy() -> bool {
    let mut all = LEGACY.iter();
    all.any(|(_, file)| legacy_names(file).map_or(true, |names| !names.is_empty()))
}

/// Repeats a read up to [`ATTEMPTS`] times. `None` means: retry.
pub(super) fn retry<T>(
    mut read: impl FnMut() -> Result<Option<T>, DumpError>,
) -> Result<T, DumpError> {
    for _ in 0..ATTEMPTS {
        if let Some(done) = read()? {
            return Ok(done);
        }
    }
    Err(DumpError::Interrupted)
}

/// Dumps that belong together: if one is interrupted, all are repeated.
pub(super) struct Dumps {
    netlink: Netlink,
    /// One dump was interrupted.
    pub interrupted: bool,
}

impl Dumps {
    pub fn open() -> Result<Self, Errno> {
        let netlink = Netlink::open(NlFamily::Netfilter)?;
        Ok(Self {
            netlink,
            interrupted: false,
        })
    }

    /// Runs one dump and gives every message to `each`.
    pub fn dump(
        &mut self,
        write: impl Fn(&mut Writer, u32),
        mut each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), DumpError> {
        match self.netlink.dump_once(&write, |message| each(&message)) {
            Ok(()) => Ok(()),
            Err(DumpError::Interrupted) => {
                self.interrupted = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Reads one object that may be missing.
    pub fn one(
        &mut self,
        write: impl Fn(&mut Writer, u32),
        mut each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), DumpError> {
        let answer = self
            .netlink
            .request("ask for one thing", write, |m| each(m).map(Some));
        answer
            .map_err(|e| lost(&e))?
            .map_err(DumpError::Kernel)
            .map(|_| ())
    }

    /// The generation of the `nf_tables` rules.
    pub fn generation(&mut self) -> Result<u32, DumpError> {
        const ASK: &str = "ask for the generation of the rules";
        let write = |w: &mut Writer, seq| nft::request(w, seq, Get::Generation);
        let answer = self
            .netlink
            .request(ASK, write, |m| nft::generation(m).map(Some));
        let generation = answer.map_err(|e| lost(&e))?.map_err(DumpError::Kernel)?;
        Ok(generation.ok_or(Malformed("generation of the rules"))?)
    }
}

/// The error of a request without an answer.
fn lost(fault: &Fault) -> DumpError {
    let code = fault.code();
    code.map_or(Malformed("answer").into(), DumpError::from)
}

/// All tables of `nf_tables` except dormant ones. Empty if the kernel has no nf_tables.
fn nf_tables() -> Result<Option<Vec<Table>>, DumpError> {
    let mut dumps = match Dumps::open().map_err(DumpError::from) {
        Err(e) if e.is(Errno::PROTONOSUPPORT) => return Ok(Some(Vec::new())),
        other => other?,
    };
    let before = match dumps.generation() {
        // The kernel has no such subsystem.
        Err(e) if e.is(Errno::INVAL) || e.is(Errno::OPNOTSUPP) => return Ok(Some(Vec::new())),
        other => other?,
    };
    let mut rules = Ruleset::default();
    for get in [Get::Tables, Get::Chains, Get::Sets, Get::Rules] {
        dumps.dump(|w, seq| nft::request(w, seq, get), |m| rules.add(get, m))?;
    }
    for wanted in rules.wanted() {
        elements(&mut dumps, &mut rules, &wanted)?;
    }
    let same = !dumps.interrupted && dumps.generation()? == before;
    let mut tables = rules.finish();
    nft::own::leave_out(&mut tables);
    Ok(same.then_some(tables))
}

/// Reads the elements of a set.
pub(super) fn elements(
    dumps: &mut Dumps,
    rules: &mut Ruleset,
    wanted: &SetOf,
) -> Result<(), DumpError> {
    rules.begin_elements(wanted);
    let (family, table) = (wanted.key.family, &wanted.key.name);
    let done = dumps.dump(
        |w, seq| nft::elements_request(w, seq, (family, table, &wanted.name)),
        |m| rules.add_elements(wanted, m),
    );
    match done {
        // The set was deleted since. The analysis treats it as not known.
        Err(DumpError::Kernel(_)) => {
            rules.forget_elements(wanted);
            Ok(())
        }
        other => other,
    }
}

/// The names of the legacy tables in this namespace.
fn legacy_names(file: &str) -> Result<Vec<Vec<u8>>, DumpError> {
    match std::fs::read(proc_own("net").join(file)) {
        Ok(text) => Ok(text
            .split(|&b| b == b'\n')
            .filter(|n| !n.is_empty())
            .map(<[u8]>::to_vec)
            .collect()),
        // Without the module there is no table.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO).into()),
    }
}

/// Reads one legacy table. `None` if it changed during the read.
fn legacy(family: TableFamily, name: &[u8]) -> Result<Option<(Table, xt::Entries)>, DumpError> {
    const GET_INFO: i32 = 64;
    const GET_ENTRIES: i32 = 65;
    let (domain, level) = if family == TableFamily::Ip6 {
        (AddressFamily::INET6, 41)
    } else {
        (AddressFamily::INET, 0)
    };
    let socket = socket_with(domain, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut info = vec![0; xt::INFO_LEN];
    let n = name.len().min(xt::TABLE_NAME - 1);
    info[..n].copy_from_slice(&name[..n]);
    get_option(socket.as_fd(), level, GET_INFO, &mut info)?;
    let info = xt::decode_info(&info)?;
    let mut entries = xt::entries_request(name, &info);
    let read = get_option(socket.as_fd(), level, GET_ENTRIES, &mut entries);
    match read.map_err(DumpError::from) {
        // The size changed since the first request.
        Err(e) if e.is(Errno::AGAIN) || e.is(Errno::INVAL) => return Ok(None),
        other => other?,
    }
    Ok(Some(xt::open_table(family, name, &info, entries)?))
}

fn ipsets() -> Result<Option<Vec<IpSet>>, DumpError> {
    let mut dumps = Dumps::open()?;
    let mut out: Vec<IpSet> = Vec::new();
    dumps.dump(
        |w, seq| nft::request(w, seq, Get::IpSets),
        |m| nft::sets::add_ipset(&mut out, m),
    )?;
    Ok((!dumps.interrupted).then_some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_read_is_repeated_a_few_times() {
        for (calm_after, reads, done) in [(0, 1, true), (4, 5, true), (5, 5, false)] {
            let mut count = 0;
            let result = retry(|| {
                count += 1;
                Ok((count > calm_after).then_some(()))
            });
            assert_eq!((count, result.is_ok()), (reads, done));
        }
        let error = retry::<()>(|| Ok(None)).unwrap_err();
        assert_eq!(error, DumpError::Interrupted);
    }

    #[test]
    fn modules_that_copy_packets_are_found() {
        let files = "kernel/net/ipv4/tunnel4.ko\n";
        for (loaded, built_in, none) in [
            ("", files, true),
            (
                "nf_nat 65536 1 nft_nat, Live 0x0\n",
                "CONFIG_NF_DUP_IPV4=m\n",
                true,
            ),
            ("nf_dup_ipv4 16384 1 xt_TEE, Live 0x0\n", files, false),
            (
                "x 1 0 - Live 0x0\nnf_dup_ipv6 16384 0 - Live 0x0\n",
                files,
                false,
            ),
            ("", "kernel/net/ipv4/netfilter/nf_dup_ipv4.ko\n", false),
            ("", "# CONFIG_X is not set\nCONFIG_NF_DUP_IPV6=y\n", false),
        ] {
            assert_eq!(
                shows_no_copies(loaded, built_in),
                none,
                "{loaded}{built_in}"
            );
        }
    }
}
