//! vxcsum keeps Linux nodes from sending VXLAN packets with a broken outer UDP checksum.
//!
//! The flow, and the order of the modules: `policy` and `facts` go into `plan::decide`, which is pure; `apply` carries a
//! plan out and cannot decide; `report` joins both; `render` writes a report. Only `sys` talks to the kernel.

pub mod facts;
pub mod glob;
pub mod kernel;
