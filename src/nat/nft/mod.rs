//! The messages of `nf_tables` and `ipset` netlink: dump requests out, tables, chains, rules, sets and members in.
//!
//! Owns the layout of these messages. Unknown parts of a rule become `Maybe` or `Opaque`, never an error: a newer
//! kernel must not stop the analysis. Does no I/O and never panics, whatever the bytes are.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nf_tables.h>
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/ipset/ip_set.h>

pub(crate) mod expr;
pub mod own;
mod ruleset;
pub(crate) mod sets;
#[cfg(test)]
mod tests;
pub(crate) mod write;

pub use ruleset::{Ruleset, SetOf};

use crate::fault::Malformed;
use crate::nat::rules::{Base, Hook, Reg};
#[allow(clippy::wildcard_imports)] // The kernel's names, dozens of them.
use crate::nat::uapi::*;
use crate::netlink::{Message, NLM_F_DUMP, Writer, attrs};

const NFTABLES: u16 = NFNL_SUBSYS_NFTABLES << 8;
/// The event for a new generation.
pub(crate) const NEWGEN: u16 = NFTABLES | NFT_MSG_NEWGEN;

/// The object to ask for: `NFT_MSG_GET*`, and the list of ipsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    Tables,
    Chains,
    Rules,
    /// Sets without their elements.
    Sets,
    /// The generation of the ruleset. It changes with every commit.
    Generation,
    /// Every ipset with its members (`IPSET_CMD_LIST`).
    IpSets,
}

/// Writes one request. The header of nfnetlink is `struct nfgenmsg`.
fn write(
    w: &mut Writer,
    (kind, flags, seq): (u16, u16, u32),
    family: u8,
    body: impl FnOnce(&mut Writer),
) {
    let open = w.message(kind, flags, seq, &[family, 0, 0, 0]);
    body(w);
    w.end_message(&open);
}

pub fn request(w: &mut Writer, seq: u32, get: Get) {
    let (kind, flags) = match get {
        Get::Tables => (NFTABLES | NFT_MSG_GETTABLE, NLM_F_DUMP),
        Get::Chains => (NFTABLES | NFT_MSG_GETCHAIN, NLM_F_DUMP),
        Get::Rules => (NFTABLES | NFT_MSG_GETRULE, NLM_F_DUMP),
        Get::Sets => (NFTABLES | NFT_MSG_GETSET, NLM_F_DUMP),
        Get::Generation => (NFTABLES | NFT_MSG_GETGEN, 0),
        Get::IpSets => {
            let head = (NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_LIST, NLM_F_DUMP, seq);
            return write(w, head, NFPROTO_IPV4, |w| {
                w.put(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
            });
        }
    };
    write(w, (kind, flags, seq), 0, |_| {});
}

/// The request for the elements of one set: family, table and name.
pub fn elements_request(w: &mut Writer, seq: u32, (family, table, set): (u8, &[u8], &[u8])) {
    let head = (NFTABLES | NFT_MSG_GETSETELEM, NLM_F_DUMP, seq);
    write(w, head, family, |w| {
        w.put_string(NFTA_SET_ELEM_LIST_TABLE, table);
        w.put_string(NFTA_SET_ELEM_LIST_SET, set);
    });
}

/// The request for the rules of one chain: family, table and name.
pub fn chain_rules_request(w: &mut Writer, seq: u32, (family, table, chain): (u8, &[u8], &[u8])) {
    write(
        w,
        (NFTABLES | NFT_MSG_GETRULE, NLM_F_DUMP, seq),
        family,
        |w| {
            w.put_string(1, table);
            w.put_string(2, chain);
        },
    );
}

/// The request for one table: family and name.
pub fn table_request(w: &mut Writer, seq: u32, (family, table): (u8, &[u8])) {
    write(w, (NFTABLES | NFT_MSG_GETTABLE, 0, seq), family, |w| {
        w.put_string(NFTA_TABLE_NAME, table);
    });
}

/// The request for one chain: family, table and name.
pub fn chain_request(w: &mut Writer, seq: u32, (family, table, chain): (u8, &[u8], &[u8])) {
    write(w, (NFTABLES | NFT_MSG_GETCHAIN, 0, seq), family, |w| {
        w.put_string(NFTA_CHAIN_TABLE, table);
        w.put_string(NFTA_CHAIN_NAME, chain);
    });
}

/// The request for one set without its elements: family, table and name.
pub fn set_request(w: &mut Writer, seq: u32, (family, table, set): (u8, &[u8], &[u8])) {
    write(w, (NFTABLES | NFT_MSG_GETSET, 0, seq), family, |w| {
        w.put_string(1, table);
        w.put_string(2, set);
    });
}

impl<'a> Message<'a> {
    /// The family in `nfgenmsg`, and the attributes after it.
    pub fn body(&self) -> Result<(u8, &'a [u8]), Malformed> {
        match self.payload.split_at_checked(4) {
            Some((head, rest)) => Ok((head[0], rest)),
            None => Err(Malformed("nfnetlink message")),
        }
    }
}

fn u32_ne(b: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(..4)?.try_into().ok()?))
}

