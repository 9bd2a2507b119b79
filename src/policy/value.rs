//! The values of a policy file: words, globs, numbers and ranges. Each is checked, and errors are explained.
//!
//! Owns the syntax of values and the search for the nearest accepted word. Pure. Does not know the keys.

use core::time::Duration;
use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeValue;

use super::diagnose::{Parser, printable};
use super::{Sourced, UNITS};
use crate::glob::Glob;
use crate::text::IfName;

/// A value and its place in bytes of the file.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// Bytes. Longer than any name needs, and short enough that a hostile glob costs little.
const GLOB_MAX: usize = 255;

impl Parser<'_> {
    /// One value, or a list of values.
    pub fn list<T>(
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
        // Read all of them before the check, so every bad value is reported.
        let each: Vec<_> = values.iter().map(|value| each(self, value)).collect();
        each.into_iter().collect()
    }

    pub fn sourced<T: Copy>(
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

    pub fn word<T: Copy>(&mut self, key: &str, value: &Value, words: &[(&str, T)]) -> Option<T> {
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

    pub fn name(&mut self, value: &Value) -> Option<String> {
        let help = "accepted: printable text, such as \"vmxnet3 underlay\"";
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type("name", value, help);
            return None;
        };
        // Names are printed unchanged, so they must not contain control characters.
        if text.trim().is_empty() || printable(text) != text {
            self.error(value.span(), "`name` is empty or cannot be printed", help);
            return None;
        }
        Some(text.to_owned())
    }

    pub fn glob(&mut self, key: &str, value: &Value, max: usize, is_name: bool) -> Option<Glob> {
        let help = format!("globs know *, ?, [a-z], [!a-z] and \\, and match at most {max} bytes");
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(
                key,
                value,
                "accepted: a glob in quotes, such as \"flannel.*\"",
            );
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
    pub fn range<T: Copy + PartialOrd + fmt::Display + TryFrom<u128>>(
        &mut self,
        key: &str,
        value: &Value,
        limits: RangeInclusive<T>,
    ) -> Option<RangeInclusive<T>> {
        let help = format!(
            "accepted: a number from {} to {}, or a range such as \"100-200\"",
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

    /// `"never"`, or a number with a unit. The result has the place of the value.
    pub fn duration(&mut self, key: &str, value: &Value) -> Option<Sourced<Option<Duration>>> {
        const MAX: u64 = 24 * 60 * 60;
        let help = "accepted: \"never\", or a time up to \"24h\" with the unit s, min or h, such as \"10min\"";
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, help);
            return None;
        };
        let seconds = || {
            let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
            let (_, size) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
            number.parse::<u64>().ok()?.checked_mul(size)
        };
        let duration = match (text, seconds()) {
            ("never", _) => None,
            (_, Some(seconds)) if seconds <= MAX => Some(Duration::from_secs(seconds)),
            _ => {
                let shown = self.text(value);
                self.error(value.span(), format!("`{key}` cannot be {shown}"), help);
                return None;
            }
        };
        Some(Sourced {
            value: duration,
            origin: self.source.origin(value.span().start),
        })
    }

    pub fn wrong_type(&mut self, key: &str, value: &Value, accepted: &str) {
        let shown = match value.get_ref() {
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Boolean(_) => self.text(value),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Float(_) => "a number with a fraction".to_owned(),
            DeValue::Datetime(_) => "a date or time".to_owned(),
        };
        self.error(value.span(), format!("`{key}` cannot be {shown}"), accepted);
    }

    /// A value as it stands in the file, shortened and safe to print.
    pub fn text(&self, value: &Value) -> String {
        let text = self.source.text(value.span());
        let short: String = text.chars().take(40).collect();
        let dots = if short.len() < text.len() { "..." } else { "" };
        format!("{}{dots}", printable(&short))
    }
}

pub(super) fn accepted<T>(words: &[(&str, T)]) -> String {
    let names: Vec<_> = words
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    format!("accepted values: {}", names.join(", "))
}

/// `None` if the value is not an integer or is negative.
pub(super) fn number(value: &DeValue) -> Option<u128> {
    let integer = value.as_integer()?;
    u128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The known word that is most similar to this word.
pub(super) fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // A longer word is not a typing error, and the time to compare grows with the length.
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

/// True if each part of a valid glob that stands for one byte accepts a byte that a device name can have.
fn matches_a_name(text: &str) -> bool {
    let legal = |b: u8| IfName::new(&[b'a', b]).is_some();
    let mut rest = text;
    while !rest.is_empty() {
        // The shortest beginning that is a valid glob is one part: a character, an escaped character, or a whole class.
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
