//! The decision in tables: policy, kernel and device in; action, reason and outcome out.

use std::collections::HashMap;

use vxcsum::error::ExitCode;
use vxcsum::ethtool::{BackendName, Feature, FeatureState, FeatureTable, Features, PerFeature};
use vxcsum::fault::{Fault, KernelError};
use vxcsum::kernel::{BugId, BugVerdict, KernelFacts, KernelVerdict, Status, Trigger};
use vxcsum::link::segmentation::{OnceBecause, Segmentation, SegmentationDoubt};
use vxcsum::link::{OuterChecksum, TunnelKind, TunnelLink, Underlay, UnderlayLink};
use vxcsum::nat::exposure::{CitedRule, Exposed, NatChange, NoCure, Untracked};
use vxcsum::nat::machine::RuleRef;
use vxcsum::nat::nft::own::OwnTable;
use vxcsum::offload::facts::{Conflict, Device, Exposure, Facts, History, RuleHistory, Unusable};
use vxcsum::offload::judge::depends_on;
use vxcsum::offload::plan::{Action, Plan, decide, decide_revert};
use vxcsum::offload::report::{Change, KernelReport, Outcome, Report};
use vxcsum::output;
use vxcsum::policy::{Kind, Policy, merge, parse};
use vxcsum::text::IfName;

const BIT: u128 = 0b10;
const TSO: u128 = 0b100;
const LRO: u128 = 0b1000;
const ON: Features = Features {
    hw: BIT | TSO,
    wanted: BIT | TSO,
    active: BIT | TSO | LRO,
    nochange: 0,
};
const OFF: Features = Features {
    hw: BIT | TSO,
    wanted: TSO,
    active: LRO,
    nochange: 0,
};

fn table() -> FeatureTable {
    let names = [
        "tx-scatter-gather",
        Feature::Checksum.as_str(),
        "tx-tcp-segmentation",
        "rx-lro",
    ];
    FeatureTable {
        names: names.map(str::to_owned).to_vec(),
    }
}

fn device(outer_checksum: OuterChecksum, features: Result<Features, Fault>) -> Device {
    Device {
        link: TunnelLink {
            kind: TunnelKind::Vxlan,
            ifindex: 7,
            name: IfName::new(b"flannel.1").unwrap(),
            mac: None,
            vni: Some(1),
            dst_port: Some(8472),
            local: None,
            remote: None,
            learning: false,
            outer_checksum,
            udp_zero_csum6_tx: false,
            udp_zero_csum6_rx: false,
            underlay: UnderlayLink::Ifindex(2),
            enslaved: false,
        },
        underlay: Some(std::rc::Rc::new(Underlay {
            ifindex: 2,
            name: IfName::new(b"ens192").unwrap(),
            driver: Some("vmxnet3".to_owned()),
            finishes_checksums: true,
            segmentation: Segmentation::NOT_ASKED,
            vrf: None,
        })),
        features,
        exposure: std::rc::Rc::new(Exposure::not_asked()),
        segmentation: Segmentation::NOT_ASKED,
        remotes: Vec::new(),
        no_peers: false,
        history: PerFeature::default(),
        rule: RuleHistory::default(),
    }
}

fn facts(device: Device) -> Facts {
    Facts {
        kernel: KernelFacts::default(),
        table: table(),
        devices: vec![device],
        own_table: None,
    }
}

fn kernel(zero: Status, lco: Status) -> KernelVerdict {
    KernelVerdict::new(|id| BugVerdict {
        id,
        status: match id {
            BugId::NatZeroCsum => zero,
            BugId::NatLcoCsum => lco,
            BugId::GsoLcoCsum => Status::NotAffected,
        },
        why: None,
        evidence: Vec::new(),
    })
}

fn policy(text: &str) -> Policy {
    let text = format!("version = 1\n{text}");
    let fragment = parse("p.toml", Kind::Main, text.as_bytes())
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    merge(vec![fragment])
}

fn kernel_report() -> KernelReport {
    KernelReport::new(
        &KernelFacts::default(),
        kernel(Status::Affected, Status::Affected),
    )
}

