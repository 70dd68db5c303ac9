// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports of the kernel about itself, from a warning to a panic: a title and a fingerprint that are the same whenever the
//! same thing happened, whatever the addresses, offsets, CPUs and tasks. The knowledge is data: `reports.toml`.

use super::frames::Frame;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::ops::RangeInclusive;
use std::sync::LazyLock;

/// A report of the kernel about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `WARNING in ext4_dirty_folio`.
    pub title: String,
    /// Twelve hex digits: of the title and who called.
    pub fingerprint: String,
    /// Functions of its trace, innermost first, without those that only report.
    pub trace: Vec<String>,
    /// Why it does not count, of the list of what is ignored; null: it counts.
    #[serde(default)]
    pub ignored: Option<String>,
    /// Its trace with lines of the source, where there is debug information; else empty.
    #[serde(default)]
    pub source: Vec<String>,
}

/// A report, and where it stands.
#[derive(Debug)]
pub struct Found {
    /// The report.
    pub report: Report,
    /// Its trace as the kernel printed it.
    pub frames: Vec<Frame>,
    /// Its lines.
    pub lines: RangeInclusive<usize>,
    /// The kernel died of it.
    pub panic: bool,
}

/// Functions that are kept of a trace.
const TRACE: usize = 8;
/// Places that are kept of it.
const FRAMES: usize = 16;
/// Lines of one report without an end marker; what comes later is of something else.
const MOST_LINES: usize = 400;
/// Characters of a title. Text of a log is as long as its line.
const TITLE_CHARS: usize = 160;
/// The line before a warning or a BUG.
const CUT: &str = "[ cut here ]";
/// Lines between it and the one that says what it is.
const CUT_LINES: usize = 8;
/// The line after a report that has one.
const END: &str = "---[ end trace";
const PANIC: &str = "Kernel panic - not syncing";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    text: Vec<String>,
    title: String,
    #[serde(default)]
    line: bool,
    #[serde(default = "two")]
    callers: usize,
    #[serde(default)]
    follows: bool,
}

fn two() -> usize {
    2
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kinds {
    report: Vec<Kind>,
    untelling: Untelling,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Untelling {
    functions: Vec<String>,
}

static KINDS: LazyLock<Kinds> =
    LazyLock::new(|| toml::from_str(include_str!("reports.toml")).expect("a test parses reports.toml"));

impl Kind {
    /// What stands behind each of its pieces, if the line has all of them.
    fn captures<'t>(&self, line: &'t str) -> Option<Vec<&'t str>> {
        let mut rest = line;
        let mut captures = Vec::new();
        for (nth, piece) in self.text.iter().enumerate() {
            let at = rest.find(piece.as_str())?;
            if nth > 0 {
                captures.push(&rest[..at]);
            }
            rest = &rest[at + piece.len()..];
        }
        captures.push(rest);
        Some(captures)
    }

    fn of(line: &str) -> Option<&'static Self> {
        KINDS.report.iter().find(|kind| kind.captures(line).is_some())
    }
}

/// All reports in a log, in order. Lines have neither time nor level.
pub fn reports<'t>(lines: impl IntoIterator<Item = &'t str>) -> Vec<Found> {
    let (mut found, mut open): (Vec<Found>, Option<Open<'_>>) = (Vec::new(), None);
    let mut cut = None;
    for (at, line) in lines.into_iter().enumerate() {
        let is_cut = line.contains(CUT);
        let ended = open.as_ref().is_some_and(|it| at - it.from > MOST_LINES || is_cut && it.traced);
        cut = if is_cut { Some(at) } else { cut };
        let kind = Kind::of(line);
        let another = kind.is_some_and(|kind| {
            let of_open = open.as_ref().is_some_and(|it| !ended && (!it.traced || kind.follows));
            let of_last = open.is_none() && kind.follows && !found.is_empty();
            !of_open && !of_last
        });
        if ended || another {
            found.extend(open.take().map(Open::close));
        }
        match (&mut open, kind) {
            (None, Some(kind)) if another => {
                let from = cut.take().filter(|cut| at - cut <= CUT_LINES).unwrap_or(at);
                open = Some(Open::new(kind, line, from, at));
            }
            (Some(report), _) => report.look(line, at),
            (None, _) => {}
        }
        if line.contains(END) {
            found.extend(open.take().map(Open::close));
        }
    }
    found.extend(open.map(Open::close));
    found
}

/// A report that has not ended.
struct Open<'t> {
    kind: &'static Kind,
    heading: &'t str,
    from: usize,
    to: usize,
    /// Where the CPU was when it began.
    at: Option<&'t str>,
    frames: Vec<&'t str>,
    places: Vec<Frame>,
    traced: bool,
    in_trace: bool,
}

