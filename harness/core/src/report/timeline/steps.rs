// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lane of steps, one bar for each line of the scenario, and a lane for each job beside it.

use super::facts::{Act, Did, Job};
use super::walk::Walk;
use super::words::duration;
use super::{Bar, BarKind, Lane, Row, RowKind};
use crate::record::Role;
use crate::verdict::step_name;
use longpin_proto::agent::{Fallocate, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Action, Op};

/// Functions in which every sleeper sleeps: they say nothing of what it waits for.
const SLEEPERS: [&str; 12] = [
    "__schedule",
    "schedule",
    "schedule_timeout",
    "io_schedule",
    "io_schedule_timeout",
    "bit_wait_io",
    "__wait_on_bit",
    "out_of_line_wait_on_bit",
    "folio_wait_bit_common",
    "folio_wait_bit",
    "wait_for_completion",
    "__wait_for_common",
];

/// The lanes of steps and jobs; none where the record has no times.
pub fn lanes(walk: &Walk<'_>) -> Vec<Lane> {
    if !walk.timed {
        return Vec::new();
    }
    let mut row = Row::new(RowKind::Steps);
    row.bars = lines(walk).into_iter().map(|line| bar(&line)).collect();
    let steps = Lane { name: "steps".into(), note: String::new(), rows: vec![row] };
    std::iter::once(steps).chain(walk.jobs.iter().map(|job| job_lane(walk, job))).collect()
}

/// Steps of the scenario, those of the same line together.
pub fn lines<'w, 'r>(walk: &'w Walk<'r>) -> Vec<Vec<&'w Did<'r>>> {
    let told = walk.steps.iter().filter(|did| did.line > 0 && !matches!(did.role, Role::Frame | Role::Drain));
    let mut lines: Vec<Vec<&Did<'_>>> = Vec::new();
    for did in told {
        match lines.last_mut() {
            Some(line) if line[0].line == did.line => line.push(did),
            _ => lines.push(vec![did]),
        }
    }
    lines
}

