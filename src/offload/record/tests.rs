use proptest::prelude::*;

use super::*;
use crate::sealed::tests::damaged;

pub const NETNS: Netns = Netns {
    inode: 4_026_531_840,
    cookie: Some(1),
};

const CHECKSUM: Feature = Feature::Checksum;

pub fn at(boot: u64) -> Now {
    Now {
        boot,
        unix: 1_700_000_000 + boot,
    }
}

pub fn is_empty(state: &State) -> bool {
    state.devices.is_empty() && state.rules.is_empty()
}

fn name(name: &str) -> IfName {
    IfName::new(name.as_bytes()).unwrap()
}

pub fn device(netns: Netns, ifindex: u32) -> Identity {
    Identity {
        netns,
        ifindex,
        name: name("flannel.1"),
        vni: Some(1),
        mac: Some([2, 0, 0, 0, 0, 1]),
    }
}

fn begin(state: &mut State, identity: Identity, boot: u64) {
    let entry = NewEntry {
        identity,
        feature: CHECKSUM,
        reason: "kernel-affected",
        also_off: Rc::new(vec!["tx-tcp-segmentation".to_owned()]),
    };
    state.record_off(entry, at(boot));
}

fn off(state: &mut State, ifindex: u32, boot: u64) {
    begin(state, device(NETNS, ifindex), boot);
    state.confirm(&device(NETNS, ifindex), CHECKSUM);
}

fn contested(state: &State, netns: Netns, ifindex: u32, boot: u64) -> Option<usize> {
    let history = state.history(&device(netns, ifindex), at(boot));
    Some(history[CHECKSUM].contested?.times)
}

#[test]
fn the_file_is_read_back() {
    let mut state = State::new("b");
    off(&mut state, 4, 10);
    off(&mut state, 4, 11);
    state.set_not_exposed(&device(NETNS, 4), CHECKSUM, Some(at(12)));
    let text = state.to_text().unwrap();
    assert_eq!(State::parse(&text, "b"), Ok(state));
}

/// A record of version 0.1.
#[test]
fn an_older_record_counts() {
    let text = r#"{"version":1,"boot_id":"b","devices":[{"netns":4026531840,"ifindex":4,"name":"flannel.1","reason":"exposed",
        "also_off":[],"since":1,"flips":[1,2,3],"truce_until":3603}]}"#;
    let state = State::parse(text, "b").unwrap();
    assert_eq!(contested(&state, NETNS, 4, 10), Some(3));
    let renamed = Identity {
        name: name("x"),
        ..device(NETNS, 4)
    };
    assert_eq!(
        state.history(&renamed, at(10))[CHECKSUM],
        History::default()
    );
}

/// Two features of one device have separate entries, and a conflict about one does not affect the other.
#[test]
fn each_feature_has_its_own_record() {
    let mut state = State::new("b");
    let device = device(NETNS, 4);
    let owned = |state: &State| {
        let history = state.history(&device, at(5));
        Feature::ALL.map(|feature| history[feature].owned)
    };
    for time in [0, 1, 2] {
        off(&mut state, 4, time);
    }
    assert_eq!(owned(&state), [true, false]);
    state.record_off(
        NewEntry {
            identity: device,
            feature: Feature::Fraglist,
            reason: "exposed",
            also_off: Rc::default(),
        },
        at(3),
    );
    assert_eq!(owned(&state), [true, true]);
    let history = state.history(&device, at(5));
    let times = |of: Feature| history[of].contested.map(|conflict| conflict.times);
    assert_eq!(times(CHECKSUM), Some(3));
    assert_eq!(times(Feature::Fraglist), None);
    state.set_not_exposed(&device, CHECKSUM, Some(at(4)));
    let history = state.history(&device, at(5));
    assert_eq!(history[CHECKSUM].not_exposed_for, Some(1));
    assert_eq!(history[Feature::Fraglist].not_exposed_for, None);
    let text = state.to_text().unwrap();
    assert_eq!(State::parse(&text, "b").as_ref(), Ok(&state));
    state.remove(&device, CHECKSUM);
    assert_eq!(owned(&state), [false, true]);
    assert!(state.prune(NETNS, &[], |_| true) && is_empty(&state));
}

