// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The auditing disk: rules that hold, delay or fail requests, and its losses of power. A rule stands before it is spoken
//! of, a hold is released before something that would wait for it, and a noted content is there before it is put back.

use super::op::Op;
use super::paper::{Checked, Paper, fresh, known};
use super::parameters::{length, word};
use super::{Definition, Needs, Translation, Verb};
use crate::fields::{At, Fault, Fields};
use crate::matrix::{Pin, Point};
use longpin_proto::control::Request;
use longpin_proto::disk::{
    Action, DEFAULT_HOLD_MS, Fetch, InFlight, MAX_HOLD_MS, Match, Op as DiskOp, Rule as DiskRule,
};
use std::sync::Arc;

/// Index of the disk below the file systems.
pub const FIRST_DISK: u32 = 0;
/// Index of the disk that direct reads into mappings come from.
pub const SECOND_DISK: u32 = 1;
/// Longest name of a rule that the disk takes.
const MAX_NAME_BYTES: usize = 64;

pub const STEPS: &[Definition] = &[
    Definition::with(
        "hold-write",
        "`rule` (`w`), `match` (`stamped`), `fetch` (`late`), `cap_ms` (20000), `disk` (0)",
        "from here on, writes that match are held. `fetch`: when the disk takes the bytes out of the guest's memory: \
         `late` at the release, `early` when the request comes (as bouncing in the block layer would), `split` the \
         first half of each page early and the second late",
        |f, _| {
            let action = Action::Hold { fetch: fetch(f)?, cap_ms: cap(f)? };
            writes(f, action, 0)
        },
    ),
    Definition::with("hold-read", "`rule` (`r`), `cap_ms` (20000), `disk` (0)", "holds reads", |f, _| {
        let (rule, action) = (name(f, "r")?, Action::Hold { fetch: Fetch::default(), cap_ms: cap(f)? });
        let (disk, matching) = (disk(f)?, Matching::Any);
        Ok(Arc::new(Rule { rule, disk, op: DiskOp::Read, matching, action, limit: 0 }))
    }),
    Definition::new::<AwaitHeld>(
        "await-held",
        "`rule` (`w`), `pages` (those of a file that says nothing else)",
        "waits until held requests cover so many pages of the case; else the case is an error (unproven)",
    ),
    Definition::new::<ReleaseWrite>(
        "release-write",
        "`rule` (`w`)",
        "releases what is held; what comes later is held again: the second pass of an fsync (btrfs has two) over a \
         page that a job dirties as soon as the first WRITE ends, for instance. Where nothing more is to be held, use \
         `drop-rule`",
    ),
    Definition::new::<DropRule>("drop-rule", "`rule` (`w`)", "releases what is held and ends the rule"),
    Definition::with(
        "delay-write",
        "`rule` (`w`), `ms`, `match`, `fetch`, `disk`",
        "completes matching writes so much later",
        |f, _| {
            let fetch = fetch(f)?;
            let ms = millis(f, "ms")?.ok_or_else(|| f.missing("ms"))?;
            writes(f, Action::Delay { fetch, ms }, 0)
        },
    ),
    Definition::with(
        "fail-write",
        "`rule` (`w`), `match`, `limit` (0: all), `disk`",
        "answers matching writes with an I/O error",
        |f, _| {
            let limit = f.number_or("limit", 0)?;
            writes(f, Action::Fail, limit)
        },
    ),
    Definition::new::<PowerCut>(
        "power-cut",
        "`in_flight` (`drop`, `tear`)",
        "notes the disk's content as a loss of power now would leave it; held writes are lost, or half of their \
         sectors are",
    ),
    Definition::new::<Restore>(
        "restore",
        "",
        "`umount`, then the noted content is the disk's; `mount` it next. A later `compare` accepts in each cell what \
         the last fsync, sync, syncfs or umount found that had returned before the cut, and anything written after it \
         and before the cut, by jobs under way as well",
    ),
];

/// Requests that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    /// Writes that carry a stamp of the case.
    Stamped,
    /// Requests with a page that a region of the case pins.
    Pinned,
    /// All.
    Any,
}

fn writes(f: &mut Fields<'_, '_>, action: Action, limit: u64) -> Result<Arc<dyn Verb>, Fault> {
    let (rule, disk) = (rule(f)?, disk(f)?);
    let words = [("stamped", Matching::Stamped), ("pinned", Matching::Pinned), ("any", Matching::Any)];
    let matching = word(f, "match", "match", &words)?.unwrap_or(Matching::Stamped);
    Ok(Arc::new(Rule { rule, disk, op: DiskOp::Write, matching, action, limit }))
}