fn bar(line: &[&Did<'_>]) -> Bar {
    let from = line.iter().map(|did| did.from).min().unwrap_or(0);
    let to = line.iter().map(|did| did.to).max().unwrap_or(from);
    let trouble = line.iter().find_map(|did| trouble(did));
    let looks = line.iter().all(|did| looks(did));
    let kind = match (&trouble, looks) {
        (Some(_), _) => BarKind::Refused,
        (None, true) => BarKind::Look,
        (None, false) => BarKind::Step,
    };
    let text = match trouble {
        Some(trouble) => format!("{}: {trouble}", name(line)),
        None => name(line),
    };
    let calls: Vec<String> = line.iter().map(|did| call(did)).collect();
    Bar { kind, from, to, text, detail: calls.join(", ") }
}

/// Name of a line of the scenario, by what it did.
pub fn name(line: &[&Did<'_>]) -> String {
    let step = |wanted: fn(&Step) -> bool| {
        line.iter().find_map(|did| match did.act {
            Act::Agent { step, .. } if wanted(step) => Some(step),
            _ => None,
        })
    };
    let unmounts = step(|step| matches!(step, Step::Unmount { .. })).is_some();
    let mounts = step(|step| matches!(step, Step::Mount { .. })).is_some();
    let creates = step(|step| matches!(step, Step::Open { flags, .. } if flags.create)).is_some();
    if let Some(request) = line.iter().find_map(|did| match did.act {
        Act::Disk { request, .. } => Some(request),
        Act::Agent { .. } => None,
    }) {
        return request_name(request, line);
    }
    match step(|step| matches!(step, Step::Dma { .. })) {
        Some(Step::Dma { dma, .. }) => return format!("dma {}", dma.generation),
        _ if unmounts && mounts => return "remount".into(),
        _ if creates => return "create".into(),
        _ => {}
    }
    match (line[0].role, line[0].act) {
        (Role::ProveClean, _) => "prove-clean".into(),
        (Role::ProveDma, _) => "prove-dma".into(),
        (Role::Settle, _) => "settle".into(),
        (Role::Snapshot, _) => "snapshot".into(),
        (Role::CompareWrites | Role::CompareSnapshot, _) => "compare".into(),
        (_, Act::Agent { step: Step::Spawn { step, .. }, .. }) => format!("start {}", step_name(step)),
        (_, Act::Agent { step: Step::JobWait { .. }, .. }) => "join".into(),
        (_, Act::Agent { step: Step::Fallocate { mode, .. }, .. }) => match mode {
            Fallocate::Allocate => "allocate".into(),
            Fallocate::PunchHole => "punch".into(),
            Fallocate::ZeroRange => "zero-range".into(),
        },
        (_, Act::Agent { step: Step::Store { fill, .. } | Step::WriteCells { fill, .. }, .. }) => {
            let Act::Agent { step, .. } = line[0].act else { return String::new() };
            format!("{} {}", step_name(step), fill.generation)
        }
        (_, Act::Agent { step, .. }) => step_name(step).into(),
        (_, Act::Disk { request, .. }) => request_name(request, line),
    }
}

fn request_name(request: &Request, line: &[&Did<'_>]) -> String {
    let reads_direct = line.iter().any(|did| {
        matches!(did.act, Act::Agent { step: Step::Spawn { step, .. }, .. } if matches!(**step, Step::ReadDirect { .. }))
    });
    match request {
        Request::AddRule(_) if reads_direct => "pin by a read".into(),
        Request::AddRule(rule) => match (&rule.action, rule.matching.op) {
            (Action::Hold { .. }, Some(Op::Read)) => "hold-read".into(),
            (Action::Hold { .. }, _) => "hold-write".into(),
            (Action::Delay { .. }, _) => "delay-write".into(),
            (Action::Fail, _) => "fail-write".into(),
            (Action::Observe, _) => "observe".into(),
        },
        Request::AwaitHeld { .. } => "await-held".into(),
        Request::ReleaseHeld { rule } if joins(line, rule) => "release".into(),
        Request::ReleaseHeld { .. } => "release-write".into(),
        Request::DropRule { .. } => "drop-rule".into(),
        Request::HeldDma { generation, .. } => format!("dma {generation}"),
        Request::PowerCut { .. } => "power-cut".into(),
        Request::Restore { .. } => "restore".into(),
        _ => "ask the disk".into(),
    }
}

/// A held read that is the pin: its job ends with it.
fn joins(line: &[&Did<'_>], rule: &str) -> bool {
    line.iter()
        .any(|did| matches!(did.act, Act::Agent { step: Step::JobWait { job, .. }, .. } if job == rule))
}

/// It changes nothing.
fn looks(did: &Did<'_>) -> bool {
    match did.act {
        Act::Agent { step, .. } => matches!(
            step,
            Step::QueryRegion { .. }
                | Step::PageState { .. }
                | Step::ReadCells { .. }
                | Step::ReadMapping { .. }
                | Step::Extents { .. }
                | Step::Stat { .. }
                | Step::ReadSys { .. }
                | Step::JobState { .. }
                | Step::PinCounters
                | Step::KernelLog
        ),
        Act::Disk { request, .. } => {
            matches!(request, Request::AwaitHeld { .. } | Request::Audit | Request::Disks)
        }
    }
}

/// Errno, or that it failed.
fn trouble(did: &Did<'_>) -> Option<String> {
    match did.act {
        Act::Agent { outcome: Outcome::Refused(errno), .. } => Some(errno.name.clone()),
        Act::Agent { outcome: Outcome::Failed { .. }, .. } => Some("failed".into()),
        Act::Disk { answer: Err(_) | Ok(Answer::Error { .. }), .. } => Some("failed".into()),
        Act::Disk { answer: Ok(Answer::Held { complete: false, .. }), .. } => Some("not held".into()),
        _ => None,
    }
}

fn call(did: &Did<'_>) -> String {
    let name = match did.act {
        Act::Agent { step: Step::Spawn { step, .. }, .. } => format!("start {}", step_name(step)),
        Act::Agent { step, .. } => step_name(step).to_owned(),
        Act::Disk { request, .. } => request_name(request, &[]),
    };
    let what = match did.act {
        Act::Agent { outcome: Outcome::Failed { message }, .. } | Act::Disk { answer: Err(message), .. } => {
            format!(" failed: {message}")
        }
        Act::Disk { answer: Ok(Answer::Error { message }), .. } => format!(" failed: {message}"),
        Act::Agent { outcome: Outcome::Refused(errno), .. } => {
            format!(": {} gave {}", errno.call, errno.name)
        }
        _ => String::new(),
    };
    format!("{name} {}{what}", duration(did.to.saturating_sub(did.from)))
}

fn job_lane(walk: &Walk<'_>, job: &Job<'_>) -> Lane {
    let to = job.to.unwrap_or(walk.end).max(job.from);
    let name = step_name(job.step);
    let how = match job.outcome {
        Some(Outcome::Done { .. }) => "done",
        Some(Outcome::Refused(errno)) => &errno.name,
        Some(Outcome::Failed { message }) => message,
        None => "never joined",
    };
    let mut row = Row::new(RowKind::Job);
    let detail = format!("{name} in a thread of its own, {how}");
    row.bars.push(Bar { kind: BarKind::Job, from: job.from, to, text: name.into(), detail });
    let mut note = String::new();
    if let Some((at, state)) = job.looks.iter().find(|(_, state)| asleep(state.state)) {
        let place = place(&state.stack).unwrap_or("the kernel");
        note = format!("asleep in {place}");
        let detail = format!("asleep (state {}) in {}", state.state, state.stack.join(" ← "));
        let text = place.to_owned();
        let from = (*at).clamp(job.from, to);
        row.bars.push(Bar { kind: BarKind::Blocked, from, to, text, detail });
    }
    Lane { name: format!("job {}", job.name), note, rows: vec![row] }
}

pub fn asleep(state: char) -> bool {
    matches!(state, 'S' | 'D' | 'I')
}

/// The function that tells what a sleeper waits for.
pub fn place(stack: &[String]) -> Option<&str> {
    let name = |line: &'_ String| line.split(['+', ' ']).next().unwrap_or_default().to_owned();
    let at = stack.iter().position(|line| !SLEEPERS.contains(&name(line).as_str())).unwrap_or(0);
    stack.get(at).map(|line| line.split(['+', ' ']).next().unwrap_or(line))
}