#[test]
fn a_record_of_another_boot_is_refused() {
    let text = serde_json::to_string(&State::new("b")).unwrap();
    for (name, text, expected) in [
        (
            "another boot",
            text.replace("\"b\"", "\"a\""),
            "is of another boot",
        ),
        (
            "another version",
            text.replace(":1", ":2"),
            "has version 2, not 1",
        ),
        ("cut", text[..text.len() - 2].to_owned(), "is damaged: "),
        (
            "unknown key",
            text.replace("{\"v", "{\"x\":1,\"v"),
            "is damaged: ",
        ),
        (
            "control characters",
            text.replace("{\"v", "{\"\\u001b[31m\":1,\"v"),
            "is damaged: unknown field `\\x1b[31m`",
        ),
        ("empty", String::new(), "is damaged: "),
    ] {
        let error = State::parse(&text, "b").unwrap_err();
        assert!(error.starts_with(expected), "{name}: {error}");
    }
}

/// Nothing that happens to the file makes another record of it, or one of another boot, which would be forgotten.
#[test]
fn a_damaged_record_is_never_believed() {
    let mut state = State::new("0f");
    off(&mut state, 4, 10);
    off(&mut state, 4, 11);
    assert!(state.set_waiting(NETNS, &[(device(NETNS, 5), true)], |_| false, at(12)));
    let text = state.to_text().unwrap();
    let mut tried = 0;
    for (how, text) in damaged(&text) {
        let error = State::parse(&text, "0f").expect_err(&how);
        assert!(error.starts_with("is damaged: "), "{how}: {error}");
        tried += 1;
    }
    assert!(tried > 17 * text.len());
}

#[test]
fn three_flips_in_a_minute_are_too_many() {
    for (name, times, asked, expected) in [
        ("never seen", vec![], 10, None),
        ("first flip", vec![0], 10, None),
        ("second flip", vec![0, 10], 20, None),
        ("third flip", vec![0, 10, 20], 30, Some(3)),
        ("third flip, slowly", vec![0, 40, 80], 120, None),
        ("once an hour", vec![0, 3600, 7200, 10800], 14400, None),
    ] {
        let mut state = State::new("b");
        for time in times {
            off(&mut state, 4, time);
        }
        assert_eq!(contested(&state, NETNS, 4, asked), expected, "{name}");
        let other = Netns {
            inode: NETNS.inode + 1,
            cookie: Some(2),
        };
        assert_eq!(
            contested(&state, other, 4, asked),
            None,
            "{name}: another namespace"
        );
    }
}

/// Nobody can undo a change that the kernel did not make.
#[test]
fn only_a_confirmed_change_can_be_flipped() {
    let mut state = State::new("b");
    for time in [0, 1, 2, 3, 4] {
        begin(&mut state, device(NETNS, 4), time);
    }
    assert_eq!(contested(&state, NETNS, 4, 5), None);
    assert!(
        state.history(&device(NETNS, 4), at(5))[CHECKSUM].owned,
        "revert must ask"
    );
    for time in [5, 6, 7] {
        off(&mut state, 4, time);
    }
    assert_eq!(contested(&state, NETNS, 4, 8), Some(3));
}

