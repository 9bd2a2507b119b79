//! The registers of `nf_tables` during a rule, as far as they are known.
//!
//! Owns the expressions that only fill or compare registers. Pure.

use core::net::IpAddr;

use super::bits::{Byte, Mark, Tri, equal};
use super::packet::Packet;
use super::rules::{Expr, Op, Reg, Source};
use super::state::PathState;
use super::uapi::NFT_META_MARK;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Unknown,
    /// (mark & and) ^ xor, by registers of four bytes.
    Mark(u32, u32),
    Loaded(Source),
}

pub(super) struct Registers {
    bytes: [Byte; 64],
    origin: [Origin; 16],
}

impl Registers {
    pub(super) fn new() -> Self {
        Self {
            bytes: [Byte::ANY; 64],
            origin: [Origin::Unknown; 16],
        }
    }

    fn span(reg: Reg, len: usize) -> std::ops::Range<usize> {
        let from = usize::from(reg).min(64);
        from..(from + len).min(64)
    }

    pub(super) fn get(&self, reg: Reg, len: usize) -> &[Byte] {
        &self.bytes[Self::span(reg, len)]
    }

    /// Makes room for a value and returns its bytes. Everything known about these registers is discarded.
    pub(super) fn set(&mut self, reg: Reg, len: usize, origin: Origin) -> &mut [Byte] {
        let span = Self::span(reg, len.next_multiple_of(4));
        self.bytes[span.clone()].fill(Byte::ANY);
        for (n, r) in self.origin[span.start / 4..span.end.div_ceil(4)]
            .iter_mut()
            .enumerate()
        {
            *r = if n == 0 { origin } else { Origin::Unknown };
        }
        &mut self.bytes[Self::span(reg, len)]
    }

    pub(super) fn origin(&self, reg: Reg) -> Origin {
        self.origin
            .get(usize::from(reg) / 4)
            .copied()
            .filter(|_| reg.is_multiple_of(4))
            .unwrap_or(Origin::Unknown)
    }

    /// The mark changed: a copy of the mark in a register is a copy of the old mark from now on.
    pub(super) fn forget_mark(&mut self) {
        for o in &mut self.origin {
            if matches!(o, Origin::Mark(..)) {
                *o = Origin::Unknown;
            }
        }
    }

    /// The mark in four bytes of registers, if the mark of the packet is `now`.
    pub(super) fn as_mark(&self, reg: Reg, now: Mark) -> Mark {
        if let Origin::Mark(and, xor) = self.origin(reg) {
            return now.and_xor(and, xor);
        }
        let b = self.get(reg, 4);
        match <[Byte; 4]>::try_from(b) {
            Ok(b) => Mark {
                known: u32::from_ne_bytes(b.map(|b| b.known)),
                value: u32::from_ne_bytes(b.map(|b| b.value)),
            },
            Err(_) => Mark::ANY,
        }
    }

    pub(super) fn address(&self, reg: Reg, v6: bool) -> Option<IpAddr> {
        let exact = |b: &Byte| (b.known == 255).then_some(b.value);
        let bytes: Option<Vec<u8>> = self
            .get(reg, if v6 { 16 } else { 4 })
            .iter()
            .map(exact)
            .collect();
        let bytes = bytes?;
        if v6 {
            Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
        } else {
            Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?))
        }
    }
}

pub(super) fn word(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.try_into().ok()?))
}

pub(super) fn compare(bytes: &[Byte], op: Op, data: &[u8]) -> Tri {
    match op {
        Op::Eq => equal(bytes, data),
        Op::Ne => equal(bytes, data).flip(true),
        _ => {
            let exact: Option<Vec<u8>> = bytes
                .iter()
                .map(|b| (b.known == 255).then_some(b.value))
                .collect();
            match exact {
                Some(v) if v.len() == data.len() => Tri::known(match op {
                    Op::Lt => v[..] < *data,
                    Op::Le => v[..] <= *data,
                    Op::Gt => v[..] > *data,
                    _ => v[..] >= *data,
                }),
                _ => Tri::Maybe,
            }
        }
    }
}

pub(super) fn load(
    regs: &mut Registers,
    packet: &Packet<'_>,
    s: PathState,
    to: Reg,
    source: Source,
    len: u8,
) {
    if source == Source::Meta(NFT_META_MARK) {
        let slot = regs.set(to, 4, Origin::Mark(u32::MAX, 0));
        for (n, b) in slot.iter_mut().enumerate() {
            *b = Byte {
                known: s.mark.known.to_ne_bytes()[n],
                value: s.mark.value.to_ne_bytes()[n],
            };
        }
    } else {
        let slot = regs.set(to, usize::from(len), Origin::Loaded(source));
        packet.load(source, !s.untracked, slot);
    }
}

/// Runs an expression that only fills registers.
pub(super) fn fill(regs: &mut Registers, packet: &Packet<'_>, s: PathState, e: &Expr) {
    match e {
        Expr::Load { to, source, len } => load(regs, packet, s, *to, *source, *len),
        Expr::Immediate { to, data } => {
            let slot = regs.set(*to, data.len(), Origin::Unknown);
            for (b, &v) in slot.iter_mut().zip(data) {
                *b = Byte::exact(v);
            }
        }
        Expr::Bitwise {
            from,
            to,
            mask,
            xor,
        } => bitwise(regs, *from, *to, mask, xor),
        _ => {}
    }
}

pub(super) fn bitwise(regs: &mut Registers, from: Reg, to: Reg, mask: &[u8], xor: &[u8]) {
    let origin = match (regs.origin(from), word(mask), word(xor)) {
        (Origin::Mark(and, old), Some(m), Some(x)) => Origin::Mark(and & m, (old & m) ^ x),
        _ => Origin::Unknown,
    };
    let input = regs.get(from, mask.len().min(xor.len())).to_vec();
    let slot = regs.set(to, input.len(), origin);
    for (((b, i), &m), &x) in slot.iter_mut().zip(input).zip(mask).zip(xor) {
        *b = i.and_xor(m, x);
    }
}
