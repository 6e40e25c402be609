//! [`bare`] with the allocator of the `tollhouse` binary: tells what of a difference is the allocator's.

#[path = "bare_pingora.rs"]
mod bare;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    bare::main();
}
