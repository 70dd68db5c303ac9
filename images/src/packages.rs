// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which kernel packages to take. The package lists of the backports suite are downloaded into an artifact of their
//! own, so that a warm run needs no network; the choice itself is pure: apt-cache's output in, package names out.

use crate::artifact::{Artifact, Build, Plan};
use crate::error::{Error, Result};
use crate::key::Inputs;
use crate::manifest::{Kind, Manifest};
use crate::mirror;
use crate::recipe::{self, KernelRecipe};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const UPDATE_LIMIT: Duration = Duration::from_secs(10 * 60);
const QUERY_LIMIT: Duration = Duration::from_secs(60);
const LISTS: &str = "lists";
/// apt's list of sources; where it is inside the root.
const SOURCES: &str = "sources.list";
const SOURCES_INSIDE: &str = "/longpin/sources.list";
/// The backports hook writes it into the root.
const ROOT_SOURCES: &str = "etc/apt/sources.list.d/backports.list";

/// The packages of one kernel, all of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Choice {
    /// As `uname -r` says it: `7.3.4+deb13-amd64`.
    pub release: String,
    /// Package version: `7.3.4-1~bpo13+1`.
    pub version: String,
    pub source: String,
    pub binary: String,
    pub modules: String,
    pub headers: String,
    pub base: String,
}

/// Package lists with the choice made from them.
#[derive(Debug)]
pub(crate) struct Packages {
    pub artifact: Artifact,
    pub choice: Choice,
}

impl Choice {
    const FACTS: [&str; 7] = ["release", "version", "source", "binary", "modules", "headers", "base"];

    fn values(&self) -> [&str; 7] {
        let packages = [&self.source, &self.binary, &self.modules, &self.headers, &self.base];
        let [source, binary, modules, headers, base] = packages.map(String::as_str);
        [&self.release, &self.version, source, binary, modules, headers, base]
    }

    fn from_manifest(manifest: &Manifest) -> Result<Self> {
        let mut values = Vec::new();
        for fact in Self::FACTS {
            values.push(manifest.fact(fact)?.to_owned());
        }
        let [release, version, source, binary, modules, headers, base] =
            values.try_into().expect("as many facts were read");
        Ok(Self { release, version, source, binary, modules, headers, base })
    }

    /// Adds name and version to a kernel's key.
    pub(crate) fn add_to(&self, inputs: &mut Inputs) {
        for (fact, value) in Self::FACTS.iter().zip(self.values()) {
            inputs.value(fact, value);
        }
    }

    /// `NAME=VERSION` of every package, as `apt-get download` takes it.
    pub(crate) fn pinned(&self) -> Vec<String> {
        let names = [&self.source, &self.binary, &self.modules, &self.headers, &self.base];
        names.iter().map(|name| format!("{name}={}", self.version)).collect()
    }
}

impl Store {
    /// The packages that were chosen before, or chosen now if that is longer ago than `max_age`.
    pub(crate) fn packages(
        &self,
        root: &ToolRoot,
        recipe: &KernelRecipe,
        max_age: Duration,
        reporter: &dyn Reporter,
    ) -> Result<Packages> {
        let suite = recipe::tool_root()?.backports;
        let mut inputs = Inputs::new(2);
        root.add_to(&mut inputs)?;
        inputs.bytes("recipe", KernelRecipe::text().as_bytes());
        let plan = Plan {
            kind: Kind::Packages,
            title: "package lists".to_owned(),
            series: "debian".to_owned(),
            parents: vec![root.id().clone()],
            inputs: &inputs,
        };
        let fixed = self.mirror().is_snapshot();
        let artifact = self.ensure_younger(&plan, max_age, reporter, |build| {
            Reading { root, recipe, suite: &suite, fixed }.make(build)
        })?;
        let choice = Choice::from_manifest(&artifact.manifest)?;
        Ok(Packages { artifact, choice })
    }
}

impl Packages {
    /// apt-get in the root with these lists. It downloads into `dir`, a path inside; `cache` takes what else it writes.
    pub(crate) fn apt_get(&self, root: &ToolRoot, cache: &Path, dir: &str, binds: &[Bind]) -> Command {
        apt(root, ["apt-get", dir], &self.artifact.dir, cache, binds)
    }
}

