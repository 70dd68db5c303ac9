// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a random plan may show on a kernel of today, and which scenario of the library shows the mechanism alone. A plan that
//! shows anything else has failed. `docs/soak.md` has the table from here.

use crate::words::Kind;
use crate::words::Observation::{
    self, Bleed, Detected, Lost, Orphaned, Refused, Splat, Torn, Unstable, Warned,
};
use std::collections::BTreeSet;

vocabulary! {
    /// What a plan does that a mechanism needs.
    pub enum Deed {
        /// Programs write into pinned pages of a file.
        Dma = "dma",
        /// A program writes while other steps go on.
        Running = "running dma",
        /// A region that was written into is released clean.
        Clean = "clean release",
        /// A region that was written into is released dirty.
        Dirty = "dirty release",
        /// A region is pinned for reading only.
        ReadOnly = "read-only pin",
        /// A region is pinned by `get_user_pages`.
        Get = "get",
        /// A hole is made: punch, zero-range, or a truncate and back.
        Hole = "hole",
        /// Pinned pages may leave their file: a hole or a direct write over them.
        Leave = "pages leave",
        /// A file is cloned or copied.
        Copy = "copy",
        /// Memory is reclaimed: pageout, or the caches are dropped.
        Reclaim = "reclaim",
        /// A file is written by direct I/O.
        Direct = "direct write",
    }
}

/// A mechanism.
#[derive(Debug)]
pub struct Row {
    /// Any of these.
    pub words: &'static [Observation],
    /// File systems on which it is known.
    pub fs: &'static [&'static str],
    /// What a plan must do for it, all of these.
    pub needs: &'static [Deed],
    /// The scenario that shows it.
    pub scenario: &'static str,
    /// How it comes about.
    pub mechanism: &'static str,
}

const ON_DISK: &[&str] = &["ext4", "xfs", "btrfs", "f2fs"];

/// The table.
pub const ROWS: &[Row] = &[
    Row {
        words: &[Lost],
        fs: ON_DISK,
        needs: &[Deed::Clean],
        scenario: "lost-update",
        mechanism: "DMA into a page that writeback has cleaned, and a release that sets no dirty bit",
    },
    Row {
        words: &[Unstable],
        fs: ON_DISK,
        needs: &[Deed::Dma],
        scenario: "inflight-change",
        mechanism: "DMA changes a page between the submission of its WRITE and the disk's fetch",
    },
    Row {
        words: &[Torn],
        fs: ON_DISK,
        needs: &[Deed::Running, Deed::Clean],
        scenario: "bounce",
        mechanism: "the disk fetches a page while DMA is in the middle of it, and no later writeback mends it",
    },
    Row {
        words: &[Detected, Warned, Refused],
        fs: &["btrfs"],
        needs: &[Deed::Dma],
        scenario: "inflight-change",
        mechanism: "DMA changes a page after btrfs has summed it, and it is read before another writeback: EIO, and of a pin EFAULT",
    },
    Row {
        words: &[Orphaned],
        fs: &["ext4", "xfs", "btrfs", "f2fs", "tmpfs"],
        needs: &[Deed::Leave, Deed::Dma],
        scenario: "punch-under-pin",
        mechanism: "the pinned pages left the file, and the device wrote into them all the same",
    },
    Row {
        words: &[Lost],
        fs: &["ext4"],
        needs: &[Deed::Leave, Deed::Dma],
        scenario: "punch-dirty-folio",
        mechanism: "a large folio that cannot be split stays in the cache over the hole, and no block is allocated for it again",
    },
    Row {
        words: &[Bleed],
        fs: &["btrfs"],
        needs: &[Deed::Hole, Deed::Dirty],
        scenario: "zero-range-under-pin",
        mechanism: "a dirty release writes the old bytes of a zeroed range back",
    },
    Row {
        words: &[Lost],
        fs: &["xfs", "btrfs"],
        needs: &[Deed::Copy, Deed::Dma],
        scenario: "copy-range-under-pin",
        mechanism: "a clone shares the blocks on the disk, which do not have what DMA wrote into a clean page",
    },
    Row {
        words: &[Bleed],
        fs: &["xfs"],
        needs: &[Deed::Copy, Deed::Dma],
        scenario: "reflink-bleed",
        mechanism: "a page dirtied without a fault is written in place into blocks that a clone shares",
    },
    Row {
        words: &[Lost, Warned, Splat],
        fs: &["ext4"],
        needs: &[Deed::ReadOnly, Deed::Hole, Deed::Dirty],
        scenario: "ro-pin-write",
        mechanism: "a page over a hole is dirtied without a fault: no block was reserved, and writeback drops it with a warning",
    },
    Row {
        words: &[Lost],
        fs: &["xfs", "f2fs"],
        needs: &[Deed::ReadOnly, Deed::Hole, Deed::Dirty],
        scenario: "ro-pin-write",
        mechanism: "a page over a hole is dirtied without a fault, and writeback finds no place for it",
    },
    Row {
        words: &[Lost, Warned, Splat],
        fs: &["ext4"],
        needs: &[Deed::Get, Deed::Reclaim, Deed::Dirty],
        scenario: "get-pageout",
        mechanism: "reclaim takes the buffers of a page that only a reference holds; set dirty later, it has none",
    },
    Row {
        words: &[Lost, Detected, Splat],
        fs: &["btrfs"],
        needs: &[Deed::Get, Deed::Reclaim, Deed::Dirty],
        scenario: "get-pageout",
        mechanism: "reclaim takes what btrfs keeps at a page that only a reference holds; set dirty later, it is not written",
    },
    Row {
        words: &[Lost],
        fs: &["btrfs"],
        needs: &[Deed::Dirty],
        scenario: "umount-fixup",
        mechanism: "a page dirtied without a fault goes by the fixup worker, which an fsync and the unmount may outrun",
    },
];

