// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which cases a command line asks for. A word that names nothing is an error: a run of no case must not look green.

use crate::scenario::{Flavour, Pin, Point, Release, Scenario};
use longpin_proto::filesystem::{self, FileSystem};
use std::sync::Arc;
use wildmatch::WildMatch;

/// Words as they were typed; an empty list chooses everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'a> {
    /// Scenarios, whole case ids or the start of some, or patterns of either.
    pub scenarios: &'a [String],
    /// What is left out, in the same words.
    pub exclude: &'a [String],
    /// Groups.
    pub groups: &'a [String],
    /// File systems or flavours.
    pub fs: &'a [String],
    /// Pin modes.
    pub pin: &'a [String],
    /// Release modes.
    pub release: &'a [String],
    /// Variants.
    pub variant: &'a [String],
}

/// A command line's choice; empty lists choose everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names of scenarios, case ids or the start of some, or patterns of these with `*` and `?`.
    pub scenarios: Vec<String>,
    /// What is left out, in the same words.
    pub exclude: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// File systems or flavours.
    pub fs: Vec<String>,
    /// Pin modes.
    pub pin: Vec<Pin>,
    /// Release modes.
    pub release: Vec<Release>,
    /// Variants.
    pub variant: Vec<String>,
}

/// A word of the command line that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No scenario of this name.
    #[error("scenario `{name}` is unknown; use one of {known}")]
    Scenario {
        /// As typed.
        name: String,
        /// All names.
        known: String,
    },
    /// No scenario and no case of this pattern.
    #[error("`{pattern}` matches no scenario and no case; use a name or a pattern of {known}")]
    Pattern {
        /// As typed.
        pattern: String,
        /// All names.
        known: String,
    },
    /// No scenario has this variant.
    #[error("variant `{name}` is unknown; use one of {known}")]
    Variant {
        /// As typed.
        name: String,
        /// All variants of the scenarios that were chosen.
        known: String,
    },
    /// No such file system.
    #[error("file system `{name}` is unknown; use one of {known}")]
    Fs {
        /// As typed.
        name: String,
        /// All names.
        known: String,
    },
    /// No such pin mode.
    #[error("pin mode `{name}` is unknown; use one of {known}")]
    Pin {
        /// As typed.
        name: String,
        /// All words.
        known: String,
    },
    /// No such release mode.
    #[error("release mode `{name}` is unknown; use one of {known}")]
    Release {
        /// As typed.
        name: String,
        /// All words.
        known: String,
    },
    /// No scenario is in this group.
    #[error("group `{name}` has no scenario; use one of {known}")]
    Group {
        /// As typed.
        name: String,
        /// All groups.
        known: String,
    },
    /// Only cases match that run when they are asked for.
    #[error("the cases that match run on request; add --fs with one or more of {known}")]
    OnRequest {
        /// Names of their file systems.
        known: String,
    },
    /// Each word is known and their combination is empty.
    #[error("no case matches; `longpin list` shows the matrix of each scenario")]
    Nothing,
}

impl Filter {
    /// Check words as typed and make a filter of them.
    pub fn parse(library: &[Arc<Scenario>], words: Words<'_>) -> Result<Self, FilterError> {
        let mut filter = Self {
            scenarios: chosen(library, words.scenarios)?,
            exclude: chosen(library, words.exclude)?,
            ..Self::default()
        };
        for name in words.groups {
            if !library.iter().any(|scenario| scenario.groups.contains(name)) {
                return Err(FilterError::Group { name: name.clone(), known: all_groups(library) });
            }
            filter.groups.push(name.clone());
        }
        for name in words.fs {
            Flavour::parse(name)
                .map_err(|_| FilterError::Fs { name: name.clone(), known: FileSystem::list() })?;
            filter.fs.push(name.clone());
        }
        for name in words.pin {
            let unknown = || FilterError::Pin { name: name.clone(), known: Pin::list() };
            filter.pin.push(Pin::parse(name).ok_or_else(unknown)?);
        }
        for name in words.release {
            let unknown = || FilterError::Release { name: name.clone(), known: Release::list() };
            filter.release.push(Release::parse(name).ok_or_else(unknown)?);
        }
        for name in words.variant {
            let known = filter.variants(library);
            if !known.contains(name) {
                return Err(FilterError::Variant { name: name.clone(), known: known.join(", ") });
            }
            filter.variant.push(name.clone());
        }
        if !super::cases(library, &filter, 1).is_empty() {
            return Ok(filter);
        }
        let every = filesystem::ALL.iter().map(|fs| fs.name.to_owned()).collect();
        let asked = if filter.fs.is_empty() { Self { fs: every, ..filter } } else { filter };
        let mut known: Vec<&str> =
            super::cases(library, &asked, 1).iter().map(|case| case.point.fs.fs.name).collect();
        known.sort_unstable();
        known.dedup();
        match known.is_empty() {
            true => Err(FilterError::Nothing),
            false => Err(FilterError::OnRequest { known: known.join(",") }),
        }
    }

