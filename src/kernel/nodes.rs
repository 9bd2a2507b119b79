//! The kernels of many machines, from the output of `kubectl get nodes -o json` or from a list of `uname -r`.
//!
//! Owns the decoding of both, and the summary by kernel. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{KernelFacts, KernelVerdict, OsRelease};
use crate::text::escape;

/// The nodes in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// In the order of the text.
    pub nodes: Vec<ClusterNode>,
    /// The number of nodes with another operating system than Linux.
    pub other_systems: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNode {
    /// Empty in a list of kernels.
    pub name: String,
    /// `uname -r`. Empty if the node has not reported it.
    pub release: String,
    /// `PRETTY_NAME` of os-release(5). Empty if not known.
    pub os_image: String,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    node_info: NodeInfo,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    kernel_version: String,
    os_image: String,
    operating_system: String,
}

impl Nodes {
    /// Reads a text of either form. In a list, empty lines and lines with `#` at their start are ignored.
    ///
    /// # Errors
    /// A text for users that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        let found = if text.trim_start().starts_with('{') {
            Self::from_json(text)?
        } else {
            Self::from_list(text)?
        };
        if found.nodes.is_empty() && found.other_systems == 0 {
            return Err("there is no node in it".to_owned());
        }
        Ok(found)
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let items = match serde_json::from_str::<List>(text) {
            Ok(list) => list.items,
            // `kubectl get node NAME -o json` prints one node instead of a list.
            Err(no_list) => match serde_json::from_str::<Item>(text) {
                Ok(item) if item.kind.as_deref() == Some("Node") => vec![item],
                _ => {
                    return Err(format!(
                        "it is not what `kubectl get nodes -o json` prints: {}",
                        escape(no_list.to_string().as_bytes())
                    ));
                }
            },
        };
        let mut out = Self::default();
        for item in items {
            if let Some(kind) = item.kind.filter(|kind| kind != "Node") {
                return Err(format!(
                    "it lists a {} among the nodes",
                    escape(kind.as_bytes())
                ));
            }
            let info = item.status.node_info;
            if matches!(&*info.operating_system, "" | "linux") {
                out.nodes.push(ClusterNode {
                    name: item.metadata.name,
                    release: info.kernel_version,
                    os_image: info.os_image,
                });
            } else {
                out.other_systems += 1;
            }
        }
        Ok(out)
    }

    fn from_list(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with(|c: char| c.is_ascii_digit()) || line.contains(char::is_whitespace)
            {
                return Err(format!(
                    "line {}: \"{}\" is not what `uname -r` prints: one release a line, or the answer of `kubectl get nodes \
                     -o json`",
                    number + 1,
                    escape(line.as_bytes())
                ));
            }
            out.nodes.push(ClusterNode {
                release: line.to_owned(),
                ..ClusterNode::default()
            });
        }
        Ok(out)
    }
}

/// The `ID` of os-release(5) that belongs to this `PRETTY_NAME`. Empty for a distribution on which no verdict depends.
fn os_id(os_image: &str) -> &'static str {
    const IDS: [(&str, &str); 16] = [
        ("Red Hat Enterprise Linux", "rhel"),
        ("CentOS", "centos"),
        ("Rocky Linux", "rocky"),
        ("AlmaLinux", "almalinux"),
        ("Oracle Linux", "ol"),
        ("Scientific Linux", "scientific"),
        ("Virtuozzo", "virtuozzo"),
        ("CloudLinux", "cloudlinux"),
        ("Ubuntu", "ubuntu"),
        ("Debian", "debian"),
        ("Amazon Linux", "amzn"),
        ("Bottlerocket", "bottlerocket"),
        ("Container-Optimized OS", "cos"),
        ("SUSE Linux Enterprise", "sles"),
        ("SLE Micro", "sle-micro"),
        ("openSUSE", "opensuse"),
    ];
    let found = IDS.iter().find(|(name, _)| os_image.starts_with(name));
    found.map_or("", |(_, id)| id)
}

/// Nodes with the same kernel and distribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Group {
    /// `uname -r`. Empty if the nodes have not reported it.
    pub release: String,
    /// The distribution in the node's own words.
    pub os_image: String,
    pub nodes: usize,
    /// Empty if the text was a list of kernels.
    pub names: Vec<String>,
    /// The verdict on each bug, by its code.
    pub bugs: KernelVerdict,
}