fn refused(errno: i32) -> Fault {
    Fault::netlink(
        Feature::Checksum.set(false),
        &KernelError {
            errno,
            extack: None,
        },
    )
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn decisions() {
    use OuterChecksum::{External, Present, Unknown as NotSaid, Zero};
    use Status::{Affected, NotAffected, Unknown};
    let (off, leave) = (Action::TurnOff, Action::Leave);
    let always = "[[rule]]\nwhen = \"always\"";
    let never = "[[rule]]\nwhen = \"never\"";
    let if_exposed = "[[rule]]\nwhen = \"exposed\"";
    let if_affected = "[[rule]]\nwhen = \"affected\"";
    let fast = "unknown-kernel = \"fixed\"";
    let no_lco = "[bugs]\nnat-lco-csum = \"never\"";
    let lco_affected = "[bugs]\nnat-lco-csum = \"affected\"";
    let last_wins =
        "[[rule]]\nwhen = \"always\"\n[[rule]]\nunderlay-driver = \"vmxnet3\"\nwhen = \"never\"";
    let other_device = "[[rule]]\ndevice = \"vxlan.calico\"\nwhen = \"always\"";
    for (name, policy_text, checksum, zero, lco, action, code, status) in [
        // Each outer checksum can meet only its own bug.
        (
            "present, lco bug",
            "",
            Present,
            NotAffected,
            Affected,
            off,
            "exposure-unknown",
            Affected,
        ),
        (
            "present, zero bug only",
            "",
            Present,
            Affected,
            NotAffected,
            leave,
            "kernel-not-affected",
            NotAffected,
        ),
        (
            "zero, zero bug",
            "",
            Zero,
            Affected,
            NotAffected,
            off,
            "kernel-affected",
            Affected,
        ),
        (
            "zero, lco bug only",
            "",
            Zero,
            NotAffected,
            Affected,
            leave,
            "kernel-not-affected",
            NotAffected,
        ),
        // These can meet both bugs.
        (
            "external, zero bug",
            "",
            External,
            Affected,
            NotAffected,
            off,
            "kernel-affected",
            Affected,
        ),
        (
            "external, lco bug",
            "",
            External,
            NotAffected,
            Affected,
            off,
            "exposure-unknown",
            Affected,
        ),
        (
            "external, none",
            "",
            External,
            NotAffected,
            NotAffected,
            leave,
            "kernel-not-affected",
            NotAffected,
        ),
        (
            "not said, lco bug",
            "",
            NotSaid,
            NotAffected,
            Affected,
            off,
            "exposure-unknown",
            Affected,
        ),
        (
            "external, one unknown",
            "",
            External,
            Unknown,
            NotAffected,
            off,
            "kernel-unknown",
            Unknown,
        ),
        (
            "external, affected beats unknown",
            "",
            External,
            Unknown,
            Affected,
            off,
            "kernel-unknown",
            Affected,
        ),
        // The policy says how to treat unknown facts.
        (
            "unknown is affected",
            "",
            Zero,
            Unknown,
            Unknown,
            off,
            "kernel-unknown",
            Unknown,
        ),
        (
            "unknown is fixed",
            fast,
            Zero,
            Unknown,
            Unknown,
            leave,
            "kernel-unknown-fixed",
            Unknown,
        ),
        (
            "unknown, exposed",
            "",
            Present,
            NotAffected,
            Unknown,
            off,
            "exposure-unknown",
            Unknown,
        ),
        // The table [bugs].
        (
            "never for this bug",
            no_lco,
            Present,
            Affected,
            Affected,
            leave,
            "bug-never",
            Affected,
        ),
        (
            "never for the other bug",
            no_lco,
            Zero,
            Affected,
            Affected,
            off,
            "kernel-affected",
            Affected,
        ),
        (
            "never for one of both",
            no_lco,
            External,
            Affected,
            Affected,
            off,
            "kernel-affected",
            Affected,
        ),
        (
            "no exposure needed",
            lco_affected,
            Present,
            NotAffected,
            Affected,
            off,
            "kernel-affected",
            Affected,
        ),
        // The rules of the policy.
        (
            "always, kernel fine",
            always,
            Present,
            NotAffected,
            NotAffected,
            off,
            "rule-always",
            NotAffected,
        ),
        (
            "never, kernel bad",
            never,
            Zero,
            Affected,
            Affected,
            leave,
            "rule-never",
            Affected,
        ),
        (
            "if exposed",
            if_exposed,
            Zero,
            Affected,
            NotAffected,
            off,
            "exposure-unknown",
            Affected,
        ),
        (
            "if exposed, fine",
            if_exposed,
            Zero,
            NotAffected,
            NotAffected,
            leave,
            "kernel-not-affected",
            NotAffected,
        ),
        (
            "if affected",
            if_affected,
            Present,
            NotAffected,
            Affected,
            off,
            "kernel-affected",
            Affected,
        ),
        (
            "the last matching rule",
            last_wins,
            Zero,
            Affected,
            Affected,
            leave,
            "rule-never",
            Affected,
        ),
        (
            "a rule for another device",
            other_device,
            Present,
            NotAffected,
            NotAffected,
            leave,
            "kernel-not-affected",
            NotAffected,
        ),
    ] {
        let facts = facts(device(checksum, Ok(ON)));
        let plan = decide(&policy(policy_text), &facts, &kernel(zero, lco));
        let d = &plan.devices[0];
        assert_eq!(
            (d.action, d.reason.code.as_str(), d.verdict.status),
            (action, code, status),
            "{name}: {:?}",
            d.reason
        );
        assert_eq!(d.must_be_off, action == off, "{name}");
        assert_eq!(d.also, if action == off { TSO } else { 0 }, "{name}");
        assert_eq!(
            d.rule.is_some(),
            code.starts_with("rule-")
                || policy_text.contains("exposed")
                || policy_text == if_affected,
            "{name}"
        );
        assert!(
            !d.reason.text.is_empty() && !d.reason.text.ends_with('.'),
            "{name}: {}",
            d.reason.text
        );
    }
}

#[test]
fn decisions_by_the_state_of_the_feature() {
    let state = |hw, wanted, active, nochange| {
        let bit = |set| if set { BIT } else { 0 };
        Features {
            hw: bit(hw),
            wanted: bit(wanted),
            active: bit(active),
            nochange: bit(nochange),
        }
    };
    let gone = || refused(19);
    let failed = || refused(12);
    for (name, features, action, code, outcome) in [
        (
            "on",
            Ok(state(true, true, true, false)),
            Action::TurnOff,
            "exposure-unknown",
            Outcome::Planned,
        ),
        (
            "off",
            Ok(state(true, false, false, false)),
            Action::Leave,
            "already-off",
            Outcome::Unchanged,
        ),
        (
            "off, wanted on",
            Ok(state(true, true, false, false)),
            Action::TurnOff,
            "exposure-unknown",
            Outcome::Planned,
        ),
        (
            "on, wanted off",
            Ok(state(true, false, true, false)),
            Action::TurnOff,
            "exposure-unknown",
            Outcome::Planned,
        ),
        (
            "on [fixed] by hw",
            Ok(state(false, true, true, false)),
            Action::Leave,
            "feature-fixed",
            Outcome::Refused,
        ),
        (
            "on [fixed] by nochange",
            Ok(state(true, true, true, true)),
            Action::Leave,
            "feature-fixed",
            Outcome::Refused,
        ),
        (
            "off [fixed]",
            Ok(state(false, false, false, false)),
            Action::Leave,
            "already-off",
            Outcome::Unchanged,
        ),
        (
            "off [fixed], wanted on",
            Ok(state(false, true, false, false)),
            Action::Leave,
            "already-off",
            Outcome::Unchanged,
        ),
        (
            "gone",
            Err(gone()),
            Action::Leave,
            "not-readable",
            Outcome::Gone,
        ),
        (
            "not readable",
            Err(failed()),
            Action::Leave,
            "not-readable",
            Outcome::Failed,
        ),
    ] {
        let facts = facts(device(OuterChecksum::Present, features));
        let plan = decide(
            &Policy::built_in(),
            &facts,
            &kernel(Status::NotAffected, Status::Affected),
        );
        let d = &plan.devices[0];
        assert_eq!((d.action, d.reason.code.as_str()), (action, code), "{name}");
        let report = Report::planned(&plan, kernel_report(), None);
        assert_eq!(report.devices[0].outcome, outcome, "{name}");
        assert_eq!(
            report.devices[0].error.is_some(),
            !matches!(outcome, Outcome::Planned | Outcome::Unchanged),
            "{name}"
        );
    }
}

#[test]
fn a_kernel_without_the_feature() {
    let mut facts = facts(device(OuterChecksum::Present, Ok(ON)));
    facts.table = FeatureTable {
        names: vec!["tx-scatter-gather".to_owned()],
    };
    let plan = decide(
        &Policy::built_in(),
        &facts,
        &kernel(Status::Affected, Status::Affected),
    );
    assert_eq!(
        (plan.devices[0].action, plan.devices[0].reason.code.as_str()),
        (Action::Leave, "no-such-feature")
    );
    let report = Report::planned(&plan, kernel_report(), None);
    let d = &report.devices[0];
    assert_eq!(
        (d.outcome, d.feature, report.exit_code(false)),
        (Outcome::Failed, None, ExitCode::Failed)
    );
    assert_eq!(
        d.error.as_ref().unwrap().to_string(),
        "set tx-checksum-ip-generic off: this kernel has no feature of this name"
    );
}

/// If the policy leaves a device alone and its state cannot be read, the plan reports that and changes nothing.
#[test]
fn an_unreadable_device_that_the_policy_leaves_alone() {
    let facts = facts(device(OuterChecksum::Zero, Err(refused(12))));
    let plan = decide(
        &Policy::built_in(),
        &facts,
        &kernel(Status::NotAffected, Status::Affected),
    );
    assert_eq!(
        (plan.devices[0].action, plan.devices[0].reason.code.as_str()),
        (Action::Leave, "kernel-not-affected")
    );
    assert_eq!(
        Report::planned(&plan, kernel_report(), None).devices[0].outcome,
        Outcome::Failed
    );
}

#[test]
fn exit_codes() {
    let facts = facts(device(OuterChecksum::Present, Ok(ON)));
    let plan = decide(
        &Policy::built_in(),
        &facts,
        &kernel(Status::NotAffected, Status::Affected),
    );
    let on = Some(FeatureState {
        hw: true,
        wanted: true,
        active: true,
        nochange: false,
    });
    let applied = |plan: &Plan<'_>, outcome, error: Option<Fault>| {
        let change = Change {
            outcome,
            feature: on,
            also: 0,
            error,
        };
        let changes = HashMap::from([((7, Feature::Checksum), change)]);
        Report::applied(plan, kernel_report(), BackendName::Ioctl, changes).exit_code(true)
    };
    for (name, outcome, error, expected) in [
        ("changed", Outcome::Changed, None, ExitCode::Ok),
        ("unchanged", Outcome::Unchanged, None, ExitCode::Ok),
        (
            "gone needs nothing",
            Outcome::Gone,
            Some(refused(19)),
            ExitCode::Ok,
        ),
        (
            "refused",
            Outcome::Refused,
            Some(Fault::other(Feature::Checksum.set(false), "still on")),
            ExitCode::Failed,
        ),
        (
            "failed",
            Outcome::Failed,
            Some(refused(12)),
            ExitCode::Failed,
        ),
        (
            "not permitted",
            Outcome::Failed,
            Some(refused(1)),
            ExitCode::Permission,
        ),
    ] {
        assert_eq!(applied(&plan, outcome, error), expected, "{name}");
    }
    let planned = Report::planned(&plan, kernel_report(), None);
    assert_eq!(
        (planned.exit_code(false), planned.exit_code(true)),
        (ExitCode::Ok, ExitCode::Pending)
    );
    let off = self::facts(device(OuterChecksum::Present, Ok(OFF)));
    let plan = decide(
        &Policy::built_in(),
        &off,
        &kernel(Status::NotAffected, Status::Affected),
    );
    assert_eq!(
        Report::planned(&plan, kernel_report(), None).exit_code(true),
        ExitCode::Ok
    );
}