/// Attributes by number, for numbers below `N`.
pub(super) struct Fields<'a, const N: usize>([Option<&'a [u8]>; N]);

impl<'a, const N: usize> Fields<'a, N> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut out = [None; N];
        for attr in attrs(bytes) {
            let attr = attr?;
            if let Some(slot) = out.get_mut(usize::from(attr.kind)) {
                *slot = Some(attr.payload);
            }
        }
        Ok(Self(out))
    }

    pub(super) fn bytes(&self, n: u16) -> Option<&'a [u8]> {
        self.0.get(usize::from(n)).copied().flatten()
    }

    /// A string, with or without a trailing NUL.
    pub(super) fn name(&self, n: u16) -> Option<&'a [u8]> {
        let b = self.bytes(n)?;
        Some(&b[..b.iter().position(|&c| c == 0).unwrap_or(b.len())])
    }

    pub(super) fn be32(&self, n: u16) -> Option<u32> {
        self.bytes(n).and_then(u32_ne).map(u32::from_be)
    }

    pub(super) fn be16(&self, n: u16) -> Option<u16> {
        Some(u16::from_be_bytes(
            self.bytes(n)?.get(..2)?.try_into().ok()?,
        ))
    }

    pub(super) fn byte(&self, n: u16) -> Option<u8> {
        self.bytes(n)?.first().copied()
    }

    /// A register as an offset into the bytes of all registers.
    pub(super) fn reg(&self, n: u16) -> Option<Reg> {
        match self.be32(n)? {
            r @ NFT_REG_1..=NFT_REG_4 => u8::try_from((r - NFT_REG_1) * NFT_REG_SIZE).ok(),
            r @ NFT_REG32_00..=NFT_REG32_15 => {
                u8::try_from((r - NFT_REG32_00) * NFT_REG32_SIZE).ok()
            }
            _ => None,
        }
    }

    /// The value in a nested `NFTA_DATA_VALUE`.
    pub(super) fn value(&self, n: u16) -> Option<Box<[u8]>> {
        let inner = Fields::<3>::read(self.bytes(n)?).ok()?;
        Some(inner.bytes(NFTA_DATA_VALUE)?.into())
    }
}

/// A table without its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHead {
    pub key: TableKey,
    /// No packet passes the table (`NFT_TABLE_F_DORMANT`).
    pub dormant: bool,
    /// See [`crate::nat::rules::Table::goes_unannounced`].
    pub goes_unannounced: bool,
}

pub fn table(msg: &Message<'_>) -> Result<TableHead, Malformed> {
    let (family, rest) = msg.body()?;
    let f = Fields::<8>::read(rest)?;
    let name = f.name(NFTA_TABLE_NAME).ok_or(Malformed("table"))?.into();
    let flags = f.be32(NFTA_TABLE_FLAGS).unwrap_or(0);
    Ok(TableHead {
        key: TableKey { family, name },
        dormant: flags & NFT_TABLE_F_DORMANT != 0,
        goes_unannounced: flags & (NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST) == NFT_TABLE_F_OWNER,
    })
}

