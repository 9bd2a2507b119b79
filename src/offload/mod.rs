//! The offload of VXLAN devices: the current state, the required state, and the change between them.
//!
//! Owns discovery, the decision, carrying it out, the report and the record. `judge` says what the bugs ask of a device,
//! `plan` decides on actions, and `apply_io` only carries out.

pub(crate) mod answers_io;
pub(crate) mod apply_io;
pub(crate) mod charge_io;
pub mod discover_io;
pub mod facts;
pub(crate) mod health;
pub mod judge;
pub(crate) mod node_io;
pub mod plan;
pub(crate) mod record;
pub(crate) mod record_io;
pub mod report;
pub(crate) mod units_io;
pub mod untrack;