/// `revert` gives back what vxcsum turned off, and nothing else.
#[test]
fn reverting() {
    for (name, features, turned_off, action, code) in [
        (
            "ours, off",
            Ok(OFF),
            true,
            Action::TurnOn,
            "turned-off-by-vxcsum",
        ),
        ("ours, on again", Ok(ON), true, Action::Leave, "already-on"),
        (
            "ours, not readable",
            Err(refused(12)),
            true,
            Action::Leave,
            "not-readable",
        ),
        (
            "somebody else's, off",
            Ok(OFF),
            false,
            Action::Leave,
            "not-turned-off-by-vxcsum",
        ),
        (
            "never off",
            Ok(ON),
            false,
            Action::Leave,
            "not-turned-off-by-vxcsum",
        ),
    ] {
        let mut device = device(OuterChecksum::Present, features);
        device.history[Feature::Checksum] = History {
            owned: turned_off,
            ..History::default()
        };
        let facts = facts(device);
        let plan = decide_revert(&facts, &kernel(Status::NotAffected, Status::Affected));
        let d = &plan.devices[0];
        assert_eq!((d.action, d.reason.code.as_str()), (action, code), "{name}");
        assert_eq!(
            d.also,
            if action == Action::TurnOn { TSO } else { 0 },
            "{name}: what comes back with it"
        );
    }
}

const CONFLICT: Conflict = Conflict {
    times: 3,
    left: 3540,
    end: 18 * 3600 + 180,
};

/// vxcsum leaves a conflict alone. It is a failure only while the feature is on and should be off.
#[test]
fn another_program_keeps_turning_it_on() {
    for (name, features, lco, action, code, exit) in [
        (
            "on",
            ON,
            Status::Affected,
            Action::Leave,
            "contested",
            ExitCode::Failed,
        ),
        (
            "off",
            OFF,
            Status::Affected,
            Action::Leave,
            "already-off",
            ExitCode::Ok,
        ),
        (
            "not needed",
            ON,
            Status::NotAffected,
            Action::Leave,
            "kernel-not-affected",
            ExitCode::Ok,
        ),
    ] {
        let mut device = device(OuterChecksum::Present, Ok(features));
        device.history[Feature::Checksum] = History {
            owned: true,
            undone: 3,
            contested: Some(CONFLICT),
            not_exposed_for: None,
        };
        let facts = facts(device);
        let plan = decide(
            &Policy::built_in(),
            &facts,
            &kernel(Status::NotAffected, lco),
        );
        assert_eq!(
            (plan.devices[0].action, plan.devices[0].reason.code.as_str()),
            (action, code),
            "{name}"
        );
        let report = Report::planned(&plan, kernel_report(), None);
        assert_eq!(report.exit_code(false), exit, "{name}");
        let [device] = &report.devices[..] else {
            panic!("{name}: one device");
        };
        let says_when = device.reason.text.contains("at 18:03 UTC, in 59 minutes");
        let pause = device.pause_seconds;
        assert_eq!(
            (says_when, pause.is_some()),
            (code == "contested", says_when),
            "{name}"
        );
        assert!(pause.is_none_or(|seconds| seconds == 3540), "{name}");
    }
}

