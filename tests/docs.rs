//! The shipped documents match the program: manual pages and completions name every command, option, reason and exit
//! code, the message catalog names every event. The completions also run in their shells, on devices of a namespace.

mod common;
mod source;

use std::process::Command;

use clap::CommandFactory;
use common::{Netns, VXCSUM, run};
use source::read;
use vxcsum::offload::judge::ReasonCode;
use vxcsum::output::message_ids;

/// Every visible command and its visible options, such as `apply` and `--dry-run`.
fn words(command: &clap::Command, out: &mut Vec<String>) {
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        out.extend(arg.get_long().map(|long| format!("--{long}")));
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        out.push(sub.get_name().to_owned());
        words(sub, out);
    }
}

fn command_line() -> Vec<String> {
    let mut command = vxcsum::cli::Cli::command();
    command.build();
    let mut out = Vec::new();
    words(&command, &mut out);
    out.sort();
    out.dedup();
    assert!(out.len() > 15, "only {out:?}");
    out
}

#[test]
fn the_manual_names_every_command_and_option() {
    let page = read("docs/man/vxcsum.8")
        .replace("Fl \\-", "--")
        .replace("-- ", "--");
    for word in command_line() {
        let found = match word.strip_prefix("--") {
            Some(_) => page.contains(&word),
            None => {
                page.contains(&format!("Cm {word}")) || page.contains(&format!("Cm policy {word}"))
            }
        };
        assert!(found, "vxcsum(8) does not name {word}");
    }
}

#[test]
fn the_completions_name_every_command_and_option() {
    for file in ["vxcsum.bash", "_vxcsum", "vxcsum.fish"] {
        let script = read(&format!("packaging/completions/{file}"));
        for word in command_line() {
            let needle = match (word.strip_prefix("--"), file) {
                (Some(long), "vxcsum.fish") => format!("-l {long}"),
                _ => word.clone(),
            };
            assert!(script.contains(&needle), "{file} does not name {word}");
        }
    }
}

#[test]
fn the_manual_explains_every_reason() {
    let page = read("docs/man/vxcsum.8");
    let reasons: Vec<_> = page
        .split(".Sh REASONS")
        .nth(1)
        .and_then(|rest| rest.split(".Sh ").next())
        .expect("vxcsum(8) has a section REASONS")
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    assert_eq!(reasons, ReasonCode::ALL.map(ReasonCode::as_str));
}

#[test]
fn the_manual_lists_every_exit_code() {
    let report = read("src/error.rs");
    let (_, body) = report.split_once("pub enum ExitCode {").expect("ExitCode");
    let body = body.split("\n}").next().unwrap_or_default();
    let mut codes: Vec<u8> = body
        .lines()
        .filter_map(|line| line.split_once(" = ")?.1.trim_end_matches(',').parse().ok())
        .collect();
    codes.sort_unstable();
    let page = read("docs/man/vxcsum.8");
    let (_, section) = page.split_once(".Sh EXIT STATUS").expect("EXIT STATUS");
    let section = section.split(".Sh ").next().unwrap_or_default();
    let listed: Vec<u8> = section
        .lines()
        .filter_map(|line| line.strip_prefix(".It ")?.parse().ok())
        .collect();
    assert_eq!(listed, codes);
}

/// The keys in the document are those of the parser's tables.
#[test]
fn the_manual_of_the_policy_names_every_key() {
    let page = read("docs/man/vxcsum-policy.5");
    for (_, keys) in vxcsum::policy::TABLES {
        assert!(!keys.is_empty());
        for key in keys {
            let named = page.contains(&format!("Cm {key}")) || page.contains(&format!("[{key}]"));
            assert!(named, "vxcsum-policy(5) does not name {key}");
        }
    }
}

#[test]
fn the_catalog_explains_every_event() {
    let catalog = read("systemd/vxcsum.catalog");
    let entries: Vec<_> = catalog
        .split("\n# ")
        .skip(1)
        .filter_map(|entry| entry.split_once("\n-- "))
        .map(|(event, rest)| (event, &rest[..32], rest))
        .collect();
    let ids: Vec<_> = entries.iter().map(|(event, id, _)| (*event, *id)).collect();
    assert_eq!(ids, message_ids::ALL);
    for (event, id, text) in entries {
        assert!(id.bytes().all(|b| b.is_ascii_hexdigit()), "{event}: {id}");
        for header in [
            "\nSubject: ",
            "\nDefined-By: vxcsum\n",
            "\nDocumentation: man:vxcsum",
        ] {
            assert!(text.contains(header), "{event}: no {header:?}");
        }
    }
}

