//! The strings of a kernel: its upstream version, its builder, and the builder's own number.
//!
//! Owns the parsing of `uname -r`, of the version in `uname -v` (Debian) and of `/proc/version_signature` (Ubuntu), and
//! the order of versions. Does not know the bugs. Pure. No string causes a panic.

use super::KernelFacts;

/// An upstream version, ordered by release within a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 5 of 5.4.41.
    pub major: u32,
    /// The 4 of 5.4.41.
    pub minor: u32,
    /// The 41 of 5.4.41. 0 if it is missing.
    pub patch: u32,
    /// A release, or a release candidate.
    pub stage: Stage,
}

/// The stage of a mainline version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `-rcN`
    Rc {
        number: u32,
        /// The tree has commits after `-rcN`, so it has a part of the changes of `-rc(N+1)`.
        past: bool,
    },
    Release,
}

impl Version {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
            stage: Stage::Release,
        }
    }

    /// A mainline release candidate. `-rc0` is the start of a branch, before all its releases.
    pub const fn rc(major: u32, minor: u32, number: u32) -> Self {
        Self {
            stage: Stage::Rc {
                number,
                past: false,
            },
            ..Self::new(major, minor, 0)
        }
    }

    /// A tree with commits after a release candidate.
    pub const fn rc_past(major: u32, minor: u32, number: u32) -> Self {
        Self {
            stage: Stage::Rc { number, past: true },
            ..Self::new(major, minor, 0)
        }
    }

    /// Splits `5.4.0-42-generic` into 5.4.0 and `-42-generic`. `None` if the text does not start with a version.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let (major, rest) = number(text.trim_ascii())?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        // 5.4.x is not a kernel: reading it as 5.4.0 would answer another question
        let (patch, local) = match rest.strip_prefix('.') {
            Some(rest) => number(rest)?,
            None => (0, rest),
        };
        // the review candidates of a stable release (5.4.41-rc1) already have its patches
        let stage = if patch == 0 {
            stage(local)?
        } else {
            Stage::Release
        };
        let version = Self {
            stage,
            ..Self::new(major, minor, patch)
        };
        Some((version, local))
    }

    fn same_branch(self, other: Self) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

/// A leading decimal number, and the rest. `None` if there is no number or it does not fit.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Reads `-rc4` (upstream), `-050700rc4` (Ubuntu's mainline builds), `-0.rc4.git1` (Fedora), `~rc4` (Debian).
fn stage(local: &str) -> Option<Stage> {
    let Some(digits) = local
        .trim_start_matches(|c: char| c.is_ascii_digit() || "-~.".contains(c))
        .strip_prefix("rc")
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    else {
        return Some(Stage::Release);
    };
    let (number, rest) = number(digits)?;
    // 5.7.0-rc4+, 5.7.0-rc4-00012-g0123abc, 5.7.0-rc4-next-20200507, 5.7.0-0.rc4.git2.1.fc33
    let described = |rest: &str| {
        rest.split_once('-')
            .is_some_and(|(n, g)| n.bytes().all(|b| b.is_ascii_digit()) && g.starts_with('g'))
    };
    let past = rest.starts_with(['+', '.'])
        || rest
            .strip_prefix('-')
            .is_some_and(|rest| rest.starts_with("next") || described(rest));
    Some(Stage::Rc { number, past })
}

/// The builder of a kernel, as far as the meaning of its numbers depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelFamily {
    /// 3.10.0 of Red Hat, and its rebuilds.
    El7,
    /// 4.18.0 of Red Hat, and its rebuilds, such as `CentOS` Stream 8.
    El8,
    /// 5.14.0 of Red Hat, and its rebuilds.
    El9,
    /// 6.12.0 of Red Hat, and its rebuilds.
    El10,
    /// Built for el7 or newer, but on none of the base versions of Red Hat.
    ElOther,
    /// Virtuozzo, on 3.10.0 of Red Hat.
    Vz7,
    /// Virtuozzo, on 4.18.0 of Red Hat.
    Vz8,
    /// Oracle's Unbreakable Enterprise Kernel.
    Uek,
    /// Amazon Linux and Bottlerocket.
    Amazon,
    /// The main kernels of Ubuntu. `build` is the ABI number.
    Ubuntu,
    /// Another flavour of Ubuntu (aws, azure, ...) with ABI numbers of its own. The upstream version is not known.
    UbuntuFlavour,
    /// As [`Self::UbuntuFlavour`], with the upstream version from `/proc/version_signature`.
    UbuntuFlavourSigned,
    /// Debian, with the version from `uname -v`.
    Debian,
    /// Debian without a version: `uname -r` names an ABI, not the version.
    DebianUnversioned,
    Suse,
    /// Google's Container-Optimized OS.
    Cos,
    /// Upstream, or a builder whose numbers are not decoded.
    Upstream,
    /// The release does not start with a version.
    Unreadable,
}