/// apt on one list of sources alone, which is in `place` with what apt reads by it: outside of the root.
pub(crate) fn apt(
    root: &ToolRoot,
    [program, dir]: [&str; 2],
    place: &Path,
    cache: &Path,
    binds: &[Bind],
) -> Command {
    let mut all = vec![
        Bind::read_only(place.join(SOURCES)).at(SOURCES_INSIDE),
        Bind::read_write(place.join(LISTS)).at("/var/lib/apt/lists"),
        Bind::read_write(cache).at("/var/cache/apt"),
        // For names of servers only; the target is what the host's link points to, since /etc is the root's.
        Bind::read_only(resolv_conf()).at("/etc/resolv.conf"),
    ];
    all.extend_from_slice(binds);
    let mut command = root.command("env", &all);
    command.arg(format!("--chdir={dir}")).arg(program);
    command.args(["-o", "APT::Sandbox::User=root", "-o", "Dir::Etc::SourceParts=/dev/null"]);
    command.arg("-o").arg(format!("Dir::Etc::SourceList={SOURCES_INSIDE}"));
    command.args(["-o", "Acquire::Retries=3"]);
    command
}

fn resolv_conf() -> PathBuf {
    let path = Path::new("/etc/resolv.conf");
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Package lists being read, for a choice from them.
struct Reading<'a> {
    root: &'a ToolRoot,
    recipe: &'a KernelRecipe,
    /// For people.
    suite: &'a str,
    /// The user has chosen the time: no other is looked at.
    fixed: bool,
}

impl Reading<'_> {
    fn make(&self, build: &mut Build<'_>) -> Result<()> {
        build.reporter.step("kernel: reading package lists");
        let (path, sources) = root_sources(self.root)?;
        let choice = match self.choose(build, &sources) {
            // The suite keeps one version of the kernel, and has moved on.
            Err(Error::NoKernel { found, .. }) if !self.fixed && found != NONE => {
                let time = &self.recipe.snapshot;
                let series = self.recipe.series.join(" or ");
                build.reporter.note(&format!(
                    "{} has no whole kernel of Linux {series}, for which the driver is (it has {found}); taking one \
                     from the archive as it was at {time}",
                    self.suite
                ));
                let sources = mirror::line_at(&sources, time).ok_or_else(|| no_source_line(&path))?;
                self.choose(build, &sources)?
            }
            choice => choice?,
        };
        for (fact, value) in Choice::FACTS.iter().zip(choice.values()) {
            build.facts.insert((*fact).to_owned(), value.to_owned());
        }
        Ok(())
    }

    /// Reads the lists of these sources and chooses from them.
    fn choose(&self, build: &mut Build<'_>, sources: &str) -> Result<Choice> {
        let lists = Lists::read(build, self.root, sources)?;
        let every =
            |pattern: &str, name: &str| format!("^{}$", literal(pattern).replace(&literal(name), ".*"));
        let sources = lists.offers(build, self.root, &every(&self.recipe.source, "{series}"))?;
        let binaries = lists.offers(build, self.root, &every(&self.recipe.binary, "{release}"))?;
        lists.end()?;
        choose(self.recipe, self.suite, &sources, &binaries)
    }
}

/// Package lists that were read into the directory of a build.
pub(crate) struct Lists {
    place: PathBuf,
    cache: PathBuf,
}

impl Lists {
    /// Reads the lists of these sources, in place of what was read before.
    pub(crate) fn read(build: &mut Build<'_>, root: &ToolRoot, sources: &str) -> Result<Self> {
        let place = build.dir.to_owned();
        let (lists, cache, list) = (place.join(LISTS), place.join("cache"), place.join(SOURCES));
        crate::tree::remove(&lists)?;
        for dir in [lists.join("partial"), cache.join("archives/partial")] {
            std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        std::fs::write(&list, sources).map_err(Error::io("write", &list))?;
        let read = Self { place, cache };
        // Without Error-Mode apt-get takes a missing server for a warning, and the next command finds no package.
        let mut update = read.apt(root, "apt-get");
        update.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        build.log.run("update of the package lists", &mut update, UPDATE_LIMIT)?;
        Ok(read)
    }

    /// Packages whose names fit a regular expression, in all their versions.
    pub(crate) fn offers(&self, build: &mut Build<'_>, root: &ToolRoot, pattern: &str) -> Result<Vec<Offer>> {
        let mut search = self.apt(root, "apt-cache");
        search.args(["search", "--names-only", pattern]);
        let found = build.log.capture("search for kernel packages", &mut search, QUERY_LIMIT)?;
        let names = search_names(&found);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut madison = self.apt(root, "apt-cache");
        madison.arg("madison").args(&names);
        let table = build.log.capture("versions of kernel packages", &mut madison, QUERY_LIMIT)?;
        Ok(versions(&table))
    }

    /// What only apt's queries needed goes; the lists stay, to download by.
    pub(crate) fn end(self) -> Result<()> {
        crate::tree::remove(&self.cache)
    }

    fn apt(&self, root: &ToolRoot, program: &str) -> Command {
        apt(root, [program, "/"], &self.place, &self.cache, &[])
    }
}

/// The root's list of package sources, and where it is.
pub(crate) fn root_sources(root: &ToolRoot) -> Result<(PathBuf, String)> {
    let path = root.path().join(ROOT_SOURCES);
    let sources = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok((path, sources))
}

/// It has no line that another suite or time could be put into.
pub(crate) fn no_source_line(path: &Path) -> Error {
    Error::Unreadable {
        what: path.display().to_string(),
        problem: "it has no line of a package source".to_owned(),
        remedy: "build the tool root again: longpin image gc --all",
    }
}

/// Package names are compared as text; apt-cache takes a regular expression.
pub(crate) fn literal(text: &str) -> String {
    let special = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Names from `apt-cache search`: "NAME - description".
fn search_names(output: &str) -> Vec<String> {
    let names =
        output.lines().filter_map(|line| line.split_once(" - ")).map(|(name, _)| name.trim().to_owned());
    names.collect()
}

/// A package with one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub name: String,
    pub version: String,
}

/// Rows of `apt-cache madison`: "NAME | VERSION | where".
fn versions(output: &str) -> Vec<Offer> {
    let row = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (name, version) = (columns.next()?, columns.next()?);
        let binary = columns.next()?.ends_with("Packages");
        binary.then(|| Offer { name: name.to_owned(), version: version.to_owned() })
    };
    output.lines().filter_map(row).collect()
}

