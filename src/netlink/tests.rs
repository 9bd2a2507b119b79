//! Framing: reading and writing messages, attributes and dumps.

use proptest::prelude::*;

use super::*;
use crate::fault::{KernelError, Malformed};

fn message(kind: u16, flags: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    let open = w.message(kind, flags, seq, payload);
    w.end_message(&open);
    w.bytes().to_vec()
}

#[test]
fn written_attributes_are_read_back() {
    let mut w = Writer::default();
    w.put(1, &7u32.to_ne_bytes());
    w.put_string(2, b"vxlan");
    let nest = w.nest(3);
    w.put(4, &[9]);
    w.end(&nest);
    let all: Vec<_> = attrs(w.bytes()).map(Result::unwrap).collect();
    assert_eq!(all.iter().map(|a| a.kind).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((all[0].u32(), all[1].string()), (Ok(7), &b"vxlan"[..]));
    assert_eq!(
        all[2].nested().next(),
        Some(Ok(Attr {
            kind: 4,
            payload: &[9]
        }))
    );
    assert_eq!(w.bytes().len() % 4, 0);
}

#[test]
fn broken_framing_is_an_error_and_ends_the_iteration() {
    let whole = message(16, 0, 1, &[1, 2, 3, 4]);
    for cut in 1..whole.len() {
        let read: Vec<_> = messages(&whole[..cut]).collect();
        assert_eq!(read, [Err(Malformed("netlink message"))], "cut at {cut}");
    }
    for bytes in [&[3, 0, 1, 0][..], &[9, 0, 1, 0, 1], &[0, 0, 0, 0], &[4]] {
        assert_eq!(
            attrs(bytes).collect::<Vec<_>>(),
            [Err(Malformed("netlink attribute"))],
            "{bytes:?}"
        );
    }
    assert!(
        Attr {
            kind: 1,
            payload: &[1, 2, 3]
        }
        .u32()
        .is_err()
    );
}

#[test]
fn acknowledgements() {
    // Captured: FEATURES_SET for an ifindex that no device has, with NETLINK_EXT_ACK and NETLINK_CAP_ACK.
    let mut enodev = (-19i32).to_ne_bytes().to_vec();
    enodev.extend(message(0x15, NLM_F_ACK, 1, &[]));
    enodev.extend([27, 0, 1, 0]);
    enodev.extend(b"no device matches name\0\0");
    let error = |errno, extack: Option<&str>| {
        Err(KernelError {
            errno,
            extack: extack.map(str::to_owned),
        })
    };
    for (name, flags, payload, expected) in [
        ("ack", 0, vec![0; 20], Ok(Ok(()))),
        (
            "extack",
            NLM_F_CAPPED | NLM_F_ACK_TLVS,
            enodev.clone(),
            Ok(error(19, Some("no device matches name"))),
        ),
        (
            "no extack",
            NLM_F_CAPPED,
            enodev[..20].to_vec(),
            Ok(error(19, None)),
        ),
        (
            "uncapped",
            NLM_F_ACK_TLVS,
            enodev.clone(),
            Ok(error(19, Some("no device matches name"))),
        ),
        (
            "cut",
            0,
            vec![0; 3],
            Err(Malformed("netlink acknowledgement")),
        ),
        (
            "cut tlv",
            NLM_F_CAPPED | NLM_F_ACK_TLVS,
            enodev[..30].to_vec(),
            Err(Malformed("netlink attribute")),
        ),
        (
            "minimum",
            0,
            [i32::MIN.to_ne_bytes(), [16, 0, 0, 0]].concat(),
            Ok(error(i32::MAX, None)),
        ),
    ] {
        let read = acknowledgement(&Message {
            kind: NLMSG_ERROR,
            flags,
            seq: 1,
            payload: &payload,
        });
        assert_eq!(read, expected, "{name}");
    }
}

#[test]
fn dumps() {
    let item = |flags| message(16, flags, 7, &[1, 0, 0, 0]);
    let done = |flags, code: i32| message(NLMSG_DONE, flags, 7, &code.to_ne_bytes());
    let kernel = |errno| {
        Err(DumpError::Kernel(KernelError {
            errno,
            extack: None,
        }))
    };
    for (name, datagrams, items, expected) in [
        ("empty", vec![done(0, 0)], 0, Ok(true)),
        (
            "two",
            vec![item(0), [item(0), done(0, 0)].concat()],
            2,
            Ok(true),
        ),
        ("not complete", vec![item(0)], 1, Ok(false)),
        (
            "interrupted item",
            vec![item(NLM_F_DUMP_INTR), done(0, 0)],
            1,
            Err(DumpError::Interrupted),
        ),
        (
            "interrupted end",
            vec![item(0), done(NLM_F_DUMP_INTR, 0)],
            1,
            Err(DumpError::Interrupted),
        ),
        (
            "overrun",
            vec![message(NLMSG_OVERRUN, 0, 7, &[]), done(0, 0)],
            0,
            Err(DumpError::Interrupted),
        ),
        (
            "error at the end",
            vec![item(0), done(0, -12)],
            1,
            kernel(12),
        ),
        (
            "refused",
            vec![message(
                NLMSG_ERROR,
                0,
                7,
                &[[255; 4], [16, 0, 0, 0]].concat(),
            )],
            0,
            kernel(1),
        ),
        (
            "somebody else's",
            vec![message(16, 0, 8, &[0; 4]), done(0, 0)],
            0,
            Ok(true),
        ),
        (
            "end without a code",
            vec![message(NLMSG_DONE, 0, 7, &[])],
            0,
            Ok(true),
        ),
        (
            "truncated",
            vec![item(0)[..18].to_vec()],
            0,
            Err(Malformed("netlink message").into()),
        ),
    ] {
        let (mut reader, mut seen, mut result) = (DumpReader::new(7), 0, Ok(false));
        for datagram in &datagrams {
            result = reader.feed(datagram, |_| {
                seen += 1;
                Ok(())
            });
        }
        assert_eq!((seen, result), (items, expected), "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message in messages(&bytes).flatten() {
            let _ = acknowledgement(&message);
            for attr in attrs(message.payload).flatten() {
                let _ = (attr.u8(), attr.u16(), attr.u32(), attr.string(), attr.nested().count());
            }
        }
        let _ = DumpReader::new(0).feed(&bytes, |_| Ok(()));
    }
}