impl<'t> Open<'t> {
    fn new(kind: &'static Kind, heading: &'t str, from: usize, to: usize) -> Self {
        Self {
            kind,
            heading,
            from,
            to,
            at: None,
            frames: Vec::new(),
            places: Vec::new(),
            traced: false,
            in_trace: false,
        }
    }

    fn look(&mut self, line: &'t str, at: usize) {
        self.to = at;
        let line = without_prefixes(line);
        if line.starts_with("Call Trace:") {
            // The first is of who reports; others follow in reports of several CPUs or locks.
            self.in_trace = !self.traced;
            self.traced = true;
        } else if self.in_trace {
            match line {
                _ if line.starts_with('<') => {}
                // What the unwinder is not sure of may be left from earlier calls.
                _ if line.starts_with("? ") => {}
                _ => match function(line) {
                    Some(name) if !line.contains(' ') || line.ends_with(']') => {
                        self.frames.push(name);
                        self.places.extend(Frame::parse(line, true));
                    }
                    _ => self.in_trace = false,
                },
            }
        } else if let (Some(place), None, false) = (line.strip_prefix("RIP: 0010:"), self.at, self.traced) {
            self.at = function(place);
            self.places.extend(Frame::parse(place, false));
        }
    }

    fn close(self) -> Found {
        let captures = self.kind.captures(self.heading).unwrap_or_default();
        let of_line = Some(self.heading).filter(|_| self.kind.line);
        let of_line = of_line.and_then(|line| line.split_whitespace().find_map(function));
        let all: Vec<&str> = of_line.into_iter().chain(self.at).chain(self.frames).collect();
        let telling = all.iter().copied().filter(|name| !is_untelling(name));
        // The line, the registers and the first frame may name the same call.
        let mut trace: Vec<String> = telling.map(str::to_owned).collect();
        trace.dedup();
        trace.truncate(TRACE);
        let place = trace.first().map(String::as_str).or(all.first().copied());
        let mut title = self.kind.title.clone();
        for (nth, capture) in captures.iter().enumerate() {
            title = title.replace(&format!("{{{}}}", nth + 1), &clean(capture));
        }
        title = match place {
            Some(place) => title.replace("{function}", place),
            None => title.replace(" in {function}", ""),
        };
        let title: String = title.trim_end_matches([':', ' ']).chars().take(TITLE_CHARS).collect();
        let fingerprint = fingerprint(&title, trace.iter().skip(1).take(self.kind.callers));
        let report = Report { title, fingerprint, trace, ignored: None, source: Vec::new() };
        let mut frames = self.places;
        frames.truncate(FRAMES);
        Found { report, frames, lines: self.from..=self.to, panic: self.heading.contains(PANIC) }
    }
}

fn fingerprint<'s>(title: &str, callers: impl Iterator<Item = &'s String>) -> String {
    let mut hash = Sha256::new();
    hash.update(without_crate_hashes(title));
    for caller in callers {
        hash.update("\n");
        hash.update(without_crate_hashes(caller));
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn is_untelling(name: &str) -> bool {
    KINDS.untelling.functions.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    })
}

