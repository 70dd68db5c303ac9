// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a seed to a scenario: the same text in every run. Which file system it is does not change what else a seed chooses,
//! but for what that file system cannot do.

use super::known::{self, Deed, Row};
use super::random::Random;
use super::state::{Job, Range, Region, State};
use crate::scenario::Flavour;
use crate::words::Observation;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Where plans run if nobody says.
pub const FILE_SYSTEMS: [&str; 5] = ["ext4", "xfs", "btrfs", "f2fs", "tmpfs"];

/// Files that are mapped and pinned.
const FILES: [&str; 2] = ["a", "b"];
/// Pages of each.
const PAGES: u64 = 16;
/// Where ranges begin and end: a quarter of a file.
const QUARTER: u64 = 4;
/// Between the generations of two steps; a program without an end counts on from its own.
const GENERATIONS: u64 = 1_000_000;
const REGIONS: usize = 4;
const JOBS: usize = 3;
const COPIES: usize = 2;
/// Most columns of a line of the file.
const WIDTH: usize = 110;

/// A plan of a seed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the scenario.
    pub name: String,
    /// What it does that a mechanism may need.
    pub deeds: BTreeSet<Deed>,
    /// The scenario file.
    pub text: String,
}

impl Plan {
    /// The plan of a seed, on one of these file systems, which the seed chooses too.
    pub fn of(seed: u32, file_systems: &[Flavour]) -> Option<Self> {
        // A stream of its own: the list is no part of the plan.
        let flavour = Random::new(u64::from(seed) ^ 1 << 63).pick(file_systems)?.clone();
        let mut making = Making {
            random: Random::new(u64::from(seed)),
            flavour,
            state: State::default(),
            steps: vec!["\"mkfs\"".to_owned(), "\"mount\"".to_owned()],
            deeds: BTreeSet::new(),
            made: 0,
            copies: Vec::new(),
        };
        making.whole();
        Some(making.plan(seed))
    }
}

/// A plan in the making.
struct Making {
    random: Random,
    flavour: Flavour,
    state: State,
    steps: Vec<String>,
    deeds: BTreeSet<Deed>,
    /// Names and generations that were given out.
    made: u64,
    copies: Vec<String>,
}

impl Making {
    fn whole(&mut self) {
        for file in FILES {
            let generation = self.generation();
            self.step(format!("do = \"create\", file = \"{file}\", generation = {generation}"));
        }
        self.map_all();
        // What pins nothing has little to tell.
        self.pin();
        let steps = 15 + self.random.below(26);
        for _ in 0..steps {
            self.any();
        }
        self.end_all();
        self.steps.push("\"remount\"".to_owned());
        let files = FILES.map(str::to_owned).into_iter().chain(self.copies.clone());
        for file in files.collect::<Vec<_>>() {
            self.step(format!("do = \"compare\", file = \"{file}\""));
        }
    }

    fn any(&mut self) {
        match self.random.below(100) {
            0..=15 => self.pin(),
            16..=33 => self.dma(),
            34..=39 => self.end_program(),
            40..=47 => self.store(),
            48..=53 => self.write(false),
            54..=57 => self.write(true),
            58..=70 => self.write_back(),
            71..=75 => self.reclaim(),
            76..=78 => self.hole("punch"),
            79..=80 => self.hole("zero-range"),
            81..=82 => self.truncate(),
            83..=85 => self.copy(),
            86..=88 => self.look(),
            89..=96 => self.release(),
            97..=98 => self.join(),
            _ => self.remount(),
        }
    }

    fn step(&mut self, words: String) {
        self.steps.push(format!("{{ {words} }}"));
    }

    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    fn generation(&mut self) -> u64 {
        self.next() * GENERATIONS
    }

    /// As `f` it may run concurrently.
    fn perhaps_a_job(&mut self, percent: usize, writes: Option<Range>) -> String {
        if self.state.jobs.len() >= JOBS || !self.random.chance(percent) {
            return String::new();
        }
        let name = format!("j{}", self.next());
        let words = format!(", job = \"{name}\"");
        self.state.jobs.push(Job { name, writes, writes_by_handle: None });
        words
    }

    fn range(&mut self) -> Range {
        let (file, quarters) = (self.random.below(FILES.len()), PAGES / QUARTER);
        let first = self.random.below(quarters as usize) as u64;
        let count = 1 + self.random.below((quarters - first) as usize) as u64;
        Range { file, first: first * QUARTER, pages: count * QUARTER }
    }

    fn all_of(file: usize) -> Range {
        Range { file, first: 0, pages: PAGES }
    }

    fn map_all(&mut self) {
        for file in FILES {
            self.step(format!("do = \"map\", map = \"m{file}\", file = \"{file}\""));
        }
    }

