//! One policy file: bytes to a `Fragment`, or everything that is wrong with them.
//!
//! Owns the keys, the accepted values, and their limits. Pure. May not merge files.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnose::{Found, PolicyErrors, Source};
use super::{Assume, Fragment, Rule, Sourced, When};
use crate::facts::{IfName, OuterChecksum, escape};
use crate::glob::Glob;
use crate::kernel::{BugId, KernelOverride, Status};

/// The version of the format that this program understands.
const VERSION: u32 = 1;

const TOP: [&str; 5] = ["version", "unknown-kernel", "bugs", "rule", "kernel"];
const BUGS: [&str; 2] = ["nat-zero-csum", "nat-lco-csum"];
const RULE: [&str; 7] = [
    "name",
    "device",
    "vni",
    "dst-port",
    "underlay-driver",
    "outer-checksum",
    "when",
];
const KERNEL: [&str; 3] = ["release", "bug", "status"];

/// Every table with its keys, to say where a misplaced key belongs.
const TABLES: [(&str, &[&str]); 4] = [
    ("the top of the file", &TOP),
    ("[bugs]", &BUGS),
    ("[[rule]]", &RULE),
    ("[[kernel]]", &KERNEL),
];

const WHENS: [(&str, When); 4] = [
    ("always", When::Always),
    ("affected", When::Affected),
    ("exposed", When::Exposed),
    ("never", When::Never),
];
const BUG_WHENS: [(&str, When); 3] = [
    ("affected", When::Affected),
    ("exposed", When::Exposed),
    ("never", When::Never),
];
const ASSUMES: [(&str, Assume); 2] = [("affected", Assume::Affected), ("fixed", Assume::Fixed)];
const STATUSES: [(&str, Status); 2] = [
    ("affected", Status::Affected),
    ("fixed", Status::NotAffected),
];
const BUG_IDS: [(&str, BugId); 2] = [
    (BugId::ALL[0].as_str(), BugId::ALL[0]),
    (BugId::ALL[1].as_str(), BugId::ALL[1]),
];
const CHECKSUMS: [(&str, OuterChecksum); 2] = [
    ("zero", OuterChecksum::Zero),
    ("present", OuterChecksum::Present),
];

/// `1 << 24` VNIs: <https://www.rfc-editor.org/rfc/rfc7348#section-5>.
const VNI_MAX: u32 = 0xff_ffff;
/// `sizeof(ethtool_drvinfo.driver) - 1`:
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/ethtool.h#L186>.
const DRIVER_MAX: usize = 31;
/// `__NEW_UTS_LEN`: <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/utsname.h#L7>.
const RELEASE_MAX: usize = 64;
/// Far more than any name needs, and little enough that a hostile glob costs nothing.
const GLOB_MAX: usize = 255;

/// What a policy file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole policy, which has to say `version = 1`.
    Main,
    /// An addition from `policy.d/`, which may leave the version out.
    DropIn,
}

/// Reads one policy file. `file` is its name in errors and origins.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(file: &str, kind: Kind, bytes: &[u8]) -> Result<Fragment, PolicyErrors> {
    let source = Source::new(file, bytes);
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

type Value<'t> = Spanned<DeValue<'t>>;

struct Parser<'s> {
    source: &'s Source<'s>,
    found: Vec<Found>,
}

