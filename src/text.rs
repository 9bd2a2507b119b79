//! Text from outside: device names, and bytes that are escaped before they are printed.
//!
//! Owns [`IfName`] and [`escape`]. Pure.

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a network device: 1 to 15 bytes, any byte except NUL, `/` and white space (newer kernels also refuse
/// `:`). It need not be UTF-8.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/dev.c#L1046> (`dev_valid_name`)
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(into = "String"))]
pub struct IfName {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl IfName {
    /// `IFNAMSIZ - 1`.
    pub const MAX: usize = 15;

    /// `None` if the kernel allows no device with this name.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let legal = |b: &u8| !matches!(b, 0 | b'/' | b' ' | b'\t'..=b'\r');
        let ok = (1..=Self::MAX).contains(&bytes.len()) && bytes != b"." && bytes != b"..";
        if !ok || !bytes.iter().all(legal) {
            return None;
        }
        let mut name = Self {
            bytes: [0; Self::MAX],
            len: u8::try_from(bytes.len()).ok()?,
        };
        name.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(name)
    }

    /// The name as a word of a command that a user may paste: `DEVICE` instead of a name that a shell or an option
    /// parser could take for something else.
    pub fn in_command(&self) -> String {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:@".contains(b);
        if self.as_bytes().iter().all(plain) && !self.as_bytes().starts_with(b"-") {
            self.to_string()
        } else {
            "DEVICE".to_owned()
        }
    }

    /// The text of [`fmt::Display`].
    pub fn escaped(&self) -> Cow<'_, str> {
        escaped(self.as_bytes())
    }

    /// The unescaped bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Safe for a terminal and a log: everything that is not printable text becomes `\xNN`, a backslash becomes `\\`.
impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.escaped())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escaped())
    }
}

/// JSON escapes control characters itself, so a name in UTF-8 is written unchanged. Any other name is escaped.
impl Serialize for IfName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.as_bytes()) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.serialize_str(&self.escaped()),
        }
    }
}

/// Takes only names that [`Serialize`] writes unchanged: UTF-8 without a backslash.
impl<'de> Deserialize<'de> for IfName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = Self::new(text.as_bytes()).filter(|_| !text.contains('\\'));
        name.ok_or_else(|| D::Error::custom("not the name of a device"))
    }
}

/// The bytes of an address in network byte order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Makes any bytes safe to print on one line. Bytes that are not UTF-8, control characters, and characters that reorder
/// or hide text become `\xNN` (one escape for each byte). A backslash becomes `\\`.
pub fn escape(bytes: &[u8]) -> String {
    escaped(bytes).into_owned()
}

fn escaped(bytes: &[u8]) -> Cow<'_, str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let harmless = |b: &u8| matches!(b, b' '..=b'~') && *b != b'\\';
    if bytes.iter().all(harmless) {
        return String::from_utf8_lossy(bytes);
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if hidden(c) => {
                    for b in c.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(out, "\\x{b:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_command_does_no_harm() {
        for (bytes, word) in [
            (&b"flannel.1"[..], "flannel.1"),
            (b"cni@if4:x_-y", "cni@if4:x_-y"),
            (b"-all", "DEVICE"),
            (b"a;reboot", "DEVICE"),
            (b"a$(b)", "DEVICE"),
            (b"a'b", "DEVICE"),
            (b"a\\b", "DEVICE"),
            (b"\xff", "DEVICE"),
        ] {
            assert_eq!(IfName::new(bytes).unwrap().in_command(), word);
        }
    }

    #[test]
    fn names_as_the_kernel_allows_them() {
        for (bytes, ok) in [
            (&b"flannel.1"[..], true),
            (b"vxlan_sys_4789x", true),
            (b"vxlan_sys_4789xy", false),
            (b"", false),
            (b".", false),
            (b"..", false),
            (b"a/b", false),
            (b"a b", false),
            (b"a\n", false),
            (b"\x1b[31m", true),
            (b"\xff", true),
        ] {
            assert_eq!(IfName::new(bytes).is_some(), ok, "{bytes:?}");
        }
    }

    #[test]
    fn names_are_safe_to_print_and_exact_in_json() {
        for (bytes, text, json) in [
            (&b"flannel.1"[..], "flannel.1", r#""flannel.1""#),
            (b"\x1b[31mred", r"\x1b[31mred", r#""\u001b[31mred""#),
            ("vx🦀".as_bytes(), "vx🦀", r#""vx🦀""#),
            (b"%n%s", "%n%s", r#""%n%s""#),
            (b"a\xffb", r"a\xffb", r#""a\\xffb""#),
            (b"a\\b", r"a\\b", r#""a\\b""#),
            ("a\u{202e}b".as_bytes(), r"a\xe2\x80\xaeb", "\"a\u{202e}b\""),
        ] {
            let name = IfName::new(bytes).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(serde_json::to_string(&name).unwrap(), json);
        }
    }
}
