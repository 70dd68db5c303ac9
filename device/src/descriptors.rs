// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The buffers of a descriptor chain, up to its real end. What they mean is for `chain` and `disk::request` to say.

use crate::mem::Gpa;
use std::ops::Deref;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemory;

/// Most descriptors of a chain that are followed: an indirect table may have 65,535, a driver may use no more than its
/// ring has (virtio 1.3, 2.7.5.3.1), and a disk takes 1024 buffers and two.
pub const MAX_DESCRIPTORS: usize = 2048;

/// One buffer, as the guest gave it: neither address nor length have been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// First byte.
    pub gpa: Gpa,
    /// Bytes, possibly none.
    pub len: u32,
    /// The device may write there, and not read.
    pub writable: bool,
}

/// A chain that does not end as a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadEnd {
    /// It has no descriptor.
    Empty,
    /// It goes on after [`MAX_DESCRIPTORS`].
    TooLong,
    /// It broke off after so many: a loop, an index out of range, a nested table, lengths that overflow.
    Broken(usize),
}

/// The buffers of `chain`; the last item may be the reason why there are no more.
pub fn buffers<M>(mut chain: DescriptorChain<M>) -> impl Iterator<Item = Result<Buffer, BadEnd>>
where
    M: Deref,
    M::Target: GuestMemory,
{
    let (mut count, mut more) = (0, true);
    std::iter::from_fn(move || {
        if count == MAX_DESCRIPTORS && more {
            more = false;
            return Some(Err(BadEnd::TooLong));
        }
        if !more {
            return None;
        }
        // The chain's iterator ends for many reasons; it is right to end only after a descriptor without NEXT.
        let Some(descriptor) = chain.next() else {
            let end = if count == 0 { BadEnd::Empty } else { BadEnd::Broken(count) };
            more = false;
            return Some(Err(end));
        };
        (count, more) = (count + 1, descriptor.has_next());
        let (gpa, len) = (Gpa(descriptor.addr().0), descriptor.len());
        Some(Ok(Buffer { gpa, len, writable: descriptor.is_write_only() }))
    })
}

/// Chains for the tests of those who read them.
#[cfg(test)]
pub(crate) mod table;

#[cfg(test)]
mod tests {
    use super::table::{INDIRECT, NEXT, parse_table, ram, write_indirect};
    use super::*;

    #[test]
    fn a_chain_is_followed_so_far_and_no_further() {
        let ram = ram();
        for (length, last) in [
            (MAX_DESCRIPTORS, None),
            (MAX_DESCRIPTORS + 1, Some(BadEnd::TooLong)),
            (65_535, Some(BadEnd::TooLong)),
        ] {
            let table: Vec<_> = (1..=length)
                .map(|next| (0x1000, 1, if next < length { NEXT } else { 0 }, next as u16))
                .collect();
            write_indirect(&ram, 0x10_0000, &table);
            let chain = [(0x10_0000, length as u32 * 16, INDIRECT, 0)];
            let items: Vec<_> = parse_table(&ram, &chain, |chain, _| buffers(chain).collect());
            assert_eq!(items.iter().filter(|item| item.is_ok()).count(), MAX_DESCRIPTORS);
            assert_eq!(items.last().and_then(|item| item.err()), last, "{length}");
        }
    }
}