/// The texts in backquotes in a document.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn the_developers_documents_name_files_that_exist() {
    for document in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let paths: Vec<&str> = quoted(&text)
            .filter(|word| {
                !word.contains([' ', '*', '=', ':']) && !word.starts_with(['/', '.', '_'])
            })
            .filter(|word| {
                word.contains('/')
                    || [".rs", ".md", ".toml"]
                        .iter()
                        .any(|end| word.ends_with(end))
            })
            .collect();
        assert!(paths.len() > 8, "{document}: only {paths:?}");
        for path in paths {
            let there = ["", "src"].map(|below| source::root().join(below).join(path).exists());
            assert!(there.contains(&true), "{document} names {path}");
        }
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().expect("the end of a link");
            if !target.starts_with("http") {
                let path = source::root().join(document).with_file_name(target);
                assert!(path.exists(), "{document} links to {target}");
            }
        }
    }
}

#[test]
fn the_developers_documents_name_targets_that_exist() {
    let rules = read("Makefile") + &read("packaging/package.mk");
    let mut targets = 0;
    for document in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let lists = quoted(&text).filter_map(|words| words.strip_prefix("make "));
        for target in lists.flat_map(str::split_whitespace) {
            let there = rules
                .lines()
                .any(|line| line.starts_with(&format!("{target}:")));
            assert!(there, "{document} names make {target}");
            targets += 1;
        }
    }
    assert!(targets > 6, "{targets}");
}

/// Runs a script in network and mount namespaces of its own, with two VXLAN devices and a dummy device.
fn with_devices(shell: &str, script: &str) -> String {
    let setup = "set -e; mount -t sysfs sysfs /sys; export DEBUGINFOD_URLS=
        ip link add type dummy >/dev/null 2>&1 || ip link add type bridge
        ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1
        ip link add 'a$b' type vxlan id 2 dstport 8473 local 192.0.2.1
        exec \"$0\" -c \"$1\"";
    let output = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            setup,
            shell,
            script,
        ])
        .current_dir(source::root())
        .output()
        .expect("unshare runs");
    assert!(
        output.status.success(),
        "{shell}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.split('\t').next().unwrap_or_default().to_owned())
        .collect();
    lines.sort();
    lines.join(" ")
}

#[test]
fn bash_completes_commands_options_and_devices() {
    for (line, wanted) in [
        ("vxcsum ap", "apply"),
        (
            "vxcsum policy ",
            "--backend --color --help --json --log --log-target --policy --quiet --root --version check show",
        ),
        ("vxcsum --backend n", "netlink"),
        ("vxcsum apply --dev", "--device"),
        ("vxcsum apply --device fl", "flannel.1"),
        ("vxcsum apply --device ", "a\\$b flannel.1"),
        ("vxcsum explain f", "flannel.1"),
        ("vxcsum --policy x explain f", "flannel.1"),
    ] {
        let script = format!(
            "source packaging/completions/vxcsum.bash; compopt() {{ :; }}; line='{line}'
            read -ra COMP_WORDS <<< \"$line\"; [[ $line == *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            [[ $(complete -p vxcsum) == 'complete -F _vxcsum vxcsum' ]] || exit 3
            _vxcsum vxcsum \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
            printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        assert_eq!(with_devices("bash", &script), wanted, "{line}");
    }
}

#[test]
fn fish_completes_commands_options_and_devices() {
    for (line, wanted) in [
        ("vxcsum ap", "apply"),
        ("vxcsum apply --dev", "--device"),
        ("vxcsum apply --device fl", "flannel.1"),
        ("vxcsum explain f", "flannel.1"),
        ("vxcsum --backend n", "netlink"),
    ] {
        let script =
            format!("source packaging/completions/vxcsum.fish; complete --do-complete '{line}'");
        assert_eq!(with_devices("fish", &script), wanted, "{line}");
    }
}

/// zsh completes only on a terminal, so the test loads the script and calls its list of devices.
#[test]
fn zsh_lists_the_devices() {
    let script = "compdef() { true }; compadd() { print -rl -- ${(P)@[-1]} }
        source packaging/completions/_vxcsum; _vxcsum_devices -J x";
    assert_eq!(with_devices("zsh", script), "a$b flannel.1");
}

/// Documents for users, without the manual pages.
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "docs/how-it-works.md",
    "docs/evidence.md",
    "docs/troubleshooting.md",
    "docs/operations.md",
    "docs/kubernetes.md",
];

/// The anchor of a heading on the forge.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim_start_matches(['#', ' '])
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for document in DOCUMENTS {
        for link in read(document).split("](").skip(1) {
            let target = link.split(')').next().expect("the end of a link");
            if target.starts_with("http") {
                continue;
            }
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                source::root().join(document)
            } else {
                source::root().join(document).with_file_name(file)
            };
            assert!(file.exists(), "{document} links to {target}");
            if !part.is_empty() {
                let text = std::fs::read_to_string(&file).expect("read what is linked to");
                let headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.map(anchor).any(|found| found == part),
                    "{document} links to {target}"
                );
            }
            links += 1;
        }
    }
    assert!(links > 10, "{links}");
    assert!(read("README.md").lines().count() <= 150, "README is a page");
}

