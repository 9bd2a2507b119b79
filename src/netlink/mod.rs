//! Netlink messages and attributes as bytes.
//!
//! Owns the framing that every netlink family shares: message headers, attributes, acknowledgements, the rules of a
//! dump. Pure. Reading borrows from the receive buffer and never allocates, because a dump of a thousand devices holds
//! tens of thousands of attributes.

pub(crate) mod filter;
pub(crate) mod requests;
pub(crate) mod socket_io;

use rustix::io::Errno;

use crate::fault::{Fault, KernelError, Malformed};

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netlink.h#L54>
pub const NLM_F_REQUEST: u16 = 0x01;
/// Ask for an acknowledgement.
pub const NLM_F_ACK: u16 = 0x04;
/// The objects changed during the dump, so the answers are not one consistent state.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub const NLM_F_DUMP: u16 = 0x300;
/// Fail if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Create the object if it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// Add the object at the end of a list.
pub const NLM_F_APPEND: u16 = 0x800;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLMSG_HDRLEN: usize = 16;
const NLA_HDRLEN: usize = 4;
/// The attribute holds attributes.
pub const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// A netlink message without its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: the number of the request that this message answers.
    pub seq: u32,
    /// The bytes after the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram. Stops after the first malformed message.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split_message(rest);
        rest = message.map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message))
    })
}

fn split_message(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), Malformed> {
    let bad = Malformed("netlink message");
    let len = get_u32(bytes, 0).ok_or(bad)? as usize;
    let payload = bytes.get(NLMSG_HDRLEN..len).ok_or(bad)?;
    let field = |at| get_u16(bytes, at).ok_or(bad);
    let message = Message {
        kind: field(4)?,
        flags: field(6)?,
        seq: get_u32(bytes, 8).ok_or(bad)?,
        payload,
    };
    Ok((message, bytes.get(align(len)..).unwrap_or_default()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<'a> {
    /// `nla_type` without its flags.
    pub kind: u16,
    /// The value. Numbers are in host byte order unless the attribute is documented otherwise.
    pub payload: &'a [u8],
}

/// The attributes in the payload of a message or of a nested attribute. Stops after the first malformed attribute.
pub fn attrs(bytes: &[u8]) -> impl Iterator<Item = Result<Attr<'_>, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let attr = split_attr(rest);
        rest = attr.map_or(&[], |(_, rest)| rest);
        Some(attr.map(|(attr, _)| attr))
    })
}

fn split_attr(bytes: &[u8]) -> Result<(Attr<'_>, &[u8]), Malformed> {
    let bad = Malformed("netlink attribute");
    let len = usize::from(get_u16(bytes, 0).ok_or(bad)?);
    let kind = get_u16(bytes, 2).ok_or(bad)? & NLA_TYPE_MASK;
    let payload = bytes.get(NLA_HDRLEN..len).ok_or(bad)?;
    Ok((
        Attr { kind, payload },
        bytes.get(align(len)..).unwrap_or_default(),
    ))
}

impl<'a> Attr<'a> {
    /// # Errors
    /// The value is shorter than the number.
    pub fn u8(&self) -> Result<u8, Malformed> {
        self.payload
            .first()
            .copied()
            .ok_or(Malformed("8-bit attribute"))
    }

    /// # Errors
    /// The value is shorter than the number.
    pub fn u16(&self) -> Result<u16, Malformed> {
        get_u16(self.payload, 0).ok_or(Malformed("16-bit attribute"))
    }

    /// # Errors
    /// The value is shorter than the number.
    pub fn u32(&self) -> Result<u32, Malformed> {
        get_u32(self.payload, 0).ok_or(Malformed("32-bit attribute"))
    }

    /// A string without its NUL.
    pub fn string(&self) -> &'a [u8] {
        until_nul(self.payload)
    }

    /// The attributes nested in this one.
    pub fn nested(&self) -> impl Iterator<Item = Result<Attr<'a>, Malformed>> + use<'a> {
        attrs(self.payload)
    }
}

/// The part of a fixed-size or NUL-terminated text before its first NUL.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// The number at this byte offset, in host byte order.
pub fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_ne_bytes)
}

/// The number at this byte offset, in host byte order.
pub fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_ne_bytes)
}

/// Reads a `NLMSG_ERROR` message. The inner `Ok` is an acknowledgement.
///
/// # Errors
/// Malformed bytes.
pub fn acknowledgement(message: &Message<'_>) -> Result<Result<(), KernelError>, Malformed> {
    let bad = Malformed("netlink acknowledgement");
    let code = get_u32(message.payload, 0).ok_or(bad)?.cast_signed();
    if code == 0 {
        return Ok(Ok(()));
    }
    // The header of the request follows the code. The rest of the request follows too, unless NETLINK_CAP_ACK cut it
    // off.
    let request = get_u32(message.payload, 4).ok_or(bad)? as usize;
    let echoed = if message.flags & NLM_F_CAPPED == 0 {
        align(request)
    } else {
        NLMSG_HDRLEN
    };
    let tlvs = match message.flags & NLM_F_ACK_TLVS {
        0 => &[],
        _ => message.payload.get(4 + echoed..).ok_or(bad)?,
    };
    Ok(Err(KernelError {
        errno: code.saturating_neg(),
        extack: extack(tlvs)?,
    }))
}

