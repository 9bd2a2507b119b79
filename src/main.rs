//! The vxcsum command.

fn main() {}
