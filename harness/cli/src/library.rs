// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where scenarios come from: the library built into the program, a directory instead of it, single files beside it.
//! Everything that is wrong with them is said at once, before anything is built or booted.

use crate::args::LibraryArgs;
use crate::error::{Error, Result};
use include_dir::{Dir, include_dir};
use longpin_core::plan::{self, Case, Filter, Words};
use longpin_core::report::formats::Place;
use longpin_core::scenario::{Fault, Scenario};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// tests/scenarios of this source state.
static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../tests/scenarios");
/// The same from the root of the sources.
const BUILT_IN_DIR: &str = "tests/scenarios";

/// Scenarios to choose from, and what was chosen.
pub struct Library {
    scenarios: Vec<Arc<Scenario>>,
    filter: Filter,
    /// Text of each scenario, by name.
    texts: BTreeMap<String, String>,
    /// File of each scenario, by name.
    files: BTreeMap<String, String>,
    /// What was asked for, files by the names of their scenarios.
    words: Vec<String>,
}

impl Library {
    /// Read and check what the arguments name.
    ///
    /// Errors: `Usage` with every fault of every file, or with the word that names nothing.
    pub fn load(args: &LibraryArgs) -> Result<Self> {
        let mut reader = Reader::default();
        match &args.scenario_dir {
            Some(dir) => reader.directory(dir)?,
            None => reader.built_in(),
        }
        let mut names = Vec::new();
        for word in &args.scenarios {
            match is_file_name(word) {
                true => names.extend(reader.file(Path::new(word))?),
                false => names.push(word.clone()),
            }
        }
        let Reader { scenarios, texts, files, .. } = reader.finish()?;
        let words = Words {
            scenarios: &names,
            exclude: &args.exclude,
            groups: &args.group,
            fs: &args.fs,
            pin: &args.pin,
            release: &args.release,
            variant: &args.variant,
        };
        let filter = Filter::parse(&scenarios, words).map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self { scenarios, filter, texts, files, words: names })
    }

    /// The first case that was chosen; the filter leaves at least one.
    pub fn first_case(&self) -> Option<Case> {
        self.cases(1).into_iter().next()
    }

    /// Scenarios and cases that were asked for, by name: files too.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Name and text of all scenarios: the words of a command line are checked against those too that they leave out.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Where the expectation of each chosen case stands, by id.
    pub fn places(&self) -> BTreeMap<String, Place> {
        let place = |case: Case| {
            let file = self.files.get(&case.scenario.name)?.clone();
            let line = case.expectation()?.line;
            Some((case.id, Place { file, line }))
        };
        self.cases(1).into_iter().filter_map(place).collect()
    }

    /// Cases that were chosen, in order.
    pub fn cases(&self, repeat: u32) -> Vec<Case> {
        plan::cases(&self.scenarios, &self.filter, repeat)
    }
}

/// `./a`, `dir/a.toml`, `a.toml`. A case id has slashes too, but does not begin with a dot or end so.
fn is_file_name(word: &str) -> bool {
    word.ends_with(".toml") || word.starts_with("./") || word.starts_with("../") || word.starts_with('/')
}

/// Scenarios and faults so far.
#[derive(Default)]
struct Reader {
    scenarios: Vec<Arc<Scenario>>,
    texts: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    faults: Vec<Fault>,
}

impl Reader {
    fn built_in(&mut self) {
        let mut files: Vec<_> = BUILT_IN.files().filter(|file| is_toml(file.path())).collect();
        files.sort_by_key(|file| file.path());
        for file in files {
            self.parse(&format!("{BUILT_IN_DIR}/{}", file.path().display()), file.contents());
        }
    }

