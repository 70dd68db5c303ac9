// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The numbered moments: what happened, in order, a sentence each, and where it went wrong.

use super::Moment;
use super::claims::Claims;
use super::history::memory_words;
use super::requests::change_words;
use super::words::{self, duration};
use crate::operations::makes_durable;
use crate::record::{Role, Trouble};
use crate::replay::{
    Answered, Asked, DiskRequest, Exchange, KeptOff, Pin, Reader, Reading, Replay, pages_of,
};
use crate::report::CaseResult;
use crate::verdict::{self, Observation};
use longpin_proto::agent::{Fallocate, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Change, InFlight as Loss, PAGE_BYTES};

/// More than this is not a story any more: device writes in the middle are left out first.
const MAX_MOMENTS: usize = 14;

pub struct Draft {
    at: Option<u64>,
    until: Option<u64>,
    grave: bool,
    /// It may be left out where there are too many.
    minor: bool,
    text: String,
}

impl Draft {
    fn at(at: u64, text: impl Into<String>) -> Self {
        Self { at: Some(at), until: None, grave: false, minor: false, text: text.into() }
    }
}

/// All moments of the case, numbered in the order of time.
pub fn moments(replay: &Replay<'_>, claims: &Claims<'_, '_>, result: &CaseResult) -> Vec<Moment> {
    let mut drafts = Vec::new();
    drafts.extend(pins(replay));
    drafts.extend(device_writes(replay, claims, result));
    drafts.extend(replay.kept_off.iter().map(kept_off));
    drafts.extend(requests(replay));
    drafts.extend(in_flight(replay, claims));
    drafts.extend(into_shared(replay, claims).filter(|_| result.observations.contains(&Observation::Bleed)));
    // Without times nobody can say what these came before.
    if replay.clock.timed {
        drafts.extend(replay.exchanges.iter().filter_map(|exchange| step(replay, exchange)));
        drafts.extend(jobs(replay));
    }
    drafts.extend(readings(replay, result));
    drafts.extend(replay.trouble.map(|trouble| end(replay, trouble)));
    // Stable: at the same time in the order above; what has no time comes last.
    drafts.sort_by_key(|draft| draft.at.unwrap_or(u64::MAX));
    while drafts.len() > MAX_MOMENTS {
        let Some(minor) = drafts.iter().rposition(|draft| draft.minor && !draft.grave) else { break };
        drafts.remove(minor);
    }
    drafts.truncate(MAX_MOMENTS);
    let number = |(index, draft): (usize, Draft)| {
        let Draft { at, until, grave, text, .. } = draft;
        Moment { number: index + 1, at, until, grave, text }
    };
    drafts.into_iter().enumerate().map(number).collect()
}

fn pins(replay: &Replay<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for pin in &replay.pins {
        let pages: Vec<u64> = pages_of(pin.offset, pin.len).collect();
        let pages = format!("{} of {}", words::pages(&pages), pin.path);
        let how = match pin.mode() {
            Some(mode) if !mode.by_driver() && !mode.holds_pages() => {
                format!("the kernel lets rxe fault for {pages} ({})", mode.flags())
            }
            Some(mode) if !mode.by_driver() => {
                format!("{} pins {pages} ({})", words::other(mode), mode.flags())
            }
            Some(mode) if !mode.holds_pages() => {
                format!("the driver lets the device fault for {pages} ({})", mode.flags())
            }
            Some(mode) => format!("the driver pins {pages} for the device ({})", mode.flags()),
            None => format!(
                "an O_DIRECT read into {pages} begins; the disk holds it, so the kernel keeps the pages pinned"
            ),
        };
        drafts.push(Draft::at(pin.from, how));
        drafts.extend(waits_for_writeback(replay, pin));
        if let (Some(to), Some(dirty)) = (pin.to, pin.dirty) {
            let how = match (pin.mode(), dirty) {
                (None, _) => {
                    "the held read is completed: the kernel sets the pages dirty and lets go of them"
                }
                (Some(mode), _) if !mode.by_driver() && !mode.holds_pages() => {
                    "the kernel takes the region from rxe"
                }
                (Some(mode), true) if !mode.by_driver() => {
                    "the kernel gives the pages back and sets them dirty"
                }
                (Some(mode), false) if !mode.by_driver() => {
                    "the kernel gives the pages back without setting them dirty"
                }
                (Some(mode), _) if !mode.holds_pages() => "the driver takes the region from the device",
                (_, true) => "the driver gives the pages back and sets them dirty",
                (_, false) => "the driver gives the pages back without setting them dirty",
            };
            drafts.push(Draft::at(to, how));
        }
    }
    drafts
}

