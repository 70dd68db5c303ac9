// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two witnesses of the same bytes: a file system or device-mapper target that found a page which does not match its
//! checksum, and the audit, which saw pages change after the checksum was taken. They must name the same page, unless
//! the device wrote to the named one: the checksum is taken before the disk sees the request, and what changes in
//! between is on the disk without a trace in the audit.

use super::audit::{changed_pages, page_of, written_by_dma};
use super::observe::LogLine;
use crate::replay::Replay;
use longpin_proto::facts::Extent;
use longpin_proto::filesystem::{self, FileSystem};
use std::collections::BTreeSet;

/// How the witnesses compare.
#[derive(Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Both speak of the same pages.
    Same(String),
    /// They contradict each other.
    Contradiction(String),
}

/// A page that a detector named.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    who: &'static str,
    /// File offset of the page.
    page: u64,
}

/// Compare what was named; none: one of the two has named nothing.
pub fn agreement(replay: &Replay<'_>, log: &[LogLine]) -> Option<Agreement> {
    let (changed, all_known) = changed_pages(replay);
    let named: BTreeSet<Named> = log.iter().filter_map(|line| detector(replay, &line.text)).collect();
    let first = named.first().filter(|_| !changed.is_empty())?;
    let mut strangers = named.iter().filter(|named| !changed.contains(&named.page)).peekable();
    if strangers.peek().is_none() {
        let (who, page) = (first.who, first.page);
        return Some(Agreement::Same(match named.len() {
            1 => format!("{who} and the audit name the same page, offset {page}"),
            n => format!("{who} and the audit name the same {n} pages, the first at offset {page}"),
        }));
    }
    let stranger = strangers.find(|named| !written_by_dma(replay, named.page))?;
    all_known.then(|| {
        let pages: Vec<String> = changed.iter().map(u64::to_string).collect();
        let (who, page) = (stranger.who, stranger.page);
        let seen = pages.join(", ");
        Agreement::Contradiction(format!(
            "{who} names the page at offset {page}, and the audit saw only those at {seen} change"
        ))
    })
}

/// The page that a line of the kernel log names.
fn detector(replay: &Replay<'_>, text: &str) -> Option<Named> {
    let of_fs = |fs: &'static FileSystem| fs.detector.as_ref().map(|detector| (fs.name, detector));
    if let Some((who, detector)) =
        filesystem::ALL.iter().filter_map(of_fs).find(|(_, detector)| text.contains(detector.says))
    {
        let offset = number_after(text, detector.offset_after)?;
        return Some(Named { who, page: page_of(offset) });
    }
    // drivers/md/dm-integrity.c: a sector of the target, in 512 bytes.
    if let Some((_, sector)) = text.split_once("Checksum failed at sector 0x") {
        let digits = sector.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        let byte = u64::from_str_radix(digits, 16).ok()?.checked_mul(512)?;
        let offset = replay.extents.values().find_map(|extents| file_offset(extents, byte))?;
        return Some(Named { who: "dm-integrity", page: page_of(offset) });
    }
    None
}

fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The last word on a place counts.
fn file_offset(extents: &[&Extent], byte: u64) -> Option<u64> {
    let extent =
        extents.iter().rev().find(|e| e.located && (e.physical..e.physical + e.len).contains(&byte))?;
    Some(extent.logical + (byte - extent.physical))
}
