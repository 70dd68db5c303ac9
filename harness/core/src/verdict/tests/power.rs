// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Losses of power: what was promised must be there.

use super::tale::{CELL, LEN, RUN, Tale, by_dma, cpu};
use super::{fsync, verdict, words};
use crate::record::Role;
use longpin_proto::agent::{Fact, Fill, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::InFlight;
use longpin_proto::facts::{CellState, Source};

fn cut(tale: &mut Tale) {
    tale.disk(Request::PowerCut { disk: 0, in_flight: InFlight::Drop }, Answer::Ok);
}

fn restore(tale: &mut Tale) {
    tale.done(Step::Umount { dir: "/mnt".into() });
    tale.disk(Request::Restore { disk: 0 }, Answer::Ok);
    tale.remount();
}

#[test]
fn an_fsync_that_returned_has_promised_its_bytes() {
    for (found, word) in [(by_dma(100), "intact"), (cpu(1), "lost")] {
        let mut tale = Tale::of_a_pin();
        tale.dma(100);
        tale.release();
        tale.done(fsync());
        cut(&mut tale);
        restore(&mut tale);
        tale.compare("a", |_| found.clone());
        assert_eq!(words(&verdict(tale)), [word], "{found:?}");
    }
}

#[test]
fn an_fsync_that_had_not_returned_has_promised_nothing() {
    for (found, word) in [(cpu(1), "intact"), (cpu(5), "intact"), (by_dma(100), "bleed")] {
        let mut tale = Tale::of_a_file();
        tale.done(fsync());
        tale.write("a", 5);
        tale.spawn("f", fsync());
        cut(&mut tale);
        tale.join("f", Fact::Nothing);
        restore(&mut tale);
        tale.compare("a", |_| found.clone());
        assert_eq!(words(&verdict(tale)), [word], "{found:?}");
    }
}

#[test]
fn an_fsync_promises_what_was_written_before_it_began() {
    let mut tale = Tale::of_a_file();
    tale.spawn("f", fsync());
    tale.write("a", 5);
    tale.join("f", Fact::Nothing);
    cut(&mut tale);
    restore(&mut tale);
    tale.compare("a", |_| cpu(1));
    assert_eq!(words(&verdict(tale)), ["intact"]);
}

#[test]
fn what_was_written_after_the_loss_is_not_there() {
    let mut tale = Tale::of_a_file();
    tale.done(fsync());
    cut(&mut tale);
    tale.write("a", 5);
    restore(&mut tale);
    tale.compare("a", |_| cpu(5));
    assert_eq!(words(&verdict(tale)), ["bleed"]);
}

#[test]
fn a_file_that_was_never_made_durable_may_be_empty() {
    let mut tale = Tale::of_a_file();
    cut(&mut tale);
    restore(&mut tale);
    tale.guest_reads(Role::CompareWrites, "a", |_| CellState::Absent);
    tale.host_reads(Role::CompareWrites, "a", true, |offset| {
        assert!(offset < LEN);
        CellState::Absent
    });
    assert_eq!(words(&verdict(tale)), ["intact"]);
}

#[test]
fn a_write_that_was_under_way_may_be_there_in_any_part() {
    let fill = Fill { run: RUN, generation: 5, cell_bytes: CELL, source: Source::Cpu };
    let write = Step::Write { file: "a".into(), offset: 0, len: LEN, fill };
    for (found, word) in [(cpu(5), "intact"), (cpu(1), "intact"), (cpu(6), "bleed")] {
        let mut tale = Tale::of_a_file();
        tale.done(fsync());
        tale.spawn("wr", write.clone());
        cut(&mut tale);
        tale.join("wr", Fact::Nothing);
        restore(&mut tale);
        tale.compare("a", |offset| if offset % 1024 == 0 { found.clone() } else { cpu(1) });
        assert_eq!(words(&verdict(tale)), [word], "{found:?}");
    }
}
