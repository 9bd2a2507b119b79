//! `/run/vxcsum/exposure.json`: the last answers about exposure, for the next process.
//!
//! Owns the conditions under which an answer is still valid. Stores the answer for each device, not the rules: the
//! rules of a cluster take megabytes, an answer a few hundred bytes. An answer is valid for exactly the same question
//! (all facts about the device) in the same network namespace of the same boot, with the same generation of `nf_tables`
//! and the same version of this program. Answers that depend on something that changes without an event are not stored.
//! A damaged file, or a file that root does not own, counts as missing.
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
use crate::sealed::{seal, unseal};

const NAME: &str = "exposure.json";
/// Bytes. A thousand devices in a cluster of a thousand nodes need more, and are analysed again each time.
const LIMIT: usize = 1 << 20;

/// The conditions under which the stored answers are valid.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct AnswerKey {
    program: String,
    boot_id: String,
    netns_cookie: u64,
    rules: RulesVersion,
}

impl AnswerKey {
    /// `None` if the namespace or the rules have no version.
    fn new(netns: Netns, rules: RulesVersion) -> Option<Self> {
        Some(Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: Some(boot_id()).filter(|id| !id.is_empty())?,
            netns_cookie: netns.cookie?,
            rules,
        })
    }
}

/// An [`Exposure`] in full. Its own JSON form is only the code.
#[derive(Serialize, Deserialize)]
enum StoredAnswer {
    Exposed(Box<Exposed>),
    NotExposed(Option<CitedRule>),
    Unknown(Doubt),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerFile {
    key: AnswerKey,
    /// By the facts about the device.
    answers: BTreeMap<String, StoredAnswer>,
}

fn question(flow: &OuterFlow) -> String {
    format!("{flow:?}")
}

pub struct KeptAnswers {
    dir: PathBuf,
}

impl KeptAnswers {
    /// Does not read the file yet.
    pub fn new(root: &Path) -> Self {
        Self { dir: run_dir(root) }
    }

    /// The answers for all these devices. `None` if one is missing or not valid any more.
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
        serde_json::from_str(&unseal(&text).ok()?).ok()
    }

    /// Adds answers to the file if they can stay valid. If the file cannot be written, the next process reads the rules
    /// again.
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
        if let Ok(text) = seal(&stored)
            && text.len() < LIMIT
        {
            let _ = replace(&self.dir, NAME, text.as_bytes());
        }
    }
}
