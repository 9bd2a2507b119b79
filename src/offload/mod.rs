//! The offload of VXLAN devices: what is, what has to be, and the way there.
//!
//! Owns discovery, the decision, carrying it out, the report and the record of what was done. `offload::plan` decides, `apply_io` cannot.

pub mod answers_io;
pub mod apply_io;
pub mod discover_io;
pub mod facts;
pub mod health;
pub mod node_io;
pub mod plan;
pub mod record;
pub mod record_io;
pub mod report;
pub mod units_io;