/// The device has done its part, and memory is as it was.
fn kept_off(kept: &KeptOff) -> Draft {
    let pages = words::count(kept.program.len / PAGE_BYTES, "page");
    let generation = kept.program.generation;
    let text = format!(
        "the device writes DMA {generation} into {pages}, and none of it comes to memory: it was kept off"
    );
    Draft::at(kept.at, text)
}

/// A device that can fault comes to a page that is on its way to the disk, and waits until it has arrived.
fn waits_for_writeback(replay: &Replay<'_>, pin: &Pin<'_>) -> Option<Draft> {
    if pin.holds_pages() {
        return None;
    }
    pages_of(pin.offset, pin.len).find_map(|page| {
        let key = (pin.path.clone(), page);
        let carries = |request: &&DiskRequest| request.pages.iter().any(|(carried, _)| *carried == key);
        let arrivals: Vec<u64> = replay.requests.iter().filter(carries).filter_map(|r| r.complete).collect();
        if arrivals.is_empty() {
            return None;
        }
        let (_, faults) = replay.device_had(pin, page);
        let fault = faults.into_iter().find(|fault| {
            let answered = fault.answer == Some(Answered::Page);
            answered && arrivals.iter().any(|at| fault.from < *at && *at <= fault.to)
        })?;
        let waited = duration(fault.to - fault.from);
        let text = format!(
            "the device faults for page {page} of {}, which is on its way to the disk, and waits {waited}: it gets the \
             page when the write is complete",
            pin.path
        );
        Some(Draft { until: Some(fault.to), ..Draft::at(fault.from, text) })
    })
}

fn device_writes(replay: &Replay<'_>, claims: &Claims<'_, '_>, result: &CaseResult) -> Vec<Draft> {
    let bad = |word| result.observations.contains(&word);
    let last = claims.bursts.len().wrapping_sub(1);
    let many = claims.bursts.len() > 4;
    let draft = |(index, burst): (usize, &super::claims::Burst)| {
        let mut text = format!("the device writes {}", burst.words());
        let mut grave = false;
        let left = burst.pages.iter().any(|page| {
            replay.memory.left.get(&(burst.path.clone(), *page)).is_some_and(|left| *left <= burst.from)
        });
        if index == last {
            if left {
                text += ": into pages that are no longer pages of the file";
                grave = bad(Observation::Orphaned);
            } else if let Some((at, name)) = &claims.synced {
                let since = duration(burst.from.saturating_sub(*at));
                match claims.proven_clean {
                    true => {
                        text += &format!(
                            ": into clean pages, {since} after the {name}; no fault tells the file system"
                        )
                    }
                    false => text += &format!(", {since} after the {name}"),
                }
                grave = bad(Observation::Lost)
                    || (bad(Observation::Bleed) && into_shared(replay, claims).is_none());
            }
            if bad(Observation::Lost) && never_sent(replay, burst) {
                text += "; no later write takes them to the disk";
            }
        }
        let until = (burst.to > burst.from).then_some(burst.to);
        Draft { until, grave, minor: many && index != 0 && index != last, ..Draft::at(burst.from, text) }
    };
    // What was written while a request was in flight is told there.
    let flights = claims.in_flight.as_ref().and_then(|flight| flight.request);
    let told = |burst: &super::claims::Burst| {
        flights.is_some_and(|r| r.submit <= burst.from && r.complete.is_none_or(|end| burst.from <= end))
    };
    claims.bursts.iter().enumerate().filter(|(_, burst)| !told(burst)).map(draft).collect()
}

/// Holds, as one moment for all requests of a rule that began together.
fn requests(replay: &Replay<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let held = || replay.requests.iter().filter(|request| request.hold.is_some() && request.is_write());
    if let Some(first) = held().min_by_key(|request| request.hold) {
        let pages: u64 = held().map(|request| request.pages.len() as u64).sum();
        let content =
            first.pages.first().and_then(|(key, _)| memory_words(replay.memory.at(key, first.submit)));
        let content = content.map(|words| format!(" with {words}")).unwrap_or_default();
        let text = format!(
            "the file system sends {}{content} to the disk, and the disk holds {} by order: the pages are under writeback",
            match pages {
                // Neither extents nor the audit name the file.
                0 => format!("{} KiB", held().map(|request| request.len).sum::<u64>() / 1024),
                _ => words::count(pages, "page"),
            },
            if held().count() == 1 { "the write" } else { "the writes" },
        );
        drafts.push(Draft::at(first.hold.unwrap_or(first.submit), text));
    }
    if let Some(last) =
        held().filter_map(|request| Some((request.complete?, request))).max_by_key(|(at, _)| *at)
    {
        let (at, request) = last;
        let text = match request.hold_broken {
            true => "the hold is over before its time: its cap, or a reset; the disk completes the write",
            false => "the disk is told to go on; it fetches what the pages then hold and completes the write",
        };
        let torn = replay
            .hits()
            .iter()
            .any(|hit| (hit.disk, hit.request, hit.change) == (request.disk, request.number, Change::Torn));
        let text = match (request.fetch, request.release) {
            _ if torn => {
                "the disk is told to go on; of each page it had fetched a part before, and takes the rest now"
            }
            (Some(fetch), Some(release)) if fetch < release => {
                "the disk is told to go on; it had fetched the bytes before, and completes the write"
            }
            _ => text,
        };
        drafts.push(Draft::at(request.release.unwrap_or(at), text));
    }
    drafts
}