fn extack(tlvs: &[u8]) -> Result<Option<String>, Malformed> {
    for attr in attrs(tlvs) {
        let attr = attr?;
        if attr.kind == NLMSGERR_ATTR_MSG {
            return Ok(Some(crate::text::escape(attr.string())));
        }
    }
    Ok(None)
}

/// How a dump can fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpError {
    Malformed(Malformed),
    /// The kernel refused, at the start or in the middle of the dump, or the socket failed.
    Kernel(KernelError),
    /// `NLM_F_DUMP_INTR`, or messages were lost: repeat the dump.
    Interrupted,
}

impl From<Malformed> for DumpError {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

impl From<Errno> for DumpError {
    fn from(code: Errno) -> Self {
        Self::Kernel(code.into())
    }
}

impl DumpError {
    /// The fault for this operation. `interrupted` is the text if all attempts were interrupted.
    pub fn fault(self, operation: impl Into<String>, interrupted: impl Into<String>) -> Fault {
        match self {
            Self::Malformed(e) => Fault::malformed(operation, e),
            Self::Kernel(e) => Fault::netlink(operation, &e),
            Self::Interrupted => Fault::other(operation, interrupted),
        }
    }

    /// True if this is the errno of the refusal.
    pub fn is(&self, code: Errno) -> bool {
        matches!(self, Self::Kernel(e) if e.code() == code)
    }
}

/// Reads the datagrams that answer one dump request.
#[derive(Debug)]
pub struct DumpReader {
    seq: u32,
    interrupted: bool,
}

impl DumpReader {
    /// Takes the sequence number of the request.
    pub fn new(seq: u32) -> Self {
        Self {
            seq,
            interrupted: false,
        }
    }

    /// Hands each message of a datagram to `each`. True if the dump is complete.
    ///
    /// # Errors
    /// See [`DumpError`]. `Interrupted` comes only at the end of the dump, so the socket is free again.
    pub fn feed<'a>(
        &mut self,
        datagram: &'a [u8],
        mut each: impl FnMut(Message<'a>) -> Result<(), Malformed>,
    ) -> Result<bool, DumpError> {
        for message in messages(datagram) {
            let message = message?;
            if message.seq != self.seq {
                continue;
            }
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_DONE => return self.finish(&message),
                NLMSG_ERROR => match acknowledgement(&message)? {
                    Ok(()) => return Err(Malformed("dump: acknowledged, not answered").into()),
                    Err(e) => return Err(DumpError::Kernel(e)),
                },
                NLMSG_OVERRUN => self.interrupted = true,
                _ => each(message)?,
            }
        }
        Ok(false)
    }

    /// Notes that messages of this dump were lost: it will end as interrupted.
    pub fn lost(&mut self) {
        self.interrupted = true;
    }

    fn finish(&self, done: &Message<'_>) -> Result<bool, DumpError> {
        // Kernels before 4.13 may end a dump without a code.
        let code = get_u32(done.payload, 0).unwrap_or(0).cast_signed();
        if code < 0 {
            let tlvs = if done.flags & NLM_F_ACK_TLVS == 0 {
                &[]
            } else {
                &done.payload[4..]
            };
            return Err(DumpError::Kernel(KernelError {
                errno: code.saturating_neg(),
                extack: extack(tlvs)?,
            }));
        }
        if self.interrupted {
            Err(DumpError::Interrupted)
        } else {
            Ok(true)
        }
    }
}

/// True for a `NLMSG_ERROR`, which also carries acknowledgements.
pub fn is_acknowledgement(message: &Message<'_>) -> bool {
    message.kind == NLMSG_ERROR
}

/// Writes one or more requests into one buffer, as one send carries them.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

/// Where a message or a nested attribute begins. Its length is written when it ends.
#[derive(Debug)]
#[must_use = "a message or nest without an end has no length"]
pub struct Open(usize);

impl Writer {
    /// Everything written since the last `clear`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Discards the bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Begins a message. Adds `NLM_F_REQUEST` to the flags.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, header: &[u8]) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.pad(header);
        open
    }

    pub fn end_message(&mut self, open: &Open) {
        let len =
            u32::try_from(self.bytes.len() - open.0).expect("a request is shorter than 4 GiB");
        self.bytes[open.0..open.0 + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let len =
            u16::try_from(NLA_HDRLEN + value.len()).expect("an attribute is shorter than 64 KiB");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.pad(value);
    }

    /// Writes a string attribute with its NUL.
    pub fn put_string(&mut self, kind: u16, value: &[u8]) {
        let open = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.bytes.push(0);
        self.end(&open);
    }

    /// Begins a nested attribute.
    pub fn nest(&mut self, kind: u16) -> Open {
        self.begin(kind | NLA_F_NESTED)
    }

    /// Writes a nested attribute with what `body` writes.
    pub fn put_nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let open = self.nest(kind);
        body(self);
        self.end(&open);
    }

    /// Writes a header that stands before the attributes inside a nested attribute.
    pub fn header(&mut self, bytes: &[u8]) {
        self.pad(bytes);
    }

    /// Ends a nested attribute or a string.
    pub fn end(&mut self, open: &Open) {
        let len =
            u16::try_from(self.bytes.len() - open.0).expect("an attribute is shorter than 64 KiB");
        self.bytes[open.0..open.0 + 2].copy_from_slice(&len.to_ne_bytes());
        self.pad(&[]);
    }

    fn begin(&mut self, kind: u16) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        open
    }

    fn pad(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests;
