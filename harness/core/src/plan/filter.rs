// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which cases a command line asks for. A word that names nothing is an error: a run of no case must not look green.

use crate::scenario::{Flavour, Fs, Pin, Point, Release, Scenario};
use std::sync::Arc;

/// A command line's choice; empty lists choose everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names of scenarios, or whole case ids.
    pub scenarios: Vec<String>,
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
    /// Each word is known and their combination is empty.
    #[error("no case matches; `longpin list` shows the matrix of each scenario")]
    Nothing,
}

impl Filter {
    /// Check words as typed and make a filter of them.
    pub fn parse(
        library: &[Arc<Scenario>],
        scenarios: &[String],
        groups: &[String],
        fs: &[String],
        pin: &[String],
        release: &[String],
    ) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for name in scenarios {
            let (stem, _) = name.split_once('/').unwrap_or((name, ""));
            if !library.iter().any(|scenario| scenario.name == stem) {
                return Err(FilterError::Scenario { name: name.clone(), known: names(library) });
            }
            filter.scenarios.push(name.clone());
        }
        for name in groups {
            if !library.iter().any(|scenario| scenario.groups.contains(name)) {
                return Err(FilterError::Group { name: name.clone(), known: all_groups(library) });
            }
            filter.groups.push(name.clone());
        }
        for name in fs {
            Flavour::parse(name).map_err(|_| FilterError::Fs { name: name.clone(), known: Fs::list() })?;
            filter.fs.push(name.clone());
        }
        for name in pin {
            let unknown = || FilterError::Pin { name: name.clone(), known: Pin::list() };
            filter.pin.push(Pin::parse(name).ok_or_else(unknown)?);
        }
        for name in release {
            let unknown = || FilterError::Release { name: name.clone(), known: Release::list() };
            filter.release.push(Release::parse(name).ok_or_else(unknown)?);
        }
        match super::cases(library, &filter, 1).is_empty() {
            true => Err(FilterError::Nothing),
            false => Ok(filter),
        }
    }

    /// The scenario is chosen, by name, by the id of one of its cases, or by group.
    pub fn wants_scenario(&self, scenario: &Scenario) -> bool {
        let named = |name: &String| name.split('/').next() == Some(scenario.name.as_str());
        (self.scenarios.is_empty() || self.scenarios.iter().any(named))
            && (self.groups.is_empty() || self.groups.iter().any(|group| scenario.groups.contains(group)))
    }

    /// The point is chosen.
    pub fn wants_point(&self, scenario: &Scenario, point: &Point) -> bool {
        fn any<T>(list: &[T], is: impl Fn(&T) -> bool) -> bool {
            list.is_empty() || list.iter().any(is)
        }
        let id = format!("{}/{point}", scenario.name);
        any(&self.scenarios, |name| {
            *name == scenario.name || id == *name || id.starts_with(&format!("{name}/"))
        }) && any(&self.fs, |name| point.fs.is_named(name))
            && any(&self.pin, |pin| *pin == point.pin)
            && any(&self.release, |release| *release == point.release)
            && any(&self.variant, |variant| Some(variant) == point.variant.as_ref())
    }
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
