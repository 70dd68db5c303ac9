// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Syntax of one step: `do` names it, the other keys are its parameters. Names have defaults, so that a scenario with
//! one file, one mapping, one region and one program need not name them.

mod act;
mod disk;
mod verb;
mod words;

use super::fields::{Fault, Fields};
use super::parse::condition;
use super::step::Step;
use verb::Verb;

/// Shortest deadline of a step: a busy host under emulation can hold up any step for a second.
const MIN_DEADLINE_MS: u64 = 1000;

/// Names of all steps.
pub fn verbs() -> impl Iterator<Item = &'static str> {
    Verb::ALL.iter().map(|verb| verb.as_str())
}

/// A step. `default_pages` is the length of a new file that says none.
pub fn step(fields: &mut Fields<'_, '_>, default_pages: u64) -> Result<Step, Fault> {
    let verb =
        words::one(fields, "do", "step", Verb::parse, Verb::list)?.ok_or_else(|| fields.missing("do"))?;
    fields.what = format!("step `{verb}`");
    let when = match fields.table("when", "condition")? {
        Some(mut axes) => {
            let when = condition(&mut axes)?;
            axes.finish()?;
            when
        }
        None => Default::default(),
    };
    let deadline_ms = match fields.number("deadline_ms")? {
        Some(at) if at.value < MIN_DEADLINE_MS => {
            let text = format!(
                "`deadline_ms` = {} is too short to be told from load; use {MIN_DEADLINE_MS} or more",
                at.value
            );
            return Err(fields.fault_at(at.line, text));
        }
        other => other.map(|at| at.value),
    };
    let job = match verb.takes_job() {
        true => fields.str("job")?.map(|at| at.value.to_owned()),
        false => None,
    };
    Ok(Step { line: fields.line, when, deadline_ms, job, action: act::act(verb, fields, default_pages)? })
}
