//! Rules of `nf_tables` and their expressions.
//!
//! Owns the translation of each expression into the model. Unknown expressions become `Maybe` or `Opaque`. Pure.

use super::{Fields, Message, Names, TableKey, attrs};
use crate::fault::Malformed;
use crate::nat::rules::{
    Expr, MapTo, NatKind, NatRegs, Op, Queue, Reg, Rule, Source, TableFamily, Verdict,
};
#[allow(clippy::wildcard_imports)] // The kernel's names, dozens of them.
use crate::nat::uapi::*;
use crate::nat::xt;

/// The attributes of one expression.
type Attributes<'a> = Fields<'a, 12>;

/// The table and the chain of a rule. They are needed to decode it with the names of its table.
pub fn rule_place<'a>(msg: &Message<'a>) -> Result<(TableKey, &'a [u8]), Malformed> {
    let (family, body) = msg.body()?;
    let f = Fields::<4>::read(body)?;
    match (f.name(NFTA_RULE_TABLE), f.name(NFTA_RULE_CHAIN)) {
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

pub fn rule(msg: &Message<'_>, names: &impl Names) -> Result<Rule, Malformed> {
    let (family, body) = msg.body()?;
    let f = Fields::<8>::read(body)?;
    let mut exprs = Vec::new();
    for elem in attrs(f.bytes(NFTA_RULE_EXPRESSIONS).unwrap_or(&[])) {
        let e = Fields::<3>::read(elem?.payload)?;
        let name = e.name(NFTA_EXPR_NAME).ok_or(Malformed("expression"))?;
        exprs.push(expr(
            name,
            e.bytes(NFTA_EXPR_DATA).unwrap_or(&[]),
            family,
            names,
        )?);
    }
    Ok(Rule {
        exprs: exprs.into(),
        comment: f.bytes(NFTA_RULE_USERDATA).and_then(comment),
    })
}

/// The comment that nft(8) stores with a rule: type, length, value. Type 0 is the comment.
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

/// Decodes one expression. An expression with a missing part is opaque.
fn expr(name: &[u8], data: &[u8], family: u8, names: &impl Names) -> Result<Expr, Malformed> {
    let f = Attributes::read(data)?;
    Ok(known_expr(name, &f, family, names)
        .unwrap_or_else(|| Expr::Opaque(String::from_utf8_lossy(name).into())))
}

fn known_expr(name: &[u8], f: &Attributes<'_>, family: u8, names: &impl Names) -> Option<Expr> {
    let word = || Box::<str>::from(String::from_utf8_lossy(name));
    Some(match name {
        b"immediate" => immediate(f, names)?,
        b"cmp" => compare(f)?,
        b"range" => range(f)?,
        b"bitwise" => bitwise(f)?,
        b"byteorder" => Expr::Load {
            to: f.reg(NFTA_BYTEORDER_DREG)?,
            source: Source::Other("byteorder"),
            len: u8::try_from(f.be32(NFTA_BYTEORDER_LEN)?).ok()?,
        },
        b"meta" => meta(f)?,
        b"ct" => ct(f)?,
        b"payload" => payload(f)?,
        b"fib" => fib(f)?,
        b"lookup" => lookup(f, names)?,
        b"masq" | b"redir" | b"nat" => Expr::NatRegs(nat(name, f, family)?),
        b"match" => {
            let (name, revision, data) = extension(f)?;
            Expr::Match(xt::decode_match(name, revision, data))
        }
        b"target" => {
            let (name, revision, data) = extension(f)?;
            xt::decode_target(name, revision, data, TableFamily::from_nfproto(family))
        }
        b"notrack" => Expr::Untrack,
        b"reject" => Expr::Verdict(Verdict::Drop),
        b"queue" => Expr::Verdict(Verdict::Queue(queue(f))),
        b"counter" | b"log" | b"last" => Expr::Neutral(word()),
        b"dup" => Expr::Copy(word()),
        // Packets in the flow table pass no chain after this one, and keep the mark that they have here.
        b"flow_offload" => Expr::Neutral("flow add".into()),
        b"fwd" => Expr::Forward(word()),
        b"dynset" => Expr::UpdateSet {
            set: names.set(f.name(NFTA_DYNSET_SET_NAME)?),
        },
        b"limit" | b"quota" | b"connlimit" | b"numgen" | b"hash" | b"rt" | b"socket" | b"osf"
        | b"exthdr" | b"xfrm" | b"tunnel" | b"objref" | b"synproxy" | b"inner" | b"tproxy" => {
            Expr::Maybe(word())
        }
        _ => return None,
    })
}

/// A constant or a verdict.
fn immediate(f: &Attributes<'_>, names: &impl Names) -> Option<Expr> {
    let data = Fields::<3>::read(f.bytes(NFTA_IMMEDIATE_DATA)?).ok()?;
    Some(match data.bytes(NFTA_DATA_VERDICT) {
        Some(v) => Expr::Verdict(verdict(v, names)?),
        None => Expr::Immediate {
            to: f.reg(NFTA_IMMEDIATE_DREG)?,
            data: data.bytes(NFTA_DATA_VALUE)?.into(),
        },
    })
}

fn compare(f: &Attributes<'_>) -> Option<Expr> {
    // In the order of `enum nft_cmp_ops`.
    let ops = [Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge];
    Some(Expr::Compare {
        from: f.reg(NFTA_CMP_SREG)?,
        op: ops.get(f.be32(NFTA_CMP_OP)? as usize).copied()?,
        data: f.value(NFTA_CMP_DATA)?,
    })
}

fn range(f: &Attributes<'_>) -> Option<Expr> {
    Some(Expr::Range {
        from: f.reg(NFTA_RANGE_SREG)?,
        invert: f.be32(NFTA_RANGE_OP)? == NFT_RANGE_NEQ,
        low: f.value(NFTA_RANGE_FROM_DATA)?,
        high: f.value(NFTA_RANGE_TO_DATA)?,
    })
}

/// Does not decode shifts and operations on two registers.
fn bitwise(f: &Attributes<'_>) -> Option<Expr> {
    let to = f.reg(NFTA_BITWISE_DREG)?;
    Some(match f.be32(NFTA_BITWISE_OP) {
        None | Some(NFT_BITWISE_MASK_XOR) => Expr::Bitwise {
            from: f.reg(NFTA_BITWISE_SREG)?,
            to,
            mask: f.value(NFTA_BITWISE_MASK)?,
            xor: f.value(NFTA_BITWISE_XOR)?,
        },
        Some(_) => Expr::Load {
            to,
            source: Source::Other("shift"),
            len: u8::try_from(f.be32(NFTA_BITWISE_LEN)?).ok()?,
        },
    })
}

fn meta(f: &Attributes<'_>) -> Option<Expr> {
    let key = f.be32(NFTA_META_KEY)?;
    Some(match (f.reg(NFTA_META_DREG), f.reg(NFTA_META_SREG)) {
        (Some(to), _) => Expr::Load {
            to,
            source: Source::Meta(key),
            len: meta_len(key),
        },
        (None, Some(from)) if key == NFT_META_MARK => Expr::SetMark { from },
        (None, Some(_)) => Expr::Neutral("meta set".into()),
        (None, None) => return None,
    })
}

/// The number of bytes that the kernel loads for a key.
fn meta_len(key: u32) -> u8 {
    match key {
        NFT_META_PROTOCOL
        | NFT_META_IIFTYPE
        | NFT_META_OIFTYPE
        | NFT_META_BRI_IIFPVID
        | NFT_META_BRI_IIFVPROTO => 2,
        NFT_META_NFPROTO | NFT_META_L4PROTO | NFT_META_PKTTYPE => 1,
        NFT_META_IIFNAME | NFT_META_OIFNAME | NFT_META_BRI_IIFNAME | NFT_META_BRI_OIFNAME
        | NFT_META_IIFKIND | NFT_META_OIFKIND | NFT_META_SDIFNAME => 16,
        NFT_META_TIME_NS => 8,
        NFT_META_BRI_IIFHWADDR => 6,
        _ => 4,
    }
}

fn ct(f: &Attributes<'_>) -> Option<Expr> {
    let key = f.be32(NFTA_CT_KEY)?;
    Some(match (f.reg(NFTA_CT_DREG), f.reg(NFTA_CT_SREG)) {
        (Some(to), _) => Expr::Load {
            to,
            source: Source::Ct(key),
            len: 16,
        },
        (None, Some(from)) if key == NFT_CT_MARK => Expr::SetConnmark { from },
        (None, Some(_)) if key == NFT_CT_ZONE => Expr::Template,
        (None, Some(_)) => Expr::Neutral("ct set".into()),
        (None, None) => return None,
    })
}

fn payload(f: &Attributes<'_>) -> Option<Expr> {
    let base = f.be32(NFTA_PAYLOAD_BASE)?;
    let Some(to) = f.reg(NFTA_PAYLOAD_DREG) else {
        // Without this flag, no UDP checksum covers the written bytes of the network header.
        let covered =
            f.be32(NFTA_PAYLOAD_CSUM_FLAGS).unwrap_or(0) & NFT_PAYLOAD_L4CSUM_PSEUDOHDR != 0;
        let harmless = match base {
            NFT_PAYLOAD_LL_HEADER => true,
            NFT_PAYLOAD_NETWORK_HEADER => !covered,
            _ => false,
        };
        return Some(if harmless {
            Expr::Neutral("payload set".into())
        } else {
            Expr::Write("payload set".into())
        });
    };
    let at = u16::try_from(f.be32(NFTA_PAYLOAD_OFFSET)?).ok()?;
    Some(Expr::Load {
        to,
        source: match base {
            NFT_PAYLOAD_NETWORK_HEADER => Source::Network(at),
            NFT_PAYLOAD_TRANSPORT_HEADER => Source::Transport(at),
            NFT_PAYLOAD_LL_HEADER => Source::Other("ether"),
            _ => Source::Other("payload"),
        },
        len: u8::try_from(f.be32(NFTA_PAYLOAD_LEN)?).ok()?,
    })
}

fn fib(f: &Attributes<'_>) -> Option<Expr> {
    Some(Expr::Load {
        to: f.reg(NFTA_FIB_DREG)?,
        // An address type without a limit to an interface or a mark.
        source: match (f.be32(NFTA_FIB_RESULT)?, f.be32(NFTA_FIB_FLAGS)?) {
            (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR) => Source::FibSaddrType,
            (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR) => Source::FibDaddrType,
            _ => Source::Other("fib"),
        },
        len: 16,
    })
}

fn lookup(f: &Attributes<'_>, names: &impl Names) -> Option<Expr> {
    let flags = f.be32(NFTA_LOOKUP_FLAGS).unwrap_or(0);
    Some(Expr::Lookup {
        from: f.reg(NFTA_LOOKUP_SREG)?,
        set: names.set(f.name(NFTA_LOOKUP_SET)?),
        to: match f.bytes(NFTA_LOOKUP_DREG) {
            None => MapTo::Nothing,
            Some(_) => f.reg(NFTA_LOOKUP_DREG).map_or(MapTo::Verdict, MapTo::Reg),
        },
        invert: flags & NFT_LOOKUP_F_INV != 0,
    })
}

/// `masq`, `redir` or `nat`.
fn nat(name: &[u8], f: &Attributes<'_>, family: u8) -> Option<NatRegs> {
    let pair = |low, high| f.reg(low).map(|low: Reg| (low, f.reg(high).unwrap_or(low)));
    Some(match name {
        b"masq" => NatRegs {
            kind: NatKind::Masquerade,
            flags: f.be32(NFTA_MASQ_FLAGS).unwrap_or(0),
            family,
            address: None,
            port: pair(NFTA_MASQ_REG_PROTO_MIN, NFTA_MASQ_REG_PROTO_MAX),
        },
        b"redir" => NatRegs {
            kind: NatKind::Redirect,
            flags: f.be32(NFTA_REDIR_FLAGS).unwrap_or(0),
            family,
            address: None,
            port: pair(NFTA_REDIR_REG_PROTO_MIN, NFTA_REDIR_REG_PROTO_MAX),
        },
        _ => NatRegs {
            kind: match f.be32(NFTA_NAT_TYPE)? {
                NFT_NAT_SNAT => NatKind::Snat,
                _ => NatKind::Dnat,
            },
            flags: f.be32(NFTA_NAT_FLAGS).unwrap_or(0),
            family: u8::try_from(f.be32(NFTA_NAT_FAMILY)?).ok()?,
            address: pair(NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_ADDR_MAX),
            port: pair(NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX),
        },
    })
}

/// The name, the revision and the data of a match or target of xtables.
fn extension<'a>(f: &Attributes<'a>) -> Option<(&'a [u8], u8, &'a [u8])> {
    Some((
        f.name(NFTA_MATCH_NAME)?,
        u8::try_from(f.be32(NFTA_MATCH_REV)?).ok()?,
        f.bytes(NFTA_MATCH_INFO)?,
    ))
}

pub(super) fn verdict(data: &[u8], names: &impl Names) -> Option<Verdict> {
    let v = Fields::<4>::read(data).ok()?;
    let to = || names.chain(v.name(NFTA_VERDICT_CHAIN)?);
    let code = v.be32(NFTA_VERDICT_CODE)?;
    Some(match code.cast_signed() {
        NFT_RETURN => Verdict::Return,
        NFT_JUMP => Verdict::Jump(to()?),
        NFT_GOTO => Verdict::Goto(to()?),
        NFT_CONTINUE | NFT_BREAK => Verdict::Continue,
        _ => match code & NF_VERDICT_MASK {
            NF_ACCEPT => Verdict::Accept,
            NF_QUEUE => Verdict::Queue(None),
            _ => Verdict::Drop,
        },
    })
}

/// The queues of nft's `queue`. `None` if a register holds the number.
fn queue(f: &Attributes<'_>) -> Option<Queue> {
    let first = f.be16(NFTA_QUEUE_NUM)?;
    let total = f.be16(NFTA_QUEUE_TOTAL).unwrap_or(1);
    let flags = f.be16(NFTA_QUEUE_FLAGS).unwrap_or(0);
    Some(Queue {
        first,
        last: first.saturating_add(total.saturating_sub(1)),
        bypass: flags & NFQ_FLAG_BYPASS != 0,
        fanout: flags & NFQ_FLAG_CPU_FANOUT != 0,
    })
}
