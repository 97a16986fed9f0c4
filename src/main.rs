//! The `sealdisk` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    sealdisk::cli::run(std::env::args_os())
}
