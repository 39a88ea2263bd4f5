// SPDX-License-Identifier: Apache-2.0
//! Names of allocation flags: include/linux/gfp_types.h. Bits 0 to 22 are the same from 5.10 to 7.3
//! (an enum in BTF since 6.9), but for 9, which 6.3 gave up.

/// Bits by number.
const BITS: [&str; 24] = [
    "__GFP_DMA",
    "__GFP_HIGHMEM",
    "__GFP_DMA32",
    "__GFP_MOVABLE",
    "__GFP_RECLAIMABLE",
    "__GFP_HIGH",
    "__GFP_IO",
    "__GFP_FS",
    "__GFP_ZERO",
    "__GFP_ATOMIC",
    "__GFP_DIRECT_RECLAIM",
    "__GFP_KSWAPD_RECLAIM",
    "__GFP_WRITE",
    "__GFP_NOWARN",
    "__GFP_RETRY_MAYFAIL",
    "__GFP_NOFAIL",
    "__GFP_NORETRY",
    "__GFP_MEMALLOC",
    "__GFP_COMP",
    "__GFP_NOMEMALLOC",
    "__GFP_HARDWALL",
    "__GFP_THISNODE",
    "__GFP_ACCOUNT",
    "__GFP_ZEROTAGS",
];

/// Names of several bits together, the larger first.
const TOGETHER: [(u32, &str); 7] = [
    (0x0010_0cca, "GFP_HIGHUSER_MOVABLE"),
    (0x0010_0cc2, "GFP_HIGHUSER"),
    (0x0010_0cc0, "GFP_USER"),
    (0x0040_0cc0, "GFP_KERNEL_ACCOUNT"),
    (0x0000_0cc0, "GFP_KERNEL"),
    (0x0000_0c40, "GFP_NOFS"),
    (0x0000_0c00, "GFP_NOIO"),
];

/// As the kernel writes them itself: `GFP_KERNEL|__GFP_COMP`. What has no name is a number.
pub fn names(mask: u32) -> String {
    let mut left = mask;
    let mut names = Vec::new();
    if let Some((bits, name)) = TOGETHER.iter().find(|(bits, _)| mask & bits == *bits) {
        names.push((*name).to_owned());
        left &= !bits;
    }
    for (bit, name) in BITS.iter().enumerate() {
        if left & (1 << bit) != 0 {
            names.push((*name).to_owned());
            left &= !(1 << bit);
        }
    }
    if left != 0 || names.is_empty() {
        names.push(format!("{left:#x}"));
    }
    names.join("|")
}

#[cfg(test)]
mod tests {
    use super::names;

    /// Masks from the kernel's own traces of 5.10 and 6.1.
    #[test]
    fn as_the_kernel_names_them() {
        assert_eq!(names(0xcc0), "GFP_KERNEL");
        assert_eq!(names(0x0010_0cca), "GFP_HIGHUSER_MOVABLE");
        assert_eq!(names(0x0004_0cc0), "GFP_KERNEL|__GFP_COMP");
        assert_eq!(names(0x0110_1c4a), "GFP_NOFS|__GFP_HIGHMEM|__GFP_MOVABLE|__GFP_WRITE|__GFP_HARDWALL|0x1000000");
        assert_eq!(names(0), "0x0");
    }
}