/// A kernel, as its strings identify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub family: KernelFamily,
    /// The upstream version on which the kernel is based, as exactly as the strings say.
    pub base: Version,
    /// The builder's number: 193.10.1 of `4.18.0-193.10.1.el8_2.x86_64`, 108 of `4.15.0-108-generic`. Empty if not
    /// known.
    ///
    /// Compared as rpm does, number by number. `193.10.el8` is older than `193.10.1.el8_2`, because letters are older
    /// than any number (<https://github.com/rpm-software-management/rpm/blob/rpm-4.19.0-release/rpmio/rpmvercmp.c>).
    pub build: Vec<u32>,
    /// The release has only the upstream version.
    pub plain: bool,
}

impl Kernel {
    /// Reads the strings. The release counts first, `uname -v` and `/proc/version_signature` second.
    ///
    /// os-release counts last, and only if the other strings name no builder and the base is one that the distribution
    /// freezes. Inside a container, os-release describes the image, not the kernel.
    pub fn identify(facts: &KernelFacts) -> Self {
        let Some((base, local)) = Version::parse(&facts.release) else {
            return Self {
                family: KernelFamily::Unreadable,
                base: Version::new(0, 0, 0),
                build: Vec::new(),
                plain: false,
            };
        };
        let kernel = Self {
            family: KernelFamily::Upstream,
            base,
            build: Vec::new(),
            plain: local.is_empty() || is_rc_only(local),
        };
        kernel
            .as_rpm(local)
            .or_else(|| kernel.as_suse(local, &facts.os.id))
            .or_else(|| kernel.as_ubuntu(local, facts))
            .or_else(|| kernel.as_debian(local, facts))
            .unwrap_or_else(|| kernel.hinted(&facts.os.id))
    }

    fn with(&self, family: KernelFamily, build: Vec<u32>) -> Self {
        Self {
            family,
            build,
            ..self.clone()
        }
    }

    fn is(&self, major: u32, minor: u32, patch: u32) -> bool {
        self.base == Version::new(major, minor, patch)
    }

    /// `-193.10.1.el8_2.x86_64`, `-1160.15.2.vz7.172.18`, `-2011.1.2.el7uek.x86_64`, `-140.257.amzn2.x86_64`.
    fn as_rpm(&self, local: &str) -> Option<Self> {
        if local.contains("uek") {
            return Some(self.with(KernelFamily::Uek, Vec::new()));
        }
        let parts = || local.strip_prefix('-').unwrap_or_default().split('.');
        let (tag, major, rest) = parts().find_map(|part| {
            let tag = ["el", "vz", "amzn"]
                .into_iter()
                .find(|tag| part.starts_with(tag))?;
            let (major, rest) = number(&part[tag.len()..])?;
            Some((tag, major, rest))
        })?;
        // a number that does not fit leaves the build empty, rather than smaller
        let build = parts()
            .take_while(|part| part.bytes().all(|b| b.is_ascii_digit()))
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()
            .unwrap_or_default();
        let own = rest.is_empty() || rest.starts_with(['_', '-', '+']);
        let family = match (tag, major) {
            ("amzn", _) => KernelFamily::Amazon,
            // ELRepo packages upstream's releases. Before el7, no distribution froze a base with VXLAN.
            _ if local.contains("elrepo") || self.base < Version::new(3, 10, 0) => {
                KernelFamily::Upstream
            }
            ("vz", 7) if self.is(3, 10, 0) => KernelFamily::Vz7,
            ("vz", 8) if self.is(4, 18, 0) => KernelFamily::Vz8,
            ("el", 7) if own && self.is(3, 10, 0) => KernelFamily::El7,
            ("el", 8) if own && self.is(4, 18, 0) => KernelFamily::El8,
            ("el", 9) if own && self.is(5, 14, 0) => KernelFamily::El9,
            ("el", 10) if own && self.is(6, 12, 0) => KernelFamily::El10,
            _ => KernelFamily::ElOther,
        };
        Some(self.with(family, build))
    }