/// What was found where nothing was.
const NONE: &str = "none";

/// Of the sources that the driver builds on, the newest whose binary is there in the same version.
fn choose(recipe: &KernelRecipe, suite: &str, sources: &[Offer], binaries: &[Offer]) -> Result<Choice> {
    let no_kernel = |wanted: String, found: String, remedy| Error::NoKernel {
        wanted,
        suite: suite.to_owned(),
        found,
        remedy,
    };
    let list = |offers: &[&Offer]| {
        let words: Vec<_> = offers.iter().map(|offer| format!("{} {}", offer.name, offer.version)).collect();
        if words.is_empty() { NONE.to_owned() } else { words.join(", ") }
    };
    let wanted: Vec<String> = recipe.sources().collect();
    let mut fit: Vec<&Offer> = sources.iter().filter(|offer| wanted.contains(&offer.name)).collect();
    fit.sort_by_cached_key(|offer| std::cmp::Reverse(numbers(&offer.version)));
    if fit.is_empty() {
        let remedy = "name a mirror that has it with LONGPIN_MIRROR, or a time when the archive had it with \
                      LONGPIN_SNAPSHOT";
        return Err(no_kernel(wanted.join(" or "), list(&sources.iter().collect::<Vec<_>>()), remedy));
    }
    let sources = fit;
    let (prefix, suffix) = recipe.binary.split_once("{release}").unwrap_or((&recipe.binary, ""));
    let release = |offer: &Offer| {
        let release = offer.name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let flavour = release.strip_suffix(&recipe.flavour)?.strip_suffix('-')?;
        // Not another flavour that ends alike (cloud-amd64), nor another package (unsigned-...).
        let plain = flavour.starts_with(|c: char| c.is_ascii_digit()) && !flavour.contains('-');
        plain.then(|| release.to_owned())
    };
    for source in &sources {
        let same = binaries.iter().filter(|binary| binary.version == source.version);
        if let Some(release) = same.clone().find_map(release) {
            let name = |pattern: &str| pattern.replace("{release}", &release);
            return Ok(Choice {
                version: source.version.clone(),
                source: source.name.clone(),
                binary: name(&recipe.binary),
                modules: name(&recipe.modules),
                headers: name(&recipe.headers),
                base: name(&recipe.base),
                release,
            });
        }
    }
    let wanted = sources.iter().map(|offer| format!("{}*-{} {}", prefix, recipe.flavour, offer.version));
    let found: Vec<&Offer> = binaries.iter().filter(|offer| release(offer).is_some()).collect();
    let remedy = "the suite is being updated: try again in some hours, or name a time when it was whole with \
                  LONGPIN_SNAPSHOT";
    Err(no_kernel(wanted.collect::<Vec<_>>().join(" or "), list(&found), remedy))
}

