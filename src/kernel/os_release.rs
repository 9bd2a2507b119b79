//! os-release(5): text to `OsRelease`.
//!
//! Owns the parser. Pure; `kernel::read_io` reads the file.

use super::OsRelease;

/// Takes `ID` and `VERSION_ID` from the text of an os-release file.
///
/// Lines that are not assignments in shell syntax are ignored, as
/// <https://www.freedesktop.org/software/systemd/man/latest/os-release.html> demands. The last assignment counts. A
/// missing key stays empty.
pub fn parse_os_release(text: &str) -> OsRelease {
    let mut os = OsRelease::default();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let Some((key, value)) = line.trim().split_once('=') else {
            continue;
        };
        let field = match key {
            "ID" => &mut os.id,
            "VERSION_ID" => &mut os.version_id,
            _ => continue,
        };
        if let Some(value) = unquote(value) {
            *field = value;
        }
    }
    os
}

/// The value as a shell reads it, up to a comment. `None` if a quote stays open or more words follow.
fn unquote(value: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => out.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\' | '$' | '`') => out.push(c),
                        c => out.extend(['\\', c]),
                    },
                    c => out.push(c),
                }
            },
            '\\' => out.push(chars.next()?),
            c if c.is_ascii_whitespace() => {
                let rest = chars.as_str().trim_start();
                return (rest.is_empty() || rest.starts_with('#')).then_some(out);
            }
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_texts() {
        for (text, id, version_id) in [
            ("ID=debian\nVERSION_ID=\"10\"\n", "debian", "10"),
            (
                "NAME=\"Red Hat Enterprise Linux\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"8.1\"",
                "rhel",
                "8.1",
            ),
            (
                "ID='opensuse-leap'\r\nVERSION_ID='15.3'\r\n",
                "opensuse-leap",
                "15.3",
            ),
            ("", "", ""),
            ("# ID=no\nID=arch\n", "arch", ""),
            ("ID=a\nID=b\n", "b", ""),
            ("ID=a\nID=\n", "", ""),
            ("\u{feff}ID=cos\n", "cos", ""),
            ("  ID=cos  \n", "cos", ""),
            ("ID=cos # a comment\n", "cos", ""),
            ("ID=c'o's\"x\"\n", "cosx", ""),
            (r#"ID="a\"b\\c\$d\`e\f""#, r#"a"b\c$d`e\f"#, ""),
            (r"ID=a\ b", "a b", ""),
            // not assignments, so the earlier values stay
            ("ID=a\nID=\"open\n", "a", ""),
            ("ID=a\nID='open\n", "a", ""),
            ("ID=a\nID=b c\n", "a", ""),
            ("ID=a\nID=b\\", "a", ""),
            ("ID=a\nID =b\nID\n=\nexport ID=c\n", "a", ""),
            ("ID_LIKE=debian\nIMAGE_ID=x\nVERSION=\"1\"\n", "", ""),
        ] {
            let os = parse_os_release(text);
            assert_eq!((&*os.id, &*os.version_id), (id, version_id), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(bytes: Vec<u8>, keys in "(ID|VERSION_ID)=[\"'\\\\ #a]{0,12}\n") {
            parse_os_release(&String::from_utf8_lossy(&bytes));
            parse_os_release(&keys);
        }
    }
}
