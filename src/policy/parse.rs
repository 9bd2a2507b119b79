//! One policy file: bytes to a `Fragment`, or all errors in them.
//!
//! Owns the keys, the accepted values, and their limits. Pure. Does not merge files.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::DeTable;

use super::diagnose::{Found, Parser, PolicyErrors, SourceFile, printable};
use super::value::{Value, accepted, nearest, number};
use super::{AssumeExposure, AssumeKernel, Cure, Fragment, PolicyRule, When};
use crate::kernel::{BugId, KernelOverride, PerBug, Status};
use crate::link::{OuterChecksum, TunnelKind};
use crate::text::IfName;

/// The format version of this program.
pub(super) const VERSION: u32 = 1;

const TOP_LEVEL: &str = "the top level";
pub(super) const TOP: [&str; 8] = [
    "version",
    "unknown-kernel",
    "unknown-exposure",
    "cure",
    "give-back-after",
    "bugs",
    "rule",
    "kernel",
];
/// The keys of `[bugs]`.
pub(super) const BUGS: [&str; BugId::ALL.len()] = {
    let mut codes = [""; BugId::ALL.len()];
    let mut n = 0;
    while n < codes.len() {
        codes[n] = BugId::ALL[n].as_str();
        n += 1;
    }
    codes
};
pub(super) const RULE: [&str; 10] = [
    "name",
    "device",
    "kind",
    "vni",
    "dst-port",
    "underlay-driver",
    "outer-checksum",
    "unknown-exposure",
    "cure",
    "when",
];
pub(super) const KERNEL: [&str; 3] = ["release", "bug", "status"];

/// Every table with its keys, to tell users where a misplaced key belongs.
pub const TABLES: [(&str, &[&str]); 4] = [
    (TOP_LEVEL, &TOP),
    ("[bugs]", &BUGS),
    ("[[rule]]", &RULE),
    ("[[kernel]]", &KERNEL),
];

/// `[bugs]` does not accept `always`, which is for the devices of a rule.
pub(super) const BUG_WHENS: [(&str, When); 3] = {
    let [_always, rest @ ..] = When::WORDS;
    rest
};
pub(super) const STATUSES: [(&str, Status); 2] = [
    ("affected", Status::Affected),
    ("fixed", Status::NotAffected),
];
pub(super) const CHECKSUMS: [(&str, OuterChecksum); 2] = [
    ("zero", OuterChecksum::Zero),
    ("present", OuterChecksum::Present),
];

/// `1 << 24` VNIs: <https://www.rfc-editor.org/rfc/rfc7348#section-5>.
pub(super) const VNI_MAX: u32 = 0xff_ffff;
/// `sizeof(ethtool_drvinfo.driver) - 1`:
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/ethtool.h>.
const DRIVER_MAX: usize = 31;
/// `__NEW_UTS_LEN`: <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/utsname.h>.
const RELEASE_MAX: usize = 64;

/// True if the line at this byte has a colon, which YAML uses instead of `=`.
fn colon(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    line.contains(':') && !line.contains('=')
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole policy. It must have `version = 1`.
    Main,
    /// An addition from `policy.d/`. It may omit the version.
    DropIn,
}

/// Reads one policy file. `file` is its name in errors and origins.
///
/// # Errors
/// All errors in the file.
pub fn parse(file: &str, kind: Kind, bytes: &[u8]) -> Result<Fragment, PolicyErrors> {
    let source = SourceFile::new(file, bytes);
    let mut parser = Parser {
        source: &source,
        found: Vec::new(),
    };
    let fragment = match std::str::from_utf8(bytes) {
        Ok(text) => parser.document(text, kind),
        Err(error) => {
            let at = error.valid_up_to();
            let message = format!("the byte 0x{:02x} is not UTF-8 text", bytes[at]);
            let help = "a policy is a TOML file in UTF-8".to_owned();
            parser.error(at..at + 1, message, help);
            Fragment::default()
        }
    };
    let found = parser.found;
    match PolicyErrors::new(source.place(found)) {
        Some(errors) => Err(errors),
        None => Ok(fragment),
    }
}