impl Parser<'_> {
    fn error(&mut self, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Found {
            at,
            message: message.into(),
            help: Some(help.into()),
        });
    }

    fn document(&mut self, text: &str, kind: Kind) -> Fragment {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let document = document.get_ref();
        if !self.version(document, kind, syntax.is_empty()) {
            return Fragment::default();
        }
        let fragment = self.fragment(document, text, syntax.is_empty());
        self.syntax(text, &syntax);
        fragment
    }

    /// Adds the errors of the TOML parser, one a line, and takes back what was only found because of them.
    fn syntax(&mut self, text: &str, errors: &[toml::de::Error]) {
        let mut lines: Vec<usize> = Vec::new();
        let mut syntax = Vec::new();
        for error in errors {
            let deep = error.message().contains("recursion");
            let at = error.span().unwrap_or_else(|| too_dotted(text));
            let line = self.source.line(at.start);
            if lines.last() == Some(&line) || lines.contains(&line) {
                continue;
            }
            lines.push(line);
            syntax.push(Found {
                at,
                message: if deep {
                    "nested too deeply".to_owned()
                } else {
                    escape(error.message().as_bytes())
                },
                help: deep.then(|| "a policy nests three levels at most".to_owned()),
            });
        }
        let source = self.source;
        self.found
            .retain(|found| !lines.contains(&source.line(found.at.start)));
        self.found.append(&mut syntax);
    }

    /// Whether the rest is worth reading: in another version anything may be right.
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
            .and_then(|value| self.sourced("unknown-kernel", value, &ASSUMES));
        let bugs = document.get("bugs").and_then(|value| {
            let table = self.table("bugs", value, TABLES[1])?;
            let mut bug = |key| {
                let value = table.get(key)?;
                self.sourced(key, value, &BUG_WHENS)
            };
            Some((bug(BUGS[0]), bug(BUGS[1])))
        });
        let (nat_zero_csum, nat_lco_csum) = bugs.unwrap_or_default();
        let rules = self.tables(
            document,
            "rule",
            TABLES[2],
            |parser, number, value, table| {
                parser.rule(number, header(text, value), table, complete)
            },
        );
        let kernels = self.tables(document, "kernel", TABLES[3], |parser, _, value, table| {
            parser.kernel(header(text, value), table, complete)
        });
        Fragment {
            unknown_kernel,
            nat_zero_csum,
            nat_lco_csum,
            rules,
            kernels,
            files: vec![self.source.file().to_owned()],
        }
    }

    fn rule(
        &mut self,
        number: usize,
        at: Range<usize>,
        table: &DeTable,
        complete: bool,
    ) -> Option<Rule> {
        let before = self.found.len();
        let name = table.get("name").and_then(|value| self.name(value));
        let mut globs = |key, max, is_name| {
            let glob = |parser: &mut Self, value: &Value| parser.glob(key, value, max, is_name);
            self.list(key, table.get(key)?, glob)
        };
        let device = globs("device", IfName::MAX, true);
        let underlay_driver = globs("underlay-driver", DRIVER_MAX, false);
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
        let when = match table.get("when") {
            Some(value) => self.word("when", value, &WHENS),
            None => self.missing("when", "[[rule]]", &at, accepted(&WHENS), complete),
        };
        // A rule with a bad key must not be taken for one without that key.
        (self.found.len() == before).then_some(())?;
        Some(Rule {
            name: name.unwrap_or_else(|| format!("rule {number}")),
            device,
            vni,
            dst_port,
            underlay_driver,
            outer_checksum,
            when: when?,
            origin: self.source.origin(at.start),
        })
    }

    fn kernel(
        &mut self,
        at: Range<usize>,
        table: &DeTable,
        complete: bool,
    ) -> Option<KernelOverride> {
        let globs = "a glob over `uname -r`, such as \"5.3.18-150300.59.*\"".to_owned();
        let release = match table.get("release") {
            Some(value) => self.glob("release", value, RELEASE_MAX, false),
            None => self.missing("release", "[[kernel]]", &at, globs, complete),
        };
        let bug = match table.get("bug") {
            Some(value) => self.word("bug", value, &BUG_IDS),
            None => self.missing("bug", "[[kernel]]", &at, accepted(&BUG_IDS), complete),
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
        // What is missing behind a syntax error may be there.
        if complete {
            self.error(at.clone(), format!("{table} has no `{key}`"), help);
        }
        None
    }

    /// Reports the keys of a table that nobody knows.
    fn keys(&mut self, table: &DeTable, (place, known): (&str, &[&str])) {
        for key in table.keys() {
            let text: &str = key.get_ref();
            if known.contains(&text) {
                continue;
            }
            let elsewhere = TABLES.iter().find(|(_, keys)| keys.contains(&text));
            let hint = match (elsewhere, nearest(text, known)) {
                (_, Some(near)) => format!("did you mean `{near}`? "),
                (Some((home, _)), None) => format!("`{text}` belongs to {home}. "),
                (None, None) => String::new(),
            };
            let message = format!("unknown key `{}` in {place}", escape(text.as_bytes()));
            let help = format!("{hint}accepted keys: {}", known.join(", "));
            self.error(key.span(), message, help);
        }
    }

    fn table<'v, 't>(
        &mut self,
        key: &str,
        value: &'v Value<'t>,
        known: (&str, &[&str]),
    ) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        match table {
            Some(table) => self.keys(table, known),
            None => self.wrong_type(key, value, &format!("a table: write {}", known.0)),
        }
        table
    }

    /// The entries of an array of tables, each read by `read` with its number from 1.
    fn tables<T>(
        &mut self,
        document: &DeTable,
        key: &str,
        known: (&str, &[&str]),
        mut read: impl FnMut(&mut Self, usize, &Value, &DeTable) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = document.get(key) else {
            return Vec::new();
        };
        let Some(entries) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("a list of tables: write {}", known.0));
            return Vec::new();
        };
        let mut all = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(table) = self.table(key, entry, known) {
                all.extend(read(self, index + 1, entry, table));
            }
        }
        all
    }

    /// One value or a list of them.
    fn list<T>(
        &mut self,
        key: &str,
        value: &Value,
        mut each: impl FnMut(&mut Self, &Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(values) = value.get_ref().as_array() else {
            return each(self, value).map(|one| vec![one]);
        };
        if values.is_empty() {
            let help = format!("leave `{key}` out to match every device");
            self.error(
                value.span(),
                format!("`{key}` is empty, which matches nothing"),
                help,
            );
        }
        values.iter().map(|value| each(self, value)).collect()
    }

    fn sourced<T: Copy>(
        &mut self,
        key: &str,
        value: &Value,
        words: &[(&str, T)],
    ) -> Option<Sourced<T>> {
        self.word(key, value, words).map(|word| Sourced {
            value: word,
            origin: self.source.origin(value.span().start),
        })
    }

    fn word<T: Copy>(&mut self, key: &str, value: &Value, words: &[(&str, T)]) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, &accepted(words));
            return None;
        };
        let word = words.iter().find(|(name, _)| *name == text);
        if word.is_none() {
            let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
            let hint = match nearest(text, &names) {
                Some(near) => format!("did you mean \"{near}\"? "),
                None => String::new(),
            };
            let shown = self.text(value);
            self.error(
                value.span(),
                format!("`{key}` cannot be {shown}"),
                format!("{hint}{}", accepted(words)),
            );
        }
        word.map(|(_, value)| *value)
    }

    fn name(&mut self, value: &Value) -> Option<String> {
        let help = "a name is printable text, such as \"vmxnet3 underlay\"";
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type("name", value, help);
            return None;
        };
        // Names are printed as they are, so they must not be able to write to a terminal.
        if text.trim().is_empty() || escape(text.as_bytes()) != text.replace('\\', "\\\\") {
            self.error(value.span(), "`name` is empty or cannot be printed", help);
            return None;
        }
        Some(text.to_owned())
    }

    fn glob(&mut self, key: &str, value: &Value, max: usize, is_name: bool) -> Option<Glob> {
        let help = format!("globs know *, ?, [a-z], [!a-z] and \\, and match at most {max} bytes");
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a glob in quotes, such as \"flannel.*\"");
            return None;
        };
        let glob = if text.len() > GLOB_MAX {
            Err(format!("is longer than {GLOB_MAX} bytes"))
        } else {
            Glob::new(text).map_err(str::to_owned).and_then(|glob| {
                if glob.shortest() > max {
                    Err(format!(
                        "matches nothing: it takes {} bytes",
                        glob.shortest()
                    ))
                } else if is_name && !matches_a_name(text) {
                    Err("matches nothing: no device can have such a name".to_owned())
                } else {
                    Ok(glob)
                }
            })
        };
        match glob {
            Ok(glob) => Some(glob),
            Err(problem) => {
                self.error(
                    value.span(),
                    format!("the glob for `{key}` {problem}"),
                    help,
                );
                None
            }
        }
    }

    /// A number, or a range as `"first-last"`.
    fn range<T: Copy + PartialOrd + fmt::Display + TryFrom<u128>>(
        &mut self,
        key: &str,
        value: &Value,
        limits: RangeInclusive<T>,
    ) -> Option<RangeInclusive<T>> {
        let help = format!(
            "a number from {} to {}, or a range such as \"100-200\"",
            limits.start(),
            limits.end()
        );
        let ends = match value.get_ref() {
            DeValue::Integer(n) if n.as_str().starts_with('-') => Some(None),
            DeValue::Integer(_) => Some(number(value.get_ref()).map(|n| (n, n))),
            DeValue::String(text) => text.split_once('-').and_then(|(first, last)| {
                let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
                (digits(first) && digits(last)).then(|| first.parse().ok().zip(last.parse().ok()))
            }),
            _ => None,
        };
        let Some(ends) = ends else {
            self.wrong_type(key, value, &help);
            return None;
        };
        let shown = self.text(value);
        let within = |n: u128| T::try_from(n).ok().filter(|n| limits.contains(n));
        match ends.and_then(|(first, last)| within(first).zip(within(last))) {
            None => self.error(
                value.span(),
                format!("`{key}` {shown} is out of range"),
                help,
            ),
            Some((first, last)) if first > last => {
                let message = format!("`{key}` {shown} runs backwards, which matches nothing");
                self.error(value.span(), message, format!("write \"{last}-{first}\""));
            }
            Some((first, last)) => return Some(first..=last),
        }
        None
    }

    fn wrong_type(&mut self, key: &str, value: &Value, accepted: &str) {
        let shown = match value.get_ref() {
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Boolean(_) => self.text(value),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Float(_) => "a number with a fraction".to_owned(),
            DeValue::Datetime(_) => "a date or time".to_owned(),
        };
        self.error(value.span(), format!("`{key}` cannot be {shown}"), accepted);
    }

    /// A value as it is written in the file, shortened and safe to print.
    fn text(&self, value: &Value) -> String {
        let text = self.source.text(value.span());
        let short: String = text.chars().take(40).collect();
        let dots = if short.len() < text.len() { "..." } else { "" };
        let shown = escape(short.as_bytes()).replace("\\\\", "\\");
        format!("{shown}{dots}")
    }
}

