//! What an allocation takes of the heap. Pure.
//!
//! What always holds: a size is that of the block which the program's allocator (mimalloc) takes for it; others round in
//! much the same way. So `cache.memory` bounds what the process really uses. Never fails.

/// Sizes up to this one, in words, are rounded to two words.
const SMALL: usize = 8;

/// Larger blocks, in bytes, come from the system in pages.
const LARGE: usize = 512 << 10;

const PAGE: usize = 4 << 10;

const WORD: usize = 8;

/// Bytes of the block for an allocation of `size` bytes: four sizes between one power of two and the next.
pub(super) const fn block(size: usize) -> usize {
    let words = size.div_ceil(WORD);
    if words <= SMALL {
        return words.next_multiple_of(2) * WORD;
    }
    if size > LARGE {
        return size.next_multiple_of(PAGE);
    }
    let step = 1 << ((words - 1).ilog2() - 2);
    words.next_multiple_of(step) * WORD
}

/// Bytes of the block of an `Arc` of a value of `size` bytes.
pub(super) const fn arc(size: usize) -> usize {
    block(2 * WORD + size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_allocators_sizes() {
        let sizes = [0, 1, 16, 17, 64, 65, 80, 81, 128, 129, 160, 1024, 1025, 1280, 1281, LARGE - 1, LARGE + 1];
        let blocks = sizes.map(block);
        let page = LARGE + PAGE;
        assert_eq!(blocks, [0, 16, 16, 32, 64, 80, 80, 96, 128, 160, 160, 1024, 1280, 1280, 1536, LARGE, page]);
    }
}
