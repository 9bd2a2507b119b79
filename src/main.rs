//! The vxcsum command: parses, runs, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(vxcsum::commands::main(std::env::args_os()) as u8)
}
