// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The steps of scenarios, a file for each family. All that the harness knows of a step stands in one place: its name and
//! parameters, its documentation, what it needs on paper, what agent and disks are asked, and how a drawing calls it.
//! `docs/scenario-format.md` has its tables of steps from here.

#[macro_use]
mod parameters;

mod direct_read;
mod disk;
mod dma;
mod files;
mod jobs;
mod memory;
mod mounts;
mod objects;
pub(crate) mod op;
pub(crate) mod paper;
mod pins;
mod system;
mod translation;

pub(crate) use mounts::MKFS;
pub(crate) use translation::Translation;
pub use translation::{CaseEnv, Lacks};

use crate::fields::{Fault, Fields};
use crate::matrix::{Condition, Point, condition};
use op::Op;
use paper::{Checked, Paper};
use parameters::one;
use std::fmt;
use std::sync::Arc;

/// Shortest deadline of a step: a busy host under emulation can hold up any step for a second.
const MIN_DEADLINE_MS: u64 = 1000;

/// Reads the parameters of a verb.
pub(crate) trait Parse: Verb + Sized {
    /// `default_pages` is the length of a new file that says none.
    fn parse(f: &mut Fields<'_, '_>, default_pages: u64) -> Result<Self, Fault>;
}

/// What a step does, with its parameters.
pub(crate) trait Verb: fmt::Debug + Send + Sync + 'static {
    /// Check what it needs, and note what it changes.
    fn check(&self, _: &mut Paper<'_>) -> Checked {
        Ok(())
    }

    /// What agent and disks are asked.
    fn ask(&self, translation: &mut Translation) -> Vec<Op>;

    /// What a drawing writes behind the verb: the generation that it writes.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// File or handle of which it can take pinned pages away; the driver is asked afterwards.
    fn takes_pages_of(&self) -> Option<Taken<'_>> {
        None
    }

    /// What it needs that not every machine has.
    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs::default()
    }

    /// What forbids it as a job, beside what [`Verb::check`] says.
    fn check_as_job(&self, _: &Paper<'_>) -> Checked {
        Ok(())
    }

    /// What it changes on paper when it was a job and is joined.
    fn check_at_join(&self, _: &mut Paper<'_>) -> Checked {
        Ok(())
    }

    /// The region that it makes; of a job it is there when the job is over.
    fn makes_region(&self) -> Option<&str> {
        None
    }

    /// The job that it looks at.
    fn settles(&self) -> Option<&str> {
        None
    }

    /// The file whose place on the device it must know, taken before the unmount.
    fn needs_place_of(&self) -> Option<&str> {
        None
    }
}

/// What a step needs that not every machine has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs<'a> {
    /// Only a disk of ours can do it.
    pub audited_disk: bool,
    /// Only a guest with the driver can.
    pub driver: bool,
    /// Only a guest with a program of the user's that pins can.
    pub pinner: bool,
    /// Module of the guest that it loads.
    pub module: Option<&'a str>,
    /// Modules of the guest that its pin needs.
    pub of_pin: &'static [&'static str],
    /// Only a guest with an IOMMU, and a device behind it, can.
    pub iommu: bool,
}

impl Needs<'_> {
    /// Only a disk of ours.
    const AUDITED_DISK: Self =
        Self { audited_disk: true, driver: false, pinner: false, module: None, of_pin: &[], iommu: false };
}

/// What a step can take pages from.
pub(crate) enum Taken<'a> {
    /// A file.
    File(&'a str),
    /// The file of a handle.
    Handle(&'a str),
}

/// From the fields of a step, and the length of a new file that says none.
type Parser = fn(&mut Fields<'_, '_>, u64) -> Result<Arc<dyn Verb>, Fault>;

/// A kind of step.
#[derive(Debug)]
pub(crate) struct Definition {
    /// The word after `do`.
    name: &'static str,
    /// Its parameters, as the documentation has them.
    parameters: &'static str,
    /// What it does, likewise.
    does: &'static str,
    /// It can run concurrently: it may wait in the kernel for something that a later step does.
    job: bool,
    parse: Parser,
}

impl Definition {
    /// A step that is never a job.
    const fn new<V: Parse>(name: &'static str, parameters: &'static str, does: &'static str) -> Self {
        Self::with(name, parameters, does, |f, pages| Ok(Arc::new(V::parse(f, pages)?)))
    }

    /// A step whose verb is made in another way than by [`Parse`].
    const fn with(name: &'static str, parameters: &'static str, does: &'static str, parse: Parser) -> Self {
        Self { name, parameters, does, job: false, parse }
    }

    /// The same, and it takes `job`.
    const fn or_job(self) -> Self {
        Self { job: true, ..self }
    }
}

/// A family, and under which heading of the documentation its table stands.
const FAMILIES: &[(&str, &[&[Definition]])] = &[
    ("steps", &[mounts::STEPS, files::STEPS, memory::STEPS, pins::STEPS, dma::STEPS, system::STEPS]),
    ("jobs", &[jobs::STEPS]),
    ("disk", &[disk::STEPS]),
];

fn definitions() -> impl Iterator<Item = &'static Definition> {
    FAMILIES.iter().flat_map(|(_, families)| *families).flat_map(|family| *family)
}

