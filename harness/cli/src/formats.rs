// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--format junit=out.xml,ktap=-`: in which forms a result is wanted and where each goes. What a form looks like is a view
//! of `longpin_core::report`; this is the list of them and the only place that writes them.

use crate::error::{Error, Result};
use crate::output;
use crate::whole_file;
use anyhow::Context as _;
use clap::ValueEnum;
use longpin_core::report::formats::{Place, github, junit, kcidb, ktap, markdown};
use longpin_core::report::{RunResult, TableStyle, table};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A form of the result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Form {
    /// For people
    Table,
    /// result.json
    Json,
    /// KTAP version 1
    Ktap,
    /// XML of JUnit
    Junit,
    /// Annotations of a GitHub workflow
    Github,
    /// A summary page
    Markdown,
    /// A file for KCIDB, schema 5.3
    Kcidb,
}

/// A form of a comparison of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompareForm {
    /// For people
    Table,
    /// The document
    Json,
    /// A page
    Markdown,
    /// A page for a browser
    Html,
}

/// Word on the command line.
pub fn word(form: &impl ValueEnum) -> String {
    form.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// One form, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output<F = Form> {
    /// In which form.
    pub form: F,
    /// None: standard output.
    pub file: Option<PathBuf>,
}

impl<F: ValueEnum> std::str::FromStr for Output<F> {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (word, file) = text.split_once('=').map_or((text, "-"), |(word, file)| (word, file));
        let known = || F::value_variants().iter().map(self::word).collect::<Vec<_>>().join(", ");
        let form =
            F::from_str(word, false).map_err(|_| format!("`{word}` is no format; use one of {}", known()))?;
        match file {
            "" => Err(format!("`{text}` names no file; write {word}=FILE, or {word} for standard output")),
            "-" => Ok(Self { form, file: None }),
            file => Ok(Self { form, file: Some(file.into()) }),
        }
    }
}

/// The form that goes to standard output, if one does.
pub fn to_stdout<F: Copy>(outputs: &[Output<F>]) -> Option<F> {
    outputs.iter().find(|output| output.file.is_none()).map(|output| output.form)
}

/// Whether all of them can be had.
///
/// Errors: `Usage`, if two go to the same place.
pub fn check<F>(outputs: &[Output<F>]) -> Result<()> {
    let mut taken = BTreeSet::new();
    for output in outputs {
        if !taken.insert(&output.file) {
            return Err(Error::Usage(match &output.file {
                None => "--format: two formats go to standard output; give all but one a file, as junit=FILE"
                    .into(),
                Some(file) => {
                    format!("--format: two formats go to {}; give each its own file", file.display())
                }
            }));
        }
    }
    Ok(())
}

/// Make sure, before hours are spent, that every file can be written. What an earlier run left there goes: a run that is
/// killed must not be taken for that one.
///
/// Errors: `Usage` with the file.
pub fn make_ready<F: ValueEnum>(outputs: &[Output<F>]) -> Result<()> {
    let files = outputs.iter().filter_map(|output| Some((&output.form, output.file.as_ref()?)));
    for (form, file) in files {
        let ready = || -> io::Result<()> {
            match fs::metadata(file) {
                Ok(is) if is.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
                _ if is_replaced(file) => {}
                // A pipe has no content, and waits for its reader when it is opened.
                _ => return Ok(()),
            }
            drop(tempfile::NamedTempFile::new_in(whole_file::parent(file))?);
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        ready().map_err(|error| {
            Error::Usage(format!(
                "--format {}={}: the file cannot be written: {error}",
                word(form),
                file.display()
            ))
        })?;
    }
    Ok(())
}

/// What the forms are made of.
pub struct Content<'r> {
    /// The run.
    pub run: &'r RunResult,
    /// Of a table on standard output.
    pub style: TableStyle,
    /// Where expectations stand, by the id of the case.
    pub places: &'r BTreeMap<String, Place>,
}

