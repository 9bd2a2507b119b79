//! The offload of VXLAN devices: what is, what has to be, and the way there.
//!
//! Owns discovery, the decision, carrying it out, the report and the record of what was done. `offload::plan` decides, `apply_io` cannot.

pub(crate) mod answers_io;
pub(crate) mod apply_io;
pub mod discover_io;
pub mod facts;
pub(crate) mod health;
pub(crate) mod node_io;
pub mod plan;
pub(crate) mod record;
pub(crate) mod record_io;
pub mod report;
pub(crate) mod units_io;
pub mod untrack;
