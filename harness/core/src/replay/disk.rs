// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the disks answered.

use super::Replay;
use longpin_proto::agent::Program;
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{DiskStatus, Held, HoldEnd, HoldReport};
use std::collections::BTreeSet;

impl<'r> Replay<'r> {
    pub(super) fn disk(&mut self, request: &'r Request, answer: &'r Result<Answer, String>, at: u64) {
        let answer = match answer {
            Ok(Answer::Error { message }) | Err(message) => {
                return self.faults.push(format!("the disk did not do `{}`: {message}", request.name()));
            }
            Ok(answer) => answer,
        };
        match (request, answer) {
            (Request::AwaitHeld { rule, pages, .. }, Answer::Held { requests, complete }) => {
                self.awaited(rule, *pages, requests, *complete);
            }
            (
                Request::HeldDma { rule, region, file_offset, offset, len, generation, cell_bytes, .. },
                Answer::Ok,
            ) => {
                self.held_region(rule, *region, *file_offset);
                // Without bytes a region is only announced.
                if *len > 0 {
                    self.dma_into_held(rule, program(*offset, *len, *generation, *cell_bytes));
                }
            }
            (Request::PowerCut { .. }, Answer::Ok) => {
                let files = self.with_jobs_under_way();
                self.noted = Some(files.iter().map(|(path, file)| (path.clone(), file.cut())).collect());
            }
            (Request::Restore { .. }, Answer::Ok) => {
                self.files = self.noted.clone().unwrap_or_default();
                self.remounted = true;
            }
            (Request::ReleaseHeld { rule }, Answer::Released { holds }) => {
                self.read_completes(rule, at);
                self.released_holds(holds);
            }
            (Request::DropRule { .. }, Answer::Released { holds }) => self.released_holds(holds),
            (Request::Audit, Answer::Audit(report)) => {
                self.released_holds(&report.holds);
                self.audit = Some(report);
                if report.run != self.run() {
                    self.faults.push(format!("the disk audited case {:#x}, not this one", report.run));
                }
            }
            (Request::Disks, Answer::Disks { disks }) => self.images(disks),
            (Request::Case { .. } | Request::AddRule(_), Answer::Ok) => {}
            (request, answer) => {
                self.faults.push(format!("the disk answered `{}` with {answer:?}", request.name()));
            }
        }
    }

    fn awaited(&mut self, rule: &str, pages: u64, requests: &'r [Held], complete: bool) {
        self.held.extend(requests);
        if complete {
            return self.hold(rule, requests);
        }
        let held: BTreeSet<u64> = requests.iter().flat_map(|held| &held.pages).map(|page| page.gpa).collect();
        self.gaps.push(format!(
            "rule `{rule}` held {} pages in {} requests in time, and {pages} were awaited",
            held.len(),
            requests.len()
        ));
    }

    fn released_holds(&mut self, holds: &'r [HoldReport]) {
        for hold in holds {
            let first = self.holds.insert(hold.request, hold).is_none();
            if first && hold.end == HoldEnd::Cap {
                self.gaps.push(cap(hold));
            }
        }
    }

    /// An image that cannot be read or written, or rules that could not be obeyed, are no evidence of anything in the
    /// guest.
    fn images(&mut self, disks: &[DiskStatus]) {
        for (index, disk) in disks.iter().enumerate() {
            if let Some(error) = &disk.last_error {
                self.faults.push(format!("disk {index} failed: {error}"));
            }
        }
    }
}

fn cap(hold: &HoldReport) -> String {
    let kept_ms = hold.ended_ns.saturating_sub(hold.submitted_ns) / 1_000_000;
    format!(
        "rule `{}` kept a request of {} pages at byte {} of disk {} until its cap, {kept_ms} ms, and nobody had released it",
        hold.rule,
        hold.len.div_ceil(longpin_proto::disk::PAGE_BYTES),
        hold.byte,
        hold.disk
    )
}

/// DMA into held reads, as a program of the accelerator would describe it.
fn program(offset: u64, len: u64, generation: u64, cell_bytes: u32) -> Program {
    Program { offset, len, generation, passes: 1, cell_bytes }
}
