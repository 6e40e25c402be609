//! The `tollhouse` binary: everything is in the library.

mod allocator;

use std::process::ExitCode;

/// Proxying allocates a lot, in small pieces of short life: a seventh of a request's instructions are glibc's allocator.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    tollhouse::cli::main()
}
