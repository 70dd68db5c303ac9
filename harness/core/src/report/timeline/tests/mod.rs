// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stories of hand-made records: each kind of failure shows in the right lane, at the right time, in the right words.

mod drawing;
pub mod tales;
pub mod tape;

use super::{Bar, BarKind, Lane, Moment, Row, RowKind, Story, TickKind};
use crate::record::Role;
use crate::verdict::Observation;
use longpin_proto::agent::{Backing, Fact, Fill, OpenFlags, Outcome, PinMode, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::InFlight;
use longpin_proto::facts::Source;
use tape::{BYTE, LEN, PAGES, RUN, Tape, result, writer};

fn story(tape: Tape, word: Observation) -> Story {
    let record = tape.end();
    Story::of(&record, &result(word, &record))
}

fn lane<'s>(story: &'s Story, name: &str) -> &'s Lane {
    let known = || story.lanes.iter().map(|lane| lane.name.clone()).collect::<Vec<_>>();
    story
        .lanes
        .iter()
        .find(|lane| lane.name == name)
        .unwrap_or_else(|| panic!("no lane {name}: {:?}", known()))
}

fn row(lane: &Lane, kind: RowKind) -> &Row {
    lane.rows.iter().find(|row| row.kind == kind).unwrap_or_else(|| panic!("no {kind:?} in {lane:?}"))
}

fn bars(lane: &Lane, kind: RowKind) -> Vec<&str> {
    row(lane, kind).bars.iter().map(|bar| bar.text.as_str()).collect()
}

fn ticks(lane: &Lane, kind: RowKind) -> Vec<TickKind> {
    row(lane, kind).ticks.iter().map(|tick| tick.kind).collect()
}

fn grave(story: &Story) -> Vec<&Moment> {
    story.moments.iter().filter(|moment| moment.grave).collect()
}

