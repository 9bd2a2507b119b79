//! Shell globs over bytes: `*`, `?`, `[abc]`, `[a-z]`, `[!a-z]`, and `\` before a character to match it literally.
//!
//! Owns matching of device names, drivers and kernel releases. Pure. The names have no path separators, so crates for
//! paths do not fit: they treat `/` and a leading dot specially, or bring a regex engine.

use std::fmt;

#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    Any,
    Star,
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Glob {
    /// # Errors
    /// A part of a sentence that says what is wrong with the text: empty, an open `[`, a range that runs backwards, a
    /// lone `\`.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut bytes = text.bytes().peekable();
        while let Some(b) = bytes.next() {
            parts.push(match b {
                b'*' => Part::Star,
                b'?' => Part::Any,
                b'\\' => Part::Byte(bytes.next().ok_or("ends with a lone \\")?),
                b'[' => {
                    let negated = bytes.next_if(|b| matches!(b, b'!' | b'^')).is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let low = match bytes.next().ok_or("has a [ without a ]")? {
                            b']' if !ranges.is_empty() => break,
                            b'\\' => bytes.next().ok_or("ends with a lone \\")?,
                            b => b,
                        };
                        let mut high = low;
                        if bytes.peek() == Some(&b'-') {
                            bytes.next();
                            match bytes.next().ok_or("has a [ without a ]")? {
                                b']' => {
                                    ranges.extend([(low, low), (b'-', b'-')]);
                                    break;
                                }
                                b => high = b,
                            }
                        }
                        if low > high {
                            return Err("has a range that runs backwards");
                        }
                        ranges.push((low, high));
                    }
                    Part::Class { negated, ranges }
                }
                b => Part::Byte(b),
            });
        }
        if parts.is_empty() {
            return Err("is empty");
        }
        parts.dedup_by(|a, b| *a == Part::Star && *b == Part::Star);
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Whether the whole of `name` matches. The time is at most proportional to (length of glob) x (length of name).
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut p, mut n) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match self.parts.get(p) {
                Some(Part::Star) => {
                    retry = Some((p + 1, n));
                    p += 1;
                    continue;
                }
                Some(part) if part.takes(name[n]) => {
                    p += 1;
                    n += 1;
                    continue;
                }
                _ => {}
            }
            let Some((after_star, from)) = retry else {
                return false;
            };
            retry = Some((after_star, from + 1));
            (p, n) = (after_star, from + 1);
        }
        self.parts[p..].iter().all(|part| *part == Part::Star)
    }

    /// The length in bytes of the shortest name that can match.
    pub fn shortest(&self) -> usize {
        self.parts
            .iter()
            .filter(|part| **part != Part::Star)
            .count()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Part {
    fn takes(&self, b: u8) -> bool {
        match self {
            Self::Byte(own) => *own == b,
            Self::Any => true,
            Self::Star => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&b)) != *negated
            }
        }
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, name, matches) in [
            ("flannel.1", "flannel.1", true),
            ("flannel.1", "flannel.11", false),
            ("flannel.*", "flannel.4096", true),
            ("flannel.*", "flannel4096", false),
            ("*", "", true),
            ("*", "x", true),
            ("*.calico", "vxlan-v6.calico", true),
            ("*a*b*c", "xxaxxbxxbxxc", true),
            ("*a*b*c", "xxaxxbxxbxx", false),
            ("a**b", "ab", true),
            ("vx?", "vx1", true),
            ("vx?", "vx", false),
            ("vx[0-9]", "vx7", true),
            ("vx[0-9]", "vxa", false),
            ("vx[!0-9]", "vxa", true),
            ("vx[]]", "vx]", true),
            ("vx[a-]", "vx-", true),
            (r"vx\*", "vx*", true),
            (r"vx\*", "vx1", false),
            ("5.3.18-150300.59.*", "5.3.18-150300.59.93-default", true),
        ] {
            assert_eq!(
                Glob::new(glob).unwrap().matches(name.as_bytes()),
                matches,
                "{glob} {name}"
            );
        }
        for (glob, error) in [
            ("", "is empty"),
            ("vx[", "has a [ without a ]"),
            ("[z-a]", "has a range that runs backwards"),
            ("a\\", "ends with a lone \\"),
        ] {
            assert_eq!(Glob::new(glob).unwrap_err(), error);
        }
    }

    #[test]
    fn a_hostile_glob_is_not_slow() {
        let glob = Glob::new(&"*a".repeat(500)).unwrap();
        assert!(!glob.matches(&[b'a'; 499]));
        assert_eq!(glob.shortest(), 500);
    }
}
