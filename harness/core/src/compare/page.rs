// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparison as one HTML file, without any script.

use super::{Cell, Comparison, Relation, Row};
use crate::report::html::{STYLE, content_policy};
use askama::Template;

#[derive(Template)]
#[template(path = "compare.html")]
struct Page<'c> {
    policy: String,
    style: &'static str,
    comparison: &'c Comparison,
    sections: Vec<Section<'c>>,
}

/// Rows of a word.
struct Section<'c> {
    title: &'static str,
    /// For people: what the word says.
    what: &'static str,
    rows: Vec<&'c Row>,
    with_reasons: bool,
}

impl Section<'_> {
    fn reasons(&self, cell: &Cell) -> Vec<(String, String)> {
        match self.with_reasons {
            true => cell.reasons().map(|(words, reason)| (words, reason.to_owned())).collect(),
            false => Vec::new(),
        }
    }
}

/// The file.
///
/// Errors: what the template engine could not write; an argument cannot cause one.
pub fn html(comparison: &Comparison) -> Result<String, askama::Error> {
    let section = |relation, title, what, with_reasons| Section {
        title,
        what,
        rows: comparison.rows_that(relation).collect(),
        with_reasons,
    };
    let sections = vec![
        section(Relation::Differs, "What differs", "The gravest first, with each run's reason.", true),
        section(
            Relation::NotCompared,
            "Not compared",
            "Fewer than two runs saw something: the case was skipped, an error, or not planned.",
            true,
        ),
        section(Relation::Same, "The same", "Every run that saw something saw this.", false),
    ];
    let policy = content_policy(&[STYLE], &[]);
    Page { policy, style: STYLE, comparison, sections }.render()
}
