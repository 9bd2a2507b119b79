//! Requests that are numbered and sent together, and their acknowledgements.
//!
//! Owns the numbering. Pure: sends nothing.

use rustix::io::Errno;

use super::{NLM_F_ACK, Writer, acknowledgement, is_acknowledgement};

/// Netlink messages for one send. Sequence numbers count from 1.
#[derive(Debug, Default)]
pub struct Requests {
    writer: Writer,
    /// The sequence numbers that the kernel must acknowledge, in order.
    pub acks: Vec<u32>,
    last_seq: u32,
}

impl Requests {
    pub fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// Appends one message and returns its sequence number.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Writer),
    ) -> u32 {
        self.last_seq += 1;
        let open = self.writer.message(kind, flags, self.last_seq, header);
        body(&mut self.writer);
        self.writer.end_message(&open);
        self.last_seq
    }

    /// Appends one message that the kernel must acknowledge.
    pub fn acked(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Writer),
    ) -> u32 {
        let seq = self.message(kind, flags | NLM_F_ACK, header, body);
        self.acks.push(seq);
        seq
    }
}

/// The answer to one request: its sequence number, and the errno if the kernel refused.
pub type Answer = (u32, Result<(), Errno>);

/// The answers in a datagram. Ignores messages that are malformed.
pub fn acks(datagram: &[u8]) -> Vec<Answer> {
    super::messages(datagram)
        .flatten()
        .filter(is_acknowledgement)
        .filter_map(|message| {
            let answer = acknowledgement(&message).ok()?;
            Some((message.seq, answer.map_err(|e| e.code())))
        })
        .collect()
}
