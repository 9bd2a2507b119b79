//! Messages of the kernel, by feature.

pub mod frame;
pub mod link_setup;
pub mod nat_setup;
