// SPDX-License-Identifier: GPL-2.0

//! What the kernel's abstractions do not have in every release, or have in another shape: made here of what all of
//! them have. Of C, `compat/` has the same.

use core::borrow::Borrow;
use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};

#[expect(improper_ctypes, reason = "only its address is taken")]
extern "C" {
    static __this_module: Opaque<bindings::module>;
}

/// `THIS_MODULE` of C. The abstractions have it as a static of the crate before 7.3, and by `this_module()` since.
pub(crate) const fn this_module() -> *mut bindings::module {
    Opaque::cast_into(&raw const __this_module)
}

/// EOPNOTSUPP, which is not among the errors by name before 7.3.
pub(crate) fn not_supported() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as c_int))
}

/// ESHUTDOWN, likewise.
pub(crate) fn shut_down() -> Error {
    Error::from_errno(-(bindings::ESHUTDOWN as c_int))
}

/// A module's parameter: `value()` gives a reference before 7.3, and the number since.
pub(crate) fn number(value: impl Borrow<u32>) -> u32 {
    *value.borrow()
}