fn exposures() -> [Exposure; 3] {
    [
        Exposure::Exposed(Box::new(Exposed {
            rule: CitedRule {
                at: RuleRef {
                    table: 0,
                    chain: 0,
                    rule: 0,
                },
                chain: b"POSTROUTING"[..].into(),
                table: "ip nat (xtables)".to_owned(),
                text: "-A POSTROUTING -j MASQUERADE --random-fully".to_owned(),
            },
            v6: false,
            change: NatChange::RandomPortFully,
            marks: 0,
            kept_by: None,
            notrack: Err(NoCure::NoPort),
        })),
        Exposure::NotExposed(None),
        Exposure::not_asked(),
    ]
}

/// Each decision for devices that are exposed, not exposed, and unknown.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn decisions_by_exposure() {
    use OuterChecksum::{External, Present, Zero};
    use Status::{Affected, NotAffected, Unknown};
    let if_exposed = "[[rule]]\nwhen = \"exposed\"";
    let if_affected = "[[rule]]\nwhen = \"affected\"";
    let fast = "unknown-kernel = \"fixed\"";
    let by_exposure = ["exposed", "not-exposed", "exposure-unknown"];
    let lenient = "unknown-exposure = \"not-exposed\"";
    let by_known_exposure = ["exposed", "not-exposed", "exposure-unknown-not-exposed"];
    for (name, policy_text, checksum, zero, lco, codes) in [
        ("lco bug", "", Present, NotAffected, Affected, by_exposure),
        (
            "lco unknown",
            "",
            Present,
            NotAffected,
            Unknown,
            by_exposure,
        ),
        (
            "no lco bug",
            "",
            Present,
            Affected,
            NotAffected,
            ["kernel-not-affected"; 3],
        ),
        (
            "unknown is fixed",
            fast,
            Present,
            Unknown,
            Unknown,
            ["kernel-unknown-fixed"; 3],
        ),
        (
            "zero bug needs no exposure",
            "",
            Zero,
            Affected,
            Affected,
            ["kernel-affected"; 3],
        ),
        (
            "a rule asks",
            if_exposed,
            Zero,
            Affected,
            NotAffected,
            by_exposure,
        ),
        (
            "a rule does not ask",
            if_affected,
            Present,
            Affected,
            Affected,
            ["kernel-affected"; 3],
        ),
        (
            "external, lco bug",
            "",
            External,
            NotAffected,
            Affected,
            by_exposure,
        ),
        (
            "external, zero bug",
            "",
            External,
            Affected,
            NotAffected,
            ["kernel-affected"; 3],
        ),
        (
            "external, both bugs",
            "",
            External,
            Affected,
            Affected,
            ["kernel-affected"; 3],
        ),
        (
            "unknown is not exposed",
            lenient,
            Present,
            NotAffected,
            Affected,
            by_known_exposure,
        ),
        (
            "unknown is not exposed, and a rule says otherwise",
            "unknown-exposure = \"not-exposed\"\n[[rule]]\nunknown-exposure = \"exposed\"\nwhen = \"exposed\"",
            Present,
            NotAffected,
            Affected,
            by_exposure,
        ),
        (
            "a rule says that unknown is not exposed",
            "[[rule]]\nunknown-exposure = \"not-exposed\"\nwhen = \"exposed\"",
            Present,
            NotAffected,
            Affected,
            by_known_exposure,
        ),
        (
            "external, and a rule says that it sends zero",
            "[[rule]]\ndevice = \"*\"\nouter-checksum = \"zero\"\nwhen = \"exposed\"",
            External,
            NotAffected,
            Affected,
            ["kernel-not-affected"; 3],
        ),
        (
            "external, and a rule for zero names no device",
            "[[rule]]\nouter-checksum = \"zero\"\nwhen = \"never\"",
            External,
            NotAffected,
            Affected,
            by_exposure,
        ),
    ] {
        let (policy, kernel) = (policy(policy_text), kernel(zero, lco));
        let mut asked = device(checksum, Ok(ON));
        let depends = depends_on(Trigger::Nat, &policy, std::slice::from_ref(&asked), &kernel);
        assert_eq!(depends, codes[0] != codes[1], "{name}");
        for (exposure, code) in exposures().into_iter().zip(codes) {
            asked.exposure = std::rc::Rc::new(exposure.clone());
            let facts = facts(asked.clone());
            let plan = decide(&policy, &facts, &kernel);
            let found = &plan.devices[0];
            assert_eq!(found.reason.code.as_str(), code, "{name}, {exposure:?}");
            let off = ![
                "not-exposed",
                "kernel-not-affected",
                "kernel-unknown-fixed",
                "exposure-unknown-not-exposed",
            ]
            .contains(&code);
            assert_eq!(found.must_be_off, off, "{name}, {exposure:?}");
            if code == exposure.code().as_str() {
                assert!(
                    found.reason.text.contains(&exposure.to_string()),
                    "{name}: {}",
                    found.reason.text
                );
            }
            if code == "not-exposed" {
                assert!(
                    found.reason.text.contains("latent"),
                    "{name}: {}",
                    found.reason.text
                );
            }
            let report = Report::planned(&plan, kernel_report(), None);
            let mut status = Vec::new();
            output::status(&mut status, &report, false).expect("write to memory");
            let status = String::from_utf8(status).expect("UTF-8");
            let latent = matches!(exposure, Exposure::NotExposed(_))
                && found.verdict.status != NotAffected
                && !found.must_be_off;
            assert_eq!(status.contains(" latent "), latent, "{name}: {status}");
            assert_eq!(*report.devices[0].exposure, exposure);
            assert_eq!(report.devices[0].exposure_rule, exposure.rule());
        }
    }
}

/// Two similar devices share a decision only if their exposure is the same.
#[test]
fn devices_of_a_kind_with_different_exposure() {
    let [exposed, not_exposed, _] = exposures().map(std::rc::Rc::new);
    let mut all = facts(device(OuterChecksum::Present, Ok(ON)));
    all.devices.push(all.devices[0].clone());
    all.devices[0].exposure = exposed;
    all.devices[1].exposure = not_exposed;
    let kernel = kernel(Status::NotAffected, Status::Affected);
    let plan = decide(&Policy::built_in(), &all, &kernel);
    let off: Vec<bool> = plan.devices.iter().map(|d| d.must_be_off).collect();
    assert_eq!(off, [true, false]);
}

