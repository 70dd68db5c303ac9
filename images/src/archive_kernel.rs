// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels of the distribution's archive by version: `6.1` is the newest package of that series in the first suite that
//! has one. Each suite is read by itself, so that a backport never hides a release's own kernel.
//!
//! What a name meant is kept: the same name gives the same kernel, without network, until it is asked for anew.

use crate::artifact::{Artifact, Build, Plan};
use crate::deb_kernel;
use crate::error::{Error, Result};
use crate::job::Watch;
use crate::kernel::{Kernel, LISTS_MAX_AGE};
use crate::key::Inputs;
use crate::manifest::{Kind, Manifest};
use crate::mirror;
use crate::own_kernel::finished;
use crate::packages::{self, Offer};
use crate::recipe::{self, ArchiveRecipe};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// A kernel of the archive, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveKernel {
    /// `6.1`, `6.1.176`, a package's whole version, or a release as `uname -r` says it.
    pub version: String,
    /// Only this suite; none: those of the recipe, in order.
    pub suite: Option<String>,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    release: String,
    version: String,
    suite: String,
    /// Names, of that version all.
    packages: Vec<String>,
}

impl ArchiveKernel {
    /// As on the command line.
    pub fn name(&self) -> String {
        match &self.suite {
            Some(suite) => format!("debian:{}/{suite}", self.version),
            None => format!("debian:{}", self.version),
        }
    }
}

impl Store {
    /// A kernel of the archive; `anew` asks what its name means now. A finished one needs no network.
    /// Errors: `NoKernel` with the versions that are there, `NoNetwork`, `UnfitKernel`.
    pub(crate) fn archive_kernel(
        &self,
        root: &ToolRoot,
        wanted: &ArchiveKernel,
        anew: bool,
        reporter: &dyn Reporter,
    ) -> Result<Kernel> {
        if !anew {
            let (_, found) = self.meaning(root, wanted, Duration::MAX, reporter)?;
            let inputs = inputs(root, &found)?;
            if let Some(artifact) = self.find(&plan(root, wanted, &found, &inputs), reporter)? {
                return Ok(finished(artifact, found.release, None));
            }
        }
        // Lists that are older may name packages that the mirror has replaced.
        let max_age = if anew { Duration::ZERO } else { LISTS_MAX_AGE };
        let (lists, found) = self.meaning(root, wanted, max_age, reporter)?;
        let inputs = inputs(root, &found)?;
        let artifact = self.ensure(&plan(root, wanted, &found, &inputs), reporter, |build| {
            make(build, root, &lists, &found)
        })?;
        Ok(finished(artifact, found.release, None))
    }

    fn meaning(
        &self,
        root: &ToolRoot,
        wanted: &ArchiveKernel,
        max_age: Duration,
        reporter: &dyn Reporter,
    ) -> Result<(Artifact, Found)> {
        let recipe = recipe::archive()?;
        let mut inputs = Inputs::new(1);
        root.add_to(&mut inputs)?;
        inputs.bytes("recipe", ArchiveRecipe::text().as_bytes()).value("name", &wanted.name());
        let plan = Plan {
            kind: Kind::Packages,
            title: format!("package lists for {}", wanted.name()),
            series: wanted.name(),
            parents: vec![root.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure_younger(&plan, max_age, reporter, |build| {
            let found = look(build, root, &recipe, wanted)?;
            found.record(build);
            Ok(())
        })?;
        let found = Found::of(&artifact.manifest)?;
        Ok((artifact, found))
    }
}

impl Found {
    fn record(&self, build: &mut Build<'_>) {
        let Self { release, version, suite, packages } = self;
        let facts = [("release", release), ("version", version), ("suite", suite)];
        build.facts.extend(facts.map(|(name, value)| (name.to_owned(), value.clone())));
        build.facts.insert("packages".to_owned(), packages.join(" "));
    }

    fn of(manifest: &Manifest) -> Result<Self> {
        let fact = |name| manifest.fact(name).map(str::to_owned);
        let packages = fact("packages")?.split(' ').map(str::to_owned).collect();
        Ok(Self { release: fact("release")?, version: fact("version")?, suite: fact("suite")?, packages })
    }
}

fn inputs(root: &ToolRoot, found: &Found) -> Result<Inputs> {
    let mut inputs = Inputs::new(1);
    root.add_to(&mut inputs)?;
    inputs.value("version", &found.version).value("packages", &found.packages.join(" "));
    inputs.bytes("unpack", deb_kernel::UNPACK.as_bytes());
    Ok(inputs)
}

fn plan<'a>(root: &ToolRoot, wanted: &ArchiveKernel, found: &Found, inputs: &'a Inputs) -> Plan<'a> {
    Plan {
        kind: Kind::Kernel,
        title: format!("kernel {}", found.release),
        series: wanted.name(),
        parents: vec![root.id().clone()],
        inputs,
    }
}