    fn pin(&mut self) {
        let at = self.range();
        // Whether a pin found the page before a job took it away would not be known.
        if self.state.regions.len() >= REGIONS || !self.state.is_free_of_jobs(&at) {
            return;
        }
        let modes: &[&'static str] = match self.flavour.fs.keeps_content {
            true => &["pin", "pin", "get", "longterm-ro"],
            // Others refuse it, and the case ends.
            false => &["pin", "get", "longterm", "longterm-ro"],
        };
        let Some(mode) = self.random.pick(modes).copied() else { return };
        let name = format!("r{}", self.next());
        let words = in_mapping(&at);
        self.step(format!("do = \"pin\", region = \"{name}\", {words}, mode = \"{mode}\""));
        self.state.regions.push(Region { name, at, mode, program: None, written: false });
    }

    fn dma(&mut self) {
        let free = |region: &&Region| self.state.is_free(&region.at);
        let names: Vec<String> =
            self.state.regions.iter().filter(free).map(|region| region.name.clone()).collect();
        let Some(name) = self.random.pick(&names).cloned() else { return };
        let (generation, program) = (self.generation(), format!("p{}", self.made));
        let runs_on = self.random.chance(45);
        let passes = if runs_on { 0 } else { 1 + self.random.below(3) };
        let wait = if runs_on { ", wait = false" } else { "" };
        self.step(format!(
            "do = \"dma\", program = \"{program}\", region = \"{name}\", generation = {generation}, passes = {passes}{wait}"
        ));
        self.deeds.insert(Deed::Dma);
        if let Some(region) = self.state.regions.iter_mut().find(|region| region.name == name) {
            region.written = true;
            region.program = runs_on.then_some(program);
        }
        if runs_on {
            self.deeds.insert(Deed::Running);
        }
    }

    fn end_program(&mut self) {
        let running: Vec<String> =
            self.state.regions.iter().filter_map(|region| region.program.clone()).collect();
        if let Some(program) = self.random.pick(&running).cloned() {
            self.end(&program);
        }
    }

    fn end(&mut self, program: &str) {
        // 1000 cells a second: a pass over a whole file takes 128 ms, and one must have been whole.
        self.step("do = \"exec\", argv = [\"sleep\", \"0.2\"]".to_owned());
        self.step(format!("do = \"dma-stop\", program = \"{program}\""));
        self.step(format!("do = \"dma-wait\", program = \"{program}\""));
        for region in &mut self.state.regions {
            region.program.take_if(|running| running == program);
        }
    }

    fn store(&mut self) {
        let at = self.range();
        if self.state.is_free(&at) {
            let (generation, words) = (self.generation(), in_mapping(&at));
            let job = self.perhaps_a_job(30, Some(at));
            self.step(format!("do = \"store\", {words}, generation = {generation}{job}"));
        }
    }

    fn write(&mut self, direct: bool) {
        let at = self.range();
        let direct = direct && self.flavour.fs.direct;
        // The step opens the file under one name, which a job keeps.
        let open = self.state.jobs.iter().any(|job| job.writes_by_handle == Some(at.file));
        if open || !self.state.is_free(&at) || direct && !self.state.may_leave(&at) {
            return;
        }
        if direct {
            self.leaves(&at, false);
            self.deeds.insert(Deed::Direct);
        }
        let (generation, words) = (self.generation(), in_file(&at));
        let file = at.file;
        let job = self.perhaps_a_job(30, Some(at));
        if let (false, Some(job)) = (job.is_empty(), self.state.jobs.last_mut()) {
            job.writes_by_handle = Some(file);
        }
        let direct = if direct { ", direct = true" } else { "" };
        self.step(format!("do = \"write\", {words}, generation = {generation}{direct}{job}"));
    }

    fn write_back(&mut self) {
        let file = FILES[self.random.below(FILES.len())];
        let words = match self.random.below(6) {
            0 | 1 => format!("do = \"fsync\", file = \"{file}\""),
            2 => format!("do = \"fsync\", file = \"{file}\", data_only = true"),
            3 => format!("do = \"msync\", map = \"m{file}\""),
            4 => "do = \"syncfs\"".to_owned(),
            _ => "do = \"sync\"".to_owned(),
        };
        let job = self.perhaps_a_job(50, None);
        self.step(format!("{words}{job}"));
    }

    fn reclaim(&mut self) {
        self.deeds.insert(Deed::Reclaim);
        let words = match self.random.chance(50) {
            true => format!("do = \"pageout\", {}", in_mapping(&self.range())),
            false => "do = \"write-sys\", path = \"/proc/sys/vm/drop_caches\", value = \"3\"".to_owned(),
        };
        self.step(words);
    }

