// SPDX-License-Identifier: GPL-2.0

//! Structures in user memory. They are hostile: whoever reads one checks it, and reads it once.

use kernel::{
    prelude::*,
    uaccess::UserSlice, //
};
use zerocopy::{
    FromZeros,
    Immutable, //
};

/// The argument of an ioctl: a structure in user memory.
#[derive(Clone, Copy)]
pub(crate) struct UserArg(UserPtr);

impl UserArg {
    /// The structure at an address of user space, whatever is there.
    pub(crate) fn at(address: UserPtr) -> Self {
        Self(address)
    }

    /// Reads the structure. Call it once: user space may change it in between.
    pub(crate) fn read<T: FromZeros + FromBytes + IntoBytes>(self) -> Result<T> {
        let mut value = T::new_zeroed();
        UserSlice::new(self.0, size_of::<T>())
            .reader()
            .read_slice(value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes the structure.
    pub(crate) fn write<T: IntoBytes + Immutable>(self, value: &T) -> Result {
        UserSlice::new(self.0, size_of::<T>())
            .writer()
            .write_slice(value.as_bytes())
    }
}
