//! The NAT rules of this network namespace, and whether they can rewrite the outer packets of a VXLAN device.
//!
//! Owns reading the rules of `nf_tables` and xtables, their model, and the analysis. A rule that is not understood may
//! do anything, so the answer errs towards "exposed".

pub(crate) mod bits;
pub(crate) mod events_io;
pub mod exposure;
pub(crate) mod kube_proxy;
pub mod machine;
pub mod nft;
pub mod own_io;
mod packet;
pub(crate) mod partial;
pub mod partial_io;
mod quote;
pub mod read_io;
mod registers;
pub(crate) mod rules;
mod settable;
mod state;
pub(crate) mod uapi;
pub(crate) mod xt;
