//! `/run/vxcsum/exposure.json`: the last answers about exposure, for the next process.
//!
//! Owns when they still hold. What is kept is the answer for each device and not the rules that it rests on: those of a cluster
//! have megabytes, an answer has a few hundred bytes. It holds for exactly the same question (all that is known of the device) in
//! the same network namespace of the same boot, under the same generation of `nf_tables`, by the same version of this program.
//! Answers that rest on what changes with no announcement are not kept at all. A file that is damaged, or not root's, counts as none.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::Netns;
use crate::kernel::read_io::boot_id;
use crate::nat::exposure::{CitedRule, Doubt, Exposed, Exposure, OuterFlow};
use crate::nat::partial_io::{RulesInUse, RulesVersion};
use crate::run_dir_io::{read_text, replace, run_dir};

const NAME: &str = "exposure.json";
/// A thousand devices in a cluster of a thousand nodes have more, and are asked for anew.
const LIMIT: usize = 1 << 20;

/// What the answers are true for.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct AnswerKey {
    program: String,
    boot_id: String,
    netns_cookie: u64,
    rules: RulesVersion,
}

impl AnswerKey {
    /// None where the namespace or the rules have nothing to know them by.
    fn new(netns: Netns, rules: RulesVersion) -> Option<Self> {
        Some(Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: Some(boot_id()).filter(|id| !id.is_empty())?,
            netns_cookie: netns.cookie?,
            rules,
        })
    }
}

/// An [`Exposure`], whose own form in JSON is its code.
#[derive(Serialize, Deserialize)]
enum StoredAnswer {
    Exposed(Box<Exposed>),
    NotExposed(Option<CitedRule>),
    Unknown(Doubt),
}

#[derive(Serialize, Deserialize)]
struct AnswerFile {
    key: AnswerKey,
    /// By what is known of the device.
    answers: BTreeMap<String, StoredAnswer>,
}

fn question(flow: &OuterFlow) -> String {
    format!("{flow:?}")
}

/// The file below a root.
pub struct KeptAnswers {
    dir: PathBuf,
}

impl KeptAnswers {
    /// Reads nothing yet.
    pub fn new(root: &Path) -> Self {
        Self { dir: run_dir(root) }
    }

    /// The answers for all of these, if each is there and still holds.
    pub fn load(&self, netns: Netns, flows: &[OuterFlow]) -> Option<Vec<Exposure>> {
        let mut stored = self.stored()?;
        if Some(stored.key) != AnswerKey::new(netns, RulesVersion::now()?) {
            return None;
        }
        let mut take = |flow| match stored.answers.remove(&question(flow))? {
            StoredAnswer::Exposed(found) => Some(Exposure::Exposed(found)),
            StoredAnswer::NotExposed(rule) => Some(Exposure::NotExposed(rule)),
            StoredAnswer::Unknown(doubt) => Some(Exposure::Unknown(doubt)),
        };
        flows.iter().map(&mut take).collect()
    }

    fn stored(&self) -> Option<AnswerFile> {
        let path = self.dir.join(NAME);
        let owner = fs::symlink_metadata(&path).ok()?.uid();
        let text = read_text(&path).ok().filter(|_| owner == 0)?;
        serde_json::from_str(&text).ok()
    }

    /// Adds to the file, if these can hold for longer. Where it cannot be written, the next process reads the rules again.
    pub fn save(&self, netns: Netns, rules: &RulesInUse, given: Vec<(OuterFlow, Exposure)>) {
        let key = rules
            .version()
            .and_then(|rules| AnswerKey::new(netns, rules));
        let Some(key) = key.filter(|_| rules.still_hold()) else {
            return;
        };
        let answers = given.into_iter().map(|(flow, exposure)| {
            let answer = match exposure {
                Exposure::Exposed(found) => StoredAnswer::Exposed(found),
                Exposure::NotExposed(rule) => StoredAnswer::NotExposed(rule),
                Exposure::Unknown(doubt) => StoredAnswer::Unknown(doubt),
            };
            (question(&flow), answer)
        });
        let known = self.stored().filter(|stored| stored.key == key);
        let mut stored = known.unwrap_or(AnswerFile {
            key,
            answers: BTreeMap::new(),
        });
        stored.answers.extend(answers);
        let bytes = serde_json::to_vec(&stored).unwrap_or_default();
        if (1..LIMIT).contains(&bytes.len()) {
            let _ = replace(&self.dir, NAME, &bytes);
        }
    }
}