fn accepted<T>(words: &[(&str, T)]) -> String {
    let names: Vec<_> = words
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    format!("accepted values: {}", names.join(", "))
}

/// None if it is not an integer, or negative.
fn number(value: &DeValue) -> Option<u128> {
    let integer = value.as_integer()?;
    u128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Of the known words the one that was probably meant.
fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // Nothing that long is a typing error, and comparing takes time with the length.
    if word.len() > 32 {
        return None;
    }
    let distance = |name: &str| strsim::damerau_levenshtein(&word.to_lowercase(), name);
    let near = known.iter().min_by_key(|name| distance(name))?;
    let part = || {
        known
            .iter()
            .find(|name| word.len() > 2 && name.contains(word))
    };
    if distance(near) * 3 <= near.len().max(3) {
        Some(near)
    } else {
        part().copied()
    }
}

/// The header of a table, or the first line of an inline table.
fn header(text: &str, value: &Value) -> Range<usize> {
    let span = value.span();
    let line = text[span.clone()].split('\n').next().unwrap_or_default();
    span.start..span.start + line.len()
}

/// The TOML parser does not say where a dotted key is too long.
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

/// Whether each part of a valid glob that stands for one byte takes a byte that a device's name can have.
fn matches_a_name(text: &str) -> bool {
    let legal = |b: u8| IfName::new(&[b'a', b]).is_some();
    let mut rest = text;
    while !rest.is_empty() {
        // The shortest beginning that is a valid glob is one part: a character, an escaped one, or a whole class.
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
        let mut parts = ends.filter_map(|end| Some((end, Glob::new(&rest[..end]).ok()?)));
        let Some((end, part)) = parts.next() else {
            return true;
        };
        let takes_legal = || (0..=u8::MAX).any(|b| legal(b) && part.matches(&[b]));
        if part.shortest() == 1 && !takes_legal() {
            return false;
        }
        rest = &rest[end..];
    }
    !matches!(text, "." | "..")
}
