//! `explain --nodes`: the kernels of a cluster, by verdict.

use std::io::{self, Write};

use serde::Serialize;

use super::status_style;
use crate::kernel::nodes::Group;
use crate::kernel::{BugId, Status};
use crate::offload::report::SCHEMA_VERSION;
use crate::term::table::{Cell, TextTable};
use crate::term::width;
use crate::text::escape;

#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeSummary {
    /// See the report.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    schema_version: u32,
    /// The number of nodes with Linux.
    nodes: usize,
    /// The number of nodes with another system. They get no verdict.
    other_systems: usize,
    bugs: Vec<BugSummary>,
    kernels: Vec<Group>,
}

/// The number of nodes for each status of a bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct BugSummary {
    id: BugId,
    affected: usize,
    #[serde(rename = "not-affected")]
    not_affected: usize,
    unknown: usize,
}

impl NodeSummary {
    /// Takes groups that have a verdict.
    pub fn new(kernels: Vec<Group>, other_systems: usize) -> Self {
        let bugs = BugId::ALL.map(|id| {
            let count = |status: Status| {
                let groups = kernels.iter().filter(|g| g.bugs[id].status == status);
                groups.map(|group| group.nodes).sum()
            };
            BugSummary {
                id,
                affected: count(Status::Affected),
                not_affected: count(Status::NotAffected),
                unknown: count(Status::Unknown),
            }
        });
        Self {
            schema_version: SCHEMA_VERSION,
            nodes: kernels.iter().map(|group| group.nodes).sum(),
            other_systems,
            bugs: bugs.to_vec(),
            kernels,
        }
    }
}

/// Count, kernel, a verdict for each bug, distribution.
const COLUMNS: usize = 3 + BugId::ALL.len();

/// Writes the summary as a table.
///
/// # Errors
/// Those of the writer.
pub fn nodes(out: &mut impl Write, summary: &NodeSummary, color: bool) -> io::Result<()> {
    let count = |n: usize| format!("{n} {}", if n == 1 { "node" } else { "nodes" });
    write!(out, "{}", count(summary.nodes))?;
    if summary.other_systems > 0 {
        write!(out, ", {} without Linux left out", summary.other_systems)?;
    }
    writeln!(out)?;
    for bug in &summary.bugs {
        writeln!(
            out,
            "{}: {} affected, {} not affected, {} unknown",
            bug.id.as_str(),
            bug.affected,
            bug.not_affected,
            bug.unknown
        )?;
    }
    writeln!(out)?;
    let mut header = [""; COLUMNS];
    (header[0], header[1], header[COLUMNS - 1]) = ("NODES", "KERNEL", "OS IMAGE");
    for (n, bug) in BugId::ALL.into_iter().enumerate() {
        header[2 + n] = bug.as_str();
    }
    let mut table = TextTable::new(header);
    let text = |text: &str| match text {
        "" => "-".to_owned(),
        text => escape(text.as_bytes()),
    };
    for group in &summary.kernels {
        let verdicts: Vec<_> = group.bugs.iter().collect();
        table.row(std::array::from_fn(|n| match n {
            0 => Cell::plain(group.nodes.to_string()),
            1 => Cell::plain(text(&group.release)),
            n if n == COLUMNS - 1 => Cell::plain(text(&group.os_image)),
            n => {
                let status = verdicts[n - 2].status;
                Cell::styled(status.as_str(), status_style(status))
            }
        }));
    }
    table.write(out, width(), &[], color)?;
    writeln!(
        out,
        "\n`vxcsum explain --kernel RELEASE` gives the evidence; on a node, `vxcsum status` says whether its devices need anything"
    )
}
