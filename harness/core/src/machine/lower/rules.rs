// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules of the auditing disk, and its losses of power.

use super::Lowering;
use crate::machine::op::Op;
use crate::scenario::{FIRST_DISK, Matching, Treatment};
use longpin_proto::control::Request;
use longpin_proto::disk::{Action, InFlight, MAX_HOLD_MS, Match, Op as DiskOp, Rule};

impl Lowering {
    pub(super) fn add_rule(
        &mut self,
        rule: String,
        disk: u32,
        matching: Matching,
        treatment: Treatment,
    ) -> Vec<Op> {
        let run = Some(self.env.run);
        let (stamped, pinned) = match matching {
            Matching::Stamped => (run, None),
            Matching::Pinned => (None, run),
            Matching::Any => (None, None),
        };
        let (op, action, limit) = match treatment {
            Treatment::HoldWrites { fetch, cap_ms } => {
                (DiskOp::Write, Action::Hold { fetch, cap_ms: self.cap(cap_ms) }, 0)
            }
            Treatment::HoldReads { cap_ms } => {
                (DiskOp::Read, Action::Hold { fetch: Default::default(), cap_ms: self.cap(cap_ms) }, 0)
            }
            Treatment::DelayWrites { fetch, ms } => (DiskOp::Write, Action::Delay { fetch, ms }, 0),
            Treatment::FailWrites { limit } => (DiskOp::Write, Action::Fail, limit),
        };
        self.objects.rules.insert(rule.clone());
        let matching = Match { op: Some(op), range: None, pinned, stamped };
        vec![Op::disk(Request::AddRule(Rule { name: rule, disk, matching, action, limit }))]
    }

    /// A cap is a bound like any other: a slow machine needs more.
    fn cap(&self, cap_ms: u64) -> u64 {
        (cap_ms * self.env.patience_percent / 100).clamp(1, MAX_HOLD_MS)
    }

    pub(super) fn await_held(&self, rule: String, pages: u64) -> Vec<Op> {
        vec![Op::disk(Request::AwaitHeld { rule, pages, timeout_ms: 0 })]
    }

    pub(super) fn release_held(&self, rule: String) -> Vec<Op> {
        vec![Op::disk(Request::ReleaseHeld { rule })]
    }

    pub(super) fn drop_rule(&mut self, rule: String) -> Vec<Op> {
        self.objects.rules.remove(&rule);
        vec![Op::disk(Request::DropRule { rule })]
    }

    pub(super) fn power_cut(&self, in_flight: InFlight) -> Vec<Op> {
        vec![Op::disk(Request::PowerCut { disk: FIRST_DISK, in_flight })]
    }
}