#[test]
fn a_device_is_identified_by_more_than_reusable_numbers() {
    let no_cookie = Netns {
        cookie: None,
        ..NETNS
    };
    let other_cookie = Netns {
        cookie: Some(2),
        ..NETNS
    };
    let renamed = |d: Identity| Identity {
        name: name("vx0"),
        ..d
    };
    let other_mac = |d: Identity| Identity {
        mac: Some([2, 0, 0, 0, 0, 2]),
        ..d
    };
    let other_vni = |d: Identity| Identity { vni: Some(2), ..d };
    let (known, old) = (device(NETNS, 4), device(no_cookie, 4));
    for (name, recorded, asked, same) in [
        ("the same", &known, known, true),
        ("renamed", &known, renamed(known), true),
        ("another MAC", &known, other_mac(known), true),
        ("both", &known, renamed(other_mac(known)), false),
        ("another VNI", &known, other_vni(known), false),
        ("another ifindex", &known, device(NETNS, 5), false),
        ("another namespace", &known, device(other_cookie, 4), false),
        ("a kernel without cookies", &old, old, true),
        ("there renamed", &old, renamed(old), true),
        ("there another MAC", &old, other_mac(old), false),
        ("there another VNI", &old, other_vni(old), false),
    ] {
        let mut state = State::new("b");
        begin(&mut state, *recorded, 0);
        assert_eq!(state.history(&asked, at(1))[CHECKSUM].owned, same, "{name}");
        state.remove(&asked, CHECKSUM);
        assert_eq!(is_empty(&state), same, "{name}");
    }
}

#[test]
fn a_backoff_is_reported_once_and_ends() {
    let mut state = State::new("b");
    for time in [0, 10, 20] {
        off(&mut state, 4, time);
    }
    let device = device(NETNS, 4);
    assert!(state.start_backoff(&device, CHECKSUM, at(30)));
    assert!(
        !state.start_backoff(&device, CHECKSUM, at(40)),
        "it is no news"
    );
    assert_eq!(contested(&state, NETNS, 4, 500), Some(3));
    let history = state.history(&device, at(500));
    let conflict = history[CHECKSUM].contested.unwrap();
    // The backoff began 30 seconds after a boot at 22:13:20 UTC.
    assert_eq!(conflict.left, 30 + BACKOFF_SECS - 500);
    assert_eq!(conflict.to_string(), "at 23:13 UTC, in 53 minutes");
    assert_eq!(
        contested(&state, NETNS, 4, 31 + BACKOFF_SECS),
        None,
        "it is over"
    );
    assert!(
        !state.end_backoff(&device, CHECKSUM, at(89)),
        "it may be a pause"
    );
    assert_eq!(contested(&state, NETNS, 4, 89), Some(3));
    assert!(state.end_backoff(&device, CHECKSUM, at(90)));
    assert!(
        !state.end_backoff(&device, CHECKSUM, at(91)),
        "it is no news"
    );
    assert_eq!(contested(&state, NETNS, 4, 500), None, "the other stopped");
}

/// By the clock of the record it is 90 000 seconds after the boot, and then 100.
#[test]
fn a_clock_that_went_back_holds_nothing_up() {
    let (late, early) = (90_000, 100);
    let mut state = State::new("b");
    for time in [late, late + 1, late + 2] {
        off(&mut state, 4, time);
    }
    let device = device(NETNS, 4);
    assert!(state.start_backoff(&device, CHECKSUM, at(late + 3)));
    state.set_not_exposed(&device, CHECKSUM, Some(at(late + 4)));
    assert!(state.set_waiting(NETNS, &[(device, true)], |_| true, at(late)));
    let unchanged = state.clone();
    state.forget_future(at(late + 5));
    assert_eq!(state, unchanged);
    assert_eq!(contested(&state, NETNS, 4, early), Some(3));

    state.forget_future(at(early));
    let history = &state.history(&device, at(early + 60))[CHECKSUM];
    assert!(history.owned, "revert gives it back");
    assert_eq!(history.contested, None);
    assert_eq!(history.not_exposed_for, Some(60));
    assert!(state.follow_up(at(early)) && !state.follow_up(at(early + 600)));
    assert!(
        state.start_backoff(&device, CHECKSUM, at(early)),
        "as before"
    );
    // No time is too large.
    let text = state.to_text().unwrap();
    let text = crate::sealed::unseal(&text).unwrap();
    let far = format!(":{}", u64::MAX);
    let text = text.replace(&format!(":{}", early + BACKOFF_SECS), &far);
    let mut state = State::parse(&text.replace(":100", &far), "b").unwrap();
    state.forget_future(at(early));
    assert_eq!(contested(&state, NETNS, 4, early), None);
}

