//! mimalloc, asked as C asks for memory. Its crate names an alignment with every request, even one that all memory has; mimalloc has a
//! longer way for such requests (figures in benches/README.md).

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// What `malloc` aligns to by itself, where there is room for something that wants it (C11 7.22.3, x86-64 and AArch64).
const NATURAL: usize = 16;

/// The `tollhouse` binary's allocator.
#[derive(Debug)]
pub struct Allocator;

fn is_natural(align: usize, size: usize) -> bool {
    align <= NATURAL && align <= size
}

// SAFETY: mimalloc gives memory of at least this size to nobody else until it is freed, or null; `is_natural` holds where `malloc`
// must align it so. Whatever a function of mimalloc gave, every other one takes back.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as of the whole.
        unsafe { if is_natural(align, size) { mi_malloc(size) } else { mi_malloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as of the whole.
        unsafe { if is_natural(align, size) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { mi_free(memory.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: as of the whole, and the caller's promise.
        unsafe {
            if is_natural(align, size) {
                mi_realloc(memory.cast(), size)
            } else {
                mi_realloc_aligned(memory.cast(), size, align)
            }
        }
        .cast()
    }
}
