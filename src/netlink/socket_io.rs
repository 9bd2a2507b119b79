//! Netlink sockets: dumps and batches of requests.
//!
//! Owns the socket, sequence numbers, and the repetition of interrupted dumps and lost answers. Does not know what
//! messages contain.
//!
//! No call here can block for ever: the kernel answers a request before `send` returns, and fills the next part of a
//! dump before `recv` returns, so every `recv` is non-blocking.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;

use super::requests::{Answer, Requests, acks};
use super::{DumpError, DumpReader, Message, Writer};
use crate::fault::{Fault, KernelError, Malformed};
use crate::netlink;

/// Bytes. The kernel limits a part of a dump to 32 KiB whatever the size of the buffer. From 128 KiB on, the allocator
/// maps untouched pages instead of clearing the memory.
const BUFFER: usize = 256 * 1024;
/// A dump is interrupted only if a device changes while it is read, so a few attempts are enough.
const DUMP_ATTEMPTS: u32 = 16;
/// Requests in one send. Their answers fit into the default receive buffer.
const BATCH: usize = 64;

/// How the kernel answers the requests of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// With one message for each request.
    Each,
    /// Only with refusals. The last request of each send is acknowledged.
    OnlyRefusals,
}

/// A netlink socket of one family.
pub struct Netlink {
    socket: NlSocket,
    seq: u32,
    request: Writer,
    buffer: Vec<u8>,
}