#[test]
fn the_quiet_time_begins_with_each_change() {
    let mut state = State::new("b");
    off(&mut state, 4, 0);
    let device = device(NETNS, 4);
    let quiet = |state: &State, boot| state.history(&device, at(boot))[CHECKSUM].not_exposed_for;
    assert_eq!(quiet(&state, 1), None);
    state.set_not_exposed(&device, CHECKSUM, Some(at(5)));
    assert_eq!(quiet(&state, 65), Some(60));
    state.set_not_exposed(&device, CHECKSUM, None);
    assert_eq!(quiet(&state, 66), None);
    state.set_not_exposed(&device, CHECKSUM, Some(at(70)));
    off(&mut state, 4, 80);
    assert_eq!(quiet(&state, 90), None);
}

#[test]
fn a_device_without_peers_is_followed_up_for_a_while() {
    let mut state = State::new("b");
    let one = |ifindex, waits| [(device(NETNS, ifindex), waits)];
    assert!(!state.follow_up(at(0)));
    assert!(state.set_waiting(NETNS, &one(4, true), |_| false, at(0)));
    assert!(
        !state.set_waiting(NETNS, &one(4, true), |_| true, at(20)),
        "no news"
    );
    assert!(state.follow_up(at(599)) && !state.follow_up(at(600)));
    assert!(state.set_waiting(NETNS, &one(5, true), |_| false, at(300)));
    assert!(state.follow_up(at(899)));
    assert!(
        state.set_waiting(NETNS, &one(5, false), |_| false, at(301)),
        "a peer came"
    );
    assert!(!state.follow_up(at(600)) && state.follow_up(at(599)));
    assert!(
        !state.set_waiting(NETNS, &[], |ifindex| ifindex == 9, at(302)),
        "another device is gone"
    );
    assert!(
        state.set_waiting(NETNS, &[], |ifindex| ifindex == 4, at(302)),
        "it is gone"
    );
    assert!(!state.follow_up(at(303)));
}

#[test]
fn entries_go_with_their_devices() {
    let mut state = State::new("b");
    for ifindex in [4, 5] {
        off(&mut state, ifindex, 0);
    }
    let other_netns = Netns {
        inode: 1,
        cookie: Some(7),
    };
    begin(&mut state, device(other_netns, 9), 0);
    let there = [device(NETNS, 5)];
    for (name, ifindexes, expected) in [
        ("a look at no ifindex", &[][..], false),
        ("a look at the other", &[5], false),
        ("a look at it", &[4], true),
        ("a look at both", &[4, 5], true),
    ] {
        let covers = |ifindex| ifindexes.contains(&ifindex);
        let mut state = state.clone();
        assert_eq!(state.has_deleted(NETNS, &there, covers), expected, "{name}");
        assert_eq!(state.prune(NETNS, &there, covers), expected, "{name}");
    }
    assert!(state.prune(NETNS, &there, |_| true));
    assert!(!state.prune(NETNS, &there, |_| true), "it is no news");
    let owned = |state: &State, netns, ifindex| {
        state.history(&device(netns, ifindex), at(1))[CHECKSUM].owned
    };
    assert!(!owned(&state, NETNS, 4) && owned(&state, NETNS, 5));
    assert!(owned(&state, other_netns, 9));
    // The next namespace with this inode.
    let next = Netns {
        cookie: Some(8),
        ..other_netns
    };
    assert!(state.prune(next, &[device(next, 9)], |_| true));
    assert!(!owned(&state, other_netns, 9) && owned(&state, NETNS, 5));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in ".{0,300}") {
        let _ = State::parse(&text, "b");
    }
}