/// Reads suite after suite until one has it.
fn look(
    build: &mut Build<'_>,
    root: &ToolRoot,
    recipe: &ArchiveRecipe,
    wanted: &ArchiveKernel,
) -> Result<Found> {
    let (path, sources) = packages::root_sources(root)?;
    let suites = wanted.suite.as_ref().map_or_else(|| recipe.suites.clone(), |suite| vec![suite.clone()]);
    let (mut there, mut failed) = (Vec::new(), None);
    for suite in &suites {
        build.reporter.step(&format!("{}: reading package lists of {suite}", wanted.name()));
        let list = mirror::line_of_suite(&sources, suite).ok_or_else(|| packages::no_source_line(&path))?;
        let read = packages::Lists::read(build, root, &list).and_then(|lists| {
            let pattern = format!("^{}.*-{}$", packages::literal(&recipe.image), recipe.architecture);
            let offers = lists.offers(build, root, &pattern)?;
            Ok((lists, offers))
        });
        let (lists, offers) = match read {
            Ok(read) => read,
            Err(error @ Error::NoNetwork { .. }) => return Err(error),
            // A mirror need not have every suite.
            Err(error) => {
                build.reporter.note(&format!("{}: {suite} cannot be read: {error}", wanted.name()));
                failed = Some(error);
                continue;
            }
        };
        if let Some((release, version)) = newest(recipe, &wanted.version, &offers) {
            let pattern = format!("^({}){}$", recipe.parts.join("|"), packages::literal(&release));
            let parts = lists.offers(build, root, &pattern)?;
            let parts = parts.into_iter().filter(|part| part.version == version).map(|part| part.name);
            let packages = std::iter::once(format!("{}{release}", recipe.image)).chain(parts).collect();
            lists.end()?;
            return Ok(Found { release, version, suite: suite.clone(), packages });
        }
        there.extend(offers.iter().filter_map(|offer| plain_release(recipe, offer)).map(series));
    }
    if let (true, Some(error)) = (there.is_empty(), failed) {
        return Err(error);
    }
    there.sort_by_cached_key(|series: &String| packages::numbers(series));
    there.dedup();
    Err(Error::NoKernel {
        wanted: format!("a linux-image of {}", wanted.version),
        suite: suites.join(", "),
        found: if there.is_empty() { "none".to_owned() } else { there.join(", ") },
        remedy: "name one of these, another suite (debian:VERSION/SUITE), or a time when the archive had it with \
                 LONGPIN_SNAPSHOT",
    })
}

/// `6.1` of `6.1.0-50-amd64`.
fn series(release: &str) -> String {
    release.split(['.', '-', '+']).take(2).collect::<Vec<_>>().join(".")
}

/// The release that a package is of, if it is the architecture's usual flavour.
fn plain_release<'o>(recipe: &ArchiveRecipe, offer: &'o Offer) -> Option<&'o str> {
    let release = offer.name.strip_prefix(&recipe.image)?;
    let version = release.strip_suffix(&recipe.architecture)?.strip_suffix('-')?;
    // Not cloud-amd64 nor rt-amd64, nor the package of a series (6.12-amd64), which only depends on the newest.
    let is_number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let plain = version.split('-').all(is_number) && version.matches('.').count() >= 2;
    plain.then_some(release)
}

