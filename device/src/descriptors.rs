// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The buffers of a descriptor chain, up to its real end. What they mean is for `chain` and `disk::request` to say.

use crate::mem::Gpa;
use std::ops::Deref;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemory;

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
        // The chain's iterator ends for many reasons; it is right to end only after a descriptor without NEXT.
        let Some(descriptor) = chain.next() else {
            let end = if count == 0 { BadEnd::Empty } else { BadEnd::Broken(count) };
            return std::mem::take(&mut more).then_some(Err(end));
        };
        (count, more) = (count + 1, descriptor.has_next());
        let (gpa, len) = (Gpa(descriptor.addr().0), descriptor.len());
        Some(Ok(Buffer { gpa, len, writable: descriptor.is_write_only() }))
    })
}

/// Chains for the tests of those who read them.
#[cfg(test)]
pub(crate) mod table;
