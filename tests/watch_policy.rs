//! `watch` and the policy files: when it reads them again, and that nothing else makes it do so.
//!
//! Needs root and strace. Runs in a network namespace of its own.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{Netns, VXLAN, Watch};

const REFUSED: &str = "the new policy is refused and the old one stays in force";

fn drop_ins(netns: &Netns) -> PathBuf {
    Path::new(netns.remembering_root()).join("etc/vxcsum/policy.d")
}

fn says(when: &str) -> String {
    format!("[[rule]]\nname = \"all\"\ndevice = [\"a0\"]\nwhen = \"{when}\"\n")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("write a policy file");
}

fn link(target: &str, path: &Path) {
    let new = path.with_file_name("..tmp");
    symlink(target, &new).expect("make a link");
    fs::rename(new, path).expect("replace a link");
}

/// How often `watch` has looked for policy files, according to the output of strace so far.
fn reads(watch: &Watch) -> usize {
    watch.written().matches("etc/vxcsum/policy.d").count()
}

/// What changes the policy in this directory of drop-ins, which does not exist before.
type Step = fn(&Path);

/// Each step makes a0 be on, if it was off, or the other way round.
#[test]
fn every_way_to_change_a_policy_is_noticed() {
    let rows: [(&str, &[Step]); 3] = [
        (
            "plain files",
            &[
                |dir| {
                    fs::create_dir(dir).expect("make policy.d");
                    write(&dir.join("50.toml"), &says("never"));
                },
                |dir| write(&dir.join("50.toml"), &says("always")),
                |dir| {
                    write(&dir.join("50.new"), &says("never"));
                    fs::rename(dir.join("50.new"), dir.join("50.toml")).expect("rename");
                },
                |dir| link("/dev/null", &dir.join("50.toml")),
                |dir| {
                    fs::remove_dir_all(dir).expect("remove policy.d");
                    fs::create_dir(dir).expect("make policy.d again");
                    write(&dir.join("40.toml"), &says("never"));
                },
            ],
        ),
        (
            "a ConfigMap",
            &[
                |dir| {
                    fs::create_dir_all(dir.join("..1")).expect("make directories");
                    write(&dir.join("..1/50.toml"), &says("never"));
                    link("..1", &dir.join("..data"));
                    link("..data/50.toml", &dir.join("50.toml"));
                },
                |dir| {
                    fs::create_dir(dir.join("..2")).expect("make a directory");
                    write(&dir.join("..2/50.toml"), &says("always"));
                    link("..2", &dir.join("..data"));
                    fs::remove_dir_all(dir.join("..1")).expect("remove the old one");
                },
                |dir| {
                    fs::create_dir(dir.join("..3")).expect("make a directory");
                    write(&dir.join("..3/50.toml"), &says("never"));
                    link("..3", &dir.join("..data"));
                    fs::remove_dir_all(dir.join("..2")).expect("remove the old one");
                },
            ],
        ),
        (
            "a file elsewhere",
            &[
                |dir| {
                    fs::create_dir(dir).expect("make policy.d");
                    let elsewhere = dir.with_file_name("elsewhere");
                    fs::create_dir(&elsewhere).expect("make a directory");
                    write(&elsewhere.join("site"), &says("never"));
                    link("../elsewhere/site", &dir.join("50.toml"));
                },
                |dir| {
                    write(
                        &dir.with_file_name("elsewhere").join("site"),
                        &says("always"),
                    );
                },
            ],
        ),
    ];
    for (what, steps) in rows {
        let netns = Netns::with_three();
        let watch = Watch::start(&netns, "");
        for (n, step) in steps.iter().enumerate() {
            let before = netns.is_on("a0");
            step(&drop_ins(&netns));
            watch.until(&format!("{what}, step {n}: a0 stays as it is"), || {
                netns.is_on("a0") != before
            });
        }
        assert!(!watch.errors().contains(REFUSED), "{}", watch.errors());
        watch.stop();
    }
}

#[test]
fn a_policy_that_is_not_valid_is_refused_once() {
    let netns = Netns::with_three();
    let watch = Watch::traced(&netns, "openat");
    let file = drop_ins(&netns).join("50.toml");
    fs::create_dir(drop_ins(&netns)).expect("make policy.d");
    let refused = || watch.errors().matches(REFUSED).count();
    write(&file, "mistake = 1\n");
    watch.until("it is not refused", || refused() == 1);
    let read = reads(&watch);
    write(&file, "mistake = 1\n");
    watch.until("it is not read again", || reads(&watch) > read);
    // The old policy is in force.
    netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
    watch.off("flannel.1");
    assert!(!netns.is_on("a0"), "{}", watch.errors());
    assert_eq!(refused(), 1, "{}", watch.errors());
    write(&file, "another = 1\n");
    watch.until("another mistake is not said", || refused() == 2);
    write(&file, &says("never"));
    watch.until("a0 is not given back", || netns.is_on("a0"));
    let said = watch.stop();
    assert_eq!(said.matches("policy reloaded").count(), 1, "{said}");
}

#[test]
fn a_file_from_the_command_line_is_the_only_one() {
    let netns = Netns::with_three();
    let file = Path::new(netns.remembering_root()).join("mine");
    write(&file, &says("always"));
    let words = format!("--policy {}", file.display());
    let watch = Watch::start(&netns, &words);
    fs::create_dir(drop_ins(&netns)).expect("make policy.d");
    write(&drop_ins(&netns).join("50.toml"), "nonsense = 1\n");
    write(&file, &says("never"));
    watch.until("a0 is not given back", || netns.is_on("a0"));
    assert!(!watch.errors().contains(REFUSED), "{}", watch.errors());
    watch.stop();
}

/// The record of changes is in a directory that can also have a policy.
#[test]
fn what_vxcsum_writes_itself_is_not_a_new_policy() {
    let netns = Netns::with_three();
    let watch = Watch::traced(&netns, "openat");
    let before = reads(&watch);
    assert!(before > 0, "{}", watch.written());
    netns.set("b0", true);
    watch.off("b0");
    watch.settle();
    watch.log();
    let last = watch.wait();
    assert!(!last.contains("tv_sec"), "{last}");
    assert_eq!(reads(&watch), before, "{}", watch.written());
    watch.stop();
}

/// On a node with many programs the kernel may have no more of them.
#[test]
fn without_inotify_the_files_are_read_every_minute() {
    for (call, error) in [("inotify_init1", "EMFILE"), ("inotify_add_watch", "ENOSPC")] {
        let netns = Netns::with_three();
        let fault = format!("--inject={call}:error={error}");
        let trace = format!("trace=ppoll,poll,{call}");
        let watch = Watch::start_with(&netns, "", &["-f", "-e", &trace, &fault], &[]);
        let said = watch.errors();
        let warned = format!("({error}); they are read every minute");
        assert_eq!(said.matches(&warned).count(), 1, "{said}");
        let each_minute = || ["tv_sec=59", "tv_sec=58"].map(|left| watch.written().contains(left));
        watch.until(call, || each_minute().contains(&true));
        watch.stop();
    }
}
