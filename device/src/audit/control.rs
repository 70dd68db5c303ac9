// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch's part of the control protocol.

use super::desk::{Desk, Waiting};
use super::error::WatchError;
use super::findings::Case;
use super::held_dma::HeldDma;
use super::watch::{RELEASE_LIMIT, Watch};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Action, AuditReport, Held, HoldEnd, HoldReport, MAX_HOLD_MS, Rule};
use parking_lot::MutexGuard;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Most pages that an answer lists, over all its requests: 4 MiB of text. Requests beyond come without their pages.
pub const MAX_PAGES_TOLD: usize = 32 << 10;

impl Watch {
    /// Answer a request, if it is one of the watch's. Blocks as the request says.
    pub fn answer(&self, request: &Request) -> Option<Answer> {
        let done = |result: Result<(), WatchError>| result.map(|()| Answer::Ok);
        let released =
            |result: Result<Vec<HoldReport>, WatchError>| result.map(|holds| Answer::Released { holds });
        let answer = match request {
            Request::Case { run } => {
                self.case(*run);
                Ok(Answer::Ok)
            }
            Request::AddRule(rule) => done(self.add_rule(rule.clone())),
            Request::DropRule { rule } => released(self.drop_rule(rule)),
            Request::AwaitHeld { rule, pages, timeout_ms } => {
                let held = self.await_held(rule, *pages, Duration::from_millis(*timeout_ms));
                held.map(|(requests, complete)| Answer::Held { requests, complete })
            }
            Request::ReleaseHeld { rule } => released(self.release_held(rule)),
            Request::HeldDma { rule, region, file_offset, offset, len, generation, run, cell_bytes } => {
                done(self.held_dma(&HeldDma {
                    rule: rule.clone(),
                    region: *region,
                    file_offset: *file_offset,
                    offset: *offset,
                    len: *len,
                    generation: *generation,
                    run: *run,
                    cell_bytes: *cell_bytes,
                }))
            }
            Request::Audit => self.checked_audit().map(Answer::Audit),
            _ => return None,
        };
        Some(answer.unwrap_or_else(|error| Answer::Error { message: error.to_string() }))
    }

    /// A case begins: rules are dropped, what they kept goes on, and what was found is forgotten.
    pub fn case(&self, run: u64) {
        let shared = &self.shared;
        let ended = {
            let mut desk = shared.desk.lock();
            desk.rules.clear();
            shared.rules_changed(&desk);
            let ended = desk.holds.take(HoldEnd::Released, |_| true);
            shared.note(&mut desk, &ended);
            let mut case = shared.case.write();
            *case = Case { run, number: case.number + 1 };
            shared.instruments.findings.lock().begin(*case);
            ended
        };
        shared.resume(ended);
    }

    /// Add a rule behind the others.
    pub fn add_rule(&self, rule: Rule) -> Result<(), WatchError> {
        let disks = self.shared.disks.read().len() as u32;
        let mut desk = self.shared.desk.lock();
        desk.rules.add(rule, disks)?;
        self.shared.rules_changed(&desk);
        Ok(())
    }

    /// Drop a rule and let go what it keeps; the ends of its holds, when these requests are completed.
    pub fn drop_rule(&self, name: &str) -> Result<Vec<HoldReport>, WatchError> {
        self.release(name, |desk| {
            desk.rules.drop_rule(name)?;
            self.shared.rules_changed(desk);
            Ok(())
        })
    }

    /// Let go what a rule keeps; the ends of its holds, when these requests are completed.
    pub fn release_held(&self, name: &str) -> Result<Vec<HoldReport>, WatchError> {
        self.release(name, |desk| keeping(desk, name))
    }

    fn release(
        &self,
        name: &str,
        prepare: impl FnOnce(&mut Desk) -> Result<(), WatchError>,
    ) -> Result<Vec<HoldReport>, WatchError> {
        let shared = &self.shared;
        let (ended, released) = {
            let mut desk = shared.desk.lock();
            prepare(&mut desk)?;
            let ended = desk.holds.take(HoldEnd::Released, |place| &*place.rule == name);
            shared.note(&mut desk, &ended);
            let released: Vec<_> = ended.iter().map(|ended| ended.item.ticket.id()).collect();
            (ended, released)
        };
        let reports = shared.resume(ended);
        let deadline = Instant::now() + RELEASE_LIMIT;
        let mut desk = shared.desk.lock();
        loop {
            let left = released.iter().filter(|request| desk.resumed.contains(request)).count();
            if left == 0 {
                return Ok(reports);
            }
            if desk.closed {
                return Err(WatchError::Closed);
            }
            if shared.moved.wait_until(&mut desk, deadline).timed_out() {
                let seconds = RELEASE_LIMIT.as_secs();
                return Err(WatchError::NotCompleted { rule: name.into(), left, seconds });
            }
        }
    }

    /// Wait until the requests that a rule keeps cover so many different pages, at least one; whether they do, and
    /// which they are.
    pub fn await_held(
        &self,
        name: &str,
        pages: u64,
        timeout: Duration,
    ) -> Result<(Vec<Held>, bool), WatchError> {
        let deadline = Instant::now() + timeout.min(Duration::from_millis(MAX_HOLD_MS));
        let mut desk = self.shared.desk.lock();
        loop {
            if desk.closed {
                return Err(WatchError::Closed);
            }
            keeping(&desk, name)?;
            let complete = covered(&mut desk, name) >= pages.max(1);
            if complete || self.shared.moved.wait_until(&mut desk, deadline).timed_out() {
                let complete = complete || covered(&mut desk, name) >= pages.max(1);
                return Ok((told(&mut desk, name), complete));
            }
        }
    }

    /// What was found since the case began, if all of it is of one guest.
    fn checked_audit(&self) -> Result<AuditReport, WatchError> {
        let findings = self.shared.instruments.findings.lock();
        findings.two_guests().map_or_else(|| self.shared.instruments.guests.check(), Err)?;
        Ok(findings.report())
    }

    /// What was found since the case began.
    pub fn audit(&self) -> AuditReport {
        self.shared.instruments.findings.lock().report()
    }
}

/// The rule is there and can keep something.
fn keeping(desk: &Desk, name: &str) -> Result<(), WatchError> {
    match desk.rules.get(name)?.action {
        Action::Hold { .. } | Action::Delay { .. } => Ok(()),
        Action::Observe | Action::Fail => Err(WatchError::KeepsNothing(name.into())),
    }
}

fn covered(desk: &mut MutexGuard<'_, Desk>, name: &str) -> u64 {
    let pages: HashSet<u64> =
        desk.holds.of_rule(name).flat_map(|(_, _, waiting)| waiting.counted.iter().copied()).collect();
    pages.len() as u64
}

fn told(desk: &mut MutexGuard<'_, Desk>, name: &str) -> Vec<Held> {
    let mut room = MAX_PAGES_TOLD;
    let tell = |waiting: &mut Waiting| {
        let mut held = waiting.held.clone();
        match room.checked_sub(held.pages.len()) {
            Some(left) => room = left,
            None => held.pages.clear(),
        }
        held
    };
    desk.holds.of_rule(name).map(|(_, _, waiting)| waiting).map(tell).collect()
}
