//! The test harness itself: what it leaves behind.

mod common;

use std::path::Path;
use std::process::Command;

use common::{PREFIXES, run, sweep};

/// A run that was killed deletes nothing; the next one does it.
#[test]
fn namespaces_of_dead_processes_are_swept_and_no_others() {
    let mut child = Command::new("true").spawn().expect("run true");
    let dead = child.id();
    child.wait().expect("wait for true");
    let there = |name: &str| Path::new("/run/netns").join(name).exists();
    let living = std::process::id();
    for prefix in PREFIXES {
        let (swept, kept) = (
            format!("{prefix}{dead}-sweep"),
            format!("{prefix}{living}-sweep"),
        );
        for name in [&swept, &kept] {
            run(Command::new("ip").args(["netns", "add", name])).expect(0);
        }
        sweep();
        let left = (there(&swept), there(&kept));
        run(Command::new("ip").args(["netns", "del", &kept])).expect(0);
        assert_eq!(left, (false, true), "{prefix}");
    }
}
