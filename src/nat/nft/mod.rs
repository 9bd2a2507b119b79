//! The messages of `nf_tables` and `ipset` netlink: dump requests out, tables, chains, rules, sets and members in.
//!
//! Owns the layout of these messages. What it does not know in a rule becomes `Maybe` or `Opaque`, never an error: a newer kernel
//! must not make the analysis blind. May not do I/O; never panics, whatever the bytes are.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nf_tables.h>
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/ipset/ip_set.h>

pub mod expr;
mod ruleset;
pub mod sets;
#[cfg(test)]
mod tests;

pub use ruleset::Ruleset;

use crate::fault::Malformed;
use crate::nat::rules::{Base, Hook, Reg};
use crate::netlink::{Message, NLM_F_DUMP, Writer, attrs};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWGEN`: the announcement of a new generation.
pub(crate) const NEWGEN: u16 = NFTABLES << 8 | 15;
/// `NFNL_SUBSYS_IPSET`.
const IPSET: u16 = 6;

/// What to ask for: `NFT_MSG_GET*`, and the list of ipsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    /// Tables.
    Tables,
    /// Chains.
    Chains,
    /// Rules.
    Rules,
    /// Sets without their elements.
    Sets,
    /// The generation of the ruleset: it changes with every commit.
    Generation,
    /// Every ipset with its members (`IPSET_CMD_LIST`).
    IpSets,
}

/// Writes one request; a header of nfnetlink is `struct nfgenmsg`.
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

/// One request.
pub fn request(w: &mut Writer, seq: u32, get: Get) {
    let (kind, flags) = match get {
        Get::Tables => (NFTABLES << 8 | 1, NLM_F_DUMP),
        Get::Chains => (NFTABLES << 8 | 4, NLM_F_DUMP),
        Get::Rules => (NFTABLES << 8 | 7, NLM_F_DUMP),
        Get::Sets => (NFTABLES << 8 | 0xa, NLM_F_DUMP),
        Get::Generation => (NFTABLES << 8 | 16, 0),
        Get::IpSets => {
            // Protocol 7 is what makes the kernel (4.20) tell each set's number.
            let head = (IPSET << 8 | 7, NLM_F_DUMP, seq);
            return write(w, head, 2, |w| w.put(1, &[7]));
        }
    };
    write(w, (kind, flags, seq), 0, |_| {});
}

/// The request for the elements of one set: its family, its table and its name.
pub fn elements_request(w: &mut Writer, seq: u32, (family, table, set): (u8, &[u8], &[u8])) {
    write(w, (NFTABLES << 8 | 0xd, NLM_F_DUMP, seq), family, |w| {
        w.put_string(1, table);
        w.put_string(2, set);
    });
}

impl<'a> Message<'a> {
    /// The `nfgenmsg` family and the attributes after it.
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

/// Attributes by number: those below `N`.
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

    pub(super) fn bytes(&self, n: usize) -> Option<&'a [u8]> {
        self.0.get(n).copied().flatten()
    }

    /// A string, with or without its NUL.
    pub(super) fn name(&self, n: usize) -> Option<&'a [u8]> {
        let b = self.bytes(n)?;
        Some(&b[..b.iter().position(|&c| c == 0).unwrap_or(b.len())])
    }

    pub(super) fn be32(&self, n: usize) -> Option<u32> {
        self.bytes(n).and_then(u32_ne).map(u32::from_be)
    }

    pub(super) fn be16(&self, n: usize) -> Option<u16> {
        Some(u16::from_be_bytes(
            self.bytes(n)?.get(..2)?.try_into().ok()?,
        ))
    }

    pub(super) fn byte(&self, n: usize) -> Option<u8> {
        self.bytes(n)?.first().copied()
    }

    /// A register as an offset into the register bytes.
    pub(super) fn reg(&self, n: usize) -> Option<Reg> {
        match self.be32(n)? {
            r @ 1..=4 => u8::try_from((r - 1) * 16).ok(),
            r @ 8..=23 => u8::try_from((r - 8) * 4).ok(),
            _ => None,
        }
    }

    /// The value in a nested `NFTA_DATA_VALUE`.
    pub(super) fn value(&self, n: usize) -> Option<Box<[u8]>> {
        let inner = Fields::<3>::read(self.bytes(n)?).ok()?;
        Some(inner.bytes(1)?.into())
    }
}

/// A table: its family and name, and whether it is dormant (`NFT_TABLE_F_DORMANT`: no packet sees it).
pub fn table(msg: &Message<'_>) -> Result<(u8, Box<[u8]>, bool), Malformed> {
    let (family, rest) = msg.body()?;
    let f = Fields::<8>::read(rest)?;
    let name = f.name(1).ok_or(Malformed("table"))?;
    Ok((family, name.into(), f.be32(2).is_some_and(|n| n & 1 != 0)))
}

/// Which table something belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableKey {
    /// `NFPROTO_*`.
    pub family: u8,
    /// Its name.
    pub name: Box<[u8]>,
}

/// A chain without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// The table it is in.
    pub key: TableKey,
    /// Its name.
    pub name: Box<[u8]>,
    /// Where it is hooked in.
    pub base: Option<Base>,
    /// Into which devices, as [`crate::nat::rules::Chain`] has them.
    pub devices: Box<[Box<[u8]>]>,
}

/// A chain.
pub fn chain(msg: &Message<'_>) -> Result<ChainHead, Malformed> {
    const BAD: Malformed = Malformed("chain");
    let (family, rest) = msg.body()?;
    let f = Fields::<13>::read(rest)?;
    let mut devices = Vec::new();
    let base = match f.bytes(4) {
        None => None,
        Some(hook) => {
            let h = Fields::<5>::read(hook)?;
            let hook = match (family, h.be32(1).ok_or(BAD)?) {
                (1 | 2 | 10, n) => Hook::from_number(n),
                // NFPROTO_NETDEV at NF_NETDEV_EGRESS.
                (5, 1) => Hook::Egress,
                _ => Hook::Other,
            };
            devices = hook_devices(&h)?;
            Some(Base {
                hook,
                priority: h.be32(2).ok_or(BAD)?.cast_signed(),
                nat: f.name(7) == Some(b"nat"),
                drops: f.be32(5) == Some(0),
            })
        }
    };
    let name = f.name(1).ok_or(BAD)?.into();
    Ok(ChainHead {
        key: TableKey { family, name },
        name: f.name(3).ok_or(BAD)?.into(),
        base,
        devices: devices.into(),
    })
}

/// The devices of a hook: one name, or a list of names and of first parts of names.
fn hook_devices(hook: &Fields<'_, 5>) -> Result<Vec<Box<[u8]>>, Malformed> {
    let whole = |name: &[u8]| [name, &[0]].concat().into();
    let mut out: Vec<Box<[u8]>> = hook.name(3).map(whole).into_iter().collect();
    for device in attrs(hook.bytes(4).unwrap_or(&[])) {
        let device = device?;
        let name = device.payload.split(|b| *b == 0).next().unwrap_or_default();
        out.push(match device.kind {
            // NFTA_DEVICE_PREFIX
            2 => name.into(),
            _ => whole(name),
        });
    }
    Ok(out)
}

/// How a rule's names become indices of its table.
pub trait Names {
    /// The chain with this name.
    fn chain(&self, name: &[u8]) -> Option<u32>;
    /// The set with this name.
    fn set(&self, name: &[u8]) -> Option<u32>;
}

/// The generation in the answer to [`Get::Generation`].
pub fn generation(msg: &Message<'_>) -> Result<u32, Malformed> {
    let (_, rest) = msg.body()?;
    Fields::<4>::read(rest)?
        .be32(1)
        .ok_or(Malformed("generation"))
}
