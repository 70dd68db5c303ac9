// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sentence that says why: what was found, with file, byte, generations and sector, from the gravest observation
//! down.

use super::audit;
use super::fsck::Fsck;
use super::observe::{Blocked, Observed, Reader};
use super::refusal::Refusal;
use super::story::Story;
use super::words::Observation;
use crate::dmesg;
use crate::record::Trouble;

/// One sentence with bytes and generations, from the gravest observation down.
pub fn sentence(story: &Story<'_>, seen: &Observed) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(problem) = &seen.problem {
        parts.push(problem.message.clone());
    }
    for word in seen.observations.iter().rev() {
        parts.extend(clause(*word, story, seen));
    }
    parts.extend(seen.audit.as_ref().and_then(audit::sentence));
    parts.extend(seen.agreement.clone());
    parts.extend(seen.blocked.iter().map(waits));
    match (parts.is_empty(), &seen.skip) {
        (true, Some(missing)) => missing.clone(),
        _ => parts.join("; "),
    }
}

fn clause(word: Observation, story: &Story<'_>, seen: &Observed) -> Option<String> {
    match word {
        Observation::Intact => Some(intact(story, seen)),
        Observation::Refused | Observation::Detected => {
            let wanted = if word == Observation::Refused { Refusal::Denied } else { Refusal::Told };
            let told = story.refusals.iter().find(|told| told.refusal == wanted);
            let told =
                told.map(|told| format!("{}: {} gave {}", told.step, told.errno.call, told.errno.name));
            told.or_else(|| finding(word, seen)).or_else(|| seen.fsck.as_ref().map(complaint))
        }
        Observation::Orphaned => {
            let (path, offset) = story.orphans.first()?;
            let pages = story.orphans.len();
            Some(format!("the device wrote {pages} pages that had left {path}, the first at byte {offset}"))
        }
        Observation::Warned => logged(dmesg::Class::Detector, seen),
        Observation::Splat => logged(dmesg::Class::Splat, seen),
        Observation::Leak => {
            let (before, after) = (story.pins_before?, story.pins_after?);
            let held = |acquired: u64, released: u64| acquired.wrapping_sub(released) as i64;
            let (before, after) =
                (held(before.acquired, before.released), held(after.acquired, after.released));
            Some(format!("{before} pins were held before the case and {after} after it"))
        }
        Observation::Panic => logged(dmesg::Class::Panic, seen).or(Some("the guest kernel panicked".into())),
        Observation::Hang => match story.trouble {
            Some(Trouble::Hang { waited, .. }) => Some(format!("no answer: {waited}")),
            _ => None,
        },
        Observation::Torn => finding(word, seen).or_else(|| not_verified(story)),
        Observation::Lost | Observation::Bleed => finding(word, seen),
        Observation::Damaged => seen.fsck.as_ref().map(complaint),
        // The audit's sentence follows, whatever the words are.
        Observation::Unstable => None,
    }
}

/// A program that checks its data itself.
fn not_verified(story: &Story<'_>) -> Option<String> {
    let (command, code, last) = story.verified.iter().find(|(_, code, _)| *code != 0)?;
    Some(format!("`{command}` found its data wrong, code {code}: {last}"))
}

/// The checker's word.
fn complaint(fsck: &Fsck) -> String {
    let line = fsck.complaint.as_deref().unwrap_or("no word of what");
    format!("`{}` complains, code {}: {line}", fsck.argv.join(" "), fsck.code)
}

/// A job that waits, since when and where.
fn waits(blocked: &Blocked) -> String {
    let (job, ms) = (&blocked.job, blocked.waited_us / 1000);
    format!("job `{job}` waits since {ms} ms in {}", blocked.stack.join(" < "))
}

fn intact(story: &Story<'_>, seen: &Observed) -> String {
    if let (true, Some((command, ..))) = (story.readings.is_empty(), story.verified.first()) {
        return format!("`{command}` found its data right");
    }
    let readers = match story.readings.iter().any(|reading| reading.host) {
        true => "guest and host read",
        false => "guest reads",
    };
    match (seen.generations.device, seen.generations.guest) {
        (Some(device), Some(guest)) if device == guest => format!("{readers} DMA generation {device}"),
        (Some(device), _) => format!("{readers} what was written; DMA generation {device} went elsewhere"),
        (None, Some(guest)) => format!("{readers} generation {guest}; no DMA"),
        (None, None) => format!("{readers} zeros; no DMA"),
    }
}

fn finding(word: Observation, seen: &Observed) -> Option<String> {
    let first = seen.findings.iter().find(|finding| finding.word == word)?;
    let same =
        |reader| seen.findings.iter().any(|f| f.word == word && f.path == first.path && f.reader == reader);
    let who = match (same(Reader::Guest), same(Reader::Host)) {
        (true, true) => "guest and host find",
        (true, false) => "guest finds",
        _ => "host finds",
    };
    Some(format!(
        "{who} {} where {} should be, in {} cells of {}, the first at byte {}",
        first.found, first.wanted, first.cells, first.path, first.first_byte
    ))
}

fn logged(class: dmesg::Class, seen: &Observed) -> Option<String> {
    // Markers frame a report and say nothing of it.
    let of_class = || seen.log.iter().filter(|line| line.class == class);
    let line = of_class().find(|line| !line.text.contains("---[")).or_else(|| of_class().next())?;
    Some(format!("kernel log: {}", line.text))
}