/// With `cure = "notrack"`: the analysis, the table, the record of the rule, and the features; then the expected
/// action, reason, step and note.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_rule_is_used_only_where_it_suffices() {
    use Status::{Affected, NotAffected};
    use vxcsum::offload::untrack::{RuleNote, RuleStep};
    let packets = Untracked {
        v6: Some(false),
        local: None,
        port: 8472,
    };
    let other = Untracked {
        port: 4789,
        ..packets
    };
    let exposed = |notrack| match exposures() {
        [Exposure::Exposed(found), ..] => {
            Exposure::Exposed(Box::new(Exposed { notrack, ..*found }))
        }
        _ => unreachable!("the first is exposed"),
    };
    let suffices = || exposed(Ok(packets));
    let not_known = || exposed(Err(NoCure::NotKnown(packets, "it may".to_owned())));
    let dropped = || exposed(Err(NoCure::Dropped("`-A X`".to_owned())));
    let not_exposed = || Exposure::NotExposed(None);
    let absent = || Some(Ok(OwnTable::Absent));
    let made = |of: Untracked| Some(Ok(OwnTable::Made([of].into())));
    let changed = || Some(Ok(OwnTable::Changed));
    let none = RuleHistory::default;
    let kept = |of: Untracked| RuleHistory {
        packets: Some(of),
        ..none()
    };
    let contested = |in_backoff| RuleHistory {
        unusable: Some(Unusable::Contested(CONFLICT)),
        in_backoff,
        ..kept(packets)
    };
    let waited = |seconds| RuleHistory {
        not_exposed_for: Some(seconds),
        ..kept(packets)
    };
    let add = RuleStep::Add(packets);
    let (leave, remove) = (RuleStep::Leave, RuleStep::Remove);
    let gave_up = Some(RuleNote::GiveUp);
    let begins = Some(RuleNote::NotExposed);
    let ends = Some(RuleNote::MayBeExposed);
    let notrack = "cure = \"notrack\"";
    let lenient = "cure = \"notrack\"\nunknown-exposure = \"not-exposed\"";
    let never = "cure = \"notrack\"\n[bugs]\nnat-lco-csum = \"never\"";
    let affected = "cure = \"notrack\"\n[bugs]\nnat-lco-csum = \"affected\"";
    let always = "cure = \"notrack\"\n[[rule]]\nwhen = \"always\"";
    let by_rule = "[[rule]]\ncure = \"notrack\"\nwhen = \"exposed\"";
    let not_by_rule = "cure = \"notrack\"\n[[rule]]\ncure = \"offload\"\nwhen = \"exposed\"";
    let rows = [
        (
            "asked for",
            notrack,
            suffices(),
            absent(),
            none(),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "by a rule",
            by_rule,
            suffices(),
            absent(),
            none(),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "not by a rule",
            not_by_rule,
            suffices(),
            absent(),
            none(),
            ON,
            "turn-off exposed",
            leave,
            None,
        ),
        (
            "not asked for",
            "",
            suffices(),
            absent(),
            none(),
            ON,
            "turn-off exposed",
            leave,
            None,
        ),
        (
            "in place",
            notrack,
            suffices(),
            made(packets),
            kept(packets),
            ON,
            "leave already-untracked",
            leave,
            None,
        ),
        (
            "not recorded",
            notrack,
            suffices(),
            made(packets),
            none(),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "for other packets",
            notrack,
            suffices(),
            made(other),
            kept(other),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "lost",
            notrack,
            suffices(),
            absent(),
            kept(packets),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "changed by others",
            notrack,
            suffices(),
            changed(),
            kept(packets),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "contested",
            notrack,
            suffices(),
            absent(),
            contested(false),
            ON,
            "turn-off exposed",
            leave,
            gave_up,
        ),
        (
            "contested before",
            notrack,
            suffices(),
            absent(),
            contested(true),
            OFF,
            "leave already-off",
            leave,
            None,
        ),
        (
            "there again",
            notrack,
            suffices(),
            made(packets),
            contested(false),
            ON,
            "leave already-untracked",
            leave,
            None,
        ),
        (
            "exposed again",
            notrack,
            suffices(),
            made(packets),
            waited(9),
            ON,
            "leave already-untracked",
            leave,
            ends,
        ),
        (
            "not known elsewhere",
            notrack,
            not_known(),
            absent(),
            none(),
            ON,
            "turn-off exposed",
            leave,
            None,
        ),
        (
            "not known, which counts as no",
            lenient,
            not_known(),
            absent(),
            none(),
            ON,
            "add-rule exposed",
            add,
            None,
        ),
        (
            "would be dropped",
            notrack,
            dropped(),
            absent(),
            none(),
            ON,
            "turn-off exposed",
            leave,
            None,
        ),
        (
            "dropped from now on",
            notrack,
            dropped(),
            made(packets),
            kept(packets),
            ON,
            "turn-off exposed",
            leave,
            None,
        ),
        (
            "dropped, and off",
            notrack,
            dropped(),
            made(packets),
            kept(packets),
            OFF,
            "leave already-off",
            remove,
            None,
        ),
        (
            "whatever NAT does",
            affected,
            suffices(),
            absent(),
            none(),
            ON,
            "turn-off kernel-affected",
            leave,
            None,
        ),
        (
            "always",
            always,
            suffices(),
            absent(),
            none(),
            ON,
            "turn-off rule-always",
            leave,
            None,
        ),
        (
            "never",
            never,
            suffices(),
            made(packets),
            kept(packets),
            ON,
            "remove-rule bug-never",
            remove,
            None,
        ),
        (
            "unknown",
            notrack,
            Exposure::not_asked(),
            absent(),
            none(),
            ON,
            "turn-off exposure-unknown",
            leave,
            None,
        ),
        (
            "not exposed",
            notrack,
            not_exposed(),
            made(packets),
            kept(packets),
            ON,
            "leave not-exposed",
            leave,
            begins,
        ),
        (
            "for a while",
            notrack,
            not_exposed(),
            made(packets),
            waited(599),
            ON,
            "leave not-exposed",
            leave,
            None,
        ),
        (
            "for long",
            notrack,
            not_exposed(),
            made(packets),
            waited(600),
            ON,
            "remove-rule not-exposed",
            remove,
            None,
        ),
        (
            "never needed",
            notrack,
            not_exposed(),
            absent(),
            none(),
            ON,
            "leave not-exposed",
            leave,
            None,
        ),
    ];
    for (name, text, exposure, own_table, rule, features, says, step, note) in rows {
        let mut device = device(OuterChecksum::Present, Ok(features));
        device.exposure = std::rc::Rc::new(exposure);
        device.rule = rule;
        let mut facts = facts(device);
        facts.own_table = own_table;
        let policy = policy(text);
        let kernel = kernel(NotAffected, Affected);
        let plan = decide(&policy, &facts, &kernel);
        let [planned] = &plan.devices[..] else {
            panic!("{name}: one device")
        };
        let said = format!(
            "{} {}",
            planned.action.as_str(),
            planned.reason.code.as_str()
        );
        assert_eq!(said, says, "{name}: {}", planned.reason.text);
        assert_eq!(
            (planned.untrack.step, planned.untrack.note),
            (step, note),
            "{name}"
        );
        // `revert` removes only what the record has.
        let kept = facts.devices[0].rule.packets.is_some();
        let plan = decide_revert(&facts, &kernel);
        let expected = if kept {
            RuleStep::Remove
        } else {
            RuleStep::Leave
        };
        assert_eq!(plan.devices[0].untrack.step, expected, "{name}");
    }
    // A feature that vxcsum turned off is turned on again only when the rule exists.
    for (own_table, action) in [(absent(), Action::AddRule), (made(packets), Action::TurnOn)] {
        let mut device = device(OuterChecksum::Present, Ok(OFF));
        device.exposure = std::rc::Rc::new(suffices());
        device.rule = kept(packets);
        device.history[Feature::Checksum].owned = true;
        let mut facts = facts(device);
        facts.own_table = own_table;
        let policy = policy(notrack);
        let plan = decide(&policy, &facts, &kernel(NotAffected, Affected));
        assert_eq!(plan.devices[0].action, action);
    }
}

