// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of a result, once. `docs/verdicts.md` is generated from the comments of this file.

vocabulary! {
    /// What became of the bytes and of the kernel, and who was told. A case has a set of these; they stand in the order
    /// of their gravity, and the headline of a case is its gravest. Whether bytes are right and whether somebody was told
    /// are independent of each other: see [`Kind`].
    pub enum Observation {
        /// Every file holds, in each cell, the last write that was completed before the pages were released, by CPU
        /// or by DMA; read by the guest after a remount with dropped caches, and by the host from the raw image.
        Intact = "intact",
        /// The kernel denied the pin, or denied an operation because of the pin, with an errno. Nothing was harmed.
        Refused = "refused",
        /// The device wrote, was told nothing, and not a byte came to memory: an IOMMU kept it off, since the pages are
        /// mapped for the device for reading only. The files hold what a CPU wrote. Where the kernel log has a line of the
        /// IOMMU, it is part of the verdict.
        DmaBlocked = "dma-blocked",
        /// Only the kernel log has a line that speaks of bad or lost data. No system call of the case and no later read
        /// had an error: the application was told nothing.
        Warned = "warned",
        /// A completed write is absent: the file holds an older content of its own (or zeros, or ends too early).
        Lost = "lost",
        /// The device wrote to pages that had left the file between pin and DMA, by truncate, hole punch or direct
        /// I/O. The driver's query shows that the folio has no mapping any more. The bytes went nowhere.
        Orphaned = "orphaned",
        /// DMA changed content while it was on its way to the disk, and the end state is right. Only the auditing disk
        /// can see it; what a CPU changes there is legal, counted, and no observation.
        Unstable = "unstable",
        /// Content that never was the page's: half of one write and half of another, within a cell, or, where the
        /// audit saw it come about, within a page; or bytes that nobody wrote; or a program that checks its data
        /// itself and says that it is wrong.
        Torn = "torn",
        /// A system call of the case or a later read had an errno that speaks of bad or lost data: EIO, EUCLEAN or
        /// another error of fsync, unmount, mount or read; or the file system's own checker, reading the data
        /// afterwards, finds that it does not match its checksum. A cell that cannot be read shows nothing of its
        /// bytes, so this word can stand alone.
        Detected = "detected",
        /// Bytes are where nobody put them: in another file than the pinned one, in a snapshot or clone, in a part
        /// of the file that was cut off or punched, or bytes of an earlier case.
        Bleed = "bleed",
        /// The file system's own checker, run on the host after the guest has unmounted, finds the structure damaged.
        Damaged = "damaged",
        /// The kernel log has a warning with a trace, an oops or a report of a sanitizer.
        Splat = "splat",
        /// Pins were not given back: after clean-up the counters of acquired and released pins do not balance.
        Leak = "leak",
        /// The guest kernel panicked. One whose init, the agent, was killed from outside did not: that is `error
        /// (infra)`.
        Panic = "panic",
        /// The guest stopped answering, or a step went on past its deadline. Where QEMU itself does not answer either,
        /// the guest was not running: that is `error (infra)`.
        Hang = "hang",
    }
}

/// Two kinds of observations, independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What became of the bytes.
    Content,
    /// Who was told.
    Telling,
}

impl Observation {
    /// Which kind of word it is.
    pub fn kind(self) -> Kind {
        match self {
            Self::Warned | Self::Detected | Self::Splat | Self::Panic | Self::Hang => Kind::Telling,
            Self::Intact
            | Self::Refused
            | Self::DmaBlocked
            | Self::Lost
            | Self::Orphaned
            | Self::Unstable
            | Self::Torn
            | Self::Bleed
            | Self::Damaged
            | Self::Leak => Kind::Content,
        }
    }

    /// Worse than what a safe kernel shows.
    pub fn is_bad(self) -> bool {
        self > Self::DmaBlocked
    }
}

vocabulary! {
    /// What CI does with a case, in the words of KTAP.
    pub enum Outcome {
        /// The case showed exactly what the scenario expects, and that is good: `intact`, `refused` or
        /// `dma-blocked`.
        Pass = "pass",
        /// The case showed something else than the scenario expects.
        Fail = "fail",
        /// The case showed exactly the known-bad set that the scenario expects.
        Xfail = "xfail",
        /// A known-bad set was expected and the case showed nothing bad: the kernel got better, so the scenario
        /// wants a new expectation.
        Xpass = "xpass",
        /// The case was not as expected, and was when it ran again in a fresh boot (`--retries`). `--allow-flaky` makes the
        /// run green all the same.
        Flaky = "flaky",
        /// The case cannot be tried here; the reason says what is missing.
        Skip = "skip",
        /// The case proves nothing. The cause is `infra` or `unproven`.
        Error = "error",
    }
}

vocabulary! {
    /// Why a case proves nothing.
    pub enum Cause {
        /// Our own fault or the environment's: agent, device, disk image, QEMU, a tool, a control that failed; or two
        /// witnesses of the same bytes that contradict each other.
        Infra = "infra",
        /// A step of the argument was not shown: a DMA that did not land, a page that was not clean, a write that was
        /// not held or not as long as it should be, a kernel log of which lines were lost.
        Unproven = "unproven",
    }
}

/// The page that documents the words.
pub fn documentation() -> String {
    let mut page = String::from(
        "# Verdicts\n\n\
         <!-- Generated from harness/core/src/words.rs; a test keeps it current:\n     \
         LONGPIN_BLESS=1 cargo test -p longpin-core --test docs -->\n\n\
         A result has two layers. *Observations* say what became of the bytes and of the kernel. The *outcome* says\n\
         what continuous integration does, by comparing the observations with what the scenario expects.\n",
    );
    let of_kind = |kind| {
        let words = Observation::ALL.iter().filter(move |word| word.kind() == kind);
        words.map(|word| (word.as_str(), word.doc()))
    };
    section(
        &mut page,
        "Observations: what became of the bytes",
        "Content words. Who was told of it is another matter.",
        of_kind(Kind::Content),
    );
    section(
        &mut page,
        "Observations: who was told",
        "Telling words. An application that got 0 from fsync was told nothing, whatever the kernel log says.",
        of_kind(Kind::Telling),
    );
    page.push_str(&format!(
        "\nThe headline of a case is its gravest word, in this order: {}. So a loss that was told by an errno heads as\n\
         `detected`, one that only the kernel log knows as `lost`.\n",
        Observation::ALL.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
    ));
    let outcomes = Outcome::ALL.iter().map(|word| (word.as_str(), word.doc()));
    section(&mut page, "Outcomes", "One for each case.", outcomes);
    let causes = Cause::ALL.iter().map(|word| (word.as_str(), word.doc()));
    section(&mut page, "Causes of an error", "A case that proves nothing is never a pass.", causes);
    page
}

fn section<'a>(page: &mut String, title: &str, lead: &str, words: impl Iterator<Item = (&'a str, &'a str)>) {
    page.push_str(&format!("\n## {title}\n\n{lead}\n\n| word | meaning |\n|---|---|\n"));
    for (word, doc) in words {
        let meaning = doc.split_whitespace().collect::<Vec<_>>().join(" ");
        page.push_str(&format!("| `{word}` | {meaning} |\n"));
    }
}
