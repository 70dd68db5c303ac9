// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parameters that several steps share, with their defaults: a scenario with one file, one mapping, one region and one
//! program need not name them.

use super::super::fields::{Fault, Fields};
use super::super::matrix::Pin;
use super::super::step::{Against, Pages};
use longpin_proto::agent::Access;

pub const FILE: &str = "a";
pub const MAP: &str = "m";
pub const REGION: &str = "r";
pub const PROGRAM: &str = "p";

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

pub fn file(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("file", FILE)
}

/// A handle has its file's name unless `open` gave it another.
pub fn handle(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("file", FILE)
}

pub fn map(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("map", MAP)
}

pub fn region(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("region", REGION)
}

/// Pages of a new file.
pub fn length(f: &mut Fields<'_, '_>, default_pages: u64) -> Result<u64, Fault> {
    Ok(pages_or_all(f)?.unwrap_or(default_pages))
}

pub fn need_number(f: &mut Fields<'_, '_>, key: &'static str) -> Result<u64, Fault> {
    f.number(key)?.map(|at| at.value).ok_or_else(|| f.missing(key))
}

pub fn pages(f: &mut Fields<'_, '_>) -> Result<Pages, Fault> {
    Ok(Pages { first: f.number_or("first_page", 0)?, count: pages_or_all(f)? })
}

pub fn pages_or_all(f: &mut Fields<'_, '_>) -> Result<Option<u64>, Fault> {
    match f.number("pages")? {
        Some(at) if at.value == 0 => {
            Err(f.fault_at(at.line, format!("{}: `pages` = 0 is empty; use 1 or more", f.what)))
        }
        other => Ok(other.map(|at| at.value)),
    }
}

pub fn pin_mode(f: &mut Fields<'_, '_>) -> Result<Option<Pin>, Fault> {
    one(f, "mode", "pin mode", |word| Pin::parse(word).filter(|pin| *pin != Pin::None), modes)
}

pub fn access(f: &mut Fields<'_, '_>) -> Result<Access, Fault> {
    let parse = |word: &str| match word {
        "read" => Some(Access::Read),
        "write" => Some(Access::Write),
        _ => None,
    };
    let access = one(f, "access", "access", parse, || "read, write".into())?;
    access.ok_or_else(|| f.missing("access"))
}

pub fn against(f: &mut Fields<'_, '_>) -> Result<Against, Fault> {
    let parse = |word: &str| match word {
        "writes" => Some(Against::Writes),
        "snapshot" => Some(Against::Snapshot),
        _ => None,
    };
    Ok(one(f, "against", "comparison", parse, || "writes, snapshot".into())?.unwrap_or(Against::Writes))
}

/// A text that must be there.
pub fn need_name(f: &mut Fields<'_, '_>, key: &'static str) -> Result<String, Fault> {
    Ok(f.need_str(key)?.value.to_owned())
}

/// Pin modes that a step can name.
fn modes() -> String {
    let modes = Pin::ALL.iter().filter(|pin| **pin != Pin::None).map(|pin| pin.as_str());
    modes.collect::<Vec<_>>().join(", ")
}
