// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sentence that says why: what was found, with file, byte, generations and sector, from the gravest observation
//! down.

use super::audit;
use super::fsck::Fsck;
use super::mirror;
use super::observe::{Blocked, Observed, Reader, meaning, refused_words};
use crate::dmesg;
use crate::dmesg::reports::Report;
use crate::operations::Refusal;
use crate::record::Trouble;
use crate::replay::{KeptOff, Replay, errno_name};
use crate::words::Observation;
use longpin_proto::disk::PAGE_BYTES;

/// In the lines of Intel's IOMMU, one of them for each fault (dmar_fault_do_one()).
const IOMMU_FAULT: &str = "DMAR: [DMA ";

/// One sentence with bytes and generations, from the gravest observation down.
pub fn sentence(replay: &Replay<'_>, seen: &Observed) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(problem) = &seen.problem {
        parts.push(problem.message.clone());
    }
    for word in seen.observations.iter().rev() {
        parts.extend(clause(*word, replay, seen));
    }
    parts.extend(seen.audit.as_ref().and_then(audit::sentence));
    parts.extend(seen.mirror.as_ref().map(mirror::sentence));
    parts.extend(replay.page_faults.iter().map(|(program, errno)| {
        format!(
            "program `{program}` came to a page that the device may not have ({})",
            errno_name(*errno as i32)
        )
    }));
    parts.extend(seen.agreement.clone());
    parts.extend(seen.blocked.iter().map(waits));
    match (parts.is_empty(), &seen.skip) {
        (true, Some(missing)) => missing.clone(),
        _ => parts.join("; "),
    }
}

fn clause(word: Observation, replay: &Replay<'_>, seen: &Observed) -> Option<String> {
    match word {
        Observation::Intact => Some(intact(replay, seen)),
        Observation::Refused | Observation::Detected => {
            let wanted = if word == Observation::Refused { Refusal::Denied } else { Refusal::Told };
            let told = replay.refused.iter().find(|refused| meaning(refused) == wanted).map(refused_words);
            told.or_else(|| finding(word, seen)).or_else(|| seen.fsck.as_ref().map(complaint))
        }
        Observation::DmaBlocked => Some(kept_off(replay, seen)?),
        Observation::Orphaned => {
            let (path, offset) = replay.orphans.first()?;
            let pages = replay.orphans.len();
            Some(format!("the device wrote {pages} pages that had left {path}, the first at byte {offset}"))
        }
        Observation::Warned => logged(dmesg::Class::Detector, seen),
        Observation::Splat => reported(seen).or_else(|| logged(dmesg::Class::Splat, seen)),
        Observation::Leak => {
            let (before, after) = (replay.pins_before?, replay.pins_after?);
            let held = |acquired: u64, released: u64| acquired.wrapping_sub(released) as i64;
            let (before, after) =
                (held(before.acquired, before.released), held(after.acquired, after.released));
            Some(format!("{before} pins were held before the case and {after} after it"))
        }
        Observation::Panic => logged(dmesg::Class::Panic, seen).or(Some("the guest kernel panicked".into())),
        Observation::Hang => match replay.trouble {
            Some(Trouble::Hang { waited, .. }) => Some(format!("no answer: {waited}")),
            _ => None,
        },
        Observation::Torn => finding(word, seen).or_else(|| not_verified(replay)),
        Observation::Lost | Observation::Bleed => finding(word, seen),
        Observation::Damaged => seen.fsck.as_ref().map(complaint),
        // The audit's sentence follows, whatever the words are.
        Observation::Unstable => None,
    }
}

/// A write that did not land, and what the guest's log has of it.
fn kept_off(replay: &Replay<'_>, seen: &Observed) -> Option<String> {
    let KeptOff { region, program, .. } = replay.kept_off.first()?;
    let pages = program.len / PAGE_BYTES;
    let told = match seen.log.iter().find(|line| line.text.contains(IOMMU_FAULT)) {
        Some(line) => format!("kernel log: {}", line.text),
        None => "the kernel log has nothing of it".to_owned(),
    };
    Some(format!(
        "the device wrote DMA generation {} into {pages} pages of region `{region}`, and none of it came to memory; it was \
         told nothing; {told}",
        program.generation
    ))
}

/// A program that checks its data itself.
fn not_verified(replay: &Replay<'_>) -> Option<String> {
    let (command, code, last) = replay.verified.iter().find(|(_, code, _)| *code != 0)?;
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

fn intact(replay: &Replay<'_>, seen: &Observed) -> String {
    if let (true, Some((command, ..))) = (replay.compared.is_empty(), replay.verified.first()) {
        return format!("`{command}` found its data right");
    }
    let readers = match replay.compared.iter().any(|compared| compared.host) {
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

/// A report whose place is known, by its title: the line has addresses and tasks, and often not the function.
fn reported(seen: &Observed) -> Option<String> {
    let counts = seen.reports.iter().find(|report| report.ignored.is_none())?;
    let Report { title, fingerprint, trace, .. } = counts;
    (!trace.is_empty()).then(|| format!("kernel log: {title} ({fingerprint})"))
}

fn logged(class: dmesg::Class, seen: &Observed) -> Option<String> {
    // Markers frame a report and say nothing of it.
    let of_class = || seen.log.iter().filter(|line| line.class == class);
    let line = of_class().find(|line| !line.text.contains("---[")).or_else(|| of_class().next())?;
    Some(format!("kernel log: {}", line.text))
}