impl Netlink {
    /// # Errors
    /// The errno of `socket` or `bind`: `EPROTONOSUPPORT` if the kernel does not have the family.
    pub fn open(family: NlFamily) -> Result<Self, Errno> {
        let socket = NlSocket::connect(family, None, Groups::empty()).map_err(|e| errno(&e))?;
        // Since 4.12. Without it the answers have no explanation.
        let _ = socket.enable_ext_ack(true);
        // The most that an unprivileged process gets, so the answers of one batch are not lost.
        let _ = socket.set_recv_buffer_size(1 << 20);
        Ok(Self {
            socket,
            seq: 0,
            request: Writer::default(),
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends a dump request and returns what `read` makes of the answers. Repeats an interrupted dump from the start.
    ///
    /// # Errors
    /// The kernel refuses, its answer is malformed, or all 16 attempts were interrupted.
    pub fn dump<T>(
        &mut self,
        operation: &str,
        write: impl Fn(&mut Writer, u32),
        mut read: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, Fault> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            match self.dump_once(&write, |message| {
                found.extend(read(&message)?);
                Ok(())
            }) {
                Ok(()) => return Ok(found),
                Err(DumpError::Interrupted) => {}
                Err(e) => return Err(e.fault(operation, "")),
            }
        }
        let text =
            format!("devices kept changing while they were listed, {DUMP_ATTEMPTS} times in a row");
        Err(Fault::other(operation, text).advise("run it again when fewer devices come and go"))
    }

    /// One attempt at a dump, for callers that must restart several dumps together. Gives each message to `each`.
    ///
    /// # Errors
    /// The dump was interrupted (known only at its end), the kernel refuses, or its answer is malformed.
    pub fn dump_once(
        &mut self,
        write: &impl Fn(&mut Writer, u32),
        mut each: impl FnMut(Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), DumpError> {
        self.seq += 1;
        self.request.clear();
        write(&mut self.request, self.seq);
        self.send(self.request.bytes())?;
        let mut reader = DumpReader::new(self.seq);
        loop {
            match self.receive() {
                Ok(datagram) => {
                    if reader.feed(datagram, &mut each)? {
                        return Ok(());
                    }
                }
                Err(Errno::NOBUFS) => reader.lost(),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends `count` requests, many in one send, and returns the outcome of each: what `read` makes of its answer,
    /// nothing if the kernel only acknowledged it, or the refusal. `write` gets the flags of the request.
    ///
    /// # Errors
    /// The socket fails or an answer is malformed: then the outcome of every request is unknown.
    pub fn batch<T>(
        &mut self,
        operation: &str,
        count: usize,
        answers: Answers,
        mut write: impl FnMut(&mut Writer, u32, u16, usize),
        mut read: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<Result<Option<T>, KernelError>>, Fault> {
        // The kernel has answered all requests when send returns. A missing answer was lost because the buffer was
        // full.
        let lost = || Err(KernelError::from(Errno::NOBUFS));
        let malformed = |e| Fault::malformed(operation, e);
        let mut outcomes: Vec<Result<Option<T>, KernelError>> = Vec::with_capacity(count);
        while outcomes.len() < count {
            let first = outcomes.len();
            let end = count.min(first + BATCH);
            let base = self.seq + 1;
            self.request.clear();
            for (seq, index) in (base..).zip(first..end) {
                let acknowledge = answers == Answers::OnlyRefusals && index + 1 == end;
                write(
                    &mut self.request,
                    seq,
                    if acknowledge { netlink::NLM_F_ACK } else { 0 },
                    index,
                );
                self.seq = seq;
            }
            self.send(self.request.bytes())
                .map_err(|e| Fault::kernel(operation, e, None))?;
            outcomes.extend((first..end).map(|_| lost()));
            let mut open = end - first;
            while open > 0 {
                let datagram = match self.receive() {
                    Ok(datagram) => datagram,
                    Err(Errno::NOBUFS) => continue,
                    Err(Errno::AGAIN) => break,
                    Err(e) => return Err(Fault::kernel(operation, e, None)),
                };
                for message in netlink::messages(datagram) {
                    let message = message.map_err(malformed)?;
                    let index = message
                        .seq
                        .checked_sub(base)
                        .map(|n| first + n as usize)
                        .filter(|n| *n < end);
                    let Some(index) = index else { continue };
                    if netlink::is_acknowledgement(&message) {
                        outcomes[index] = netlink::acknowledgement(&message)
                            .map_err(malformed)?
                            .map(|()| None);
                        open -= 1;
                    } else if let Some(answer) = read(&message).map_err(malformed)? {
                        outcomes[index] = Ok(Some(answer));
                        open -= 1;
                    }
                    if answers == Answers::OnlyRefusals && index + 1 == end {
                        // The answer to the last request of the send: all earlier requests without a refusal are done.
                        let silent = |outcome: &&mut Result<_, KernelError>| matches!(outcome, Err(e) if e.errno == Errno::NOBUFS.raw_os_error());
                        outcomes[first..]
                            .iter_mut()
                            .filter(silent)
                            .for_each(|outcome| *outcome = Ok(None));
                        open = 0;
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// Sends one request and returns what `read` makes of its answer.
    ///
    /// # Errors
    /// As [`Self::batch`]. The inner error is the refusal of the kernel.
    pub fn request<T>(
        &mut self,
        operation: &str,
        mut write: impl FnMut(&mut Writer, u32),
        read: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Result<Option<T>, KernelError>, Fault> {
        let mut outcomes = self.batch(
            operation,
            1,
            Answers::Each,
            |w, seq, _, _| write(w, seq),
            read,
        )?;
        outcomes
            .pop()
            .ok_or_else(|| Fault::other(operation, "the kernel did not answer"))
    }

    /// Sends numbered requests in one send and returns the answers. A failed batch of `nf_tables` is answered only up
    /// to the refusal.
    ///
    /// # Errors
    /// The errno of the socket. `ENOBUFS` if answers are missing and the kernel refused nothing.
    pub fn send_all(&mut self, requests: &Requests) -> Result<Vec<Answer>, Errno> {
        self.send(requests.bytes())?;
        let mut answers = Vec::new();
        while answers.len() < requests.acks.len() {
            match self.receive() {
                Ok(datagram) => answers.append(&mut acks(datagram)),
                Err(Errno::AGAIN) if answers.iter().any(|(_, answer)| answer.is_err()) => break,
                Err(Errno::AGAIN) => return Err(Errno::NOBUFS),
                Err(e) => return Err(e),
            }
        }
        Ok(answers)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match self.socket.send(bytes, Msg::empty()).map_err(|e| errno(&e)) {
                Err(Errno::INTR) => {}
                sent => return sent.map(|_| ()),
            }
        }
    }

    fn receive(&mut self) -> Result<&[u8], Errno> {
        loop {
            // With MSG_TRUNC the result is the whole length, even if the buffer is too small.
            match self
                .socket
                .recv(&mut self.buffer, Msg::DONTWAIT | Msg::TRUNC)
                .map_err(|e| errno(&e))
            {
                Ok((len, _)) => return self.buffer.get(..len).ok_or(Errno::MSGSIZE),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}
