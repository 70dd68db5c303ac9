// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The list of rules: the first that accepts a request counts.

use super::MAX_RULES;
use longpin_proto::disk::{Action, MAX_HOLD_MS, Match, Op, Rule};
use std::sync::Arc;

/// Longest name of a rule, in bytes: it is repeated in each report.
const MAX_NAME_BYTES: usize = 64;

/// A rule that cannot be, or is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Empty, too long, or with characters that a report would have to quote.
    #[error("rule name `{0}` is not 1 to 64 letters, digits, `-`, `_` or `.`")]
    Name(String),
    /// There is one of this name.
    #[error("rule `{0}` exists already; drop it first or take another name")]
    Exists(String),
    /// [`MAX_RULES`].
    #[error("there are {MAX_RULES} rules already; drop some first")]
    TooMany,
    /// No such disk.
    #[error("rule `{rule}` is for disk {disk}; this daemon has {}", disks_text(*.disks))]
    Disk {
        /// Rule.
        rule: String,
        /// Asked for.
        disk: u32,
        /// How many there are.
        disks: u32,
    },
    /// Out of bounds.
    #[error("rule `{rule}` keeps requests for {ms} ms; use 1 to {MAX_HOLD_MS}")]
    Time {
        /// Rule.
        rule: String,
        /// Asked for.
        ms: u64,
    },
    /// Nothing can be in it.
    #[error("range {byte}+{len} of rule `{rule}` is empty or has no end")]
    Range {
        /// Rule.
        rule: String,
        /// First byte.
        byte: u64,
        /// Bytes.
        len: u64,
    },
    /// Only writes carry stamps.
    #[error("rule `{0}` asks for stamps in requests that are not writes; leave out `op` or use `write`")]
    StampedOp(String),
    /// No such rule.
    #[error("there is no rule `{rule}`; {}", known_text(.known))]
    Unknown {
        /// Asked for.
        rule: String,
        /// Those that are there.
        known: Vec<String>,
    },
}

fn disks_text(disks: u32) -> String {
    match disks {
        0 => "none".into(),
        1 => "only disk 0".into(),
        more => format!("disks 0 to {}", more - 1),
    }
}

fn known_text(known: &[String]) -> String {
    if known.is_empty() { "there are none".into() } else { format!("use one of {}", known.join(", ")) }
}

/// A request as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Disk.
    pub disk: u32,
    /// Kind.
    pub op: Op,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// Labels of those that pin its pages.
    pub pinned: &'a [u64],
    /// Labels of the stamps with which its sectors begin.
    pub stamped: &'a [u64],
}

impl Subject<'_> {
    /// What can be decided without a look at the request's pages.
    fn is_at(&self, rule: &Rule) -> bool {
        let Match { op, range, .. } = rule.matching;
        let touches =
            |(byte, len): (u64, u64)| self.byte < byte + len && byte < self.byte.saturating_add(self.len);
        rule.disk == self.disk && op.is_none_or(|op| op == self.op) && range.is_none_or(touches)
    }

    fn meets(&self, rule: &Rule) -> bool {
        let Match { pinned, stamped, .. } = rule.matching;
        let pins = |run| if run == 0 { !self.pinned.is_empty() } else { self.pinned.contains(&run) };
        let stamps = |run| self.op == Op::Write && self.stamped.contains(&run);
        self.is_at(rule) && pinned.is_none_or(pins) && stamped.is_none_or(stamps)
    }
}

/// The rule that counts for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its name.
    pub rule: Arc<str>,
    /// Its conditions.
    pub matching: Match,
    /// What it does.
    pub action: Action,
}

#[derive(Debug, Clone)]
struct Standing {
    name: Arc<str>,
    rule: Rule,
    /// Requests so far.
    taken: u64,
}

impl Standing {
    fn is_spent(&self) -> bool {
        self.rule.limit != 0 && self.taken >= self.rule.limit
    }
}

/// Rules in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Rules(Vec<Standing>);