/// Names of all steps, for messages.
fn list() -> String {
    let mut names: Vec<&str> = definitions().map(|definition| definition.name).collect();
    names.sort_unstable();
    names.join(", ")
}

/// The tables of steps of `docs/scenario-format.md`: the name of each, and its lines.
pub fn documentation() -> impl Iterator<Item = (&'static str, String)> {
    FAMILIES.iter().map(|(heading, families)| {
        let rows = families.iter().copied().flatten().map(|definition| {
            let parameters = match definition.parameters {
                "" => " ".to_owned(),
                text => format!(" {text} "),
            };
            format!("| `{}` |{parameters}| {} |\n", definition.name, definition.does)
        });
        let head = "| step | parameters | what it does |\n|---|---|---|\n".to_owned();
        (*heading, std::iter::once(head).chain(rows).collect())
    })
}

/// Steps that take `job`, in the order of the documentation.
pub fn jobs() -> impl Iterator<Item = &'static str> {
    definitions().filter(|definition| definition.job).map(|definition| definition.name)
}

/// One step and where it stands.
#[derive(Debug, Clone)]
pub struct Step {
    /// Line in the file.
    pub line: usize,
    /// Cases that do it.
    pub when: Condition,
    /// Milliseconds that it may take, instead of the usual generous bound: for a step that is known to hang.
    pub deadline_ms: Option<u64>,
    /// It runs concurrently with the steps that follow, under this name, until it is joined.
    pub job: Option<String>,
    name: &'static str,
    verb: Arc<dyn Verb>,
}

impl Step {
    /// From a table. `default_pages` is the length of a new file that says none.
    pub(crate) fn parse(fields: &mut Fields<'_, '_>, default_pages: u64) -> Result<Self, Fault> {
        let known = |word: &str| definitions().find(|definition| definition.name == word);
        let definition = one(fields, "do", "step", known, list)?.ok_or_else(|| fields.missing("do"))?;
        fields.what = format!("step `{}`", definition.name);
        let when = match fields.table("when", "condition")? {
            Some(mut axes) => {
                let when = condition(&mut axes)?;
                axes.finish()?;
                when
            }
            None => Default::default(),
        };
        let deadline_ms = match fields.number("deadline_ms")? {
            Some(at) if at.value < MIN_DEADLINE_MS => {
                let text = format!(
                    "`deadline_ms` = {} is too short to be told from load; use {MIN_DEADLINE_MS} or more",
                    at.value
                );
                return Err(fields.fault_at(at.line, text));
            }
            other => other.map(|at| at.value),
        };
        let job = match definition.job {
            true => fields.str("job")?.map(|at| at.value.to_owned()),
            false => None,
        };
        let verb = (definition.parse)(fields, default_pages)?;
        Ok(Self { line: fields.line, when, deadline_ms, job, name: definition.name, verb })
    }

    /// The word after `do`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// In a word or two: `dma 101`, `start fsync`.
    pub fn label(&self) -> String {
        let mut label = match self.job {
            Some(_) => format!("start {}", self.name),
            None => self.name.to_owned(),
        };
        if let Some(generation) = self.verb.generation() {
            label += &format!(" {generation}");
        }
        label
    }

    /// What it needs that not every machine has.
    pub(crate) fn needs(&self, point: &Point) -> Needs<'_> {
        self.verb.needs(point)
    }

    /// The job that it looks at.
    pub(crate) fn settles(&self) -> Option<&str> {
        self.verb.settles()
    }
}

/// Steps are the same if they say the same, wherever they stand.
impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        let all = |step: &Self| (step.when.clone(), step.deadline_ms, step.job.clone(), step.name);
        all(self) == all(other) && format!("{:?}", self.verb) == format!("{:?}", other.verb)
    }
}

impl Eq for Step {}
