// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of a result, once. `docs/verdicts.md` is generated from the comments of this file.

vocabulary! {
    /// What became of the bytes and of the kernel. A case has a set of these; they stand in the order of their
    /// gravity, and the headline of a case is its gravest.
    pub enum Observation {
        /// Every file holds, in each cell, the last write that was completed before the pages were released, by CPU
        /// or by DMA; read by the guest after a remount with dropped caches, and by the host from the raw image.
        Intact = "intact",
        /// The kernel denied the pin, or denied an operation because of the pin, with an errno. Nothing was harmed.
        Refused = "refused",
        /// A completed write is absent: the file holds an older content of its own (or zeros, or ends too early), and
        /// nobody was told: no call returned an error and the kernel log is silent.
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
        /// The file system or the block layer noticed and said so: EIO, EUCLEAN or another error of fsync, unmount,
        /// mount or read, or a line of the kernel log. A loss that was told is `detected` and not `lost`.
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
        /// The guest kernel panicked.
        Panic = "panic",
        /// The guest stopped answering, or a step went on past its deadline.
        Hang = "hang",
    }
}

impl Observation {
    /// Worse than what a safe kernel shows.
    pub fn is_bad(self) -> bool {
        self > Self::Refused
    }
}

vocabulary! {
    /// What CI does with a case, in the words of KTAP.
    pub enum Outcome {
        /// The case showed exactly what the scenario expects, and that is good: `intact` or `refused`.
        Pass = "pass",
        /// The case showed something else than the scenario expects.
        Fail = "fail",
        /// The case showed exactly the known-bad set that the scenario expects.
        Xfail = "xfail",
        /// A known-bad set was expected and the case showed nothing bad: the kernel got better, mend the scenario.
        Xpass = "xpass",
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
        /// not held or not as long as it should be.
        Unproven = "unproven",
    }
}

/// The page that documents the words.
pub fn documentation() -> String {
    let mut page = String::from(
        "# Verdicts\n\n\
         <!-- Generated from harness/core/src/verdict/words.rs; a test keeps it current:\n     \
         LONGPIN_BLESS=1 cargo test -p longpin-core --test docs -->\n\n\
         A result has two layers. *Observations* say what became of the bytes and of the kernel. The *outcome* says\n\
         what continuous integration does, by comparing the observations with what the scenario expects.\n",
    );
    let observations = Observation::ALL.iter().map(|word| (word.as_str(), word.doc()));
    section(
        &mut page,
        "Observations",
        "In the order of gravity; the headline of a case is its gravest.",
        observations,
    );
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
