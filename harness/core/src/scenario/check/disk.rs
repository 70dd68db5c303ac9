// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules of the auditing disk: a rule stands before it is spoken of, a hold is let go before something that would wait
//! for it, and a noted content is there before it is put back.

use super::walk::{Checked, Walk, fresh, known};
use crate::scenario::Pin;
use crate::scenario::step::{FIRST_DISK, SECOND_DISK, Treatment};

/// A rule that stands.
#[derive(Clone)]
pub struct StandingRule {
    treatment: Treatment,
    /// What it held was let go at least once.
    pub released: bool,
}

impl Walk<'_> {
    pub fn add_rule(&mut self, rule: &str, disk: u32, treatment: Treatment) -> Checked {
        if disk == FIRST_DISK {
            self.has_disk("a rule of disk 0")?;
        }
        if self.point.pin == Pin::Dio && disk == SECOND_DISK {
            return Err("disk 1 holds the dio pins of this case; use disk 0".into());
        }
        fresh("rule", &self.rules, rule)?;
        self.rules.insert(rule.to_owned(), StandingRule { treatment, released: false });
        Ok(())
    }

    /// A rule that holds.
    pub fn holding(&mut self, rule: &str) -> Result<&mut StandingRule, String> {
        known("rule", &self.rules, rule)?;
        match self.rules.get_mut(rule) {
            Some(standing) if standing.treatment.holds() => Ok(standing),
            _ => Err(format!("rule `{rule}` holds nothing; name one of a hold-write or hold-read")),
        }
    }

    pub fn drop_rule(&mut self, rule: &str) -> Checked {
        known("rule", &self.rules, rule)?;
        self.rules.remove(rule);
        Ok(())
    }

    /// Whatever follows would wait for a request that is held.
    pub fn nothing_held(&self, verb: &str) -> Checked {
        let held = |(_, rule): &(&String, &StandingRule)| rule.treatment.holds() && !rule.released;
        match self.rules.iter().find(held) {
            Some((rule, _)) => Err(format!(
                "rule `{rule}` still holds at `{verb}`; put a `release-write` or `drop-rule` before"
            )),
            None => Ok(()),
        }
    }

    pub fn mount(&mut self) -> Checked {
        self.unmounted("mount")?;
        self.nothing_held("mount")?;
        self.mounted = true;
        Ok(())
    }

    pub fn use_device(&mut self) -> Checked {
        self.has_disk("another block device")?;
        self.unmounted("use-device")
    }

    pub fn power_cut(&mut self) -> Checked {
        self.has_disk("a loss of power")?;
        self.cut = true;
        Ok(())
    }

    pub fn restore(&mut self) -> Checked {
        if !self.cut {
            return Err("no content was noted here; put a `power-cut` before".into());
        }
        if self.mounted {
            self.quiet("restore")?;
        }
        self.mounted = false;
        Ok(())
    }

    fn has_disk(&self, what: &str) -> Checked {
        match self.point.fs.fs.device().is_some() {
            true => Ok(()),
            false => Err(format!(
                "{} has no disk: {what} changes nothing; take it from matrix.fs, or give the step a `when`",
                self.point.fs
            )),
        }
    }
}