#[test]
fn every_reason_has_its_cure() {
    let text = read("docs/troubleshooting.md");
    let codes: Vec<_> = text
        .split("## Every reason")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("the reasons")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let mut all = ReasonCode::ALL.map(ReasonCode::as_str).to_vec();
    let mut codes = codes;
    all.sort_unstable();
    codes.sort_unstable();
    assert_eq!(codes, all);
}

/// The lines of the console blocks that run vxcsum, without prompt and comment.
fn command_lines(text: &str) -> Vec<String> {
    let blocks = text.split("```console\n").skip(1);
    blocks
        .filter_map(|block| block.split("```").next())
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")))
        .map(|line| line.split("  # ").next().unwrap_or(line).trim().to_owned())
        .filter(|line| line.starts_with("vxcsum "))
        .collect()
}

/// In a namespace with two devices each command in a document works: no usage error, and no failure.
#[test]
fn every_command_of_the_documents_runs() {
    let mut lines: Vec<String> = DOCUMENTS
        .iter()
        .flat_map(|document| command_lines(&read(document)))
        .collect();
    lines.sort();
    lines.dedup();
    assert!(lines.len() > 9, "{lines:?}");
    let root = tempfile::tempdir().expect("make a directory");
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_vxcsum"));
    let bin = bin.parent().expect("a directory").display();
    for line in lines {
        let line = line.replacen(
            "vxcsum",
            &format!("vxcsum --root {}", root.path().display()),
            1,
        );
        let script = format!("PATH={bin}:$PATH; set -o pipefail; {line} >&2; echo code=$?");
        let code = with_devices("bash", &script);
        // 2: doctor found a problem.
        assert!(
            ["code=0", "code=2"].contains(&code.as_str()),
            "{line}: {code}"
        );
    }
}

/// The output shown in README is the real output. `...` stands for omitted lines.
#[test]
fn the_report_in_readme_is_a_real_one() {
    let text = read("README.md");
    let block = text.split("# vxcsum --dry-run\n").nth(1).expect("a report");
    let mut shown = block.split("```").next().expect("its end").lines();
    let real = read("tests/fixtures/dry-run.txt");
    let columns = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(
        shown.next().is_some_and(
            |line| line.starts_with("AT RISK  flannel.1: NAT may corrupt VXLAN packets")
        )
    );
    for line in shown.filter(|line| !line.is_empty() && *line != "...") {
        let same = |other: &str| columns(other) == columns(line);
        let total = line.contains("to change")
            && real.contains(". This was a dry run: nothing was changed");
        assert!(total || real.lines().any(same), "{line} is not in\n{real}");
    }
}

/// The lines that a document shows below a command.
fn shown<'a>(text: &'a str, command: &str) -> Vec<&'a str> {
    let block = text.split(&format!("# {command}\n")).nth(1);
    let block = block.unwrap_or_else(|| panic!("no document shows {command}"));
    block
        .split("```")
        .next()
        .expect("its end")
        .lines()
        .collect()
}

/// Words alone, because a document breaks lines where it likes; without the release of the kernel and the time.
fn words_of(lines: &[&str]) -> String {
    let first = lines.first().expect("an output");
    let rest = lines[1..].join(" ");
    assert!(
        first.starts_with("kernel ") && first.contains(": measured in ") && first.ends_with(" ms"),
        "{first}"
    );
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_probe_in_the_document_is_a_real_one() {
    let text = read("docs/how-it-works.md");
    let documented = words_of(&shown(&text, "vxcsum probe"));
    let root = tempfile::tempdir().expect("make a directory");
    let mut command = Command::new(VXCSUM);
    command.arg("probe").arg("--root").arg(root.path());
    let probe = run(&mut command).expect(0);
    let real: Vec<_> = probe.text().lines().collect();
    let real = words_of(&real);
    // The last line says where the result is kept.
    assert!(real.starts_with(&documented), "{documented}\n{real}");
}

#[test]
fn the_pipeline_in_the_document_prints_what_it_shows() {
    let text = read("docs/operations.md");
    let command =
        "vxcsum status --json | jq -r '.devices[] | [.name, .action, .reason.code] | @tsv'";
    let documented = shown(&text, command);
    let netns = Netns::new();
    netns.ip("link add flannel.1 type vxlan id 1 dstport 8472 udpcsum remote 192.0.2.2");
    netns.ip("link add vxlan.calico type vxlan id 4096 dstport 4789 noudpcsum remote 192.0.2.2");
    let rules = "add table ip t; add chain ip t p { type nat hook postrouting priority 100; }; \
                 add rule ip t p masquerade fully-random";
    run(netns.command("nft").arg(rules)).expect(0);
    let script = command.replace("vxcsum", &format!("{VXCSUM} --root {}", netns.root()));
    let real = run(netns.command("bash").args(["-ec", &script])).expect(0);
    assert_eq!(real.text().lines().collect::<Vec<_>>(), documented);
}