    /// Variants of the scenarios that are chosen, each once.
    fn variants(&self, library: &[Arc<Scenario>]) -> Vec<String> {
        let chosen = |scenario: &&Arc<Scenario>| {
            let mut points = scenario.matrix.points().into_iter();
            self.wants_group(scenario) && points.any(|point| self.wants_point(scenario, &point))
        };
        let points = library.iter().filter(chosen).flat_map(|scenario| scenario.matrix.points());
        let mut variants: Vec<String> = points.filter_map(|point| point.variant).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }

    /// Some file systems and pin modes run only when they are asked for: by `--fs` and `--pin`, which are looked at beside
    /// this, or by a case id or a pattern that has their name.
    fn asks_for(&self, scenario: &Scenario, point: &Point) -> bool {
        let in_words =
            |named: &dyn Fn(&str) -> bool| self.scenarios.iter().any(|word| word.split('/').any(named));
        let fs = !scenario.matrix.fs_on_request.contains(&point.fs)
            || !self.fs.is_empty()
            || in_words(&|part| point.fs.is_named(part));
        let pin = !scenario.matrix.pin_on_request.contains(&point.pin)
            || !self.pin.is_empty()
            || in_words(&|part| point.pin.as_str() == part);
        fs && pin
    }

    /// The scenario is in one of the groups.
    pub fn wants_group(&self, scenario: &Scenario) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| scenario.groups.contains(group))
    }

    /// The point is chosen, whatever its group.
    pub fn wants_point(&self, scenario: &Scenario, point: &Point) -> bool {
        fn any<T>(list: &[T], is: impl Fn(&T) -> bool) -> bool {
            list.is_empty() || list.iter().any(is)
        }
        let id = format!("{}/{point}", scenario.name);
        let names = |word: &String| names_case(word, &scenario.name, &id);
        self.asks_for(scenario, point)
            && any(&self.scenarios, names)
            && !self.exclude.iter().any(names)
            && any(&self.fs, |name| point.fs.is_named(name))
            && any(&self.pin, |pin| *pin == point.pin)
            && any(&self.release, |release| *release == point.release)
            && any(&self.variant, |variant| Some(variant) == point.variant.as_ref())
    }
}

fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?'])
}

/// The word names the scenario, the case or the start of its id, or is a pattern of one of them.
fn names_case(word: &str, scenario: &str, id: &str) -> bool {
    match is_pattern(word) {
        true => {
            let pattern = WildMatch::new(word);
            pattern.matches(scenario) || pattern.matches(id)
        }
        false => word == scenario || id == word || id.starts_with(&format!("{word}/")),
    }
}

/// The words, each of which names something.
fn chosen(library: &[Arc<Scenario>], words: &[String]) -> Result<Vec<String>, FilterError> {
    for word in words {
        let known = || names(library);
        let (stem, _) = word.split_once('/').unwrap_or((word, ""));
        let matches = |scenario: &Arc<Scenario>| {
            let mut points = scenario.matrix.points().into_iter();
            points.any(|point| names_case(word, &scenario.name, &format!("{}/{point}", scenario.name)))
        };
        match is_pattern(word) {
            true if !library.iter().any(matches) => {
                return Err(FilterError::Pattern { pattern: word.clone(), known: known() });
            }
            false if !library.iter().any(|scenario| scenario.name == stem) => {
                return Err(FilterError::Scenario { name: word.clone(), known: known() });
            }
            _ => {}
        }
    }
    Ok(words.to_vec())
}

fn names(library: &[Arc<Scenario>]) -> String {
    library.iter().map(|scenario| scenario.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn all_groups(library: &[Arc<Scenario>]) -> String {
    let mut groups: Vec<&str> =
        library.iter().flat_map(|scenario| &scenario.groups).map(String::as_str).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.join(", ")
}