/// Release and package version of the newest that is meant.
fn newest(recipe: &ArchiveRecipe, wanted: &str, offers: &[Offer]) -> Option<(String, String)> {
    let meant = |release: &str, version: &str| {
        let rest = version.strip_prefix(wanted);
        release == wanted
            || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '~', '+']))
    };
    let fit = offers.iter().filter_map(|offer| Some((plain_release(recipe, offer)?, offer.version.as_str())));
    let fit = fit.filter(|(release, version)| meant(release, version));
    let newest =
        fit.max_by_key(|(release, version)| (packages::numbers(version), packages::numbers(release)));
    newest.map(|(release, version)| (release.to_owned(), version.to_owned()))
}

fn make(build: &mut Build<'_>, root: &ToolRoot, lists: &Artifact, found: &Found) -> Result<()> {
    build.reporter.step(&format!("kernel {}: downloading", found.release));
    let (debs, cache) = (build.dir.join("debs"), build.dir.join("cache"));
    for dir in [&debs, &cache.join("archives/partial")] {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    }
    let binds = [Bind::read_write(build.dir).at("/artifact")];
    let mut command = packages::apt(root, ["apt-get", "/artifact/debs"], &lists.dir, &cache, &binds);
    command.args(["--quiet", "download"]);
    command.args(found.packages.iter().map(|name| format!("{name}={}", found.version)));
    let reporter = build.reporter;
    let watch = Watch {
        line: &mut |_| {},
        tick: &mut || reporter.bytes(crate::kernel_build::file_bytes(&debs), None),
    };
    let what = format!("download of kernel {}", found.release);
    build.log.run_watched(&what, &mut command, DOWNLOAD_LIMIT, watch)?;
    build.reporter.step(&format!("kernel {}: unpacking", found.release));
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&debs).map_err(Error::io("read", &debs))? {
        paths.push(entry.map_err(Error::io("read", &debs))?.path());
    }
    paths.sort();
    deb_kernel::unpack(build, root, &paths, &found.release)?;
    crate::tree::remove(&debs)?;
    crate::tree::remove(&cache)?;
    build.versions.insert("linux".to_owned(), format!("{} ({})", found.version, found.suite));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_archive::FakeArchive;
    use crate::report::Silent;

    fn offers(rows: &[(&str, &str)]) -> Vec<Offer> {
        rows.iter()
            .map(|(name, version)| Offer { name: (*name).into(), version: (*version).into() })
            .collect()
    }

    /// As bookworm and its backports have them, shortened.
    const ROWS: [(&str, &str); 9] = [
        ("linux-image-6.1.0-47-amd64", "6.1.170-3"),
        ("linux-image-6.1.0-50-amd64", "6.1.176-1"),
        ("linux-image-6.1.0-50-cloud-amd64", "6.1.176-2"),
        ("linux-image-6.1.0-50-rt-amd64", "6.1.176-2"),
        ("linux-image-amd64", "6.1.176-1"),
        ("linux-image-6.12-amd64", "6.12.111-1~bpo12+1"),
        ("linux-image-6.12.107+deb12-amd64", "6.12.107-1~bpo12+1"),
        ("linux-image-6.12.111+deb12-amd64", "6.12.111-1~bpo12+1"),
        ("linux-image-6.12.111+deb12-rt-amd64", "6.12.111-1~bpo12+1"),
    ];

    #[test]
    fn a_series_is_its_newest_package_and_a_version_is_itself() {
        let recipe = recipe::archive().unwrap();
        let of = |wanted: &str| newest(&recipe, wanted, &offers(&ROWS)).map(|(release, _)| release);
        assert_eq!(of("6.1").unwrap(), "6.1.0-50-amd64");
        assert_eq!(of("6.12").unwrap(), "6.12.111+deb12-amd64");
        for exact in ["6.1.170", "6.1.170-3", "6.1.0-47-amd64"] {
            assert_eq!(of(exact).unwrap(), "6.1.0-47-amd64", "{exact}");
        }
        assert_eq!(of("6.12.107-1~bpo12+1").unwrap(), "6.12.107+deb12-amd64");
        for other in ["6.11", "6.1.17", "6.120", "6.1.0-50-rt-amd64"] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(series("6.12.111+deb12-amd64"), "6.12");
    }

    #[test]
    fn a_name_is_told_as_it_was_typed() {
        let kernel = ArchiveKernel { version: "6.1".into(), suite: None };
        assert_eq!(kernel.name(), "debian:6.1");
        assert_eq!(ArchiveKernel { suite: Some("sid".into()), ..kernel }.name(), "debian:6.1/sid");
    }

    fn of_series(version: &str) -> ArchiveKernel {
        ArchiveKernel { version: version.to_owned(), suite: None }
    }

    #[test]
    fn suites_are_asked_in_order_and_a_name_stays_what_it_was_until_it_is_asked_anew() {
        let archive = FakeArchive::new();
        archive.suite_has("bookworm", &ROWS[..5]);
        archive.suite_has("trixie", &[("linux-image-6.12.90+deb13-amd64", "6.12.90-1")]);
        archive.suite_has("bookworm-backports", &ROWS[5..]);
        archive.suite_has("trixie-backports", &[]);
        let root = archive.root();
        let get =
            |version: &str, anew| archive.store.archive_kernel(&root, &of_series(version), anew, &Silent);
        let kernel = get("6.12", false).unwrap();
        assert_eq!(kernel.release(), "6.12.90+deb13-amd64", "a release's own kernel comes before a backport");
        assert_eq!(kernel.origin(), "Debian package 6.12.90-1 (trixie)");
        assert!(kernel.is_brought() && kernel.vmlinuz().is_file() && kernel.modules_dir().is_dir());
        assert_eq!(get("6.1", false).unwrap().release(), "6.1.0-50-amd64");
        let asked = archive.times_asked();
        archive.suite_has("bookworm", &[("linux-image-6.1.0-51-amd64", "6.1.180-1")]);
        assert_eq!(get("6.1", false).unwrap().release(), "6.1.0-50-amd64");
        assert_eq!(archive.times_asked(), asked, "what is there needs no network");
        assert_eq!(get("6.1", true).unwrap().release(), "6.1.0-51-amd64");
        assert_eq!(get("6.1", false).unwrap().release(), "6.1.0-51-amd64");
    }

    #[test]
    fn a_version_that_no_suite_has_is_answered_with_those_that_are_there() {
        let archive = FakeArchive::new();
        archive.suite_has("bookworm", &ROWS);
        for suite in ["trixie", "bookworm-backports", "trixie-backports"] {
            archive.suite_has(suite, &[]);
        }
        let root = archive.root();
        let error =
            archive.store.archive_kernel(&root, &of_series("6.5"), false, &Silent).unwrap_err().to_string();
        assert!(error.contains("looked for a linux-image of 6.5 in bookworm, trixie"), "{error}");
        assert!(error.contains("found 6.1, 6.12; name one of these"), "{error}");
    }

    #[test]
    fn a_package_that_lacks_its_image_leaves_nothing_and_is_taken_when_it_is_whole() {
        let archive = FakeArchive::new();
        archive.suite_has("bookworm", &ROWS);
        let root = archive.root();
        let get = || archive.store.archive_kernel(&root, &of_series("6.1"), false, &Silent);
        archive.image_packages_are_half(true);
        let error = get().unwrap_err().to_string();
        assert!(error.contains("hold modules of 6.1.0-50-amd64 and no vmlinuz"), "{error}");
        let kernels = |entries: Vec<crate::store::Entry>| {
            entries.into_iter().filter(|entry| entry.id.kind == Kind::Kernel).count()
        };
        assert_eq!(kernels(archive.store.list().unwrap()), 0);
        archive.image_packages_are_half(false);
        assert_eq!(get().unwrap().release(), "6.1.0-50-amd64");
    }
}
