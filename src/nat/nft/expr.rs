//! Rules of `nf_tables` and their expressions.
//!
//! Owns what each expression means to the model. What is not known becomes `Maybe` or `Opaque`. Pure.

use super::{Fields, Message, Names, TableKey, attrs};
use crate::fault::Malformed;
use crate::nat::rules::{Expr, Family, MapTo, NatKind, NatRegs, Op, Queue, Rule, Source, Verdict};
use crate::nat::uapi::{NFQ_FLAG_BYPASS, NFQ_FLAG_CPU_FANOUT};
use crate::nat::xt;

/// The table and chain of a rule, before it is decoded with that table's names.
pub fn rule_place<'a>(msg: &Message<'a>) -> Result<(TableKey, &'a [u8]), Malformed> {
    let (family, body) = msg.body()?;
    let f = Fields::<4>::read(body)?;
    match (f.name(1), f.name(2)) {
        (Some(table), Some(chain)) => Ok((
            TableKey {
                family,
                name: table.into(),
            },
            chain,
        )),
        _ => Err(Malformed("rule")),
    }
}

/// A rule.
pub fn rule(msg: &Message<'_>, names: &impl Names) -> Result<Rule, Malformed> {
    let (family, body) = msg.body()?;
    let f = Fields::<8>::read(body)?;
    let mut exprs = Vec::new();
    for elem in attrs(f.bytes(4).unwrap_or(&[])) {
        let e = Fields::<3>::read(elem?.payload)?;
        let name = e.name(1).ok_or(Malformed("expression"))?;
        exprs.push(expr(name, e.bytes(2).unwrap_or(&[]), family, names)?);
    }
    Ok(Rule {
        exprs: exprs.into(),
        comment: f.bytes(7).and_then(comment),
    })
}

/// The comment in what nft(8) stores beside a rule: type, length, value; type 0 is the comment.
fn comment(mut b: &[u8]) -> Option<Box<[u8]>> {
    while let [kind, len, rest @ ..] = b {
        let (value, after) = rest.split_at_checked(usize::from(*len))?;
        if *kind == 0 {
            return Some(value.strip_suffix(&[0]).unwrap_or(value).into());
        }
        b = after;
    }
    None
}

/// One expression; what lacks a part is opaque.
fn expr(name: &[u8], data: &[u8], family: u8, names: &impl Names) -> Result<Expr, Malformed> {
    let f = Fields::<12>::read(data)?;
    Ok(known_expr(name, &f, family, names)
        .unwrap_or_else(|| Expr::Opaque(String::from_utf8_lossy(name).into())))
}

