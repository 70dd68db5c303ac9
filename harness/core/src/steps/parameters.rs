// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parameters that several steps share, with their defaults: a scenario with one file, one mapping, one region and one
//! program need not name them.

use crate::fields::{Fault, Fields};
use longpin_proto::disk::PAGE_BYTES;

/// The parameters of a verb, each with how it is read, in this order.
macro_rules! parameters {
    ($(#[$doc:meta])* $name:ident($f:ident, $default:pat) {
        $($(#[$of:meta])* $field:ident: $kind:ty = $read:expr),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $name { $($(#[$of])* $field: $kind),* }

        impl $crate::steps::Parse for $name {
            fn parse($f: &mut $crate::fields::Fields<'_, '_>, $default: u64) -> Result<Self, $crate::fields::Fault> {
                $(let $field = $read;)*
                Ok(Self { $($field),* })
            }
        }
    };
}

/// Pages of a file, mapping or region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pages {
    /// First page.
    pub first: u64,
    /// Number; none: up to the end.
    pub count: Option<u64>,
}

impl Pages {
    pub fn parse(f: &mut Fields<'_, '_>) -> Result<Self, Fault> {
        Ok(Self { first: f.number_or("first_page", 0)?, count: pages_or_all(f)? })
    }

    /// Offset and length in bytes within an object of `total_bytes`.
    pub fn bytes(self, total_bytes: u64) -> (u64, u64) {
        let offset = (self.first * PAGE_BYTES).min(total_bytes);
        let len = self.count.map_or(total_bytes - offset, |count| count * PAGE_BYTES);
        (offset, len)
    }
}

/// A word of a closed list.
pub fn one<T>(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    noun: &str,
    parse: impl Fn(&str) -> Option<T>,
    list: impl Fn() -> String,
) -> Result<Option<T>, Fault> {
    match fields.str(key)? {
        None => Ok(None),
        Some(at) => match parse(at.value) {
            Some(value) => Ok(Some(value)),
            None => {
                let text = format!("{noun} `{}` is unknown; use one of {}", at.value, list());
                Err(fields.fault_at(at.line, text))
            }
        },
    }
}

/// A word of a short list, with its value.
pub fn word<T: Copy>(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    noun: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, Fault> {
    let parse = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    let list = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    one(fields, key, noun, parse, list)
}

/// A file, or a handle: a handle has its file's name unless `open` gave it another.
pub fn file(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("file", "a")
}

pub fn map(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("map", "m")
}

pub fn region(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("region", "r")
}

pub fn program(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("program", "p")
}

/// Pages of a new file.
pub fn length(f: &mut Fields<'_, '_>, default_pages: u64) -> Result<u64, Fault> {
    Ok(pages_or_all(f)?.unwrap_or(default_pages))
}

pub fn need_number(f: &mut Fields<'_, '_>, key: &'static str) -> Result<u64, Fault> {
    f.number(key)?.map(|at| at.value).ok_or_else(|| f.missing(key))
}

/// A text that must be there.
pub fn need_name(f: &mut Fields<'_, '_>, key: &'static str) -> Result<String, Fault> {
    Ok(f.need_str(key)?.value.to_owned())
}

fn pages_or_all(f: &mut Fields<'_, '_>) -> Result<Option<u64>, Fault> {
    match f.number("pages")? {
        Some(at) if at.value == 0 => {
            Err(f.fault_at(at.line, format!("{}: `pages` = 0 is empty; use 1 or more", f.what)))
        }
        other => Ok(other.map(|at| at.value)),
    }
}