/// The disk is watched, and none of the requests after the burst carries one of its pages.
pub fn never_sent(replay: &Replay<'_>, burst: &super::claims::Burst) -> bool {
    let carries = |request: &DiskRequest| {
        let mut keys = request.pages.iter().map(|(key, _)| key);
        keys.any(|(path, page)| *path == burst.path && burst.pages.contains(page))
    };
    let after =
        replay.requests.iter().filter(|r| r.is_write() && r.complete.is_none_or(|end| end >= burst.from));
    !replay.requests.is_empty() && !after.into_iter().any(carries)
}

/// What the device wrote goes to a block that another file has as well.
pub fn into_shared(replay: &Replay<'_>, claims: &Claims<'_, '_>) -> Option<Draft> {
    let last = claims.last()?;
    replay.requests.iter().filter(|r| r.is_write() && r.taken() >= last.from).find_map(|request| {
        let (ours, byte) = request.pages.iter().find(|((path, _), _)| *path == last.path)?;
        let shared = request.pages.iter().find(|((path, _), at)| at == byte && *path != ours.0);
        let (theirs, _) = shared?;
        let text = format!(
            "the file system writes these pages in place, into blocks that belong to {} as well: its content changes",
            theirs.0
        );
        Some(Draft { until: request.complete, grave: true, ..Draft::at(request.submit, text) })
    })
}

fn in_flight(replay: &Replay<'_>, claims: &Claims<'_, '_>) -> Option<Draft> {
    let flight = claims.in_flight.as_ref()?;
    let hit = flight.hits.first()?;
    let (submitted, completed) = (replay.clock.since(hit.submitted_ns), replay.clock.since(hit.completed_ns));
    let during: Vec<_> =
        claims.bursts.iter().filter(|burst| (submitted..=completed).contains(&burst.from)).collect();
    let pages = format!("{} of {}", words::pages(&flight.pages), flight.path);
    let change = change_words(hit.change);
    let (at, what) = match during.first() {
        Some(burst) => {
            (burst.from, format!("the device writes generation {} into {pages}", burst.generation))
        }
        None => (submitted, format!("the device writes into {pages}")),
    };
    let until = during.last().map(|burst| burst.to).filter(|to| *to > at);
    let text = format!("{what} while the write of these pages is in flight: {change}");
    Some(Draft { until, grave: true, ..Draft::at(at, text) })
}

/// Steps that change what a reader must know. Preparation is not told.
fn step(replay: &Replay<'_>, exchange: &Exchange<'_>) -> Option<Draft> {
    let pinned = replay.pins.iter().any(|pin| pin.from <= exchange.to);
    let (step, outcome) = match exchange.asked {
        Asked::Agent { step, outcome } => (step, outcome),
        Asked::Disk { request: Request::PowerCut { in_flight, .. }, answer: Ok(Answer::Ok) } => {
            let how = match in_flight {
                Loss::Drop => "none of the writes in flight is on the disk",
                Loss::Tear => "of each write in flight the first half is on the disk",
            };
            return Some(Draft::at(exchange.to, format!("the power fails: {how}")));
        }
        Asked::Disk { request: Request::Restore { .. }, answer: Ok(Answer::Ok) } => {
            return Some(Draft::at(exchange.to, "the disk is what the loss of power had left"));
        }
        Asked::Disk { .. } => return None,
    };
    let told = exchange.line > 0 && !matches!(exchange.role, Role::Frame | Role::Drain);
    if let (true, Outcome::Refused(errno)) = (told, outcome) {
        let text = match step {
            Step::Pin { .. } => format!("the kernel refuses the pin: {} gives {}", errno.call, errno.name),
            // A reading has a moment of its own.
            Step::Read { .. } => return None,
            _ => format!("{}: {} gives {}", step.name(), errno.call, errno.name),
        };
        return Some(Draft { grave: !matches!(step, Step::Pin { .. }), ..Draft::at(exchange.to, text) });
    }
    if !matches!(outcome, Outcome::Done { .. }) || !pinned || exchange.role != Role::Act {
        return None;
    }
    let text = match step {
        Step::Fsync { file, .. } => {
            format!("fsync of {} returns 0: for the file system all of it is on the disk", replay.path(file))
        }
        step if makes_durable(step).is_some() => format!("{} returns", step.name()),
        Step::Reflink { from, to } => {
            format!("{} is cloned to {}: both share the blocks", replay.path(from), replay.path(to))
        }
        Step::Dedupe { from, to, .. } => {
            format!("{} gets the blocks of {}, which hold the same", replay.path(to), replay.path(from))
        }
        Step::CopyRange { from, to, .. } => {
            format!("{} is copied to {} in the kernel", replay.path(from), replay.path(to))
        }
        Step::Truncate { file, len } => format!("{} is cut to {len} bytes", replay.path(file)),
        Step::Fallocate { mode: Fallocate::PunchHole, file, .. } => {
            format!("a hole is punched into {}", replay.path(file))
        }
        Step::Store { fill, .. } => format!("a CPU stores generation {}", fill.generation),
        Step::Write { file, fill, .. } => {
            format!("write(2) of generation {} to {}", fill.generation, replay.path(file))
        }
        Step::KillOwner => "whoever owns the pins is killed".into(),
        Step::Umount { .. } => "the file system is unmounted: the page cache is dropped".into(),
        Step::Madvise { .. } => "the process advises the kernel to page the memory out".into(),
        _ => return None,
    };
    let minor = matches!(step, Step::Sync | Step::Syncfs { .. } | Step::Umount { .. });
    Some(Draft { minor, ..Draft::at(exchange.to, text) })
}

