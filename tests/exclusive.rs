//! `vxcsum watch --exclusive`: units and other watches of the same network namespace leave the devices to it.

mod common;

use std::fs;
use std::path::Path;

use common::{Netns, Run, VXCSUM, VXLAN, Watch, run};

/// Runs vxcsum in a namespace with the files and the record of this root.
fn vxcsum(netns: &Netns, root: &str, words: &str) -> Run {
    let mut command = netns.command(VXCSUM);
    command
        .env_remove("INVOCATION_ID")
        .env_remove("JOURNAL_STREAM");
    run(command
        .args(words.split_whitespace())
        .args(["--root", root]))
}

#[test]
fn units_and_other_watches_stand_back() {
    let netns = Netns::with_three();
    let root = netns.remembering_root();
    let never = Path::new(root).join("never.toml");
    fs::write(
        &never,
        "[[rule]]\nname = \"all\"\ndevice = [\"*\"]\nwhen = \"never\"\n",
    )
    .expect("write a policy");
    let unit = format!("apply --log --policy {}", never.display());
    let by_hand = format!("apply --policy {}", never.display());
    let exclusive = |words| vxcsum(&netns, root, words).json()["exclusive"].clone();
    assert!(exclusive("status --json").is_null());

    let other = Watch::start(&netns, &format!("--policy {}", never.display()));
    let watch = Watch::start(&netns, "--exclusive");
    watch.off("a0");
    assert_eq!(exclusive("status --json"), true);
    let text = vxcsum(&netns, root, "status").expect(0);
    assert!(
        text.text().contains("watch --exclusive runs on this node"),
        "{}",
        text.text()
    );

    let said = vxcsum(&netns, root, &unit).expect(0);
    assert!(
        said.errors().contains("nothing was done"),
        "{}",
        said.errors()
    );
    assert!(!netns.is_on("a0"), "the unit acted");
    let said = vxcsum(&netns, root, "watch --exclusive").expect(1);
    let told = "another vxcsum watch --exclusive runs on this node: stop one of the two";
    assert!(said.errors().contains(told), "{}", said.errors());
    netns.ip(&format!("link add new0 type vxlan id 20 {VXLAN}"));
    watch.off("new0");
    let standing_by = "is in charge of this node: standing by";
    other.until("it does not stand by", || {
        other.errors().contains(standing_by)
    });
    assert!(!netns.is_on("new0"), "the other watch acted");

    // A user who runs it by hand wants it now.
    vxcsum(&netns, root, &by_hand).expect(0);
    watch.off("a0");

    // The devices of another network namespace are not in its charge, even if it has the same /run.
    let elsewhere = Netns::with_three();
    vxcsum(&elsewhere, root, "apply --log").expect(0);
    assert!(!elsewhere.is_on("a0"), "nobody acted there");

    watch.stop();
    assert!(!netns.is_on("a0"), "SIGTERM leaves the devices as they are");
    assert!(exclusive("status --json").is_null());
    netns.ip("link del new0");
    netns.ip(&format!("link add new0 type vxlan id 20 {VXLAN}"));
    other.until("it does not act again", || {
        other
            .errors()
            .contains("no vxcsum watch --exclusive is in charge any more")
    });
    vxcsum(&netns, root, &unit).expect(0);
    assert!(netns.is_on("a0"), "the unit does not act");
    other.stop();
}

/// The kernel releases the lock of a process that was killed.
#[test]
fn a_watch_that_was_killed_is_not_in_charge() {
    let netns = Netns::with_three();
    let watch = Watch::start(&netns, "--exclusive");
    drop(watch);
    let watch = Watch::start(&netns, "--exclusive");
    watch.off("a0");
    watch.stop();
}