    /// Pages of this range may leave the file, and a hole may be in their place.
    fn leaves(&mut self, at: &Range, hole: bool) {
        // With a large folio go the pages beside the range, too.
        if self.state.is_pinned(at.file) {
            self.deeds.insert(Deed::Leave);
        }
        if hole {
            self.deeds.insert(Deed::Hole);
        }
    }

    fn hole(&mut self, verb: &str) {
        let at = self.range();
        let can = verb == "punch" || self.flavour.fs.keeps_content;
        if can && self.state.is_free(&at) && self.state.may_leave(&at) {
            self.leaves(&at, true);
            let words = in_file(&at);
            let job = self.perhaps_a_job(25, Some(at));
            self.step(format!("do = \"{verb}\", {words}{job}"));
        }
    }

    /// To a shorter file and back.
    fn truncate(&mut self) {
        let file = self.random.below(FILES.len());
        let first = QUARTER * self.random.below((PAGES / QUARTER) as usize) as u64;
        let at = Range { file, first, pages: PAGES - first };
        // A job looks at the file's size.
        if self.state.is_free(&Self::all_of(file)) && self.state.may_leave(&at) {
            self.leaves(&at, true);
            for pages in [first, PAGES] {
                self.step(format!("do = \"truncate\", file = \"{}\", pages = {pages}", FILES[file]));
            }
        }
    }

    fn copy(&mut self) {
        let file = self.random.below(FILES.len());
        if self.copies.len() >= COPIES || !self.state.is_free(&Self::all_of(file)) {
            return;
        }
        let clone = self.random.chance(60) && self.flavour.fs.reflink;
        let (verb, copy) = (if clone { "reflink" } else { "copy-range" }, format!("c{}", self.next()));
        self.step(format!("do = \"{verb}\", from = \"{}\", to = \"{copy}\"", FILES[file]));
        self.copies.push(copy);
        self.deeds.insert(Deed::Copy);
    }

    /// What changes nothing: reads through the mapping, or by direct I/O.
    fn look(&mut self) {
        let file = FILES[self.random.below(FILES.len())];
        let words = match self.random.chance(50) {
            true => format!("do = \"read-mapping\", map = \"m{file}\""),
            false => format!("do = \"snapshot\", file = \"{file}\""),
        };
        self.step(words);
    }

    fn release(&mut self) {
        let idle = |region: &&Region| region.program.is_none();
        let names: Vec<String> =
            self.state.regions.iter().filter(idle).map(|region| region.name.clone()).collect();
        if let Some(name) = self.random.pick(&names).cloned() {
            self.give_back(&name);
        }
    }

    fn give_back(&mut self, name: &str) {
        let Some(index) = self.state.regions.iter().position(|region| region.name == name) else { return };
        let region = self.state.regions.remove(index);
        let dirty = self.random.chance(65);
        let mode = if dirty { "dirty" } else { "clean" };
        self.step(format!("do = \"release\", region = \"{name}\", mode = \"{mode}\""));
        if region.written {
            self.deeds.insert(if dirty { Deed::Dirty } else { Deed::Clean });
            match region.mode {
                "get" => _ = self.deeds.insert(Deed::Get),
                "longterm-ro" => _ = self.deeds.insert(Deed::ReadOnly),
                _ => {}
            }
        }
    }

    fn join(&mut self) {
        if !self.state.jobs.is_empty() {
            let index = self.random.below(self.state.jobs.len());
            let job = self.state.jobs.remove(index);
            self.step(format!("do = \"join\", job = \"{}\"", job.name));
        }
    }

    fn remount(&mut self) {
        if self.state.is_quiet() {
            self.steps.push("\"remount\"".to_owned());
            for file in FILES {
                self.step(format!("do = \"open\", file = \"{file}\""));
            }
            self.map_all();
        }
    }

    /// Everything comes to its end, in an order of chance.
    fn end_all(&mut self) {
        while !self.state.is_quiet() {
            match self.random.below(3) {
                0 => self.end_program(),
                1 => self.join(),
                _ => self.release(),
            }
        }
    }

    fn plan(self, seed: u32) -> Plan {
        let fs = self.flavour.fs.name;
        let rows: Vec<&Row> = known::rows(fs, &self.deeds).collect();
        let words: BTreeSet<Observation> = rows.iter().flat_map(|row| row.words).copied().collect();
        let name = format!("soak-{seed}");
        let mut text = format!(
            "schema = 1\nname = \"{name}\"\ntitle = \"Random plan of seed {seed}\"\n\
             mechanism = \"\"\"\nMade by `longpin soak --seed {seed} --cases 1 --fs {}`: {} steps, chosen by chance.\n\"\"\"\n\
             pages = {PAGES}\n\nmatrix.fs = [\"{}\"]\n\nstep = [\n",
            self.flavour,
            self.steps.len(),
            self.flavour
        );
        for step in &self.steps {
            let _ = writeln!(text, "    {step},");
        }
        text.push_str("]\n\n[[expect]]\n");
        text.push_str(&expectation(&words, &rows));
        Plan { name, deeds: self.deeds, text }
    }
}

