// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins without a driver: an O_DIRECT read from the second disk into the mapping, which that disk holds. The kernel
//! pins the pages for as long as the read is under way, and a device may write into them at any time until then.

use super::Translation;
use super::disk::SECOND_DISK;
use super::objects::DioPin;
use super::op::{AWAIT_MS, Follow, Op, acts};
use crate::record::Role;
use longpin_proto::agent::Step;
use longpin_proto::control::Request;
use longpin_proto::disk::{Action, Fetch, MAX_HOLD_MS, Match, Op as DiskOp, PAGE_BYTES, Rule};

/// Region of the first dio pin, in stamps and ledger: far from the numbers that a driver gives.
const FIRST_REGION: u32 = 0x8000_0001;
/// Milliseconds of one wait for the reads: a refusal, which no disk sees, is found after the first.
const LOOK_MS: u64 = 1000;

impl Translation {
    /// A rule of its own for each pin, over the part of the disk that it alone reads.
    pub(super) fn pin_by_dio(
        &mut self,
        region: &str,
        map: String,
        offset: u64,
        len: u64,
        file_offset: u64,
    ) -> (DioPin, Vec<Op>) {
        let name = format!("dio.{region}.{}", self.dio_pins);
        let number = FIRST_REGION + self.dio_pins;
        let device_offset = self.dio_next;
        self.dio_pins += 1;
        self.dio_next += len.next_multiple_of(PAGE_BYTES);
        let rule = Rule {
            name: name.clone(),
            disk: SECOND_DISK,
            matching: Match { op: Some(DiskOp::Read), range: Some((device_offset, len)), ..Match::default() },
            // A pin lasts as long as the case wants: the longest hold there is.
            action: Action::Hold { fetch: Fetch::Late, cap_ms: MAX_HOLD_MS },
            limit: 0,
        };
        self.objects.rules.insert(name.clone());
        let device = self.env.second_device.clone();
        let read = Step::ReadDirect { map, offset, len, device, device_offset };
        let pages = len.div_ceil(PAGE_BYTES);
        let wait = Request::AwaitHeld { rule: name.clone(), pages, timeout_ms: LOOK_MS };
        let left_ms = AWAIT_MS * self.env.patience_percent / 100;
        let dio = DioPin { name: name.clone(), number, file_offset };
        let ops = vec![
            Op::disk(Request::AddRule(rule)),
            Op::new(Role::Act, Step::Spawn { job: name.clone(), step: Box::new(read) }),
            Op { timeout_ms: LOOK_MS, ..Op::disk(wait) }.then(Follow::PinHeld { job: name, left_ms }),
            // No DMA yet: from here on the audit knows region and file offset of the pages.
            self.dma_into_held(&dio, 0, 0, 0),
        ];
        (dio, ops)
    }

    pub(super) fn dma_into_held(&self, dio: &DioPin, offset: u64, len: u64, generation: u64) -> Op {
        Op::disk(Request::HeldDma {
            rule: dio.name.clone(),
            region: dio.number,
            file_offset: dio.file_offset,
            offset,
            len,
            generation,
            run: self.env.run,
            cell_bytes: self.cell_bytes,
        })
    }

    pub(super) fn release_dio(&mut self, dio: DioPin) -> Vec<Op> {
        let DioPin { name: rule, .. } = dio;
        self.objects.rules.remove(&rule);
        let mut ops = vec![
            Op::disk(Request::ReleaseHeld { rule: rule.clone() }),
            Op::disk(Request::DropRule { rule: rule.clone() }),
        ];
        ops.extend(acts([Step::Join { job: rule, timeout_ms: 0 }]));
        ops
    }
}
