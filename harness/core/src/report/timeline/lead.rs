// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two or three sentences for somebody who has never seen the project: what the device did, what the file system
//! believed, what is on the disk.

use super::claims::{Burst, Claims, InFlight};
use super::moments;
use super::words::{self, duration};
use crate::record::Role;
use crate::replay::{Asked, Job, PageKey, Replay};
use crate::report::CaseResult;
use crate::verdict::{Observation, Outcome};
use longpin_proto::agent::Step;
use longpin_proto::control::Request;
use longpin_proto::disk::Change;

/// The explanation of a case.
pub fn lead(replay: &Replay<'_>, claims: &Claims<'_, '_>, result: &CaseResult) -> String {
    let sentences = match result.headline {
        _ if matches!(result.outcome, Outcome::Skip) => {
            vec![format!("Not tried here: {}.", result.reason)]
        }
        None => vec![format!("This case proves nothing: {}.", result.reason)],
        Some(_) if result.error.is_some() => vec![format!("This case proves nothing: {}.", result.reason)],
        Some(word) => match (&claims.in_flight, claims.last()) {
            (Some(flight), _) if is_about_bytes(word) => in_flight(replay, flight, word, result),
            (_, Some(last)) if is_about_bytes(word) => by_device(replay, claims, last, word, result),
            _ => other(replay, claims, word, result),
        },
    };
    sentences.join(" ")
}

/// Words for which the bytes and their way are the story.
fn is_about_bytes(word: Observation) -> bool {
    use Observation::*;
    matches!(word, Intact | Warned | Lost | Orphaned | Unstable | Torn | Detected | Bleed)
}

fn in_flight(
    replay: &Replay<'_>,
    flight: &InFlight<'_, '_>,
    word: Observation,
    result: &CaseResult,
) -> Vec<String> {
    let hit = flight.hits[0];
    let pages = format!("{} of {}", words::pages(&flight.pages), flight.path);
    let held = flight.request.and_then(|r| Some(r.release?.saturating_sub(r.hold?)));
    let while_ = match held {
        Some(held) => format!("While the disk held a write of {pages} for {}", duration(held)),
        None => format!("While a write of {pages} was on its way to the disk"),
    };
    let generations = match (hit.generation_before, hit.generation_after) {
        (Some(before), Some(after)) if before != after => {
            format!("put generation {after} where generation {before} had been submitted")
        }
        (_, Some(after)) => format!("wrote generation {after} into the same memory"),
        _ => "wrote into the same memory".to_owned(),
    };
    let mut told = vec![
        format!("{while_}, the device {generations}."),
        "The file system believed that these bytes stand still until the disk is done: it had write-protected the \
         pages, which stops the stores of CPUs and does not stop a device that holds a pin."
            .to_owned(),
    ];
    let disk = match hit.change {
        Change::BeforeFetch => "So the disk stored bytes that nobody had submitted",
        Change::AfterFetch => "The disk stored what was submitted, and the memory has moved on",
        Change::Torn => {
            "The disk fetched part of each page before the change and part after it, and stored a mix"
        }
        Change::Back => "The disk stored a content that was there only for a moment",
    };
    told.push(format!("{disk}; {}.", ending(replay, flight, word, result)));
    told
}

/// A later write carries one of the pages that changed in flight.
fn sent_again(replay: &Replay<'_>, flight: &InFlight<'_, '_>) -> bool {
    let Some(end) = flight.request.and_then(|request| request.complete) else { return false };
    let ours = |key: &PageKey| key.0 == flight.path && flight.pages.contains(&key.1);
    let mut later = replay.requests.iter().filter(|request| request.is_write() && request.submit >= end);
    later.any(|request| request.pages.iter().any(|(key, _)| ours(key)))
}

/// What the readers found, after a change in flight.
fn ending(replay: &Replay<'_>, flight: &InFlight<'_, '_>, word: Observation, result: &CaseResult) -> String {
    let again = sent_again(replay, flight);
    let finding = result.findings.first();
    let compared = replay.readings.iter().any(|reading| {
        reading.path == flight.path && matches!(reading.role, Role::CompareWrites | Role::CompareSnapshot)
    });
    match (word, finding) {
        (Observation::Unstable, _) if !compared => format!("nobody compared {} afterwards", flight.path),
        (Observation::Detected, _) => {
            let errno = result.errno.as_deref().unwrap_or("an error");
            format!("a checksum taken before the change no longer fits, and the file system says so: {errno}")
        }
        (Observation::Unstable, _) if again => {
            "but the pages were written once more after the release, and in the end every reader finds the last write".to_owned()
        }
        (Observation::Unstable, _) => "in the end every reader finds the last write".to_owned(),
        (_, Some(finding)) => {
            format!("after the remount {} is found where {} should be", finding.found, finding.wanted)
        }
        (_, None) => match replay.readings.is_empty() {
            true => "nobody read it back".to_owned(),
            false => "in the end every reader finds what was written".to_owned(),
        },
    }
}