/// `intact`, or whatever the rows explain.
fn expectation(words: &BTreeSet<Observation>, rows: &[&Row]) -> String {
    if words.is_empty() {
        return "observe = \"intact\"\nreason = \"no known mechanism needs only what this plan does\"\n"
            .to_owned();
    }
    let sets = known::sets(words);
    let sets = sets.iter().map(|set| {
        let words: Vec<&str> = set.iter().map(|word| word.as_str()).collect();
        format!("\"{}\",", words.join(" "))
    });
    let mut text = "observe = \"intact\"\nrace = true\nwithin = 10000\nor = [\n".to_owned();
    let mut line = String::new();
    for set in sets {
        if line.len() + set.len() > WIDTH {
            let _ = writeln!(text, "   {line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(&set);
    }
    let _ = writeln!(text, "   {line}\n]");
    let why: Vec<String> = rows.iter().map(|row| format!("{} ({})", row.mechanism, row.scenario)).collect();
    let _ =
        writeln!(text, "reason = \"\"\"\nmechanisms that this plan may meet:\n{}\n\"\"\"", why.join(";\n"));
    text
}

fn in_mapping(at: &Range) -> String {
    format!("map = \"m{}\", first_page = {}, pages = {}", FILES[at.file], at.first, at.pages)
}

fn in_file(at: &Range) -> String {
    format!("file = \"{}\", first_page = {}, pages = {}", FILES[at.file], at.first, at.pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn flavours(names: &[&str]) -> Vec<Flavour> {
        names.iter().map(|name| Flavour::parse(name).expect("a file system")).collect()
    }

    fn plan(seed: u32, fs: &str) -> Plan {
        Plan::of(seed, &flavours(&[fs])).expect("a file system")
    }

    #[test]
    fn a_seed_is_a_plan_and_another_is_another() {
        let all = flavours(&FILE_SYSTEMS);
        for seed in [0, 1, 42, u32::MAX] {
            let [one, two] = [(); 2].map(|()| Plan::of(seed, &all).expect("a plan"));
            assert_eq!(one.text, two.text);
        }
        assert_ne!(plan(1, "ext4").text, plan(2, "ext4").text);
        assert!(Plan::of(1, &[]).is_none());
    }

    #[test]
    fn every_plan_is_valid_on_paper_and_every_verb_comes() {
        let (mut verbs, mut deeds) = (BTreeSet::new(), BTreeSet::new());
        for fs in FILE_SYSTEMS {
            for seed in 0..1500 {
                let plan = plan(seed, fs);
                let scenario = Scenario::parse(&format!("{}.toml", plan.name), &plan.text)
                    .unwrap_or_else(|faults| panic!("seed {seed} on {fs}: {}\n{}", faults[0], plan.text));
                verbs.extend(
                    scenario
                        .steps
                        .iter()
                        .map(|step| step.label().split(' ').take(2).collect::<Vec<_>>().join(" ")),
                );
                deeds.extend(plan.deeds);
                assert_eq!(scenario.expect.len(), 1);
            }
        }
        for verb in [
            "pin",
            "release",
            "pageout",
            "write-sys",
            "reflink",
            "copy-range",
            "truncate",
            "start fsync",
            "start punch",
            "start store",
            "start write",
            "snapshot",
            "remount",
        ] {
            assert!(verbs.contains(verb), "{verb} never came: {verbs:?}");
        }
        assert_eq!(deeds, Deed::ALL.iter().copied().collect());
    }

    /// Otherwise nobody could tell a loss from a writer that came second.
    #[test]
    fn while_a_program_or_a_job_writes_to_pages_nothing_else_does() {
        let range = |first, pages| Range { file: 0, first, pages };
        let mut state = State::default();
        state.jobs.push(Job { name: "j".into(), writes: Some(range(4, 4)), writes_by_handle: None });
        let program = Some("p".to_owned());
        state.regions.push(Region { name: "r".into(), at: range(8, 8), mode: "pin", program, written: true });
        assert!(state.is_free(&range(0, 4)) && state.is_free(&Range { file: 1, ..range(0, 16) }));
        assert!(!state.is_free(&range(0, 8)) && !state.is_free(&range(12, 4)));
        assert!(state.is_free_of_jobs(&range(12, 4)) && !state.is_free_of_jobs(&range(0, 16)));
        assert!(
            state.may_leave(&range(8, 8)) && state.may_leave(&range(4, 4)) && !state.may_leave(&range(8, 4))
        );
    }
}
