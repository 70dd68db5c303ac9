// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs cases in boots: one boot serves many cases, the controls first; after a splat, a hang, a panic or a loss the
//! boot is thrown away and the rest goes on in a new one.

use super::batches::Pending;
use super::case::{self, Limits};
use super::environment;
use super::result_dir::ResultDir;
use super::story::Story;
use crate::guest::{self, BootError, Guest, Machine};
use crate::interrupt::Interrupt;
use crate::symbols::Symbols;
use anyhow::Context as _;
use longpin_core::attempts::{NOT_RUN, is_unexpected};
use longpin_core::bisect::NO_GUEST;
use longpin_core::controls;
use longpin_core::dmesg::ignored::Ignored;
use longpin_core::events::EventKind;
use longpin_core::plan::Case;
use longpin_core::record::{CaseRecord, Evidence, Trouble};
use longpin_core::report::{BootResult, CaseResult, Environment};
use longpin_core::scenario::MachineNeeds;
use longpin_core::verdict::{self, Cause, Judgement, Observed, Outcome};
use std::path::Path;
use std::time::Instant;

/// Boots in a row that may fail before the first case. More would fail as well: the cause is ours.
const MAX_FAILED_BOOTS: u32 = 2;

/// Everything that a run needs.
pub struct Executor<'a> {
    pub machine: &'a Machine,
    pub out: &'a ResultDir,
    pub interrupt: &'a Interrupt,
    pub story: &'a mut Story,
    pub limits: Limits,
    pub cases_per_boot: usize,
    /// Nothing more after the first case that is not as it should be.
    pub fail_fast: bool,
    /// Nothing more after so many of them.
    pub max_fail: Option<u32>,
    pub environment: Environment,
    /// What the kernel says and does not count.
    pub ignored: &'a Ignored,
    /// Makes the labels of one run differ from those of another.
    pub seed: u32,
    /// Label of the only case, where that is to be what it once was.
    pub as_it_was: Option<u64>,
    /// Attempts so far.
    pub attempts: u32,
    /// Label of the case after which nothing more is to run.
    pub last: Option<String>,
    /// Boots so far.
    pub boots: u32,
    /// Cases that were not as they should be, and may be when they run again.
    pub unexpected: Vec<Case>,
    /// Nothing more is to run.
    pub stopped: bool,
    /// Lines of source for the kernel's reports.
    pub symbols: Symbols<'a>,
}

/// How a boot ended.
enum End {
    /// It did all that it was given.
    Done,
    /// It is not fit for another case; others may run in a new boot.
    Spoiled(String),
    /// It never got to a case.
    Failed(String),
    /// We were asked to stop.
    Interrupted,
}

/// How a case ended.
enum CaseEnd {
    Good,
    Spoils(String),
    Interrupted,
}