/// What holds for every story: the drawing and the trace rely on it.
pub fn well_formed(story: &Story) {
    for row in story.lanes.iter().flat_map(|lane| &lane.rows) {
        assert!(row.bars.iter().all(|bar| bar.from <= bar.to), "{row:?}");
        assert!(row.bars.windows(2).all(|pair| pair[0].from <= pair[1].from), "{row:?}");
        let apart = |a: &Bar, b: &Bar| b.from >= a.to || b.to <= a.to;
        assert!(row.bars.windows(2).all(|pair| apart(&pair[0], &pair[1])), "{row:?}");
        assert!(row.ticks.windows(2).all(|pair| pair[0].at <= pair[1].at), "{row:?}");
    }
    let numbers: Vec<usize> = story.moments.iter().map(|moment| moment.number).collect();
    assert_eq!(numbers, (1..=story.moments.len()).collect::<Vec<_>>());
    let times: Vec<u64> = story.moments.iter().filter_map(|moment| moment.at).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", story.moments);
    assert!(story.axis.knots.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
}

#[test]
fn sixteen_pages_with_the_same_history_are_one_lane() {
    let story = tales::lost_update();
    well_formed(&story);
    let names: Vec<&str> = story.lanes.iter().map(|lane| lane.name.as_str()).collect();
    assert_eq!(names, ["steps", "pages 0–15 of /mnt/a"]);
}

#[test]
fn a_lost_update_shows_what_memory_held_and_what_was_read() {
    let story = tales::lost_update();
    let pages = lane(&story, "pages 0–15 of /mnt/a");
    assert_eq!(bars(pages, RowKind::Memory), ["CPU 1", "DMA 100", "DMA 101"]);
    assert_eq!(ticks(pages, RowKind::Memory), [TickKind::Cpu, TickKind::Dma, TickKind::Dma]);
    assert_eq!(bars(pages, RowKind::Pin), ["pinned"]);
    assert!(row(pages, RowKind::Pin).bars[0].detail.ends_with("released clean: no dirty bit"));
    assert_eq!(ticks(pages, RowKind::Disk), [TickKind::Bad, TickKind::Bad]);
    assert_eq!(story.placed[0].memory, "DMA 101");
    assert_eq!((story.placed[0].guest.as_str(), story.placed[0].host.as_str()), ("DMA 100", "DMA 100"));
    assert!(story.placed[0].differ);
}

#[test]
fn a_loss_went_wrong_when_the_device_wrote_into_clean_pages() {
    let story = tales::lost_update();
    let grave = grave(&story);
    assert!(
        grave[0]
            .text
            .starts_with("the device writes generation 101 into pages 0–15 of /mnt/a: into clean pages")
    );
    let write = row(lane(&story, "pages 0–15 of /mnt/a"), RowKind::Memory).ticks[2].at;
    assert_eq!(grave[0].at, Some(write));
    assert_eq!(
        grave[1].text,
        "guest and host read /mnt/a: DMA generation 100 where DMA generation 101 should be"
    );
    assert!(
        story.lead.contains("cachestat(2) agreed") && story.lead.contains("no call returned an error"),
        "{}",
        story.lead
    );
}

#[test]
fn the_bytes_of_whole_cells_are_written_out_again() {
    let story = tales::lost_update();
    let [diff] = story.hex.as_slice() else { panic!("{:?}", story.hex) };
    assert_eq!((diff.before.as_str(), diff.after.as_str()), ("should be: DMA 101", "is: DMA 100"));
    let line = &diff.lines[0];
    assert_eq!((line.before.len(), line.after.len()), (128, 128));
    assert_ne!(line.before, line.after);
}

#[test]
fn a_change_in_flight_lies_between_hold_and_release() {
    let story = tales::inflight_change();
    well_formed(&story);
    let pages = lane(&story, "pages 0–15 of /mnt/a");
    let flight = row(pages, RowKind::Flight);
    let kinds: Vec<BarKind> = flight.bars.iter().map(|bar| bar.kind).collect();
    assert_eq!(kinds, [BarKind::Write, BarKind::Hold]);
    let hold = &flight.bars[1];
    let write = row(pages, RowKind::Memory).ticks.last().expect("the device wrote").at;
    assert!(hold.from < write && write < hold.to, "{write} in {hold:?}");
    let grave = grave(&story);
    assert_eq!(grave[0].at, Some(write));
    assert!(grave[0].text.contains("while the write of these pages is in flight"), "{}", grave[0].text);
    assert_eq!(bars(pages, RowKind::Disk), ["DMA 101"], "a late fetch takes the new content");
    assert!(ticks(pages, RowKind::Flight).ends_with(&[TickKind::Fetch, TickKind::Hit]));
}

#[test]
fn the_audits_bytes_are_shown_as_it_kept_them() {
    let story = tales::inflight_change();
    assert_eq!(story.hex[0].title, "page 0 of /mnt/a");
    assert_eq!(story.hex[0].lines[0].before, "64000000");
    assert_eq!(story.hex[0].lines[0].after, "65000000");
    assert!(
        story.lead.contains("put generation 101 where generation 100 had been submitted"),
        "{}",
        story.lead
    );
}

#[test]
fn writing_in_place_into_a_shared_block_shows_in_the_clones_lane() {
    let story = tales::reflink_bleed();
    well_formed(&story);
    let clone = lane(&story, "pages 0–15 of /mnt/b");
    assert_eq!(clone.note, "same history, blocks shared with /mnt/a");
    assert_eq!(bars(clone, RowKind::Disk), ["DMA 100"]);
    assert_eq!(ticks(clone, RowKind::Disk), [TickKind::Good, TickKind::Bad, TickKind::Bad]);
    assert!(
        story.moments.iter().any(|moment| moment.text == "/mnt/a is cloned to /mnt/b: both share the blocks")
    );
    assert!(
        story.lead.contains("/mnt/b now has DMA generation 100 where CPU generation 1 should be"),
        "{}",
        story.lead
    );
}

#[test]
fn a_store_that_waits_for_stable_pages_names_the_function() {
    let story = tales::stable_pages();
    well_formed(&story);
    let job = lane(&story, "job s");
    assert_eq!(job.note, "asleep in folio_wait_stable");
    let kinds: Vec<BarKind> = row(job, RowKind::Job).bars.iter().map(|bar| bar.kind).collect();
    assert_eq!(kinds, [BarKind::Job, BarKind::Blocked]);
    assert!(story.moments.iter().any(|moment| moment.text == "store in job s waits in folio_wait_stable()"));
    // The store is done when the job is over, not when it was asked for.
    let pages = lane(&story, "pages 0–15 of /mnt/a");
    let stored = row(pages, RowKind::Memory).ticks.last().expect("a store");
    assert_eq!((stored.kind, stored.at), (TickKind::Cpu, row(job, RowKind::Job).bars[0].to));
}

#[test]
fn a_device_that_can_fault_waits_for_the_page_that_is_on_its_way() {
    let story = tales::device_that_waits();
    well_formed(&story);
    let pages = lane(&story, "pages 0–15 of /mnt/a");
    assert_eq!(bars(pages, RowKind::Pin), ["fault", "mapped", "fault", "mapped"]);
    let had = &row(pages, RowKind::Pin).bars;
    let hold = &row(pages, RowKind::Flight).bars[1];
    assert!(had[1].to <= hold.from, "it gave the page up before the disk had it: {had:?}");
    assert!(
        hold.from < had[2].from && hold.to <= had[2].to,
        "it waits for as long as the disk holds: {had:?}"
    );
    assert!(had[2].detail.contains("faults for a write and waits"), "{:?}", had[2]);
    let waits = story.moments.iter().find(|moment| moment.text.starts_with("the device faults for page 0"));
    let waits = waits.expect("a moment tells it");
    assert!(
        waits.text.contains("gets the page when the write is complete") && waits.until == Some(had[2].to)
    );
    assert!(grave(&story).is_empty());
}

#[test]
fn a_refused_pin_has_no_lane_of_pages_and_says_why() {
    let mut tape = Tape::new("refused");
    tape.prepare();
    tape.refused(Tape::pin_step(), "EFAULT");
    let story = story(tape, Observation::Refused);
    well_formed(&story);
    let steps = lane(&story, "steps");
    let last = row(steps, RowKind::Steps).bars.last().expect("steps");
    assert_eq!((last.kind, last.text.as_str()), (BarKind::Refused, "pin: EFAULT"));
    assert!(grave(&story).is_empty(), "a refusal is good");
    assert!(story.lead.starts_with("The driver asked for a pin and the kernel refused it with EFAULT."));
}

#[test]
fn who_asked_for_a_pin_in_vain_is_named_where_no_driver_did() {
    let mut tape = Tape::new("refused");
    tape.prepare();
    let Step::Pin { region, map, offset, len, file_offset, run, .. } = Tape::pin_step() else {
        panic!("no pin")
    };
    tape.refused(Step::Pin { region, map, offset, len, mode: PinMode::Vfio, file_offset, run }, "EFAULT");
    let lead = story(tape, Observation::Refused).lead;
    assert!(lead.contains(" asked for a pin and the kernel refused it with EFAULT."), "{lead}");
    assert!(!lead.contains("The driver"), "{lead}");
}

#[test]
fn a_write_that_was_kept_off_is_a_moment_and_changes_no_page() {
    let mut tape = Tape::new("blocked");
    tape.prepare();
    tape.pin();
    tape.dma_kept_off(100);
    tape.release(false);
    let story = story(tape, Observation::DmaBlocked);
    well_formed(&story);
    let told = story.moments.iter().find(|moment| moment.text.contains("none of it comes to memory"));
    let text = &told.expect("a moment tells it").text;
    assert!(text.starts_with("the device writes DMA 100 into 16 pages"), "{text}");
    assert_eq!(bars(lane(&story, "pages 0–15 of /mnt/a"), RowKind::Memory), ["CPU 1"]);
    assert!(grave(&story).is_empty(), "no page was harmed");
}

#[test]
fn a_page_that_fared_otherwise_has_its_own_lane() {
    let mut tape = Tape::new("one page");
    tape.prepare();
    tape.pin();
    tape.dma(100);
    tape.dma_pages(101, 3..4);
    tape.release(true);
    let story = story(tape, Observation::Intact);
    let names: Vec<&str> = story.lanes.iter().map(|lane| lane.name.as_str()).collect();
    assert_eq!(names, ["steps", "pages 0–2, 4–15 of /mnt/a", "page 3 of /mnt/a"]);
    assert_eq!(bars(lane(&story, "page 3 of /mnt/a"), RowKind::Memory), ["CPU 1", "DMA 100", "DMA 101"]);
}

#[test]
fn pages_whose_events_interleave_are_not_drawn_as_one() {
    // Page 0 is written twice before page 1 is written for the first time: together they would be out of order.
    let mut tape = Tape::new("interleaved");
    tape.prepare();
    tape.pin();
    for (generation, page) in [(100, 0), (101, 0), (100, 1), (101, 1)] {
        tape.dma_pages(generation, page..page + 1);
    }
    tape.release(true);
    let story = story(tape, Observation::Intact);
    let names: Vec<&str> = story.lanes.iter().skip(1).map(|lane| lane.name.as_str()).collect();
    assert_eq!(names, ["page 0 of /mnt/a", "page 1 of /mnt/a", "pages 2–15 of /mnt/a"]);
}

#[test]
fn a_device_that_writes_on_and_on_is_one_bar() {
    let mut tape = Tape::new("loop");
    tape.prepare();
    tape.pin();
    for generation in 100..140 {
        tape.dma_pages(generation, 0..1);
    }
    tape.release(true);
    let story = story(tape, Observation::Intact);
    assert_eq!(bars(lane(&story, "page 0 of /mnt/a"), RowKind::Memory), ["CPU 1", "DMA 100–139"]);
}

#[test]
fn a_record_without_times_still_has_what_the_ledger_knows_and_says_what_is_missing() {
    let mut tape = Tape::new("old").without_times();
    tape.prepare();
    tape.pin();
    tape.dma(100);
    tape.release(false);
    tape.compare("/mnt/a", tape::BYTE, writer(Source::Cpu, 1));
    let story = story(tape, Observation::Lost);
    assert!(story.lanes.iter().all(|lane| lane.name != "steps"));
    assert!(bars(lane(&story, "pages 0–15 of /mnt/a"), RowKind::Pin) == ["pinned"]);
    assert!(story.notes[0].contains("no host times of its steps"), "{:?}", story.notes);
    let last = story.moments.last().expect("moments");
    assert!(last.at.is_none() && last.text.starts_with("the guest reads /mnt/a"), "{last:?}");
}

#[test]
fn lanes_beyond_the_limit_are_counted() {
    let mut tape = Tape::new("many");
    tape.prepare();
    tape.pin();
    for page in 0..PAGES {
        tape.dma_pages(100 + page, page..page + 1);
    }
    let story = story(tape, Observation::Intact);
    assert_eq!(story.lanes.len(), 1 + super::MAX_PAGE_LANES);
    assert_eq!(LEN / 4096 - super::MAX_PAGE_LANES as u64, 4);
    assert!(story.notes[0].starts_with("4 more pages with other histories"), "{:?}", story.notes);
}

#[test]
fn snapshots_are_what_they_are_and_no_fault() {
    let story = tales::reflink_bleed();
    let clone = lane(&story, "pages 0–15 of /mnt/b");
    let snapshot = &row(clone, RowKind::Disk).ticks[0];
    assert_eq!((snapshot.text.as_str(), snapshot.kind), ("guest: CPU 1", TickKind::Good));
}

#[test]
fn readers_that_disagree_are_told_apart() {
    let (record, mut result) = tales::lost_update_record();
    result.findings.truncate(1);
    let story = Story::of(&record, &result);
    let last = story.moments.last().expect("a reading");
    assert!(last.text.starts_with("the guest reads /mnt/a: DMA generation 100 where"), "{}", last.text);
    assert!(last.text.ends_with("the host finds what should be there in the disk's image"), "{}", last.text);
}

#[test]
fn a_clone_changes_when_its_block_is_written_in_place() {
    let story = tales::reflink_bleed();
    let grave = grave(&story);
    assert!(grave[0].text.contains("into blocks that belong to /mnt/b as well"), "{}", grave[0].text);
    let write = row(lane(&story, "pages 0–15 of /mnt/b"), RowKind::Flight).bars[0].from;
    assert_eq!(grave[0].at, Some(write));
}

#[test]
fn a_pin_by_a_read_takes_no_number_from_the_drivers_pin() {
    let mut tape = Tape::new("two pinners");
    tape.prepare();
    let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
    tape.line().act(Step::Open { file: "b".into(), path: "/mnt/b".into(), flags }, 400_000);
    let backing = Backing::File { file: "b".into(), offset: 0 };
    tape.act(Step::Map { map: "n".into(), backing, len: LEN, shared: true, write: true }, 400_000);
    let (map, device) = ("n".into(), "/dev/vdb".into());
    let read = Step::ReadDirect { map, offset: 0, len: LEN, device, device_offset: 0 };
    tape.line().act(Step::Spawn { job: "d".into(), step: Box::new(read) }, 300_000);
    tape.announce_held("d", 1 << 20);
    tape.pin();
    tape.dma(100);
    tape.release(true);
    let story = story(tape, Observation::Intact);
    well_formed(&story);
    assert_eq!(bars(lane(&story, "pages 0–15 of /mnt/a"), RowKind::Memory), ["CPU 1", "DMA 100"]);
    let read = lane(&story, "pages 0–15 of /mnt/b");
    assert_eq!(bars(read, RowKind::Pin), ["pinned by a read"]);
    assert!(read.rows.iter().all(|row| row.kind != RowKind::Memory), "nobody wrote there: {read:?}");
}

#[test]
fn after_a_loss_of_power_in_mid_write_old_and_new_content_are_as_good() {
    for generation in [1, 2] {
        let mut tape = Tape::new("cut");
        tape.prepare();
        let fill = Fill { run: RUN, generation: 2, cell_bytes: 512, source: Source::Cpu };
        let write = Step::Write { file: "a".into(), offset: 0, len: LEN, fill };
        tape.line().act(Step::Spawn { job: "w".into(), step: Box::new(write) }, 200_000);
        let cut = Request::PowerCut { disk: 0, in_flight: InFlight::Drop };
        tape.line().ask(cut, Answer::Ok, 90_000);
        let done = Outcome::Done { fact: Fact::Nothing };
        tape.line().step(Role::Act, Step::Join { job: "w".into(), timeout_ms: 1000 }, done, 100_000);
        tape.line().ask(Request::Restore { disk: 0 }, Answer::Ok, 90_000);
        tape.remount();
        tape.compare("/mnt/a", BYTE, writer(Source::Cpu, generation));
        tape.host_reads("/mnt/a", BYTE, writer(Source::Cpu, generation));
        let story = story(tape, Observation::Intact);
        let pages = lane(&story, "pages 0–15 of /mnt/a");
        assert_eq!(ticks(pages, RowKind::Disk), [TickKind::Good, TickKind::Good], "generation {generation}");
        assert!(!story.placed[0].differ && story.hex.is_empty(), "{:?}", story.placed);
    }
}