fn by_device(
    replay: &Replay<'_>,
    claims: &Claims<'_, '_>,
    last: &Burst,
    word: Observation,
    result: &CaseResult,
) -> Vec<String> {
    let wrote = format!("The device wrote {}", last.words());
    let dirty = claims.pin.and_then(|pin| pin.dirty);
    let after = claims
        .synced
        .as_ref()
        .map(|(at, name)| format!("{} after {name} had returned", duration(last.from.saturating_sub(*at))));
    let after = after.map(|after| format!(", {after}")).unwrap_or_default();
    let clean = match claims.proven_clean {
        true => {
            " The file system took these pages for clean, and cachestat(2) agreed: a write by DMA makes no page fault."
        }
        false => "",
    };
    let released = match dirty {
        Some(true) => "The driver set the pages dirty when it gave them back",
        Some(false) => "The driver gave the pages back without setting them dirty",
        None => "The pages were never given back",
    };
    match word {
        Observation::Lost => {
            let found = result.findings.iter().find(|f| f.word == Observation::Lost);
            let found = found.map(|f| format!("{} was found where {} should be", f.found, f.wanted));
            vec![
                format!("{wrote}{after}.{clean}"),
                lost(replay, last, dirty, released),
                format!(
                    "Afterwards {}; no call returned an error{}.",
                    found.unwrap_or_else(|| "they were gone".into()),
                    match result.observations.contains(&Observation::Warned) {
                        true => ", only the kernel log speaks of it",
                        false => "",
                    }
                ),
            ]
        }
        Observation::Bleed => {
            let found = result.findings.iter().find(|f| f.word == Observation::Bleed);
            let place = found.map_or("another file".to_owned(), |f| f.path.clone());
            let wanted = found.map(|f| format!("{} where {} should be", f.found, f.wanted));
            vec![
                format!("{wrote}."),
                match moments::into_shared(replay, claims) {
                    Some(_) => format!(
                        "{released}; the file system then wrote them in place, into blocks that are not theirs alone."
                    ),
                    None => format!("{released}."),
                },
                format!(
                    "{place} now has {}, though nobody wrote to it.",
                    wanted.unwrap_or_else(|| "foreign bytes".into())
                ),
            ]
        }
        Observation::Orphaned => vec![
            format!("The pages were taken out of {} while the device held its pin on them.", last.path),
            format!("{wrote}: into memory that belonged to no file any more."),
            "The device saw no error, and the bytes went nowhere.".to_owned(),
        ],
        Observation::Detected => vec![
            format!("{wrote}{after}.{clean}"),
            format!("{released}."),
            format!(
                "The bytes did not get through as written, but it was said: {}.",
                result.errno.as_deref().map_or("by the file system's checker".to_owned(), |errno| format!(
                    "a call gave {errno}"
                ))
            ),
        ],
        Observation::Torn | Observation::Unstable => {
            vec![format!("{wrote}{after}."), format!("{released}."), format!("{}.", capital(&result.reason))]
        }
        Observation::Warned => vec![
            format!("{wrote}{after}."),
            format!("{released}."),
            intact(result),
            "The kernel log warns of bad or lost data all the same.".to_owned(),
        ],
        _ => vec![format!("{wrote}{after}."), format!("{released}."), intact(result)],
    }
}

/// How the bytes were lost, as far as the record shows it.
fn lost(replay: &Replay<'_>, last: &Burst, dirty: Option<bool>, released: &str) -> String {
    let cut = replay.exchanges.iter().any(|exchange| {
        matches!(exchange.asked, Asked::Disk { request: Request::PowerCut { .. }, answer: Ok(_) } if exchange.to >= last.from)
    });
    let never = replay.requests.is_empty() || moments::never_sent(replay, last);
    match (cut, never, dirty) {
        (true, _, _) => {
            format!("{released}. Then the power failed, and the disk did not have the new bytes yet.")
        }
        (_, true, Some(true)) => {
            format!(
                "{released}, yet the new bytes never went to the disk and were dropped with the page cache."
            )
        }
        (_, true, _) => {
            format!(
                "{released}, so the new bytes never went to the disk and were dropped with the page cache."
            )
        }
        (_, false, _) => format!("{released}."),
    }
}

fn intact(result: &CaseResult) -> String {
    match (result.generations.guest, result.generations.host) {
        (Some(guest), Some(host)) if guest == host => {
            format!(
                "After the remount the guest reads generation {guest}, and the host finds the same in the disk's image: nothing was lost."
            )
        }
        (Some(guest), _) => format!("The guest reads generation {guest}: nothing was lost."),
        _ => "Every reader finds what was written: nothing was lost.".to_owned(),
    }
}

/// Who wanted the pin that was refused.
fn asker(replay: &Replay<'_>) -> String {
    let other = replay.refused.iter().find_map(|refused| match refused.step {
        Step::Pin { mode, .. } if !mode.by_driver() => Some(&refused.errno.call),
        _ => None,
    });
    other.map_or("The driver asked".to_owned(), |call| format!("{call} asked"))
}

fn other(
    replay: &Replay<'_>,
    claims: &Claims<'_, '_>,
    word: Observation,
    result: &CaseResult,
) -> Vec<String> {
    match word {
        Observation::Refused if claims.pin.is_none() => vec![
            format!(
                "{} for a pin and the kernel refused it with {}.",
                asker(replay),
                result.errno.as_deref().unwrap_or("an error")
            ),
            "The device never got an address of these pages and wrote nothing, so nothing could go wrong."
                .to_owned(),
        ],
        Observation::Intact if claims.pin.is_some() => vec![
            "The pages were pinned and the device wrote nothing.".to_owned(),
            "Every reader finds what the CPU had written.".to_owned(),
        ],
        Observation::Intact if claims.pin.is_none() => {
            let mut told = vec!["Nothing was pinned, and the device wrote nothing.".to_owned()];
            told.extend(waits(replay));
            told.push("Every reader finds what was written.".to_owned());
            told
        }
        _ => vec![format!("{}.", capital(&result.reason))],
    }
}

/// What concurrent steps waited for.
fn waits(replay: &Replay<'_>) -> Vec<String> {
    let wait = |job: &Job<'_>| {
        let name = job.step.name();
        match job.asleep() {
            Some(look) => Some(format!("A {name} that came meanwhile had to wait, in {}().", look.place())),
            None if job.seen_over => Some(format!("A {name} that came meanwhile went through at once.")),
            None => None,
        }
    };
    replay.jobs.iter().filter_map(wait).collect()
}

/// First letter in upper case.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