/// Numbers of a version in order: enough to compare versions of one source package (7.10.1-1 after 7.3.4-1).
pub(crate) fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe;

    fn offers(rows: &[(&str, &str)]) -> Vec<Offer> {
        rows.iter().map(|(n, v)| Offer { name: (*n).into(), version: (*v).into() }).collect()
    }

    fn chosen_of(series: &[&str], sources: &[(&str, &str)], binaries: &[(&str, &str)]) -> Result<Choice> {
        let series = series.iter().map(|series| (*series).to_owned()).collect();
        let recipe = KernelRecipe { series, ..recipe::kernel().unwrap() };
        choose(&recipe, "trixie-backports", &offers(sources), &offers(binaries))
    }

    fn chosen(sources: &[(&str, &str)], binaries: &[(&str, &str)]) -> Result<Choice> {
        chosen_of(&["7.3"], sources, binaries)
    }

    #[test]
    fn madison_s_table_is_read_without_its_source_rows() {
        let table = "\
linux-source-7.3 | 7.3.4-1~bpo13+1 | https://mirror.example/debian trixie-backports/main amd64 Packages\n\
     linux | 7.3.4-1~bpo13+1 | https://mirror.example/debian trixie-backports/main Sources\n\
linux-source-7.10 | 7.10.1-1~bpo13+1 | https://mirror.example/debian trixie-backports/main amd64 Packages\n";
        let rows = [("linux-source-7.3", "7.3.4-1~bpo13+1"), ("linux-source-7.10", "7.10.1-1~bpo13+1")];
        assert_eq!(versions(table), offers(&rows));
    }

    #[test]
    fn search_lines_give_their_names() {
        let text = "linux-source-7.3 - Linux kernel source for version 7.3 with Debian patches\n\nnoise\n";
        assert_eq!(search_names(text), ["linux-source-7.3"]);
    }

    #[test]
    fn the_newest_source_is_chosen_by_number_and_not_by_letter() {
        let choice = chosen_of(
            &["7.3", "7.10"],
            &[("linux-source-7.3", "7.3.4-1~bpo13+1"), ("linux-source-7.10", "7.10.1-1~bpo13+1")],
            &[
                ("linux-binary-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
                ("linux-binary-7.10.1+deb13-amd64", "7.10.1-1~bpo13+1"),
            ],
        )
        .unwrap();
        assert_eq!(choice.release, "7.10.1+deb13-amd64");
        assert_eq!(choice.headers, "linux-headers-7.10.1+deb13-amd64");
        assert_eq!(choice.pinned()[0], "linux-source-7.10=7.10.1-1~bpo13+1");
    }

    #[test]
    fn other_flavours_and_unsigned_packages_are_not_taken() {
        let source = [("linux-source-7.3", "7.3.4-1")];
        let choice = chosen(
            &source,
            &[
                ("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1"),
                ("linux-binary-unsigned-7.3.4+deb13-amd64", "7.3.4-1"),
                ("linux-binary-7.3.4+deb13-amd64", "7.3.4-1"),
            ],
        );
        assert_eq!(choice.unwrap().binary, "linux-binary-7.3.4+deb13-amd64");
        let only_others = chosen(&source, &[("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1")]);
        assert!(matches!(only_others, Err(Error::NoKernel { .. })));
    }

    #[test]
    fn an_older_source_is_taken_when_the_newest_has_no_binary_yet() {
        let choice = chosen_of(
            &["7.2", "7.3"],
            &[("linux-source-7.3", "7.3.5-1"), ("linux-source-7.2", "7.2.9-1")],
            &[("linux-binary-7.2.9+deb13-amd64", "7.2.9-1")],
        );
        assert_eq!(choice.unwrap().source, "linux-source-7.2");
    }

    #[test]
    fn a_series_that_the_driver_does_not_build_on_is_not_taken_however_new() {
        let newer = ("linux-source-7.4", "7.4.1-1~bpo13+1");
        let newer_binary = ("linux-binary-7.4.1+deb13-amd64", "7.4.1-1~bpo13+1");
        let binaries = [newer_binary, ("linux-binary-7.3.9+deb13-amd64", "7.3.9-1~bpo13+1")];
        let choice = chosen(&[newer, ("linux-source-7.3", "7.3.9-1~bpo13+1")], &binaries);
        assert_eq!(choice.unwrap().release, "7.3.9+deb13-amd64");
        // 7.30 is not 7.3.
        let error = chosen(&[newer, ("linux-source-7.30", "7.30.1-1")], &binaries).unwrap_err().to_string();
        assert!(error.contains("looked for linux-source-7.3 in trixie-backports"), "{error}");
        assert!(error.contains("found linux-source-7.4 7.4.1-1~bpo13+1"), "{error}");
        assert!(error.contains("LONGPIN_SNAPSHOT"), "{error}");
    }

    #[test]
    fn no_source_and_no_binary_say_what_was_looked_for() {
        let error = chosen(&[], &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("no guest kernel: looked for linux-source-7.3 in trixie-backports"),
            "{error}"
        );
        let error =
            chosen(&[("linux-source-7.3", "7.3.5-1")], &[("linux-binary-7.3.4+deb13-amd64", "7.3.4-1")]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("linux-binary-*-amd64 7.3.5-1"), "{error}");
        assert!(error.contains("found linux-binary-7.3.4+deb13-amd64 7.3.4-1"), "{error}");
    }

    #[test]
    fn a_pattern_is_taken_literally() {
        assert_eq!(literal("linux-source-7."), "linux-source-7\\.");
    }
}