/// The rule that a step speaks of.
fn rule(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    name(f, "w")
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

fn fetch(f: &mut Fields<'_, '_>) -> Result<Fetch, Fault> {
    let words = [("late", Fetch::Late), ("early", Fetch::Early), ("split", Fetch::Split)];
    Ok(word(f, "fetch", "fetch", &words)?.unwrap_or_default())
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

/// A rule that stands.
#[derive(Debug, Clone)]
pub struct StandingRule {
    holds: bool,
    /// What it held was released at least once.
    released: bool,
}

impl Paper<'_> {
    /// A rule that holds.
    fn holding(&mut self, rule: &str) -> Result<&mut StandingRule, String> {
        known("rule", &self.rules, rule)?;
        match self.rules.get_mut(rule) {
            Some(standing) if standing.holds => Ok(standing),
            _ => Err(format!("rule `{rule}` holds nothing; name one of a hold-write or hold-read")),
        }
    }

    /// Whatever follows would wait for a request that is held.
    pub(super) fn nothing_held(&self, verb: &str) -> Checked {
        match self.rules.iter().find(|(_, rule)| rule.holds && !rule.released) {
            Some((rule, _)) => Err(format!(
                "rule `{rule}` still holds at `{verb}`; put a `release-write` or `drop-rule` before"
            )),
            None => Ok(()),
        }
    }

    pub(super) fn has_disk(&self, what: &str) -> Checked {
        match self.point.fs.fs.device().is_some() {
            true => Ok(()),
            false => Err(format!(
                "{} has no disk: {what} changes nothing; take it from matrix.fs, or give the step a `when`",
                self.point.fs
            )),
        }
    }
}

#[derive(Debug)]
struct Rule {
    rule: String,
    disk: u32,
    op: DiskOp,
    matching: Matching,
    action: Action,
    /// Number of requests; 0: all.
    limit: u64,
}

impl Verb for Rule {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        if self.disk == FIRST_DISK {
            paper.has_disk("a rule of disk 0")?;
        }
        if paper.point.pin == Pin::Dio && self.disk == SECOND_DISK {
            return Err("disk 1 holds the dio pins of this case; use disk 0".into());
        }
        fresh("rule", &paper.rules, &self.rule)?;
        let holds = matches!(self.action, Action::Hold { .. });
        paper.rules.insert(self.rule.clone(), StandingRule { holds, released: false });
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (name, disk, limit, run) = (self.rule.clone(), self.disk, self.limit, Some(t.env.run));
        let (stamped, pinned) = match self.matching {
            Matching::Stamped => (run, None),
            Matching::Pinned => (None, run),
            Matching::Any => (None, None),
        };
        let action = match self.action.clone() {
            // A cap is a bound like any other: a slow machine needs more.
            Action::Hold { fetch, cap_ms } => {
                let cap_ms = (cap_ms * t.env.patience_percent / 100).clamp(1, MAX_HOLD_MS);
                Action::Hold { fetch, cap_ms }
            }
            action => action,
        };
        t.objects.rules.insert(name.clone());
        let matching = Match { op: Some(self.op), range: None, pinned, stamped };
        vec![Op::disk(Request::AddRule(DiskRule { name, disk, matching, action, limit }))]
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::AUDITED_DISK
    }
}

parameters! {
    AwaitHeld(f, default_pages) {
        rule: String = rule(f)?,
        pages: u64 = length(f, default_pages)?,
    }
}

impl Verb for AwaitHeld {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.holding(&self.rule).map(drop)
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        vec![Op::disk(Request::AwaitHeld { rule: self.rule.clone(), pages: self.pages, timeout_ms: 0 })]
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::AUDITED_DISK
    }
}

parameters! {
    ReleaseWrite(f, _) { rule: String = rule(f)? }
}

impl Verb for ReleaseWrite {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.holding(&self.rule)?.released = true;
        Ok(())
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        vec![Op::disk(Request::ReleaseHeld { rule: self.rule.clone() })]
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::AUDITED_DISK
    }
}

parameters! {
    DropRule(f, _) { rule: String = rule(f)? }
}

impl Verb for DropRule {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("rule", &paper.rules, &self.rule)?;
        paper.rules.remove(&self.rule);
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        t.objects.rules.remove(&self.rule);
        vec![Op::disk(Request::DropRule { rule: self.rule.clone() })]
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::AUDITED_DISK
    }
}

parameters! {
    PowerCut(f, _) {
        in_flight: InFlight =
            word(f, "in_flight", "fate of writes in flight", &[("drop", InFlight::Drop), ("tear", InFlight::Tear)])?
                .unwrap_or_default(),
    }
}

impl Verb for PowerCut {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.has_disk("a loss of power")?;
        paper.cut = true;
        Ok(())
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        vec![Op::disk(Request::PowerCut { disk: FIRST_DISK, in_flight: self.in_flight })]
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::AUDITED_DISK
    }
}

parameters! {
    /// The noted content is the disk's again; nothing of the other content may stay in the guest.
    Restore(_f, _) {}
}

impl Verb for Restore {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        if !paper.cut {
            return Err("no content was noted here; put a `power-cut` before".into());
        }
        if paper.mounted {
            paper.quiet("restore")?;
        }
        paper.mounted = false;
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let mut ops = if t.mounted { t.umount() } else { Vec::new() };
        ops.push(Op::disk(Request::Restore { disk: FIRST_DISK }));
        ops
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::AUDITED_DISK
    }
}
