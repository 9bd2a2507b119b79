//! The vxcsum command: parses, runs, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    vxcsum::commands::main(std::env::args_os()).into()
}