    /// `-150300.59.93-default`. Other flavours count only on a base that SUSE froze, because Ubuntu has an azure
    /// flavour too.
    fn as_suse(&self, local: &str, os_id: &str) -> Option<Self> {
        let flavour = local.rsplit('-').next().unwrap_or_default();
        let frozen = self.is(5, 3, 18) || self.is(4, 12, 14);
        let os = os_id.starts_with("sle") || os_id.starts_with("opensuse");
        let suse = match flavour {
            "default" | "preempt" => true,
            "azure" | "rt" | "kvmsmall" | "64kb" | "debug" | "vanilla" => frozen,
            _ => frozen && os,
        };
        suse.then(|| self.with(KernelFamily::Suse, Vec::new()))
    }

    /// `-108-generic`. A leading zero (`-050400-generic`) marks a build of the mainline archive.
    fn as_ubuntu(&self, local: &str, facts: &KernelFacts) -> Option<Self> {
        let signed = facts
            .version_signature
            .as_deref()
            .and_then(|text| text.strip_prefix("Ubuntu "));
        let named = signed.is_some() || facts.version.contains("-Ubuntu ");
        let (abi, flavour) = local
            .strip_prefix('-')
            .and_then(number)
            .filter(|_| self.base.patch == 0 && !local.starts_with("-0"))
            .and_then(|(abi, rest)| Some((abi, rest.strip_prefix('-')?)))?;
        let main = matches!(
            flavour,
            "generic" | "generic-lpae" | "generic-64k" | "lowlatency"
        );
        let other = [
            "aws", "azure", "gcp", "gke", "gkeop", "oracle", "kvm", "oem", "raspi", "raspi2", "ibm",
        ];
        if main && abi < FLAVOUR_ABI {
            return Some(self.with(KernelFamily::Ubuntu, vec![abi]));
        }
        if !main
            && !named
            && !flavour
                .split('-')
                .next()
                .is_some_and(|f| other.contains(&f))
        {
            return None;
        }
        let base = signed.and_then(|text| self.signed_base(text, abi, flavour));
        let family = base.map_or(KernelFamily::UbuntuFlavour, |_| {
            KernelFamily::UbuntuFlavourSigned
        });
        Some(Self {
            base: base.unwrap_or(self.base),
            ..self.with(family, Vec::new())
        })
    }

    /// The third field of `5.4.0-1020.20-aws 5.4.44`, if the line is about this kernel.
    fn signed_base(&self, text: &str, abi: u32, flavour: &str) -> Option<Version> {
        let mut fields = text.split_ascii_whitespace();
        let (named, local) = Version::parse(fields.next()?)?;
        let (base, rest) = Version::parse(fields.next()?)?;
        let same = named == self.base
            && local.starts_with(&format!("-{abi}."))
            && local.ends_with(&format!("-{flavour}"));
        (same && rest.is_empty() && base.same_branch(self.base)).then_some(base)
    }

    /// `#1 SMP Debian 4.19.132-1 (2020-07-24)`. Without that text, `-10-amd64` names Debian but no version.
    fn as_debian(&self, local: &str, facts: &KernelFacts) -> Option<Self> {
        let arches = [
            "amd64",
            "arm64",
            "686",
            "pae",
            "armmp",
            "lpae",
            "s390x",
            "powerpc64le",
        ];
        let version = facts.version.split_once("Debian ").map(|(_, v)| v);
        let base = version
            .and_then(|v| v.split_ascii_whitespace().next())
            .and_then(Version::parse)
            .map(|(base, _)| base)
            .filter(|base| base.same_branch(self.base));
        let flavoured = local.starts_with('-')
            && self.base.patch == 0
            && local
                .rsplit('-')
                .next()
                .is_some_and(|a| arches.contains(&a));
        let family = match base {
            Some(_) => KernelFamily::Debian,
            None if flavoured || version.is_some() => KernelFamily::DebianUnversioned,
            None => return None,
        };
        Some(Self {
            base: base.unwrap_or(self.base),
            ..self.with(family, Vec::new())
        })
    }

    /// Uses os-release for a release that names no builder, on a base that the distribution freezes.
    fn hinted(self, os_id: &str) -> Self {
        let local = !self.plain;
        let family = match os_id {
            "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "scientific" | "virtuozzo"
            | "cloudlinux" => {
                if self.is(3, 10, 0) {
                    KernelFamily::El7
                } else if self.is(4, 18, 0) {
                    KernelFamily::El8
                } else if os_id == "ol" && (self.is(4, 14, 35) || self.is(5, 4, 17)) {
                    KernelFamily::Uek
                } else {
                    KernelFamily::Upstream
                }
            }
            "ubuntu" if local && self.base.patch == 0 => KernelFamily::UbuntuFlavour,
            "debian" if local && self.base.patch == 0 => KernelFamily::DebianUnversioned,
            "amzn" | "bottlerocket" => KernelFamily::Amazon,
            "cos" => KernelFamily::Cos,
            _ => KernelFamily::Upstream,
        };
        Self { family, ..self }
    }
}