/// A device that NAT and a stack of devices threaten: the rule cures the one bug, and a feature the other.
#[test]
fn a_rule_cures_no_bug_that_needs_no_nat() {
    use Status::Affected;
    use vxcsum::offload::untrack::RuleStep;
    const FRAGLIST: u128 = 0b1_0000;
    let packets = Untracked {
        v6: None,
        local: None,
        port: 8472,
    };
    let [exposed, _, _] = exposures();
    let Exposure::Exposed(found) = exposed else {
        unreachable!("the first is exposed")
    };
    let (checksum, fraglist) = (Feature::Checksum, Feature::Fraglist);
    let (off, on, leave) = (Action::TurnOff, Action::TurnOn, Action::Leave);
    let no_port = Err(NoCure::NoPort);
    for (name, suffices, there, is_off, expected, step) in [
        (
            "not there",
            Ok(packets),
            false,
            &[][..],
            vec![(fraglist, off, "exposed")],
            RuleStep::Add(packets),
        ),
        (
            "there",
            Ok(packets),
            true,
            &[fraglist][..],
            vec![(fraglist, leave, "already-off")],
            RuleStep::Leave,
        ),
        (
            "both are off",
            Ok(packets),
            true,
            &[checksum, fraglist][..],
            vec![
                (fraglist, leave, "already-off"),
                (checksum, on, "already-untracked"),
            ],
            RuleStep::Leave,
        ),
        (
            "no rule helps",
            no_port,
            false,
            &[][..],
            vec![(checksum, off, "exposed")],
            RuleStep::Leave,
        ),
    ] {
        let bit = |feature: &Feature| if *feature == checksum { BIT } else { FRAGLIST };
        let bits = is_off.iter().fold(0, |bits, feature| bits | bit(feature));
        let features = Features {
            hw: BIT | FRAGLIST,
            wanted: (BIT | FRAGLIST) & !bits,
            active: (BIT | FRAGLIST) & !bits,
            nochange: 0,
        };
        let mut device = device(OuterChecksum::Present, Ok(features));
        device.exposure = std::rc::Rc::new(Exposure::Exposed(Box::new(Exposed {
            notrack: suffices,
            ..(*found).clone()
        })));
        device.segmentation = Segmentation::Twice {
            splitter: IfName::new(b"macvlan0").unwrap(),
            kind: "macvlan".to_owned(),
        };
        for feature in is_off {
            device.history[*feature].owned = true;
        }
        device.rule.packets = there.then_some(packets);
        let mut facts = facts(device);
        facts.table.names.push(fraglist.as_str().to_owned());
        if there {
            facts.own_table = Some(Ok(OwnTable::Made([packets].into())));
        }
        let kernel = KernelVerdict::new(|id| BugVerdict {
            id,
            status: Affected,
            why: None,
            evidence: Vec::new(),
        });
        let policy = policy("cure = \"notrack\"");
        let plan = decide(&policy, &facts, &kernel);
        let rows: Vec<_> = plan
            .devices
            .iter()
            .map(|row| (row.feature, row.action, row.reason.code.as_str()))
            .collect();
        assert_eq!(rows, expected, "{name}");
        assert_eq!(plan.devices[0].untrack.step, step, "{name}");
    }
}

