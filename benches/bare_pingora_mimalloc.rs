//! [`bare`] with the allocator of the `tollhouse` binary: tells what of a difference is the allocator's.

#[path = "../src/allocator.rs"]
mod allocator;
#[path = "bare_pingora.rs"]
mod bare;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() {
    bare::main();
}
