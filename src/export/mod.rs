//! The nearest equivalents of vxcsum in the files of other programs, for users who cannot install it.
//!
//! Owns the texts, also the texts about the limits of each equivalent. Pure. In the templates beside this file,
//! `@WORD@` stands for a text that is filled in.

use crate::cli::ExportFormat;
use crate::nat::exposure::{NoCure, Untracked};
use crate::offload::facts::Device;
use crate::text::{IfName, escape};

/// A device in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// ASCII letters, digits, `.`, `_` and `-`, without `-` at the start, so no format needs to escape it.
    pub name: String,
    /// The outer packets, or why a rule without tracking does not cure them.
    pub packets: Result<Untracked, NoCure>,
}

impl Target {
    /// A device of this machine. `None` if a format would have to escape its name.
    pub fn of(device: &Device) -> Option<Self> {
        let link = &device.link;
        let packets = match device.exposure.exposed() {
            Some(found) => found.notrack.clone(),
            None => link.dst_port.ok_or(NoCure::NoPort).map(|port| Untracked {
                v6: link.local.or(link.remote).map(|a| a.is_ipv6()),
                local: link.local,
                port,
            }),
        };
        let name = plain(&link.name)?;
        Some(Self { name, packets })
    }

    /// A device of another machine. Assumes the usual port of its owner: the kernel's default for flannel, the port of
    /// RFC 7348 for all others.
    pub fn named(name: &IfName) -> Option<Self> {
        let name = plain(name)?;
        let port = if name.starts_with("flannel") {
            8472
        } else {
            4789
        };
        let packets = Ok(Untracked {
            v6: None,
            local: None,
            port,
        });
        Some(Self { name, packets })
    }
}

fn plain(name: &IfName) -> Option<String> {
    let text = str::from_utf8(name.as_bytes()).ok()?;
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (text.chars().all(ok) && !text.starts_with('-')).then(|| text.to_owned())
}

/// The text for a program. `left_out` are devices whose names are safe to print but would have to be escaped in such a
/// file. `examples` is true if the devices are only examples.
pub fn text(
    format: ExportFormat,
    targets: &[Target],
    left_out: &[String],
    examples: bool,
) -> String {
    let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
    let mut made = format!(
        "# Made by vxcsum {} for {}.",
        env!("CARGO_PKG_VERSION"),
        names.join(" ")
    );
    if examples {
        made.push_str(" These are examples: no VXLAN or Geneve device is here. Name yours.");
    }
    for name in left_out {
        made.push_str("\n# Left out, for its name means something else in such a file: ");
        made.push_str(name);
    }
    let fill = |template: &str| {
        let always = "# - It turns the offload off whatever the kernel and the NAT rules are. `vxcsum revert` does not know of it.\n\
                      # - It does not turn it off again when another program has turned it on.";
        template
            .replace("@MADE@", &made)
            .replace("@ALWAYS@", always)
            .replace("@NAMES@", &names.join(" "))
            .replace("@KERNEL@", &names.join("|"))
    };
    let link = fill(include_str!("link.in"));
    let settings: Vec<&str> = link.lines().filter(|l| !l.starts_with('#')).collect();
    match format {
        ExportFormat::Link => link,
        ExportFormat::Udev => fill(include_str!("udev.in")),
        ExportFormat::Networkmanager => fill(include_str!("networkmanager.in")),
        ExportFormat::Talos => {
            let document = |name: &&str| include_str!("talos-device.in").replace("@NAME@", name);
            let documents: String = names.iter().map(document).collect();
            fill(include_str!("talos.in")) + &documents
        }
        ExportFormat::Butane => {
            let lines = settings.iter().map(|line| match *line {
                "" => String::new(),
                setting => format!("          {setting}"),
            });
            let lines: Vec<_> = lines.collect();
            fill(include_str!("butane.in")).replace("@FILE@", &lines.join("\n"))
        }
        ExportFormat::Machineconfig => {
            let url = percent(&(settings.join("\n") + "\n"));
            fill(include_str!("machineconfig.in")).replace("@FILE@", &url)
        }
        ExportFormat::Ansible => fill(include_str!("ansible.in")),
        ExportFormat::Felix => fill(include_str!("felix.in")),
        ExportFormat::NftablesNotrack => {
            fill(include_str!("nftables-notrack.in")) + &notrack(targets)
        }
    }
}

fn notrack(targets: &[Target]) -> String {
    let mut lines = Vec::new();
    let mut packets = Vec::new();
    for target in targets {
        match &target.packets {
            Ok(of) if packets.contains(of) => {}
            Ok(of) => packets.push(*of),
            Err(why) => lines.push(format!(
                "# {} is left out, for this is no cure: {}",
                target.name,
                escape(why.to_string().as_bytes())
            )),
        }
    }
    if !packets.is_empty() {
        lines.extend(Untracked::commands(&packets));
    }
    lines.join("\n") + "\n"
}

/// The text as part of a URL (RFC 3986, 2.1).
fn percent(text: &str) -> String {
    let byte = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || b"-._~=".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Option<Target> {
        Target::named(&IfName::new(name.as_bytes()).unwrap())
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for (name, ok) in [
            ("flannel.1", true),
            ("vxlan-v6.calico", true),
            ("vxlan_sys_4789", true),
            ("-K", false),
            ("a*", false),
            ("a|b", false),
            ("$(x)", false),
            ("a\"", false),
            ("a\\b", false),
            ("%n", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(named(name).is_some(), ok, "{name}");
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in_and_every_limit_is_a_comment() {
        let targets = ["flannel.1", "vxlan.calico"].map(|name| named(name).unwrap());
        for format in ExportFormat::ALL {
            let text = text(format, &targets, &["a\\x0ab".to_owned()], false);
            let open = text.split('@').skip(1).step_by(2);
            assert_eq!(open.collect::<Vec<_>>(), [""; 0], "{text}");
            let lines: Vec<_> = text.lines().collect();
            let at = lines.iter().position(|l| *l == "# What it cannot do:");
            let at = at.unwrap_or_else(|| panic!("{text}"));
            assert!(lines[at + 1].starts_with("# - "), "{text}");
            let settings = lines.iter().filter(|line| !line.starts_with('#'));
            assert!(settings.count() > 0, "{text}");
        }
    }

    #[test]
    fn rules_without_tracking() {
        let untracked = |port| Untracked {
            v6: Some(false),
            local: Some([192, 0, 2, 1].into()),
            port,
        };
        let target = |name: &str, packets| Target {
            name: name.to_owned(),
            packets,
        };
        let text = notrack(&[
            target("a", Ok(untracked(8472))),
            target("b", Ok(untracked(8472))),
            target("c", Ok(untracked(4789))),
            target("d", Err(NoCure::Dropped("x\ny".to_owned()))),
        ]);
        let rules: Vec<_> = text.lines().filter(|l| l.contains("notrack'")).collect();
        assert_eq!(rules.len(), 2, "{text}");
        assert!(rules[0].contains("ip saddr 192.0.2.1 udp dport 8472 notrack"));
        assert!(
            text.starts_with("# d is left out, for this is no cure: x\\x0ay can drop"),
            "{text}"
        );
        assert_eq!(
            notrack(&[target("d", Err(NoCure::NoPort))]).lines().count(),
            1
        );
    }

    #[test]
    fn bytes_of_a_url() {
        assert_eq!(percent("[A] b=c.d\n"), "%5BA%5D%20b=c.d%0A");
    }
}