/// Devices that vxcsum turned off: the action, the new entry in the record, and the time of giving back.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn features_that_need_not_be_off_are_given_back() {
    use Status::{Affected, NotAffected};
    use vxcsum::offload::plan::Note;
    const NEVER: &str = "[[rule]]\nname = \"n\"\nwhen = \"never\"";
    let [exposed, not_exposed, unknown] = exposures();
    let owned = |not_exposed_for| History {
        owned: true,
        undone: 0,
        contested: None,
        not_exposed_for,
    };
    let (on, off, leave) = (Action::TurnOn, Action::TurnOff, Action::Leave);
    for (name, text, history, features, exposure, lco, action, note, wait) in [
        (
            "exposed",
            "",
            owned(None),
            OFF,
            &exposed,
            Affected,
            leave,
            None,
            None,
        ),
        (
            "exposed again",
            "",
            owned(Some(60)),
            OFF,
            &exposed,
            Affected,
            leave,
            Some(Note::MayBeExposed),
            None,
        ),
        (
            "not known again",
            "",
            owned(Some(60)),
            OFF,
            &unknown,
            Affected,
            leave,
            Some(Note::MayBeExposed),
            None,
        ),
        (
            "turned on meanwhile",
            "",
            owned(None),
            ON,
            &exposed,
            Affected,
            off,
            None,
            None,
        ),
        (
            "the first quiet look",
            "",
            owned(None),
            OFF,
            &not_exposed,
            Affected,
            leave,
            Some(Note::NotExposed),
            Some(600),
        ),
        (
            "a later one",
            "",
            owned(Some(599)),
            OFF,
            &not_exposed,
            Affected,
            leave,
            None,
            Some(1),
        ),
        (
            "for long enough",
            "",
            owned(Some(600)),
            OFF,
            &not_exposed,
            Affected,
            on,
            None,
            None,
        ),
        (
            "sooner",
            "give-back-after = \"30s\"",
            owned(Some(30)),
            OFF,
            &not_exposed,
            Affected,
            on,
            None,
            None,
        ),
        (
            "at once",
            "give-back-after = \"0s\"",
            owned(None),
            OFF,
            &not_exposed,
            Affected,
            on,
            Some(Note::NotExposed),
            None,
        ),
        (
            "never",
            "give-back-after = \"never\"",
            owned(Some(9999)),
            OFF,
            &not_exposed,
            Affected,
            leave,
            None,
            None,
        ),
        (
            "another kernel fact",
            "",
            owned(None),
            OFF,
            &exposed,
            NotAffected,
            on,
            None,
            None,
        ),
        (
            "another policy",
            NEVER,
            owned(None),
            OFF,
            &exposed,
            Affected,
            on,
            None,
            None,
        ),
        (
            "somebody else's",
            NEVER,
            History::default(),
            OFF,
            &exposed,
            Affected,
            leave,
            None,
            None,
        ),
        (
            "turned on by somebody",
            NEVER,
            owned(None),
            ON,
            &exposed,
            Affected,
            leave,
            Some(Note::NotOwned),
            None,
        ),
    ] {
        let mut device = device(OuterChecksum::Present, Ok(features));
        device.history[Feature::Checksum] = history;
        device.exposure = std::rc::Rc::new(exposure.clone());
        let facts = facts(device);
        let plan = decide(&policy(text), &facts, &kernel(NotAffected, lco));
        let found = &plan.devices[0];
        assert_eq!(
            (found.action, found.note),
            (action, note),
            "{name}: {:?}",
            found.reason
        );
        assert_eq!(plan.next_give_back(), wait, "{name}");
        assert_eq!(found.also, if action == leave { 0 } else { TSO }, "{name}");
        assert_eq!(
            plan.changes_anything(),
            action != leave || note.is_some(),
            "{name}"
        );
        let says = found.reason.text.contains("vxcsum turned it off");
        assert_eq!(
            says,
            action == on || wait.is_some() || name == "never",
            "{name}"
        );
    }
}

/// A device without peers sends nothing, so decisions that depend on NAT wait. Decisions of the policy do not.
#[test]
fn a_device_without_peers_is_left_as_it_is() {
    let (no_peers, affected) = ("no-peers-yet", "kernel-affected");
    for (name, text, features, owned, action, code) in [
        ("on", "", ON, false, Action::Leave, no_peers),
        ("off", "", OFF, false, Action::Leave, no_peers),
        ("off by vxcsum", "", OFF, true, Action::Leave, no_peers),
        (
            "affected is enough",
            "[bugs]\nnat-lco-csum = \"affected\"",
            ON,
            false,
            Action::TurnOff,
            affected,
        ),
        (
            "never",
            "[bugs]\nnat-lco-csum = \"never\"",
            OFF,
            true,
            Action::TurnOn,
            "bug-never",
        ),
    ] {
        let mut device = device(OuterChecksum::Present, Ok(features));
        device.no_peers = true;
        device.history[Feature::Checksum].owned = owned;
        let facts = facts(device);
        let plan = decide(
            &policy(text),
            &facts,
            &kernel(Status::NotAffected, Status::Affected),
        );
        let found = &plan.devices[0];
        assert_eq!(
            (found.action, found.reason.code.as_str()),
            (action, code),
            "{name}"
        );
    }
}