/// Judges each kernel once. The largest group comes first.
pub fn groups(nodes: &[ClusterNode], judge: impl Fn(&KernelFacts) -> KernelVerdict) -> Vec<Group> {
    let mut by_kernel: BTreeMap<(&str, &str), Vec<&ClusterNode>> = BTreeMap::new();
    for node in nodes {
        let key = (&*node.release, &*node.os_image);
        by_kernel.entry(key).or_default().push(node);
    }
    let mut groups: Vec<Group> = by_kernel
        .into_iter()
        .map(|((release, os_image), nodes)| {
            let facts = KernelFacts {
                release: release.to_owned(),
                os: OsRelease {
                    id: os_id(os_image).to_owned(),
                    version_id: String::new(),
                },
                ..KernelFacts::default()
            };
            let names = nodes.iter().map(|node| node.name.clone());
            Group {
                release: release.to_owned(),
                os_image: os_image.to_owned(),
                nodes: nodes.len(),
                names: names.filter(|name| !name.is_empty()).collect(),
                bugs: judge(&facts),
            }
        })
        .collect();
    groups.sort_by_key(|group| core::cmp::Reverse(group.nodes));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::verdict::judge;
    use crate::kernel::{BugId, Measurements, Status};

    fn node(name: &str, release: &str, os_image: &str) -> ClusterNode {
        ClusterNode {
            name: name.to_owned(),
            release: release.to_owned(),
            os_image: os_image.to_owned(),
        }
    }

    #[test]
    fn texts_that_are_understood() {
        for (text, nodes, other_systems) in [
            (
                "# from uname\n5.4.0-42-generic\n\n  6.1.0-18-amd64\r\n",
                vec![
                    node("", "5.4.0-42-generic", ""),
                    node("", "6.1.0-18-amd64", ""),
                ],
                0,
            ),
            (
                r#"{"kind":"List","items":[{"kind":"Node","metadata":{"name":"a","labels":{}},"status":{"nodeInfo":
                {"kernelVersion":"5.3.18-default","osImage":"SUSE Linux Enterprise Server 15 SP2","operatingSystem":"linux"}}},
                {"metadata":{"name":"w"},"status":{"nodeInfo":{"kernelVersion":"10.0.17763.1","operatingSystem":"windows"}}}]}"#,
                vec![node(
                    "a",
                    "5.3.18-default",
                    "SUSE Linux Enterprise Server 15 SP2",
                )],
                1,
            ),
            (
                r#"{"kind":"Node","metadata":{"name":"b"},"status":{"nodeInfo":{"kernelVersion":"6.8.0"}}}"#,
                vec![node("b", "6.8.0", "")],
                0,
            ),
            // A node that has not joined yet counts as a node with an unknown kernel.
            (
                r#"{"items":[{"metadata":{"name":"c"}}]}"#,
                vec![node("c", "", "")],
                0,
            ),
        ] {
            let found = Nodes {
                nodes,
                other_systems,
            };
            assert_eq!(Nodes::parse(text), Ok(found), "{text}");
        }
    }

    #[test]
    fn texts_that_are_refused() {
        for (text, said) in [
            ("", "no node"),
            ("# nothing\n", "no node"),
            (r#"{"items":[]}"#, "no node"),
            ("5.4.0\nnode-1 5.4.0\n", "line 2: \"node-1 5.4.0\""),
            ("5.4.0\n5.4.0 5.5.0\n", "line 2"),
            ("\u{1b}[31m5.4", "line 1: \"\\x1b[31m5.4\""),
            (r#"{"items":[{"kind":"Pod"}]}"#, "a Pod among"),
            ("{\"items\":[{\"kind\":\"P\u{7f}\"}]}", "a P\\x7f among"),
            (
                r#"{"kind":"Pod","metadata":{"name":"b"}}"#,
                "kubectl get nodes",
            ),
            (r#"{"items":[{"kind":"Node"#, "kubectl get nodes"),
        ] {
            let error = Nodes::parse(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn each_kernel_is_judged_once_and_with_its_distribution() {
        let nodes = [
            node("a", "4.18.0-147.el8.x86_64", "Rocky Linux 8"),
            node("b", "6.8.0", ""),
            node("c", "6.8.0", ""),
            node("d", "", ""),
            node("e", "4.18.0", "Red Hat Enterprise Linux CoreOS 45"),
        ];
        let found = groups(&nodes, |facts| judge(facts, &[], &Measurements::default()));
        let rows: Vec<_> = found
            .iter()
            .map(|g| {
                (
                    &*g.release,
                    g.nodes,
                    g.names.join(" "),
                    g.bugs[BugId::NatZeroCsum].status,
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("6.8.0", 2, "b c".to_owned(), Status::NotAffected),
                ("", 1, "d".to_owned(), Status::Unknown),
                (
                    "4.18.0",
                    1,
                    "e".to_owned(),
                    found[2].bugs[BugId::NatZeroCsum].status
                ),
                ("4.18.0-147.el8.x86_64", 1, "a".to_owned(), Status::Affected),
            ]
        );
        for (image, id) in [
            ("Ubuntu 22.04.3 LTS", "ubuntu"),
            ("Red Hat Enterprise Linux CoreOS 45", "rhel"),
            ("Flatcar Container Linux by Kinvolk 3510.2.0 (Oklo)", ""),
            ("", ""),
        ] {
            assert_eq!(os_id(image), id, "{image}");
        }
    }
}