/// The console of some kernels has `[   11.828306][   T97] ` before a line.
fn without_prefixes(line: &str) -> &str {
    let mut line = line.trim();
    while let Some((prefix, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_prefix = prefix.trim().starts_with(|c: char| c.is_ascii_digit() || "TC".contains(c));
        if !is_prefix || prefix.contains(|c: char| c.is_ascii_lowercase()) {
            break;
        }
        line = rest.trim_start();
    }
    line
}

/// `ext4_dirty_folio+0x2c/0x50,` -> `ext4_dirty_folio`. What a compiler made of a function (`.isra.0`, `.cold`) is that
/// function.
fn function(word: &str) -> Option<&str> {
    let (name, offset) = word.split_once("+0x")?;
    let name = name.split('.').next().filter(|name| !name.is_empty())?;
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || "_$".contains(c));
    (good && offset.starts_with(|c: char| c.is_ascii_hexdigit())).then_some(name)
}

/// Without numbers and what is of one occurrence only.
fn clean(text: &str) -> String {
    let text = text.split(": 0000").next().unwrap_or_default();
    let text = text.split(" [#").next().unwrap_or_default().trim();
    let text = text.trim_end_matches(|c: char| c.is_ascii_punctuation() && !")]".contains(c));
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        out.push_str(if is_number(&word) { "N" } else { &word });
        word.clear();
        out.push(c);
    }
    // An offset says nothing that the function does not.
    out.trim_end().replace("+N/N", "")
}

/// `97`, `0x1f`, `ffff8a9f8156f370`; not `add`.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let hex = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
    hex && (digits.len() >= 8 || digits.contains(|c: char| c.is_ascii_digit()))
}