/// Ubuntu's flavours with kernels of their own count their ABI from here. The numbers of the main kernels stay far
/// below.
const FLAVOUR_ABI: u32 = 1000;

fn is_rc_only(local: &str) -> bool {
    local
        .strip_prefix("-rc")
        .and_then(number)
        .is_some_and(|(_, rest)| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Option<Version> {
        Version::parse(text).map(|(version, _)| version)
    }

    #[test]
    fn versions() {
        let past = Version::rc_past;
        for (text, expected) in [
            ("5.7.0", Some(Version::new(5, 7, 0))),
            ("5.7", Some(Version::new(5, 7, 0))),
            ("5.7-rc4", Some(Version::rc(5, 7, 4))),
            ("5.7.0-rc4", Some(Version::rc(5, 7, 4))),
            ("5.7.0-rc4-custom", Some(Version::rc(5, 7, 4))),
            ("5.7.0-rc4+", Some(past(5, 7, 4))),
            ("5.7.0-rc4-00012-g0123abc", Some(past(5, 7, 4))),
            ("5.7.0-rc4-next-20200507", Some(past(5, 7, 4))),
            ("5.7.0-0.rc4.git2.1.fc33.x86_64", Some(past(5, 7, 4))),
            ("5.7.0-050700rc4-generic", Some(Version::rc(5, 7, 4))),
            ("5.7~rc5-1~exp1", Some(Version::rc(5, 7, 5))),
            ("5.4.41-rc1", Some(Version::new(5, 4, 41))),
            ("5.7.0-rcfoo", Some(Version::new(5, 7, 0))),
            ("5.7.0-archive1", Some(Version::new(5, 7, 0))),
            ("2.6.35.14", Some(Version::new(2, 6, 35))),
            (
                "5.10.102.1-microsoft-standard-WSL2",
                Some(Version::new(5, 10, 102)),
            ),
            ("6.18.44-fc-v669\n", Some(Version::new(6, 18, 44))),
            ("4294967295.0.0", Some(Version::new(u32::MAX, 0, 0))),
            ("4294967296.0.0", None),
            ("5.99999999999999999999.1", None),
            ("5.7.0-rc99999999999", None),
            ("5.4.x", None),
            ("5.4.", None),
            ("5", None),
            ("5.", None),
            ("v5.7", None),
            ("+5.7", None),
            ("-5.7", None),
            (".5.7", None),
            ("", None),
            ("linux", None),
            ("５.７.０", None),
        ] {
            assert_eq!(version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn builds_compare_as_rpm_does() {
        let build = |release: &str| {
            Kernel::identify(&KernelFacts {
                release: release.to_owned(),
                ..KernelFacts::default()
            })
            .build
        };
        let ordered = [
            "4.18.0-80.7.1.el8_0.x86_64",
            "4.18.0-147.el8.x86_64",
            "4.18.0-147.5.1.el8_1.x86_64",
            "4.18.0-147.21.1.el8_1.x86_64",
            "4.18.0-193.el8.x86_64",
            "4.18.0-193.6.3.el8_2.x86_64",
            "4.18.0-193.10.el8.x86_64",
            "4.18.0-193.10.1.el8_2.x86_64",
            "4.18.0-202.el8.x86_64",
            "4.18.0-1000.el8.x86_64",
        ];
        for pair in ordered.windows(2) {
            assert!(build(pair[0]) < build(pair[1]), "{pair:?}");
        }
        for none in [
            "4.18.0-99999999999.el8",
            "4.18.0-el8",
            "4.18.0-.el8",
            "4.18.0.193.el8",
        ] {
            assert_eq!(build(none), Vec::<u32>::new(), "{none}");
        }
    }

    fn any_version() -> impl Strategy<Value = Version> {
        (0u32..7, 0u32..25, 0u32..200, 0u32..9, 0u8..3).prop_map(
            |(major, minor, patch, n, kind)| match kind {
                0 => Version::new(major, minor, patch),
                1 => Version::rc(major, minor, n),
                _ => Version::rc_past(major, minor, n),
            },
        )
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in any_version(), b in any_version(), c in any_version()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }

        #[test]
        fn a_local_suffix_does_not_change_a_stable_version(z in 1u32..1000, suffix in "[-+_~a-z].{0,40}") {
            prop_assert_eq!(version(&format!("5.4.{z}{suffix}")), Some(Version::new(5, 4, z)));
        }
    }
}