impl Rules {
    /// Add a rule behind the others. `disks`: how many there are.
    pub fn add(&mut self, rule: Rule, disks: u32) -> Result<(), RuleError> {
        validate(&rule, disks)?;
        if self.0.iter().any(|standing| standing.rule.name == rule.name) {
            return Err(RuleError::Exists(rule.name));
        }
        if self.0.len() >= MAX_RULES {
            return Err(RuleError::TooMany);
        }
        self.0.push(Standing { name: rule.name.as_str().into(), rule, taken: 0 });
        Ok(())
    }

    /// Drop a rule.
    pub fn drop_rule(&mut self, name: &str) -> Result<(), RuleError> {
        self.get(name)?;
        self.0.retain(|standing| standing.rule.name != name);
        Ok(())
    }

    /// Drop all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// A rule by its name.
    pub fn get(&self, name: &str) -> Result<&Rule, RuleError> {
        let standing = self.0.iter().find(|standing| standing.rule.name == name);
        standing.map(|standing| &standing.rule).ok_or_else(|| RuleError::Unknown {
            rule: name.into(),
            known: self.0.iter().map(|standing| standing.rule.name.clone()).collect(),
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any rule could be for a request whose pages have not been looked at.
    pub fn concern(&self, subject: &Subject<'_>) -> bool {
        self.0.iter().any(|standing| !standing.is_spent() && subject.is_at(&standing.rule))
    }

    /// The rule that counts, if one does; its limit is used up by one.
    pub fn decide(&mut self, subject: &Subject<'_>) -> Option<Decision> {
        let standing =
            self.0.iter_mut().find(|standing| !standing.is_spent() && subject.meets(&standing.rule))?;
        standing.taken += 1;
        let Rule { matching, action, .. } = standing.rule.clone();
        Some(Decision { rule: standing.name.clone(), matching, action })
    }
}

fn validate(rule: &Rule, disks: u32) -> Result<(), RuleError> {
    let name = || rule.name.clone();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if rule.name.is_empty() || rule.name.len() > MAX_NAME_BYTES || !rule.name.chars().all(plain) {
        return Err(RuleError::Name(name()));
    }
    if rule.disk >= disks {
        return Err(RuleError::Disk { rule: name(), disk: rule.disk, disks });
    }
    if let Action::Hold { cap_ms: ms, .. } | Action::Delay { ms, .. } = rule.action
        && !(1..=MAX_HOLD_MS).contains(&ms)
    {
        return Err(RuleError::Time { rule: name(), ms });
    }
    if let Some((byte, len)) = rule.matching.range
        && (len == 0 || byte.checked_add(len).is_none())
    {
        return Err(RuleError::Range { rule: name(), byte, len });
    }
    if rule.matching.stamped.is_some() && rule.matching.op.is_some_and(|op| op != Op::Write) {
        return Err(RuleError::StampedOp(name()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::disk::Fetch;

    const WRITE: Subject<'_> =
        Subject { disk: 0, op: Op::Write, byte: 8192, len: 4096, pinned: &[], stamped: &[] };

    fn rule(name: &str, matching: Match, action: Action) -> Rule {
        Rule { name: name.into(), disk: 0, matching, action, limit: 0 }
    }

    fn hold() -> Action {
        Action::Hold { fetch: Fetch::Late, cap_ms: 1000 }
    }

    fn rules(rules: &[Rule]) -> Rules {
        let mut list = Rules::default();
        rules.iter().for_each(|rule| list.add(rule.clone(), 2).unwrap());
        list
    }

    fn decides(list: &mut Rules, subject: &Subject<'_>) -> Option<String> {
        list.decide(subject).map(|decision| decision.rule.to_string())
    }

    #[test]
    fn the_first_rule_that_accepts_counts() {
        let reads = Match { op: Some(Op::Read), ..Match::default() };
        let mut list = rules(&[
            rule("r", reads, hold()),
            rule("o", Match::default(), Action::Observe),
            rule("x", Match::default(), hold()),
        ]);
        assert_eq!(decides(&mut list, &WRITE), Some("o".into()));
        assert_eq!(decides(&mut list, &Subject { op: Op::Read, ..WRITE }), Some("r".into()));
        assert_eq!(decides(&mut list, &Subject { disk: 1, ..WRITE }), None);
        list.drop_rule("o").unwrap();
        assert_eq!(decides(&mut list, &WRITE), Some("x".into()));
    }

    #[test]
    fn every_condition_that_is_given_must_hold() {
        let matching =
            Match { op: Some(Op::Write), range: Some((4096, 4097)), pinned: Some(7), stamped: Some(9) };
        let mut list = rules(&[rule("w", matching, hold())]);
        let all = Subject { pinned: &[3, 7], stamped: &[9], ..WRITE };
        assert_eq!(decides(&mut list, &all), Some("w".into()));
        for other in [
            Subject { op: Op::Read, ..all },
            Subject { byte: 8193, ..all },
            Subject { byte: 0, ..all },
            Subject { pinned: &[3], ..all },
            Subject { stamped: &[], ..all },
        ] {
            assert_eq!(decides(&mut list, &other), None, "{other:?}");
        }
        let mut any = rules(&[rule("w", Match { pinned: Some(0), ..Match::default() }, hold())]);
        assert_eq!(decides(&mut any, &WRITE), None);
        assert_eq!(decides(&mut any, &Subject { pinned: &[3], ..WRITE }), Some("w".into()));
    }

    #[test]
    fn a_request_without_length_touches_no_range() {
        let matching = Match { range: Some((0, 1 << 40)), ..Match::default() };
        let mut list = rules(&[rule("w", matching, hold())]);
        assert_eq!(decides(&mut list, &Subject { op: Op::Flush, byte: 0, len: 0, ..WRITE }), None);
        assert_eq!(decides(&mut list, &Subject { byte: u64::MAX, len: u64::MAX, ..WRITE }), None);
    }

    #[test]
    fn a_rule_ends_after_its_limit_and_the_next_is_asked() {
        let mut first = rule("w", Match::default(), hold());
        first.limit = 2;
        let mut list = rules(&[first, rule("o", Match::default(), Action::Observe)]);
        let names: Vec<_> = (0..3).map(|_| decides(&mut list, &WRITE).unwrap()).collect();
        assert_eq!(names, ["w", "w", "o"]);
        assert!(list.get("w").is_ok(), "what it holds can still be named");
        list.drop_rule("o").unwrap();
        assert!(!list.concern(&WRITE));
    }

    #[test]
    fn each_way_to_be_wrong_is_named() {
        let mut list = rules(&[rule("w", Match::default(), hold())]);
        let mut refusal = |change: &dyn Fn(&mut Rule)| {
            let mut rule = rule("v", Match::default(), hold());
            change(&mut rule);
            list.add(rule, 2).unwrap_err().to_string()
        };
        for name in ["", "a b", "é", &"x".repeat(65)] {
            assert!(refusal(&|r| r.name = name.into()).contains("is not 1 to 64 letters"), "{name}");
        }
        assert_eq!(
            refusal(&|r| r.name = "w".into()),
            "rule `w` exists already; drop it first or take another name"
        );
        assert_eq!(refusal(&|r| r.disk = 2), "rule `v` is for disk 2; this daemon has disks 0 to 1");
        for cap_ms in [0, MAX_HOLD_MS + 1] {
            let text = refusal(&|r| r.action = Action::Hold { fetch: Fetch::Late, cap_ms });
            assert_eq!(text, format!("rule `v` keeps requests for {cap_ms} ms; use 1 to 600000"));
        }
        assert!(refusal(&|r| r.action = Action::Delay { fetch: Fetch::Late, ms: 0 }).contains("for 0 ms"));
        for range in [(5, 0), (u64::MAX, 2)] {
            assert!(refusal(&|r| r.matching.range = Some(range)).contains("is empty or has no end"));
        }
        let stamped_read = |r: &mut Rule| (r.matching.op, r.matching.stamped) = (Some(Op::Read), Some(1));
        assert!(refusal(&stamped_read).starts_with("rule `v` asks for stamps"));
        assert_eq!(list.get("v").unwrap_err().to_string(), "there is no rule `v`; use one of w");
        assert_eq!(list.drop_rule("v").unwrap_err(), list.get("v").unwrap_err());
        for n in 1..MAX_RULES {
            list.add(rule(&n.to_string(), Match::default(), hold()), 2).unwrap();
        }
        assert_eq!(list.add(rule("v", Match::default(), hold()), 2), Err(RuleError::TooMany));
    }
}