/// A plan that did these things, on this file system: the rows that speak of it.
pub fn rows(fs: &str, deeds: &BTreeSet<Deed>) -> impl Iterator<Item = &'static Row> {
    let speaks = move |row: &&Row| row.fs.contains(&fs) && row.needs.iter().all(|deed| deeds.contains(deed));
    ROWS.iter().filter(speaks)
}

/// Every set of observations, but `intact` alone, that these words make. Sets that no verdict has are left out.
pub fn sets(words: &BTreeSet<Observation>) -> Vec<BTreeSet<Observation>> {
    let words: Vec<Observation> = words.iter().copied().collect();
    let mut sets = Vec::new();
    for mask in 1_u32..1 << words.len() {
        let chosen = words.iter().enumerate().filter(|(bit, _)| mask & 1 << bit != 0);
        let mut set: BTreeSet<Observation> = chosen.map(|(_, word)| *word).collect();
        let has = |word| set.contains(&word);
        // `verdict` says `unstable` where the end state is right, and `warned` where nobody else was told.
        let wrong = [Lost, Torn, Bleed].iter().any(|word| has(*word));
        // A pin is refused where its page cannot be read, of which something is always said.
        let untold = has(Refused) && !has(Warned) && !has(Detected);
        if untold || has(Unstable) && wrong || has(Warned) && has(Detected) {
            continue;
        }
        if !set.iter().any(|word| word.kind() == Kind::Content) {
            // A cell that cannot be read is not intact; an errno of a call alone leaves the bytes right.
            if has(Detected) {
                sets.push(set.clone());
            }
            set.insert(Observation::Intact);
        }
        sets.push(set);
    }
    sets
}

/// The table of `docs/soak.md`.
pub fn documentation() -> String {
    let mut table =
        String::from("| seen | on | if the plan has | shown by | mechanism |\n|---|---|---|---|---|\n");
    for Row { words, fs, needs, scenario, mechanism } in ROWS {
        let list = |words: Vec<&str>| words.join(", ");
        let words = list(words.iter().map(|word| word.as_str()).collect());
        let needs = list(needs.iter().map(|deed| deed.as_str()).collect());
        table.push_str(&format!("| {words} | {} | {needs} | `{scenario}` | {mechanism} |\n", fs.join(", ")));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_those_that_a_verdict_can_have() {
        let sets = sets(&BTreeSet::from([Lost, Unstable, Detected, Warned]));
        let has = |words: &[Observation]| sets.contains(&words.iter().copied().collect());
        assert!(has(&[Lost]) && has(&[Unstable]) && has(&[Lost, Detected]) && has(&[Unstable, Detected]));
        assert!(
            has(&[Detected]) && has(&[Detected, Observation::Intact]) && has(&[Warned, Observation::Intact])
        );
        let sets = super::sets(&BTreeSet::from([Refused, Warned]));
        assert!(
            !sets.contains(&BTreeSet::from([Refused])),
            "a refused pin of which nobody says why is a failure"
        );
        assert!(!has(&[Lost, Unstable]) && !has(&[Lost, Warned, Detected]) && !has(&[Warned]));
        assert!(!has(&[Observation::Intact]) && !has(&[]));
    }

    #[test]
    fn a_row_speaks_only_of_plans_that_do_all_it_needs() {
        let words = |fs: &str, deeds: &[Deed]| -> BTreeSet<Observation> {
            rows(fs, &deeds.iter().copied().collect()).flat_map(|row| row.words).copied().collect()
        };
        assert_eq!(words("ext4", &[Deed::Dma]), BTreeSet::from([Unstable]));
        assert_eq!(words("ext4", &[Deed::Dma, Deed::Dirty]), BTreeSet::from([Unstable]));
        assert_eq!(words("ext4", &[Deed::Dma, Deed::Clean]), BTreeSet::from([Lost, Unstable]));
        assert_eq!(words("tmpfs", &[Deed::Dma, Deed::Clean, Deed::Dirty, Deed::Copy]), BTreeSet::new());
    }
}