fn known_expr(name: &[u8], f: &Fields<'_, 12>, family: u8, names: &impl Names) -> Option<Expr> {
    let word = || Box::<str>::from(String::from_utf8_lossy(name));
    let load = |to, source, len| Some(Expr::Load { to, source, len });
    Some(match name {
        b"immediate" => {
            let d = Fields::<3>::read(f.bytes(2)?).ok()?;
            match d.bytes(2) {
                Some(v) => Expr::Verdict(verdict(v, names)?),
                None => Expr::Immediate {
                    to: f.reg(1)?,
                    data: d.bytes(1)?.into(),
                },
            }
        }
        b"cmp" => Expr::Compare {
            from: f.reg(1)?,
            op: [Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge]
                .get(f.be32(2)? as usize)
                .copied()?,
            data: f.value(3)?,
        },
        b"range" => Expr::Range {
            from: f.reg(1)?,
            invert: f.be32(2)? == 1,
            low: f.value(3)?,
            high: f.value(4)?,
        },
        // NFT_BITWISE_MASK_XOR; shifts and the register forms are not followed.
        b"bitwise" if f.be32(6).unwrap_or(0) == 0 => Expr::Bitwise {
            from: f.reg(1)?,
            to: f.reg(2)?,
            mask: f.value(4)?,
            xor: f.value(5)?,
        },
        b"bitwise" => {
            return load(
                f.reg(2)?,
                Source::Other("shift"),
                u8::try_from(f.be32(3)?).ok()?,
            );
        }
        b"byteorder" => {
            return load(
                f.reg(2)?,
                Source::Other("byteorder"),
                u8::try_from(f.be32(4)?).ok()?,
            );
        }
        b"meta" => match (f.reg(1), f.reg(3)) {
            (Some(to), _) => {
                let key = f.be32(2)?;
                let len = match key {
                    // Protocol and interface type are 16 bits, family, protocol number and packet type 8, names 16 bytes.
                    1 | 8 | 9 | 20 => 2,
                    15 | 16 | 21 => 1,
                    6 | 7 | 17 | 18 | 28 | 29 | 36 => 16,
                    30 | 32 => 8,
                    _ => 4,
                };
                return load(to, Source::Meta(key), len);
            }
            (None, Some(from)) if f.be32(2)? == 3 => Expr::SetMark { from },
            (None, Some(_)) => Expr::Neutral("meta set".into()),
            _ => return None,
        },
        b"ct" => match (f.reg(1), f.reg(4)) {
            (Some(to), _) => return load(to, Source::Ct(f.be32(2)?), 16),
            (None, Some(from)) if f.be32(2)? == 3 => Expr::SetConnmark { from },
            (None, Some(_)) => Expr::Neutral("ct set".into()),
            _ => return None,
        },
        b"payload" => match f.reg(1) {
            Some(to) => {
                let at = u16::try_from(f.be32(3)?).ok()?;
                let source = match f.be32(2)? {
                    1 => Source::Network(at),
                    2 => Source::Transport(at),
                    0 => Source::Other("ether"),
                    _ => Source::Other("payload"),
                };
                return load(to, source, u8::try_from(f.be32(4)?).ok()?);
            }
            // Without NFT_PAYLOAD_L4CSUM_PSEUDOHDR no UDP checksum covers what is written into a network header.
            None if f.be32(2)? == 1 && f.be32(8).unwrap_or(0) & 1 == 0 || f.be32(2)? == 0 => {
                Expr::Neutral("payload set".into())
            }
            None => Expr::Write("payload set".into()),
        },
        b"fib" => {
            let source = match (f.be32(2)?, f.be32(3)?) {
                // An address type, not limited to an interface or a mark.
                (3, 1) => Source::SourceType,
                (3, 2) => Source::DestinationType,
                _ => Source::Other("fib"),
            };
            return load(f.reg(1)?, source, 16);
        }
        b"lookup" => Expr::Lookup {
            from: f.reg(2)?,
            set: names.set(f.name(1)?),
            to: match f.bytes(3) {
                None => MapTo::Nothing,
                Some(_) => f.reg(3).map_or(MapTo::Verdict, MapTo::Reg),
            },
            invert: f.be32(5).is_some_and(|n| n & 1 != 0),
        },
        b"masq" => Expr::NatRegs(NatRegs {
            kind: NatKind::Masquerade,
            flags: f.be32(1).unwrap_or(0),
            family,
            address: None,
            port: f.reg(2).map(|low| (low, f.reg(3).unwrap_or(low))),
        }),
        b"redir" => Expr::NatRegs(NatRegs {
            kind: NatKind::Redirect,
            flags: f.be32(3).unwrap_or(0),
            family,
            address: None,
            port: f.reg(1).map(|low| (low, f.reg(2).unwrap_or(low))),
        }),
        b"nat" => Expr::NatRegs(NatRegs {
            kind: if f.be32(1)? == 0 {
                NatKind::Snat
            } else {
                NatKind::Dnat
            },
            flags: f.be32(7).unwrap_or(0),
            family: u8::try_from(f.be32(2)?).ok()?,
            address: f.reg(3).map(|low| (low, f.reg(4).unwrap_or(low))),
            port: f.reg(5).map(|low| (low, f.reg(6).unwrap_or(low))),
        }),
        b"match" => Expr::Match(xt::decode_match(
            f.name(1)?,
            u8::try_from(f.be32(2)?).ok()?,
            f.bytes(3)?,
        )),
        b"target" => xt::decode_target(
            f.name(1)?,
            u8::try_from(f.be32(2)?).ok()?,
            f.bytes(3)?,
            Family::from_nfproto(family),
        ),
        b"notrack" => Expr::Untrack,
        b"reject" => Expr::Verdict(Verdict::Drop),
        b"queue" => Expr::Verdict(Verdict::Queue(queue(f))),
        b"counter" | b"log" | b"last" | b"dup" => Expr::Neutral(word()),
        // What the flow table forwards passes no other chain, with the mark that it has here.
        b"flow_offload" => Expr::Neutral("flow add".into()),
        b"fwd" => Expr::Forward(word()),
        b"dynset" => Expr::UpdateSet {
            set: names.set(f.name(1)?),
        },
        b"limit" | b"quota" | b"connlimit" | b"numgen" | b"hash" | b"rt" | b"socket" | b"osf"
        | b"exthdr" | b"xfrm" | b"tunnel" | b"objref" | b"synproxy" | b"inner" | b"tproxy" => {
            Expr::Maybe(word())
        }
        _ => return None,
    })
}

pub(super) fn verdict(data: &[u8], names: &impl Names) -> Option<Verdict> {
    let v = Fields::<4>::read(data).ok()?;
    let to = || names.chain(v.name(2)?);
    Some(match v.be32(1)?.cast_signed() {
        1 => Verdict::Accept,
        -5 => Verdict::Return,
        -3 => Verdict::Jump(to()?),
        -4 => Verdict::Goto(to()?),
        -1 | -2 => Verdict::Continue,
        // NF_QUEUE with the number of the queue above it.
        code if code & 0xff == 3 => Verdict::Queue(None),
        _ => Verdict::Drop,
    })
}

/// The queues of nft's `queue`; none if a register has the number.
fn queue(f: &Fields<'_, 12>) -> Option<Queue> {
    let first = f.be16(1)?;
    let total = f.be16(2).unwrap_or(1);
    let flags = f.be16(3).unwrap_or(0);
    Some(Queue {
        first,
        last: first.saturating_add(total.saturating_sub(1)),
        bypass: flags & NFQ_FLAG_BYPASS != 0,
        fanout: flags & NFQ_FLAG_CPU_FANOUT != 0,
    })
}
