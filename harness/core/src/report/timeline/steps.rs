// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lane of steps, one bar for each line of the scenario, and a lane for each job beside it.

use super::words::duration;
use super::{Bar, BarKind, Lane, Row, RowKind};
use crate::operations::only_looks;
use crate::record::Role;
use crate::replay::{Asked, Exchange, Job, Replay};
use longpin_proto::agent::{Outcome, Step};
use longpin_proto::control::{Answer, Request};

/// The lanes of steps and jobs; none where the record has no times.
pub fn lanes(replay: &Replay<'_>) -> Vec<Lane> {
    if !replay.clock.timed {
        return Vec::new();
    }
    let mut row = Row::new(RowKind::Steps);
    row.bars = lines(replay).into_iter().map(|line| bar(&line)).collect();
    let steps = Lane { name: "steps".into(), note: String::new(), rows: vec![row] };
    std::iter::once(steps).chain(replay.jobs.iter().map(|job| job_lane(replay, job))).collect()
}

/// Steps of the scenario, those of the same line together.
pub fn lines<'w, 'r>(replay: &'w Replay<'r>) -> Vec<Vec<&'w Exchange<'r>>> {
    let told = replay
        .exchanges
        .iter()
        .filter(|exchange| exchange.line > 0 && !matches!(exchange.role, Role::Frame | Role::Drain));
    let mut lines: Vec<Vec<&Exchange<'_>>> = Vec::new();
    for exchange in told {
        match lines.last_mut() {
            Some(line) if line[0].line == exchange.line => line.push(exchange),
            _ => lines.push(vec![exchange]),
        }
    }
    lines
}

fn bar(line: &[&Exchange<'_>]) -> Bar {
    let from = line.iter().map(|exchange| exchange.from).min().unwrap_or(0);
    let to = line.iter().map(|exchange| exchange.to).max().unwrap_or(from);
    let trouble = line.iter().find_map(|exchange| trouble(exchange));
    let looks = line.iter().all(|exchange| looks(exchange));
    let kind = match (&trouble, looks) {
        (Some(_), _) => BarKind::Refused,
        (None, true) => BarKind::Look,
        (None, false) => BarKind::Step,
    };
    let text = match trouble {
        Some(trouble) => format!("{}: {trouble}", name(line)),
        None => name(line),
    };
    let calls: Vec<String> = line.iter().map(|exchange| call(exchange)).collect();
    Bar { kind, from, to, text, detail: calls.join(", ") }
}

/// Name of a line of the scenario; in a record from before steps had labels, of its first call.
pub fn name(line: &[&Exchange<'_>]) -> String {
    match line[0].label {
        "" => call_name(line[0]),
        label => label.to_owned(),
    }
}

fn call_name(exchange: &Exchange<'_>) -> String {
    match exchange.asked {
        Asked::Agent { step: Step::Spawn { step, .. }, .. } => step.name(),
        Asked::Agent { step, .. } => step.name(),
        Asked::Disk { request, .. } => request.name(),
    }
}

/// It changes nothing.
fn looks(exchange: &Exchange<'_>) -> bool {
    match exchange.asked {
        Asked::Agent { step, .. } => only_looks(step),
        Asked::Disk { request, .. } => {
            matches!(request, Request::AwaitHeld { .. } | Request::Audit | Request::Disks)
        }
    }
}

/// Errno, or that it failed.
fn trouble(exchange: &Exchange<'_>) -> Option<String> {
    match exchange.asked {
        Asked::Agent { outcome: Outcome::Refused(errno), .. } => Some(errno.name.clone()),
        Asked::Agent { outcome: Outcome::Failed { .. }, .. } => Some("failed".into()),
        Asked::Disk { answer: Err(_) | Ok(Answer::Error { .. }), .. } => Some("failed".into()),
        Asked::Disk { answer: Ok(Answer::Held { complete: false, .. }), .. } => Some("not held".into()),
        _ => None,
    }
}

fn call(exchange: &Exchange<'_>) -> String {
    let name = call_name(exchange);
    let what = match exchange.asked {
        Asked::Agent { outcome: Outcome::Failed { message }, .. }
        | Asked::Disk { answer: Err(message), .. } => {
            format!(" failed: {message}")
        }
        Asked::Disk { answer: Ok(Answer::Error { message }), .. } => format!(" failed: {message}"),
        Asked::Agent { outcome: Outcome::Refused(errno), .. } => {
            format!(": {} gave {}", errno.call, errno.name)
        }
        _ => String::new(),
    };
    format!("{name} {}{what}", duration(exchange.to.saturating_sub(exchange.from)))
}

fn job_lane(replay: &Replay<'_>, job: &Job<'_>) -> Lane {
    let to = job.to.unwrap_or(replay.end).max(job.from);
    let name = job.step.name();
    let how = match job.outcome {
        Some(Outcome::Done { .. }) => "done",
        Some(Outcome::Refused(errno)) => &errno.name,
        Some(Outcome::Failed { message }) => message,
        None => "never joined",
    };
    let mut row = Row::new(RowKind::Job);
    let detail = format!("{name} in a thread of its own, {how}");
    row.bars.push(Bar { kind: BarKind::Job, from: job.from, to, text: name, detail });
    let mut note = String::new();
    if let Some(look) = job.asleep() {
        let (place, state) = (look.place(), look.state);
        note = format!("asleep in {place}");
        let detail = format!("asleep (state {}) in {}", state.state, state.stack.join(" ← "));
        let text = place.to_owned();
        let from = look.at.clamp(job.from, to);
        row.bars.push(Bar { kind: BarKind::Blocked, from, to, text, detail });
    }
    Lane { name: format!("job {}", job.name), note, rows: vec![row] }
}