impl Content<'_> {
    fn text(&self, form: Form, style: TableStyle) -> anyhow::Result<String> {
        Ok(match form {
            Form::Table => table(self.run, style),
            Form::Json => {
                let text = serde_json::to_string_pretty(self.run);
                text.context("the result cannot be written as JSON")? + "\n"
            }
            Form::Ktap => ktap(self.run),
            Form::Junit => junit(self.run).context("the result cannot be written as JUnit XML")?,
            Form::Github => github(self.run, self.places),
            Form::Markdown => markdown(self.run),
            Form::Kcidb => kcidb(self.run).context("the result cannot be written as JSON of KCIDB")?,
        })
    }

    /// Write them all. One that fails keeps no other back; the first error is the one that is returned.
    pub fn write(&self, outputs: &[Output]) -> anyhow::Result<()> {
        let written: Vec<_> = outputs.iter().map(|output| self.write_one(output)).collect();
        written.into_iter().collect()
    }

    fn write_one(&self, output: &Output) -> anyhow::Result<()> {
        match &output.file {
            None => output::text(&self.text(output.form, self.style)?),
            Some(file) => {
                let text = self.text(output.form, TableStyle { color: false, width: None })?;
                write_file(file, &text).with_context(|| format!("{} cannot be written", file.display()))
            }
        }
    }
}

/// It is there whole or not at all, unless it is a pipe, a device or a link to something.
pub fn write_file(file: &Path, text: &str) -> io::Result<()> {
    if !is_replaced(file) {
        return fs::OpenOptions::new().write(true).truncate(true).open(file)?.write_all(text.as_bytes());
    }
    whole_file::write(file, text.as_bytes())
}

/// A plain file, or nothing yet.
fn is_replaced(file: &Path) -> bool {
    fs::symlink_metadata(file).map_or(true, |is| is.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Output, String> {
        text.parse()
    }

    fn outputs(words: &[&str]) -> Vec<Output> {
        words.iter().map(|word| parse(word).unwrap()).collect()
    }

    fn usage(result: Result<()>) -> String {
        match result {
            Err(Error::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_format_without_a_file_goes_to_standard_output() {
        assert_eq!(parse("json"), parse("json=-"));
        assert_eq!(parse("ktap"), Ok(Output { form: Form::Ktap, file: None }));
        assert_eq!(parse("junit=a=b"), Ok(Output { form: Form::Junit, file: Some("a=b".into()) }));
        assert!(parse("junit=").unwrap_err().contains("junit=FILE"));
        assert!(parse("xml").unwrap_err().contains("table, json, ktap, junit, github, markdown, kcidb"));
    }

    #[test]
    fn two_formats_to_one_place_are_refused() {
        assert!(check(&outputs(&["ktap", "junit=x", "json=y"])).is_ok());
        assert!(usage(check(&outputs(&["ktap", "json"]))).contains("standard output"));
        assert!(usage(check(&outputs(&["ktap=x", "json=x"]))).contains("go to x"));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_before_anything_runs() {
        let dir = tempfile::tempdir().unwrap();
        for file in [dir.path().join("no/such/x"), dir.path().to_owned()] {
            let outputs = outputs(&["json", &format!("junit={}", file.display())]);
            let text = usage(make_ready(&outputs));
            let name = format!("--format junit={}: the file cannot be written: ", file.display());
            assert!(text.starts_with(&name), "{text}");
        }
    }

    #[test]
    fn what_an_earlier_run_left_is_gone_before_this_one_begins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        fs::write(&file, "old").unwrap();
        make_ready(&outputs(&[&format!("ktap={}", file.display())])).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_form_is_written_even_if_one_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunResult::default();
        let places = BTreeMap::new();
        let content = Content { run: &run, style: TableStyle { color: false, width: None }, places: &places };
        let (bad, link, aim) = (dir.path().join("no/x"), dir.path().join("link"), dir.path().join("aim"));
        fs::write(&aim, "a much longer text than the one that takes its place").unwrap();
        std::os::unix::fs::symlink(&aim, &link).unwrap();
        let mut outputs =
            outputs(&[&format!("table={}", bad.display()), &format!("ktap={}", link.display())]);
        for form in Form::value_variants() {
            outputs.push(Output { form: *form, file: Some(dir.path().join(word(form))) });
        }
        let error = content.write(&outputs).unwrap_err();
        assert!(format!("{error:#}").starts_with(&bad.display().to_string()), "{error:#}");
        for form in Form::value_variants() {
            assert!(!fs::read_to_string(dir.path().join(word(form))).unwrap().is_empty(), "{form:?}");
        }
        assert!(link.is_symlink(), "what a link names is written, the link stays");
        assert_eq!(fs::read_to_string(aim).unwrap(), fs::read_to_string(dir.path().join("ktap")).unwrap());
    }
}