/// Feature, action and code of the reason.
type Row = (Feature, Action, &'static str);
/// Features that are off.
type Off = &'static [Feature];

/// A device over a stack that segments twice, segments once, or is not understood, with NAT and without: each feature
/// that is off or must be off has a row.
#[test]
#[allow(clippy::too_many_lines, clippy::type_complexity, reason = "a table")]
fn each_bug_is_cured_by_the_feature_that_costs_least() {
    use Status::{Affected, NotAffected};
    const FRAGLIST: u128 = 0b1_0000;
    const CHECKSUM: Feature = Feature::Checksum;
    const LIST: Feature = Feature::Fraglist;
    let (checksum, fraglist) = (CHECKSUM, LIST);
    let (off, on, leave) = (Action::TurnOff, Action::TurnOn, Action::Leave);
    let [by_nat, no_nat, _] = exposures();
    let name = |text: &[u8]| IfName::new(text).unwrap();
    let twice = Segmentation::Twice {
        splitter: name(b"macvlan0"),
        kind: "macvlan".to_owned(),
    };
    let once = Segmentation::Once(OnceBecause::CompleteAt(name(b"eth0")));
    let unknown = Segmentation::Unknown(SegmentationDoubt::Device(name(b"vlan100")));
    let (none, both) = (&[][..], &[CHECKSUM, LIST][..]);
    let (old, quiet) = (Some(600), None);
    let rule = |when: &str| format!("[[rule]]\nwhen = \"{when}\"");
    let bugs = |text: &str| format!("[bugs]\n{text}");
    #[rustfmt::skip]
    let rows: Vec<(&str, String, &Exposure, &Segmentation, [Status; 2], Off, Off, Option<u64>, Vec<Row>)> = vec![
        // The necessary features.
        ("neither", String::new(), &no_nat, &once, [Affected; 2], none, none, quiet, vec![(checksum, leave, "not-exposed")]),
        ("segmented twice", String::new(), &no_nat, &twice, [Affected; 2], none, none, quiet, vec![(fraglist, off, "exposed")]),
        ("not known", String::new(), &no_nat, &unknown, [Affected; 2], none, none, quiet, vec![(fraglist, off, "exposure-unknown")]),
        ("not known, counts as no", "unknown-exposure = \"not-exposed\"".to_owned(), &no_nat, &unknown, [Affected; 2], none, none, quiet, vec![(checksum, leave, "not-exposed")]),
        ("NAT", String::new(), &by_nat, &once, [Affected; 2], none, none, quiet, vec![(checksum, off, "exposed")]),
        ("both: one cures both", String::new(), &by_nat, &twice, [Affected; 2], none, none, quiet, vec![(checksum, off, "exposed")]),
        ("another kernel", String::new(), &no_nat, &twice, [Affected, NotAffected], none, none, quiet, vec![(checksum, leave, "not-exposed")]),
        ("only this bug", String::new(), &by_nat, &twice, [NotAffected, Affected], none, none, quiet, vec![(fraglist, off, "exposed")]),
        ("NAT never", bugs("nat-lco-csum = \"never\""), &by_nat, &twice, [Affected; 2], none, none, quiet, vec![(fraglist, off, "exposed")]),
        ("this bug never", bugs("gso-lco-csum = \"never\""), &no_nat, &twice, [Affected; 2], none, none, quiet, vec![(checksum, leave, "not-exposed")]),
        ("whenever affected", bugs("gso-lco-csum = \"affected\""), &no_nat, &once, [Affected; 2], none, none, quiet, vec![(fraglist, off, "kernel-affected")]),
        ("always", rule("always"), &no_nat, &twice, [Affected; 2], none, none, quiet, vec![(checksum, off, "rule-always")]),
        ("never", rule("never"), &by_nat, &twice, [Affected; 2], none, none, quiet, vec![(checksum, leave, "rule-never")]),
        ("a rule: exposed", rule("exposed"), &no_nat, &twice, [Affected; 2], none, none, quiet, vec![(fraglist, off, "exposed")]),
        ("a rule: affected", rule("affected"), &no_nat, &once, [Affected; 2], none, none, quiet, vec![(checksum, off, "kernel-affected")]),
        // Features that are already off.
        ("off", String::new(), &no_nat, &twice, [Affected; 2], &[LIST], &[LIST], quiet, vec![(fraglist, leave, "already-off")]),
        ("the other one is off, not by vxcsum", String::new(), &no_nat, &twice, [Affected; 2], &[CHECKSUM], none, quiet, vec![(checksum, leave, "already-off")]),
        ("turned on again", String::new(), &no_nat, &twice, [Affected; 2], none, &[LIST], quiet, vec![(fraglist, off, "exposed")]),
        // Changes.
        ("NAT came", String::new(), &by_nat, &twice, [Affected; 2], &[LIST], &[LIST], quiet, vec![(checksum, off, "exposed"), (fraglist, leave, "already-off")]),
        ("NAT came, and twice went", String::new(), &by_nat, &once, [Affected; 2], &[LIST], &[LIST], quiet, vec![(checksum, off, "exposed"), (fraglist, leave, "not-exposed")]),
        ("NAT went", String::new(), &no_nat, &twice, [Affected; 2], &[CHECKSUM], &[CHECKSUM], quiet, vec![(fraglist, off, "exposed"), (checksum, leave, "not-exposed")]),
        ("NAT went long ago", String::new(), &no_nat, &twice, [Affected; 2], both, both, old, vec![(fraglist, leave, "already-off"), (checksum, on, "not-exposed")]),
        ("twice went", String::new(), &no_nat, &once, [Affected; 2], &[LIST], &[LIST], quiet, vec![(fraglist, leave, "not-exposed")]),
        ("twice went long ago", String::new(), &no_nat, &once, [Affected; 2], &[LIST], &[LIST], old, vec![(fraglist, on, "not-exposed")]),
        ("both went long ago", String::new(), &no_nat, &once, [Affected; 2], both, both, old, vec![(checksum, on, "not-exposed"), (fraglist, on, "not-exposed")]),
        ("a rule says never", rule("never"), &by_nat, &twice, [Affected; 2], both, both, quiet, vec![(checksum, on, "rule-never"), (fraglist, on, "rule-never")]),
        ("somebody else's", rule("never"), &by_nat, &twice, [Affected; 2], both, none, quiet, vec![(checksum, leave, "rule-never")]),
        ("not needed and turned on by somebody", String::new(), &by_nat, &twice, [Affected; 2], &[CHECKSUM], both, quiet, vec![(checksum, leave, "already-off"), (fraglist, leave, "exposed")]),
    ];
    for (title, text, exposure, segmentation, statuses, is_off, owned, not_exposed_for, expected) in
        rows
    {
        let bit = |feature| if feature == checksum { BIT } else { FRAGLIST };
        let bits = is_off.iter().fold(0, |bits, feature| bits | bit(*feature));
        let tso = if bits & BIT == 0 { TSO } else { 0 };
        let features = Features {
            hw: BIT | TSO | FRAGLIST,
            wanted: (BIT | TSO | FRAGLIST) & !bits,
            active: (BIT | FRAGLIST) & !bits | tso,
            nochange: 0,
        };
        let mut device = device(OuterChecksum::Present, Ok(features));
        device.exposure = std::rc::Rc::new(exposure.clone());
        device.segmentation = segmentation.clone();
        for feature in owned {
            device.history[*feature] = History {
                owned: true,
                undone: 0,
                contested: None,
                not_exposed_for,
            };
        }
        let mut facts = facts(device);
        facts.table.names.push(fraglist.as_str().to_owned());
        let kernel = KernelVerdict::new(|id| BugVerdict {
            id,
            status: match id {
                BugId::NatZeroCsum => NotAffected,
                BugId::NatLcoCsum => statuses[0],
                BugId::GsoLcoCsum => statuses[1],
            },
            why: None,
            evidence: Vec::new(),
        });
        let plan = decide(&policy(&text), &facts, &kernel);
        let found: Vec<Row> = plan
            .devices
            .iter()
            .map(|row| (row.feature, row.action, row.reason.code.as_str()))
            .collect();
        assert_eq!(found, expected, "{title}");
        for row in &plan.devices {
            let tso = row.feature == checksum && row.action != leave;
            assert_eq!(row.also, if tso { TSO } else { 0 }, "{title}");
        }
        // Counts as one device, whatever the actions are.
        let report = Report::planned(&plan, kernel_report(), Some(BackendName::Ioctl));
        assert_eq!(report.summary.devices, 1, "{title}");
        let pending = expected.iter().any(|(_, action, _)| *action != leave);
        assert_eq!(report.summary.pending, usize::from(pending), "{title}");
    }
}

/// `revert` turns on every feature that vxcsum turned off.
#[test]
fn revert_gives_back_each_feature() {
    let mut device = device(OuterChecksum::Present, Ok(OFF));
    for feature in Feature::ALL {
        device.history[feature].owned = true;
    }
    let mut facts = facts(device);
    facts
        .table
        .names
        .push(Feature::Fraglist.as_str().to_owned());
    let plan = decide_revert(&facts, &kernel(Status::NotAffected, Status::Affected));
    let found: Vec<_> = plan
        .devices
        .iter()
        .map(|row| (row.feature, row.action, row.also))
        .collect();
    let on = Action::TurnOn;
    assert_eq!(
        found,
        [(Feature::Checksum, on, TSO), (Feature::Fraglist, on, 0)]
    );
}