impl Executor<'_> {
    /// Run all cases, and those that were not as they should be again, up to `retries` times. Errors: the result directory
    /// cannot be written.
    pub fn run(&mut self, cases: Vec<Case>, retries: u32) -> anyhow::Result<()> {
        self.round(cases)?;
        // It bounds the cases of the run, and these are counted.
        self.max_fail = None;
        for round in 1..=retries {
            let mut again = std::mem::take(&mut self.unexpected);
            if self.stopped || again.is_empty() {
                break;
            }
            again.iter_mut().for_each(|case| case.attempt += 1);
            let labels = again.iter().map(Case::label).collect();
            self.story.tell(EventKind::RetriesStarted { round, cases: labels })?;
            // What a neighbour left behind must not decide again.
            self.cases_per_boot = 1;
            self.round(again)?;
        }
        Ok(())
    }

    /// Run cases once.
    fn round(&mut self, cases: Vec<Case>) -> anyhow::Result<()> {
        let mut pending = Pending::new(cases);
        let (mut failed, mut hopeless_machines, mut started) = (0, 0, false);
        while !pending.is_empty() {
            self.boots += 1;
            let boot = self.boots;
            let began = Instant::now();
            self.story.tell(EventKind::BootStarted { boot })?;
            let mut result = BootResult { boot, ..BootResult::default() };
            let end = self.boot(&mut pending, &mut result)?;
            result.seconds = began.elapsed().as_secs_f64();
            failed = if matches!(end, End::Failed(_)) { failed + 1 } else { 0 };
            let interrupted = matches!(end, End::Interrupted);
            let hopeless = match &end {
                End::Failed(why) if failed >= MAX_FAILED_BOOTS => Some(why.clone()),
                _ => None,
            };
            started |= !matches!(end, End::Failed(_));
            result.ended = match end {
                End::Done => "done".to_owned(),
                End::Spoiled(why) | End::Failed(why) => why,
                End::Interrupted => "interrupted".to_owned(),
            };
            self.story.tell(EventKind::BootEnded(result))?;
            if interrupted {
                self.stopped = true;
                return self.story.tell(EventKind::Interrupted);
            }
            // A run that has come to its end did not stop before it.
            if let Some(most) = self.max_fail.filter(|most| self.has_enough(*most) && !pending.is_empty()) {
                self.stopped = true;
                let reason = format!("{NOT_RUN}{most} unexpected cases came before (--max-fail)");
                return self.story.tell(EventKind::Stopped { reason });
            }
            if let Some(label) = self.last.take() {
                return self.skip(pending, boot, &label);
            }
            if let Some(why) = hopeless {
                // Another machine may do better, unless no machine ever did.
                let needs = pending.needs();
                let others = hopeless_machines > 0 && !started;
                let lost = pending.take(|machine| others || *machine == needs);
                self.give_up(lost, boot, &why)?;
                (failed, hopeless_machines) = (0, hopeless_machines + 1);
            }
        }
        Ok(())
    }

    /// So many cases were not as they should be.
    fn has_enough(&self, most: u32) -> bool {
        self.unexpected.len() >= most as usize
    }

    /// No guest to be had: what was to run in one becomes an error that says why.
    fn give_up(&mut self, lost: Vec<Case>, boot: u32, why: &str) -> anyhow::Result<()> {
        let reason = format!("{NO_GUEST}{why}");
        let judgement = Judgement { outcome: Outcome::Error, cause: Some(Cause::Infra), reason };
        lost.into_iter().try_for_each(|case| self.tell_unrun(&case, boot, &judgement))
    }

    /// A case was not as it should be: what was to come after it is skipped.
    fn skip(&mut self, mut pending: Pending, boot: u32, label: &str) -> anyhow::Result<()> {
        let reason = format!("{NOT_RUN}{label} came before, and the run was to end with the first failure");
        let judgement = Judgement { outcome: Outcome::Skip, cause: None, reason };
        pending.take(|_| true).into_iter().try_for_each(|case| self.tell_unrun(&case, boot, &judgement))
    }

    fn tell_unrun(&mut self, case: &Case, boot: u32, judgement: &Judgement) -> anyhow::Result<()> {
        let case = CaseResult::new(case, boot, &Observed::default(), judgement, 0.0);
        self.story.tell(EventKind::CaseFinished(Box::new(case)))
    }

    /// One boot: as many of the pending cases as it can take, all with the same needs.
    fn boot(&mut self, pending: &mut Pending, result: &mut BootResult) -> anyhow::Result<End> {
        let dir = guest::boot_dir(self.out.path(), result.boot)?;
        let needs = pending.needs();
        let mut guest = match self.start(&needs, &dir) {
            Ok(guest) => guest,
            Err(BootError::Interrupted) => return Ok(End::Interrupted),
            Err(BootError::Failed(error)) => return Ok(End::Failed(format!("{error:#}"))),
        };
        let seconds = guest.seconds_to_agent();
        result.seconds_to_agent = Some(seconds);
        self.story.tell(EventKind::BootReady { boot: result.boot, seconds })?;
        self.introduce(&guest)?;
        match self.controls(&mut guest, result)? {
            End::Done => {}
            End::Spoiled(control) => return self.spoil(pending, &needs, result, &control),
            end => return Ok(end),
        }
        for nth in 1..=self.cases_per_boot {
            let Some(case) = pending.next_with(&needs) else { break };
            let mut attempt = self.run_case(&mut guest, &case, result.boot)?;
            result.cases += 1;
            let bad = is_unexpected(attempt.judgement.outcome);
            if self.fail_fast && bad {
                self.last = Some(case.label());
            }
            if bad {
                self.unexpected.push(case.clone());
            }
            let last = nth == self.cases_per_boot
                || !pending.has_next_with(&needs)
                || self.last.is_some()
                || self.max_fail.is_some_and(|most| self.has_enough(most));
            let mut interrupted = false;
            if last && matches!(attempt.end, CaseEnd::Good) {
                match guest.power_off() {
                    // The case itself came to its end.
                    Evidence::Trouble(Trouble::Interrupted) => interrupted = true,
                    word => attempt = attempt.with(&case, word, self.ignored)?,
                }
            }
            if is_unexpected(attempt.judgement.outcome) && !bad {
                self.unexpected.push(case.clone());
            }
            self.report(&case, &attempt, result.boot)?;
            match attempt.end {
                CaseEnd::Good if interrupted => return Ok(End::Interrupted),
                CaseEnd::Good if last => break,
                CaseEnd::Good => {}
                CaseEnd::Spoils(why) => return Ok(End::Spoiled(why)),
                CaseEnd::Interrupted => return Ok(End::Interrupted),
            }
        }
        Ok(End::Done)
    }

    fn start(&self, needs: &MachineNeeds, dir: &Path) -> Result<Guest, BootError> {
        let mut guest = Guest::boot(self.machine, needs, dir, false, self.interrupt)?;
        guest.load_driver()?;
        guest.drop_boot_log()?;
        Ok(guest)
    }

    /// The first guest tells what was not known before.
    fn introduce(&mut self, guest: &Guest) -> anyhow::Result<()> {
        let before = self.environment.clone();
        environment::complete(&mut self.environment, guest);
        if self.environment == before {
            return Ok(());
        }
        self.story.tell(EventKind::EnvironmentKnown { environment: Box::new(self.environment.clone()) })
    }

    /// `Spoiled` with the control's name if one of them was not passed, `Failed` if the guest died in one.
    fn controls(&mut self, guest: &mut Guest, result: &mut BootResult) -> anyhow::Result<End> {
        let controls = controls::cases(guest.lacks().driver.is_none())
            .map_err(|faults| anyhow::anyhow!("built-in controls: {faults:?}"))?;
        for control in controls {
            let attempt = self.run_case(guest, &control, result.boot)?;
            result.cases += 1;
            self.report(&control, &attempt, result.boot)?;
            let Attempt { seen, judgement, end, .. } = attempt;
            match end {
                CaseEnd::Interrupted => return Ok(End::Interrupted),
                CaseEnd::Spoils(why) if seen.problem.is_some() => return Ok(End::Failed(why)),
                _ if !controls::passed(&control, &seen, &judgement) => return Ok(End::Spoiled(control.id)),
                CaseEnd::Spoils(why) => return Ok(End::Failed(why)),
                CaseEnd::Good => {}
            }
        }
        Ok(End::Done)
    }

    /// A control failed: what this boot would have run becomes an error.
    fn spoil(
        &mut self,
        pending: &mut Pending,
        needs: &MachineNeeds,
        result: &BootResult,
        control: &str,
    ) -> anyhow::Result<End> {
        let judgement = controls::spoiled(control);
        for _ in 0..self.cases_per_boot {
            let Some(case) = pending.next_with(needs) else { break };
            self.tell_unrun(&case, result.boot, &judgement)?;
            self.unexpected.push(case);
        }
        Ok(End::Spoiled(judgement.reason))
    }

    /// Label of the current attempt in stamps and ledger: 20 bits of the seed and a counter, together below 2^53, so
    /// that every JSON reader takes it as it is.
    fn label(&self) -> u64 {
        u64::from(self.seed & 0xf_ffff) << 32 | u64::from(self.attempts)
    }

    /// Run a case, and judge it.
    fn run_case(&mut self, guest: &mut Guest, case: &Case, boot: u32) -> anyhow::Result<Attempt> {
        let began = Instant::now();
        let label = case.label();
        self.story.tell(EventKind::CaseStarted { case: label.clone(), boot })?;
        self.attempts += 1;
        let mut told = Ok(());
        let run = self.as_it_was.filter(|_| !case.control).unwrap_or_else(|| self.label());
        let record = case::run(guest, case, run, self.limits, self.interrupt, |line| {
            let progress = EventKind::CaseProgress { case: label.clone(), line };
            told = std::mem::replace(&mut told, Ok(())).and_then(|()| self.story.tell(progress));
        });
        told?;
        Attempt::judge(case, record, began.elapsed().as_secs_f64(), self.ignored)
    }

    /// Keep its evidence, tell its verdict; a case that was interrupted has none.
    fn report(&mut self, case: &Case, attempt: &Attempt, boot: u32) -> anyhow::Result<()> {
        let name = if case.control { format!("boot-{boot}.{}", case.id) } else { case.label() };
        self.out.write_case(&name, &attempt.record)?;
        if matches!(attempt.end, CaseEnd::Interrupted) {
            return Ok(());
        }
        let Attempt { seen, judgement, seconds, .. } = attempt;
        let mut result = CaseResult::new(case, boot, seen, judgement, *seconds);
        for report in &mut result.reports {
            let Some(frames) = seen.frames.get(&report.fingerprint) else { continue };
            match self.symbols.source(frames) {
                Ok(source) => report.source = source,
                Err(error) => {
                    let text = format!("no lines of source for {}: {error:#}", report.title);
                    self.story.tell(EventKind::Notice { text })?;
                }
            }
        }
        self.story.tell(EventKind::CaseFinished(Box::new(result)))
    }
}

/// A case that has run.
struct Attempt {
    record: CaseRecord,
    seen: Observed,
    judgement: Judgement,
    end: CaseEnd,
    seconds: f64,
}

impl Attempt {
    fn judge(case: &Case, record: CaseRecord, seconds: f64, ignored: &Ignored) -> anyhow::Result<Self> {
        let seen = verdict::observe_but(&record, ignored);
        let expected = case.expectation().with_context(|| format!("{} has no expectation", case.id))?;
        let judgement = verdict::judge(&seen, expected);
        let interrupted =
            record.evidence.iter().any(|e| matches!(e, Evidence::Trouble(Trouble::Interrupted)));
        let end = match verdict::spoils_boot(&record, &seen) {
            _ if interrupted => CaseEnd::Interrupted,
            true => CaseEnd::Spoils(format!("{}: {}", case.label(), judgement.reason)),
            false => CaseEnd::Good,
        };
        Ok(Self { record, seen, judgement, end, seconds })
    }

    /// The same case, judged again with one more piece of evidence.
    fn with(mut self, case: &Case, evidence: Evidence, ignored: &Ignored) -> anyhow::Result<Self> {
        self.record.evidence.push(evidence);
        Self::judge(case, self.record, self.seconds, ignored)
    }
}