/// The number of chains, sets and other objects in a table.
pub fn objects(msg: &Message<'_>) -> Result<Option<u32>, Malformed> {
    let (_, rest) = msg.body()?;
    Ok(Fields::<8>::read(rest)?.be32(NFTA_TABLE_USE))
}

/// The table of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableKey {
    /// `NFPROTO_*`.
    pub family: u8,
    pub name: Box<[u8]>,
}

/// A chain without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    pub key: TableKey,
    pub name: Box<[u8]>,
    /// The hook. `None` if only other chains call the chain.
    pub base: Option<Base>,
    /// The devices of the hook, as in [`crate::nat::rules::Chain`].
    pub devices: Box<[Box<[u8]>]>,
}

/// True if a hook calls the chain.
pub fn is_base(msg: &Message<'_>) -> Result<bool, Malformed> {
    let (_, rest) = msg.body()?;
    Ok(Fields::<5>::read(rest)?.bytes(NFTA_CHAIN_HOOK).is_some())
}

pub fn chain(msg: &Message<'_>) -> Result<ChainHead, Malformed> {
    const BAD: Malformed = Malformed("chain");
    let (family, rest) = msg.body()?;
    let f = Fields::<13>::read(rest)?;
    let mut devices = Vec::new();
    let base = match f.bytes(NFTA_CHAIN_HOOK) {
        None => None,
        Some(hook) => {
            let h = Fields::<5>::read(hook)?;
            let hook = match (family, h.be32(NFTA_HOOK_HOOKNUM).ok_or(BAD)?) {
                (NFPROTO_INET | NFPROTO_IPV4 | NFPROTO_IPV6, n) => Hook::from_number(n),
                (NFPROTO_NETDEV, NF_NETDEV_EGRESS) => Hook::Egress,
                _ => Hook::Other,
            };
            devices = hook_devices(&h)?;
            Some(Base {
                hook,
                priority: h.be32(NFTA_HOOK_PRIORITY).ok_or(BAD)?.cast_signed(),
                nat: f.name(NFTA_CHAIN_TYPE) == Some(b"nat"),
                drops: f.be32(NFTA_CHAIN_POLICY) == Some(NF_DROP),
            })
        }
    };
    let name = f.name(NFTA_CHAIN_TABLE).ok_or(BAD)?.into();
    Ok(ChainHead {
        key: TableKey { family, name },
        name: f.name(NFTA_CHAIN_NAME).ok_or(BAD)?.into(),
        base,
        devices: devices.into(),
    })
}

/// The devices of a hook: one name, or a list of names and beginnings of names.
fn hook_devices(hook: &Fields<'_, 5>) -> Result<Vec<Box<[u8]>>, Malformed> {
    let whole = |name: &[u8]| [name, &[0]].concat().into();
    let mut out: Vec<Box<[u8]>> = hook.name(NFTA_HOOK_DEV).map(whole).into_iter().collect();
    for device in attrs(hook.bytes(NFTA_HOOK_DEVS).unwrap_or(&[])) {
        let device = device?;
        let name = device.payload.split(|b| *b == 0).next().unwrap_or_default();
        out.push(match device.kind {
            NFTA_DEVICE_PREFIX => name.into(),
            _ => whole(name),
        });
    }
    Ok(out)
}

/// Translates names in a rule into indices of the table.
pub trait Names {
    fn chain(&self, name: &[u8]) -> Option<u32>;
    fn set(&self, name: &[u8]) -> Option<u32>;
}

/// The generation in the answer to [`Get::Generation`].
pub fn generation(msg: &Message<'_>) -> Result<u32, Malformed> {
    let (_, rest) = msg.body()?;
    Fields::<4>::read(rest)?
        .be32(NFTA_GEN_ID)
        .ok_or(Malformed("generation"))
}