/// Rust's symbols name a crate with a hash of how it was compiled, `Cs3b9hGgoVBtd_12longpin_main`.
fn without_crate_hashes(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let (true, Some(at)) = (name.contains("_R"), rest.find("Cs")) {
        let (before, hash) = rest.split_at(at);
        out.push_str(before);
        let end = hash.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(hash.len());
        rest = &hash[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(log: &str) -> Report {
        let found = reports(log.lines());
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap().report
    }

    fn title(log: &str) -> String {
        one(log).title
    }

    /// Debian's 7.3.4, shortened.
    const WARNING: &str = "\
------------[ cut here ]------------
WARNING: fs/ext4/inode.c:3937 at ext4_dirty_folio+0x2c/0x50 [ext4], CPU#0: agent/97
CPU: 0 UID: 0 PID: 97 Comm: agent Tainted: G           OE       7.3.4+deb13-amd64 #1 PREEMPT(lazy)
RIP: 0010:ext4_dirty_folio+0x2c/0x50 [ext4]
RSP: 0018:ffffd324c0467770 EFLAGS: 00010246
Call Trace:
 <TASK>
 folio_mark_dirty_lock+0x23/0x40
 set_page_dirty_lock+0x22/0x30
 _RNvMs_NtCs3b9hGgoVBtd_12longpin_main6regionNtB4_6Region9give_back+0x84/0xd0 [longpin]
 ? tomoyo_init_request_info+0xb2/0x150
 __x64_sys_ioctl+0x96/0xe0
 do_syscall_64+0xc4/0x560
 entry_SYSCALL_64_after_hwframe+0x76/0x7e
RIP: 0033:0x7fb5b690236b
 </TASK>
---[ end trace 0000000000000000 ]---
";

    #[test]
    fn a_report_has_the_places_of_its_own_trace() {
        let found = reports(WARNING.lines());
        let frames: Vec<String> = found[0].frames.iter().map(ToString::to_string).collect();
        assert_eq!(
            frames[..4],
            [
                "ext4_dirty_folio+0x2c/0x50 [ext4]",
                "folio_mark_dirty_lock+0x23/0x40",
                "set_page_dirty_lock+0x22/0x30",
                "_RNvMs_NtCs3b9hGgoVBtd_12longpin_main6regionNtB4_6Region9give_back+0x84/0xd0 [longpin]"
            ]
        );
        assert_eq!((frames.len(), found[0].frames[0].returns, found[0].frames[1].returns), (7, false, true));
    }

    #[test]
    fn a_warning_is_named_by_its_function() {
        let report = one(WARNING);
        assert_eq!(report.title, "WARNING in ext4_dirty_folio");
        assert_eq!(report.trace[..3], ["ext4_dirty_folio", "folio_mark_dirty_lock", "set_page_dirty_lock"]);
        assert_eq!(report.trace.last().unwrap(), "__x64_sys_ioctl");
        // 6.1 and 6.12 say it in another order.
        let older = WARNING.replace(
            "WARNING: fs/ext4/inode.c:3937 at ext4_dirty_folio+0x2c/0x50 [ext4], CPU#0: agent/97",
            "WARNING: CPU: 0 PID: 97 at fs/ext4/inode.c:3671 ext4_dirty_folio+0x74/0x80 [ext4]",
        );
        assert_eq!(one(&older), report);
    }

    #[test]
    fn a_fingerprint_is_that_of_the_place_and_not_of_the_occurrence() {
        let report = one(WARNING);
        let other = WARNING
            .replace("CPU#0: agent/97", "CPU#1: kworker/u8:0/4711")
            .replace("CPU: 0 UID: 0 PID: 97 Comm: agent", "CPU: 1 UID: 0 PID: 4711 Comm: kworker/u8:0")
            .replace("+0x2c/0x50 [ext4]", "+0x31/0x58")
            .replace("folio_mark_dirty_lock+0x23/0x40", "folio_mark_dirty_lock.cold+0x1/0x9")
            .replace("ffffd324c0467770", "ffff8a9f8156f370");
        assert_eq!(one(&other), report, "another CPU, task, offset and address; ext4 built in");
        let caller = one(&WARNING.replace(" folio_mark_dirty_lock+", " unpin_user_pages_dirty_lock+"));
        assert_eq!(caller.title, report.title);
        assert_ne!(caller.fingerprint, report.fingerprint, "another caller");
        assert!(report.fingerprint.len() == 12 && report.fingerprint.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn the_hash_of_a_rust_crate_is_of_its_build() {
        let (one, other) =
            ("_RNvNtCs3b9hGgoVBtd_12longpin_main7chardev5ioctl", "_RNvNtCs1XyZ_12longpin_main7chardev5ioctl");
        assert_eq!(without_crate_hashes(one), without_crate_hashes(other));
        assert_eq!(without_crate_hashes("ScsiCs_x"), "ScsiCs_x", "no Rust");
    }

    /// get-pageout on btrfs, shortened.
    const OOPS: &str = "\
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor write access in kernel mode
Oops: Oops: 0002 [#1] SMP NOPTI
CPU: 0 UID: 0 PID: 97 Comm: agent Tainted: G           OE       7.3.4+deb13-amd64 #1 PREEMPT(lazy)
RIP: 0010:_raw_spin_lock_irqsave+0x28/0x50
Call Trace:
 <TASK>
 btrfs_folio_set_fixup_dirty+0x16f/0x250 [btrfs]
 btrfs_data_dirty_folio+0x82/0xa0 [btrfs]
 </TASK>
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Fatal exception
";

    #[test]
    fn a_lock_that_anybody_takes_is_not_the_place_and_the_panic_after_an_oops_no_report_of_its_own() {
        let report = one(OOPS);
        assert_eq!(report.title, "NULL pointer dereference in btrfs_folio_set_fixup_dirty");
        assert_eq!(report.trace, ["btrfs_folio_set_fixup_dirty", "btrfs_data_dirty_folio"]);
        assert_eq!(
            title("Kernel panic - not syncing: Fatal exception in interrupt"),
            "panic: Fatal exception in interrupt"
        );
        let both = reports(OOPS.lines().chain(WARNING.lines()));
        assert_eq!(both.len(), 2);
        assert_eq!(
            (both[0].lines.clone(), *both[1].lines.start()),
            (0..=10, 12),
            "the mark before it is its own"
        );
    }

    #[test]
    fn kinds_have_their_own_titles() {
        let trace =
            "Call Trace:\n <TASK>\n dump_stack_lvl+0x5d/0x80\n f2fs_iget+0x1/0x2 [f2fs]\n x+0x1/0x2\n";
        for (heading, wanted) in [
            (
                "BUG: KASAN: slab-use-after-free in xfs_buf_rele+0x1a/0x90 [xfs]\nRead of size 8 at addr ffff888 by task a/9",
                "KASAN: slab-use-after-free in xfs_buf_rele",
            ),
            ("BUG: KASAN: slab-out-of-bounds in memcpy+0x1a/0x90", "KASAN: slab-out-of-bounds in f2fs_iget"),
            ("BUG: KFENCE: use-after-free read in test+0x9b/0x18", "KFENCE: use-after-free read in test"),
            ("BUG: KCSAN: data-race in f+0x1/0x2 / g+0x3/0x4", "KCSAN: data-race in f / g"),
            (
                "UBSAN: array-index-out-of-bounds in fs/f2fs/node.c:12:3",
                "UBSAN: array-index-out-of-bounds in f2fs_iget",
            ),
            ("BUG: unable to handle page fault for address: ffffc900", "page fault in f2fs_iget"),
            (
                "Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
                "general protection fault in f2fs_iget",
            ),
            ("Oops: divide error: 0000 [#1] SMP NOPTI", "divide error in f2fs_iget"),
            (
                "kernel BUG at fs/f2fs/segment.c:1234!\nOops: invalid opcode: 0000 [#1] SMP",
                "kernel BUG in f2fs_iget",
            ),
            ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [swapper/1:0]", "soft lockup in f2fs_iget"),
            ("INFO: task agent:97 blocked for more than 120 seconds.", "hung task in f2fs_iget"),
            (
                "BUG: sleeping function called from invalid context at mm/x.c:3",
                "sleeping function called from invalid context in f2fs_iget",
            ),
            ("BUG: Bad page state in process agent  pfn:1a2b3", "bad page state in f2fs_iget"),
            ("BUG: spinlock bad magic on CPU#0, agent/97", "spinlock bad magic in f2fs_iget"),
            (
                "WARNING: possible circular locking dependency detected\n7.3.4 #1 Not tainted\nagent/97 is trying to acquire lock:",
                "possible circular locking dependency in f2fs_iget",
            ),
            ("WARNING: suspicious RCU usage", "suspicious RCU usage in f2fs_iget"),
            ("[ BUG: Invalid wait context ]", "invalid wait context in f2fs_iget"),
            (
                "refcount_t: underflow; use-after-free.\nWARNING: lib/refcount.c:28 at refcount_warn_saturate+0x1/0x2, CPU#0: a/1",
                "refcount underflow; use-after-free in f2fs_iget",
            ),
            (
                "list_del corruption. prev->next should be ffff8880, but was 0\nkernel BUG at lib/list_debug.c:65!",
                "list_del corruption in f2fs_iget",
            ),
            (
                "BUG: Something new on CPU 3 at ffff8a9f8156f370",
                "BUG: Something new on CPU N at N in f2fs_iget",
            ),
            ("Kernel panic - not syncing: sysrq triggered crash", "panic: sysrq triggered crash"),
        ] {
            assert_eq!(title(&format!("{heading}\n{trace}")), wanted);
        }
        assert_eq!(title("WARNING: CPU: 0 PID: 1 at mm/gup.c:1 said"), "WARNING at mm/gup.c:N said");
        assert_eq!(
            title("BUG: Bad rss-counter state mm:00000000f3 type:MM_FILEPAGES val:1"),
            "bad rss-counter state"
        );
    }

    #[test]
    fn a_console_with_callers_reads_as_the_log() {
        let console: String =
            WARNING.lines().map(|line| format!("[   11.086485][   T97] {line}\n")).collect();
        assert_eq!(one(&console), one(WARNING));
    }

    #[test]
    fn a_log_without_reports_has_none_and_any_line_is_read() {
        for log in ["", "EXT4-fs (vda): mounted\n", "---[ end trace 0 ]---\n", "Call Trace:\n f+0x1/0x2\n"] {
            assert!(reports(log.lines()).is_empty(), "{log}");
        }
        for odd in
            ["BUG: ", "WARNING: +0x", "BUG: KASAN:  in ", "Oops: é+0x1/0x2\n[é] x", "WARNING: \u{0}[[["]
        {
            assert_eq!(reports(odd.lines()).len(), 1, "{odd}");
        }
        let long = format!("BUG: {}", "é".repeat(5000));
        assert!(title(&long).chars().count() <= TITLE_CHARS);
    }
}