impl Parser<'_> {
    fn document(&mut self, text: &str, kind: Kind) -> Fragment {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let document = document.get_ref();
        let fragment = if self.version(document, kind, syntax.is_empty()) {
            self.fragment(document, text, syntax.is_empty())
        } else {
            Fragment::default()
        };
        self.syntax(text, &syntax);
        fragment
    }

    /// Adds the errors of the TOML parser, one for each line, and removes the errors that they caused.
    fn syntax(&mut self, text: &str, errors: &[toml::de::Error]) {
        const OPEN_LIST: &str = "missing comma between array elements";
        let mut lines = BTreeSet::new();
        let mut syntax: Vec<Found> = Vec::new();
        for error in errors {
            let at = error.span().unwrap_or_else(|| too_dotted(text));
            // An unclosed list takes in every line that follows.
            let again = |last: &Found| {
                last.message.starts_with(OPEN_LIST) && error.message().starts_with(OPEN_LIST)
            };
            if !lines.insert(self.source.line(at.start)) || syntax.last().is_some_and(again) {
                continue;
            }
            let (message, help) = match error.message() {
                deep if deep.contains("recursion") => (
                    "nested too deeply".to_owned(),
                    "a policy nests three levels at most",
                ),
                "duplicate key" => {
                    let key = printable(self.source.text(at.clone()));
                    (format!("`{key}` is given twice"), "remove one of the two")
                }
                word if word.starts_with("string values") || word.contains("boolean") => (
                    printable(word),
                    "write text in quotes, such as \"affected\"",
                ),
                // The parser reads a bare word as the beginning of a number.
                word if word.starts_with("invalid float")
                    || word.starts_with("invalid boolean") =>
                {
                    (
                        "a word without quotes".to_owned(),
                        "write text in quotes, as in when = \"never\"",
                    )
                }
                word if word.starts_with("invalid basic string, expected `\"`") => (
                    printable(word),
                    "text ends with the quote with which it begins, as in when = \"never\"",
                ),
                word if word.starts_with("key with no value") && colon(text, at.start) => (
                    printable(word),
                    "this looks like YAML: a policy is TOML, as in when = \"never\"",
                ),
                other => (printable(other), ""),
            };
            syntax.push(Found {
                at,
                message,
                help: (!help.is_empty()).then(|| help.to_owned()),
            });
        }
        let source = self.source;
        // The value that the parser inserts for an unreadable value has no place.
        let caused =
            |found: &Found| found.at.is_empty() || lines.contains(&source.line(found.at.start));
        if !errors.is_empty() {
            self.found.retain(|found| !caused(found));
        }
        self.found.append(&mut syntax);
    }

    /// True if the rest is worth reading: in another version every key may be valid.
    fn version(&mut self, document: &DeTable, kind: Kind, complete: bool) -> bool {
        let help =
            format!("this vxcsum understands version {VERSION}: write `version = {VERSION}`");
        let Some(value) = document.get("version") else {
            if kind == Kind::Main && complete {
                self.error(0..0, "the key `version` is missing", help);
            }
            return true;
        };
        let known = number(value.get_ref()).is_some_and(|n| n == u128::from(VERSION));
        if value.span().is_empty() {
            return true;
        }
        if !known {
            let text = self.text(value);
            self.error(value.span(), format!("unknown version {text}"), help);
        }
        known
    }

    fn fragment(&mut self, document: &DeTable, text: &str, complete: bool) -> Fragment {
        self.keys(document, TABLES[0]);
        let unknown_kernel = document
            .get("unknown-kernel")
            .and_then(|value| self.sourced("unknown-kernel", value, &AssumeKernel::WORDS));
        let unknown_exposure = document
            .get("unknown-exposure")
            .and_then(|value| self.sourced("unknown-exposure", value, &AssumeExposure::WORDS));
        let cure = document
            .get("cure")
            .and_then(|value| self.sourced("cure", value, &Cure::WORDS));
        let give_back_after = document
            .get("give-back-after")
            .and_then(|value| self.duration("give-back-after", value));
        let bugs = document.get("bugs").and_then(|value| {
            let table = self.table("bugs", value, TABLES[1])?;
            Some(PerBug::new(|id| {
                let value = table.get(id.as_str())?;
                self.sourced(id.as_str(), value, &BUG_WHENS)
            }))
        });
        let rules = self.tables(document, "rule", TABLES[2], |parser, value, table| {
            parser.rule(header(text, value), table, complete)
        });
        let kernels = self.tables(document, "kernel", TABLES[3], |parser, value, table| {
            parser.kernel(header(text, value), table, complete)
        });
        Fragment {
            unknown_kernel,
            unknown_exposure,
            cure,
            give_back_after,
            bugs: bugs.unwrap_or_default(),
            rules,
            kernels,
            files: vec![self.source.file().to_owned()],
        }
    }

    fn rule(
        &mut self,
        at: Range<usize>,
        table: &DeTable,
        complete: bool,
    ) -> Option<(Option<String>, PolicyRule)> {
        let name = table.get("name").and_then(|value| self.name(value));
        let mut globs = |key, max, is_name| {
            let glob = |parser: &mut Self, value: &Value| parser.glob(key, value, max, is_name);
            self.list(key, table.get(key)?, glob)
        };
        let device = globs("device", IfName::MAX, true);
        let underlay_driver = globs("underlay-driver", DRIVER_MAX, false);
        let kind = table.get("kind").and_then(|value| {
            self.list("kind", value, |parser, value| {
                parser.word("kind", value, &TunnelKind::WORDS)
            })
        });
        let vni = table.get("vni").and_then(|value| {
            self.list("vni", value, |parser, value| {
                parser.range("vni", value, 0..=VNI_MAX)
            })
        });
        let dst_port = table.get("dst-port").and_then(|value| {
            self.list("dst-port", value, |parser, value| {
                parser.range("dst-port", value, 1..=u16::MAX)
            })
        });
        let outer_checksum = table.get("outer-checksum").and_then(|value| {
            self.list("outer-checksum", value, |parser, value| {
                parser.word("outer-checksum", value, &CHECKSUMS)
            })
        });
        let unknown_exposure = table
            .get("unknown-exposure")
            .and_then(|value| self.word("unknown-exposure", value, &AssumeExposure::WORDS));
        let cure = table
            .get("cure")
            .and_then(|value| self.word("cure", value, &Cure::WORDS));
        let when = match table.get("when") {
            Some(value) => self.word("when", value, &When::WORDS),
            None => self.missing("when", "[[rule]]", &at, accepted(&When::WORDS), complete),
        };
        let rule = PolicyRule {
            name: String::new(),
            device,
            kind,
            vni,
            dst_port,
            underlay_driver,
            outer_checksum,
            unknown_exposure,
            cure,
            when: when?,
            origin: self.source.origin(at.start),
        };
        Some((name, rule))
    }

    fn kernel(
        &mut self,
        at: Range<usize>,
        table: &DeTable,
        complete: bool,
    ) -> Option<KernelOverride> {
        let globs = "accepted: a glob over `uname -r`, such as \"5.3.18-150300.59.*\"".to_owned();
        let release = match table.get("release") {
            Some(value) => self.glob("release", value, RELEASE_MAX, false),
            None => self.missing("release", "[[kernel]]", &at, globs, complete),
        };
        let bug = match table.get("bug") {
            Some(value) => self.word("bug", value, &BugId::WORDS),
            None => self.missing("bug", "[[kernel]]", &at, accepted(&BugId::WORDS), complete),
        };
        let status = match table.get("status") {
            Some(value) => self.word("status", value, &STATUSES),
            None => self.missing("status", "[[kernel]]", &at, accepted(&STATUSES), complete),
        };
        Some(KernelOverride {
            release: release?,
            bug: bug?,
            status: status?,
            origin: self.source.origin(at.start),
        })
    }

    fn missing<T>(
        &mut self,
        key: &str,
        table: &str,
        at: &Range<usize>,
        help: String,
        complete: bool,
    ) -> Option<T> {
        // A missing key may stand behind a syntax error.
        if complete {
            self.error(at.clone(), format!("{table} has no `{key}`"), help);
        }
        None
    }

    /// Reports unknown keys of a table.
    fn keys(&mut self, table: &DeTable, (place, known): (&str, &[&str])) {
        for key in table.keys() {
            let text: &str = key.get_ref();
            if known.contains(&text) {
                continue;
            }
            let other_table = TABLES.iter().find(|(_, keys)| keys.contains(&text));
            let hint = match (other_table, nearest(text, known)) {
                (_, Some(near)) => format!("did you mean `{near}`? "),
                (Some((home, _)), None) => format!("`{text}` belongs to {home}. "),
                (None, None) => String::new(),
            };
            let place = match place {
                TOP_LEVEL => String::new(),
                table => format!(" in {table}"),
            };
            let message = format!("unknown key `{}`{place}", printable(text));
            let help = format!("{hint}accepted keys: {}", known.join(", "));
            self.error(key.span(), message, help);
        }
    }

    pub(crate) fn table<'v, 't>(
        &mut self,
        key: &str,
        value: &'v Value<'t>,
        known: (&str, &[&str]),
    ) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        match table {
            Some(table) => self.keys(table, known),
            None => self.wrong_type(key, value, &format!("write it as {}", known.0)),
        }
        table
    }

    /// The entries of an array of tables. `read` reads each entry.
    fn tables<T>(
        &mut self,
        document: &DeTable,
        key: &str,
        known: (&str, &[&str]),
        mut read: impl FnMut(&mut Self, &Value, &DeTable) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = document.get(key) else {
            return Vec::new();
        };
        let Some(entries) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("write each one as {}", known.0));
            return Vec::new();
        };
        let mut all = Vec::new();
        for entry in entries {
            if let Some(table) = self.table(key, entry, known) {
                all.extend(read(self, entry, table));
            }
        }
        all
    }
}

/// The header of a table, or the first line of an inline table.
fn header(text: &str, value: &Value) -> Range<usize> {
    let span = value.span();
    let line = text[span.clone()].split('\n').next().unwrap_or_default();
    span.start..span.start + line.len()
}

/// The TOML parser does not report which dotted key is too long.
fn too_dotted(text: &str) -> Range<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.bytes().filter(|b| *b == b'.').count() >= 80 {
            return at..at + line.trim_end().len();
        }
        at += line.len();
    }
    0..0
}
