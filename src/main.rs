//! The `tollhouse` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tollhouse::cli::main()
}
