// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a soak takes for explained is shown by the library: a row without a scenario that shows it on each of its file systems
//! would let anything pass.
#![expect(clippy::disallowed_methods, reason = "the test reads the files that the core is given as text")]

mod common;

use common::scenarios;
use longpin_core::scenario::Expectation;
use longpin_core::soak::known::ROWS;

#[test]
fn every_mechanism_is_shown_by_a_scenario_on_each_of_its_file_systems() {
    let library = scenarios();
    for row in ROWS {
        let scenario = library.iter().find(|scenario| scenario.name == row.scenario);
        let scenario = scenario.unwrap_or_else(|| panic!("there is no scenario {}", row.scenario));
        let points = scenario.matrix.points();
        for fs in row.fs {
            let shows = |expected: &Expectation| {
                let others = expected.race.iter().flat_map(|race| race.or.iter().flatten());
                expected.observe.iter().chain(others).any(|word| row.words.contains(word))
            };
            let mut here = points.iter().filter(|point| point.fs.is_named(fs));
            let shown = here.any(|point| scenario.expectation(point).is_some_and(shows));
            assert!(shown, "{} shows none of {:?} on {fs}", row.scenario, row.words);
        }
    }
}
