//! A policy written as TOML.
//!
//! Owns the text of `vxcsum policy show`. Pure. The text parses back to the same policy.

use std::fmt::Write as _;

use super::{AssumeKernel, Policy, PolicyRule, Sourced, When, duration_text, range_text};
use crate::glob::Glob;
use crate::kernel::{BugId, Status};
use crate::text::escape;

impl Policy {
    /// The merged policy as one TOML file. A comment behind each value, or behind the header of a rule or kernel entry,
    /// states its origin.
    pub fn show(&self) -> String {
        let mut out = String::new();
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        fn from(origin: &str) -> String {
            format!("  # {origin}")
        }
        let when = |v: &Sourced<When>| format!("\"{}\"{}", v.value.as_str(), from(&v.origin));
        let Sourced { value, origin } = &self.unknown_kernel;
        writeln!(out, "version = 1")?;
        writeln!(
            out,
            "unknown-kernel = \"{}\"{}",
            AssumeKernel::as_str(*value),
            from(origin)
        )?;
        let Sourced { value, origin } = &self.unknown_exposure;
        writeln!(
            out,
            "unknown-exposure = \"{}\"{}",
            value.as_str(),
            from(origin)
        )?;
        let Sourced { value, origin } = &self.cure;
        writeln!(out, "cure = \"{}\"{}", value.as_str(), from(origin))?;
        let Sourced { value, origin } = &self.give_back_after;
        writeln!(
            out,
            "give-back-after = \"{}\"{}",
            duration_text(*value),
            from(origin)
        )?;
        writeln!(out, "\n[bugs]")?;
        for id in BugId::ALL {
            writeln!(out, "{} = {}", id.as_str(), when(&self.bugs[id]))?;
        }
        for rule in &self.rules {
            writeln!(out, "\n[[rule]]{}", from(&rule.origin))?;
            rule.write(out)?;
        }
        for kernel in &self.kernels {
            let status = match kernel.status {
                Status::NotAffected => AssumeKernel::Fixed.as_str(),
                other => other.as_str(),
            };
            writeln!(out, "\n[[kernel]]{}", from(&kernel.origin))?;
            writeln!(out, "release = {}", quoted(kernel.release.as_str()))?;
            writeln!(out, "bug = \"{}\"", kernel.bug.as_str())?;
            writeln!(out, "status = \"{status}\"")?;
        }
        Ok(())
    }
}

impl PolicyRule {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        fn list<T>(
            out: &mut String,
            key: &str,
            values: Option<&Vec<T>>,
            text: impl Fn(&T) -> String,
        ) -> std::fmt::Result {
            let Some(values) = values else { return Ok(()) };
            let texts: Vec<_> = values.iter().map(text).collect();
            writeln!(out, "{key} = [{}]", texts.join(", "))
        }
        fn number(text: String) -> String {
            if text.contains('-') {
                quoted(&text)
            } else {
                text
            }
        }
        let glob = |g: &Glob| quoted(g.as_str());
        writeln!(out, "name = {}", quoted(&self.name))?;
        list(out, "device", self.device.as_ref(), glob)?;
        list(out, "kind", self.kind.as_ref(), |kind| {
            quoted(kind.as_str())
        })?;
        list(out, "vni", self.vni.as_ref(), |r| number(range_text(r)))?;
        list(out, "dst-port", self.dst_port.as_ref(), |r| {
            number(range_text(r))
        })?;
        list(out, "underlay-driver", self.underlay_driver.as_ref(), glob)?;
        list(out, "outer-checksum", self.outer_checksum.as_ref(), |c| {
            quoted(c.as_str())
        })?;
        if let Some(assume) = self.unknown_exposure {
            writeln!(out, "unknown-exposure = \"{}\"", assume.as_str())?;
        }
        if let Some(cure) = self.cure {
            writeln!(out, "cure = \"{}\"", cure.as_str())?;
        }
        writeln!(out, "when = \"{}\"", self.when.as_str())
    }
}

/// A TOML basic string. Escapes everything that a terminal would not show unchanged.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if escape(c.encode_utf8(&mut [0; 4]).as_bytes()).starts_with("\\x") => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