    fn directory(&mut self, dir: &Path) -> Result<()> {
        let unreadable = |error| Error::Usage(format!("scenario directory {}: {error}", dir.display()));
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut paths: Vec<_> = entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| is_toml(path));
        paths.sort();
        if paths.is_empty() {
            return Err(Error::Usage(format!("scenario directory {} has no .toml file", dir.display())));
        }
        paths.iter().try_for_each(|path| self.file(path).map(drop))
    }

    /// A file by name; it takes the place of a scenario of the same name.
    fn file(&mut self, path: &Path) -> Result<Option<String>> {
        let bytes = fs::read(path)
            .map_err(|error| Error::Usage(format!("scenario file {}: {error}", path.display())))?;
        Ok(self.parse(&path.display().to_string(), &bytes))
    }

    fn parse(&mut self, file: &str, bytes: &[u8]) -> Option<String> {
        let not_text = |_| {
            let message = "the file is not UTF-8 text; save it as UTF-8".to_owned();
            vec![Fault { file: file.to_owned(), line: 1, message }]
        };
        let read = |text| Ok((Scenario::parse(file, text)?, text));
        match std::str::from_utf8(bytes).map_err(not_text).and_then(read) {
            Ok((scenario, text)) => {
                let name = scenario.name.clone();
                self.scenarios.retain(|other| other.name != name);
                self.scenarios.push(Arc::new(scenario));
                self.texts.insert(name.clone(), text.to_owned());
                self.files.insert(name.clone(), file.to_owned());
                Some(name)
            }
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }

    /// Itself, if nothing is wrong.
    fn finish(self) -> Result<Self> {
        match self.faults.is_empty() {
            true => Ok(self),
            false => {
                let lines: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
                Err(Error::Usage(lines.join("\n")))
            }
        }
    }
}

fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(scenarios: &[&str]) -> LibraryArgs {
        LibraryArgs {
            scenarios: scenarios.iter().map(|s| (*s).to_owned()).collect(),
            ..LibraryArgs::whole(None)
        }
    }

    fn usage(args: &LibraryArgs) -> String {
        match Library::load(args) {
            Err(Error::Usage(text)) => text,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn the_built_in_library_has_no_fault_and_is_not_empty() {
        let library = Library::load(&args(&[])).unwrap();
        assert!(!library.cases(1).is_empty());
    }

    #[test]
    fn the_place_of_a_case_is_the_row_that_expects_something_of_it() {
        let library = Library::load(&args(&["lost-update/ext4/pin/clean"])).unwrap();
        let places = library.places();
        assert_eq!(places.len(), 1);
        let Place { file, line } = &places["lost-update/ext4/pin/clean"];
        assert_eq!(file, "tests/scenarios/lost-update.toml");
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)).unwrap();
        assert_eq!(text.lines().nth(line - 1), Some("[[expect]]"));
    }

    #[test]
    fn what_is_left_out_is_known_to_whoever_repeats_the_run() {
        let args = LibraryArgs { exclude: vec!["lost-update".to_owned()], ..LibraryArgs::whole(None) };
        let library = Library::load(&args).unwrap();
        assert!(library.cases(1).iter().all(|case| case.scenario.name != "lost-update"));
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in library.texts() {
            fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
        }
        let again = LibraryArgs { scenario_dir: Some(dir.path().to_owned()), ..args };
        let labels = |library: &Library| {
            let mut labels: Vec<_> = library.cases(1).iter().map(Case::label).collect();
            labels.sort();
            labels
        };
        assert_eq!(labels(&Library::load(&again).unwrap()), labels(&library));
    }

    #[test]
    fn an_unknown_scenario_is_named() {
        assert!(usage(&args(&["no-such"])).contains("`no-such`"));
    }

    #[test]
    fn files_are_told_from_names_and_case_ids() {
        assert!(is_file_name("./x") && is_file_name("x.toml") && is_file_name("/a/b"));
        assert!(!is_file_name("lost-update") && !is_file_name("lost-update/ext4/pin/clean"));
    }

    #[test]
    fn every_fault_of_every_file_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.toml", "b.toml"] {
            fs::write(dir.path().join(name), "schema = 1\nname = \"x\"\n").unwrap();
        }
        let mut args = args(&[]);
        args.scenario_dir = Some(dir.path().to_owned());
        let text = usage(&args);
        assert!(text.contains("a.toml:") && text.contains("b.toml:"), "{text}");
        assert!(text.contains("has no `matrix`") && text.contains("name `x`"), "{text}");
    }

    #[test]
    fn an_empty_or_absent_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(&[]);
        args.scenario_dir = Some(dir.path().to_owned());
        assert!(usage(&args).ends_with("has no .toml file"));
        args.scenario_dir = Some(dir.path().join("absent"));
        assert!(usage(&args).contains("No such file"));
    }
}