fn jobs(replay: &Replay<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for job in replay.jobs.iter().filter(|job| !matches!(job.step, Step::ReadDirect { .. })) {
        let name = job.step.name();
        match job.asleep() {
            Some(look) => {
                let place = look.place();
                drafts.push(Draft::at(look.at, format!("{name} in job {} waits in {place}()", job.name)));
                if let Some(to) = job.to {
                    drafts.push(Draft::at(to, format!("{name} in job {} goes on and ends", job.name)));
                }
            }
            None => {
                let how = if job.seen_over { "goes through without waiting" } else { "ends" };
                let text = format!("{name} in job {} {how}", job.name);
                drafts.extend(job.to.map(|to| Draft { minor: true, ..Draft::at(to, text) }));
            }
        }
    }
    drafts
}

/// What was read at the end: guest and host in one sentence where they agree.
fn readings(replay: &Replay<'_>, result: &CaseResult) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let compares =
        |reading: &&Reading<'_>| matches!(reading.role, Role::CompareWrites | Role::CompareSnapshot);
    let guests = replay.readings.iter().filter(compares).filter(|reading| reading.reader == Reader::Guest);
    for guest in guests {
        let host = replay.readings.iter().find(|r| r.reader == Reader::Host && r.path == guest.path);
        let found = |reader: verdict::Reader| {
            let mut of_path = result.findings.iter().filter(|finding| finding.path == guest.path);
            of_path.find(|finding| finding.reader == reader)
        };
        let (by_guest, by_host) = (found(verdict::Reader::Guest), found(verdict::Reader::Host));
        let agree = by_guest.map(|finding| &finding.found) == by_host.map(|finding| &finding.found);
        let found = match (&guest.cells, by_guest) {
            (Err(errno), _) => format!("{} instead of content", errno.name),
            (Ok(_), Some(finding)) => {
                let found = if finding.found == "errno 5" { "EIO" } else { &finding.found };
                format!("{found} where {} should be", finding.wanted)
            }
            (Ok(_), None) => "what should be there".into(),
        };
        let who = match host {
            Some(_) if agree => "guest and host read",
            _ => "the guest reads",
        };
        let mut text = format!("{who} {}: {found}", guest.path);
        if host.is_some() && !agree {
            let found = by_host.map_or("what should be there", |finding| &finding.found);
            text += &format!("; the host finds {found} in the disk's image");
        }
        let grave = guest.cells.is_err() || by_guest.is_some() || by_host.is_some();
        drafts.push(Draft { at: guest.at, grave, ..Draft::at(replay.end, text) });
    }
    drafts
}

fn end(replay: &Replay<'_>, trouble: &Trouble) -> Draft {
    let text = match trouble {
        Trouble::Panic { .. } => "the guest kernel panics".to_owned(),
        Trouble::Hang { waited, .. } => format!("no answer: {waited}"),
        Trouble::AgentLost { message } => format!("the agent is lost: {message}"),
        Trouble::DeviceLost { message } => format!("the device is lost: {message}"),
        Trouble::QemuExited { message } => format!("QEMU ended: {message}"),
        Trouble::Interrupted => "the run was interrupted".to_owned(),
        Trouble::Other { message } => message.clone(),
    };
    Draft { grave: true, ..Draft::at(replay.end, text) }
}
