// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parameters of the steps that rule the auditing disk.

use super::super::fields::{At, Fault, Fields};
use super::super::step::{Act, FIRST_DISK, Matching, SECOND_DISK, Treatment};
use super::words::one;
use longpin_proto::disk::{DEFAULT_HOLD_MS, Fetch, InFlight, MAX_HOLD_MS};

const WRITE_RULE: &str = "w";
const READ_RULE: &str = "r";

/// Longest name of a rule that the disk takes.
const MAX_NAME_BYTES: usize = 64;

/// The rule that a step speaks of.
pub fn rule(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    name(f, WRITE_RULE)
}

fn name(f: &mut Fields<'_, '_>, default: &str) -> Result<String, Fault> {
    let Some(At { value, line }) = f.str("rule")? else { return Ok(default.to_owned()) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match (1..=MAX_NAME_BYTES).contains(&value.len()) && value.chars().all(plain) {
        true => Ok(value.to_owned()),
        false => {
            let text =
                format!("rule name `{value}` is not 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` or `.`");
            Err(f.fault_at(line, text))
        }
    }
}

pub fn hold_write(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    let treatment = Treatment::HoldWrites { fetch: fetch(f)?, cap_ms: cap(f)? };
    write_rule(f, treatment)
}

pub fn hold_read(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    Ok(Act::Rule {
        rule: name(f, READ_RULE)?,
        disk: disk(f)?,
        matching: Matching::Any,
        treatment: Treatment::HoldReads { cap_ms: cap(f)? },
    })
}

pub fn delay_write(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    let fetch = fetch(f)?;
    let ms = millis(f, "ms")?.ok_or_else(|| f.missing("ms"))?;
    write_rule(f, Treatment::DelayWrites { fetch, ms })
}

pub fn fail_write(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    let treatment = Treatment::FailWrites { limit: f.number_or("limit", 0)? };
    write_rule(f, treatment)
}

fn write_rule(f: &mut Fields<'_, '_>, treatment: Treatment) -> Result<Act, Fault> {
    Ok(Act::Rule { rule: rule(f)?, disk: disk(f)?, matching: matching(f)?, treatment })
}

/// What becomes of writes in flight at a loss of power.
pub fn in_flight(f: &mut Fields<'_, '_>) -> Result<InFlight, Fault> {
    let parse = |word: &str| match word {
        "drop" => Some(InFlight::Drop),
        "tear" => Some(InFlight::Tear),
        _ => None,
    };
    Ok(one(f, "in_flight", "fate of writes in flight", parse, || "drop, tear".into())?.unwrap_or_default())
}

fn disk(f: &mut Fields<'_, '_>) -> Result<u32, Fault> {
    match f.number("disk")? {
        None => Ok(FIRST_DISK),
        Some(At { value, .. }) if value <= u64::from(SECOND_DISK) => Ok(value as u32),
        Some(At { value, line }) => {
            let text =
                format!("disk {value} does not exist; use 0 (the file systems) or 1 (the second disk)");
            Err(f.fault_at(line, text))
        }
    }
}

fn matching(f: &mut Fields<'_, '_>) -> Result<Matching, Fault> {
    let parse = |word: &str| match word {
        "stamped" => Some(Matching::Stamped),
        "pinned" => Some(Matching::Pinned),
        "any" => Some(Matching::Any),
        _ => None,
    };
    let matching = one(f, "match", "match", parse, || "stamped, pinned, any".into())?;
    Ok(matching.unwrap_or(Matching::Stamped))
}

fn fetch(f: &mut Fields<'_, '_>) -> Result<Fetch, Fault> {
    let parse = |word: &str| match word {
        "late" => Some(Fetch::Late),
        "early" => Some(Fetch::Early),
        "split" => Some(Fetch::Split),
        _ => None,
    };
    Ok(one(f, "fetch", "fetch", parse, || "late, early, split".into())?.unwrap_or_default())
}

fn cap(f: &mut Fields<'_, '_>) -> Result<u64, Fault> {
    Ok(millis(f, "cap_ms")?.unwrap_or(DEFAULT_HOLD_MS))
}

/// A time that a request may be kept.
fn millis(f: &mut Fields<'_, '_>, key: &'static str) -> Result<Option<u64>, Fault> {
    match f.number(key)? {
        Some(At { value, line }) if !(1..=MAX_HOLD_MS).contains(&value) => {
            Err(f.fault_at(line, format!("`{key}` = {value} is out of range; use 1 to {MAX_HOLD_MS}")))
        }
        other => Ok(other.map(|at| at.value)),
    }
}
