// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The image store: one directory per artifact, `KIND-KEY`, beside `locks/` and `logs/`. What is current and what is
//! stale is decided here, from manifests alone.

use crate::error::{Error, Result};
use crate::kernel;
use crate::key::Inputs;
use crate::lock::{Lock, Mode};
use crate::manifest::{ArtifactId, Kind, Manifest};
use crate::mirror::Mirror;
use crate::recipe;
use crate::tree;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LOCKS: &str = "locks";
const LOGS: &str = "logs";
const PARTIAL: &str = ".partial";

/// How long one builder waits for another: a tool root over a slow line may take this long.
const LOCK_LIMIT: Duration = Duration::from_secs(45 * 60);

/// The image store of one user.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    mirror: Mirror,
}

/// Whether an artifact would be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It would.
    Current,
    /// It would not, and why.
    Stale(String),
}

/// One artifact, as `list` shows it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Kind and key.
    pub id: ArtifactId,
    /// Where it is.
    pub path: PathBuf,
    /// What was recorded when it was built.
    pub manifest: Manifest,
    /// When it was used last.
    pub last_used: SystemTime,
    /// Artifacts that were made from it.
    pub used_by: Vec<ArtifactId>,
    /// Whether it is current.
    pub state: State,
}

/// What `gc` did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Artifacts that went.
    pub removed: Vec<Entry>,
    /// Artifacts that would have gone, but are in use by another process.
    pub busy: Vec<Entry>,
    /// Interrupted builds and broken directories that went.
    pub leftovers: u32,
    /// Bytes that came free.
    pub freed_bytes: u64,
}

impl Entry {
    /// Age since completion.
    pub fn age(&self) -> Duration {
        let created = UNIX_EPOCH + Duration::from_secs(self.manifest.created_unix_s);
        SystemTime::now().duration_since(created).unwrap_or_default()
    }
}

impl Store {
    /// `$LONGPIN_CACHE`, else `$XDG_CACHE_HOME/longpin`, else `~/.cache/longpin`; made if it is not there.
    /// `LONGPIN_MIRROR` replaces the package mirror, `LONGPIN_SNAPSHOT` takes packages as they were at a time.
    pub fn open_default() -> Result<Self> {
        let place = default_place(|name| std::env::var_os(name).map(PathBuf::from));
        let mut store = Self::open(place.ok_or(Error::NoCacheDirectory)?)?;
        store.mirror = Mirror::from_variables(|name| std::env::var(name).ok())?;
        Ok(store)
    }

    /// A store in this directory; made if it is not there.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        for dir in [root.join(LOCKS), root.join(LOGS)] {
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        // bubblewrap and mmdebstrap are run with other working directories.
        let root = fs::canonicalize(root).map_err(Error::io("resolve", root))?;
        Ok(Self { root, mirror: Mirror::default() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    pub(crate) fn dir(&self, id: &ArtifactId) -> PathBuf {
        self.root.join(id.to_string())
    }

    pub(crate) fn partial_dir(&self, id: &ArtifactId) -> PathBuf {
        self.root.join(format!("{id}{PARTIAL}"))
    }

    pub(crate) fn lock_path(&self, id: &ArtifactId) -> PathBuf {
        self.root.join(LOCKS).join(format!("{id}.lock"))
    }

    pub(crate) fn log_path(&self, id: &ArtifactId) -> PathBuf {
        self.root.join(LOGS).join(format!("{id}.log"))
    }

    pub(crate) fn lock_limit(&self) -> Duration {
        LOCK_LIMIT
    }

    /// All finished artifacts, in the order of building, the newest of a kind first.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for id in self.names()?.iter().filter_map(|name| ArtifactId::parse(name)) {
            let path = self.dir(&id);
            // A manifest that cannot be read is a leftover for `gc`; it must not hide the others.
            let Ok(Some(manifest)) = Manifest::read(&path) else { continue };
            let used = fs::metadata(self.lock_path(&id)).and_then(|meta| meta.modified());
            let last_used = used.unwrap_or(UNIX_EPOCH);
            entries.push(Entry { id, path, manifest, last_used, used_by: vec![], state: State::Current });
        }
        entries.sort_by_key(|entry| (entry.id.kind, std::cmp::Reverse(entry.manifest.created_unix_s)));
        let roots = entries.iter().filter(|entry| entry.id.kind == Kind::ToolRoot);
        let chosen =
            roots.filter_map(|root| Some((root.id.clone(), self.chosen(&root.id)?.kernel))).collect();
        judge(&mut entries, &recipe::tool_root()?.inputs(self.mirror()), &chosen);
        Ok(entries)
    }

    /// Directory of the tool root that would be used, if it is built.
    pub fn built_tool_root(&self) -> Result<Option<PathBuf>> {
        let key = recipe::tool_root()?.inputs(self.mirror()).key();
        let dir = self.dir(&ArtifactId { kind: Kind::ToolRoot, key });
        Ok(Manifest::read(&dir)?.map(|_| dir))
    }

    /// Removes stale artifacts (`all`: every artifact), interrupted builds and their logs. What another process uses or
    /// builds stays.
    pub fn gc(&self, all: bool) -> Result<Collected> {
        let mut done = Collected::default();
        // Children first: a root goes only after what was made from it.
        for entry in self.list()?.into_iter().rev() {
            if !all && entry.state == State::Current {
                continue;
            }
            let Some(lock) = Lock::try_take(&self.lock_path(&entry.id), Mode::Exclusive)? else {
                done.busy.push(entry);
                continue;
            };
            done.freed_bytes += self.remove_artifact(&entry.id, lock)?;
            done.removed.push(entry);
        }
        self.remove_leftovers(all, &mut done)?;
        self.forget_chosen()?;
        Ok(done)
    }

    fn remove_artifact(&self, id: &ArtifactId, lock: Lock) -> Result<u64> {
        let dir = self.dir(id);
        let bytes = tree::size_on_disk(&dir);
        // The manifest goes first: from then on the directory is not an artifact.
        let manifest = dir.join(crate::manifest::FILE);
        tree::remove(&manifest)?;
        tree::remove(&dir)?;
        tree::remove(&self.log_path(id))?;
        lock.unlink()?;
        Ok(bytes)
    }

    fn remove_leftovers(&self, all: bool, done: &mut Collected) -> Result<()> {
        for name in self.names()? {
            let bare = name.strip_suffix(PARTIAL).unwrap_or(&name);
            let Some(id) = ArtifactId::parse(bare) else { continue };
            let path = self.root.join(&name);
            if bare == name && matches!(Manifest::read(&path), Ok(Some(_))) {
                continue;
            }
            let Some(lock) = Lock::try_take(&self.lock_path(&id), Mode::Exclusive)? else { continue };
            done.freed_bytes += tree::size_on_disk(&path);
            tree::remove(&path)?;
            done.leftovers += 1;
            drop(lock);
        }
        if all {
            self.remove_orphans(LOGS, ".log")?;
        }
        self.remove_orphans(LOCKS, ".lock")
    }

    /// Logs or locks whose artifact is gone.
    fn remove_orphans(&self, place: &str, suffix: &str) -> Result<()> {
        for name in names_in(&self.root.join(place))? {
            let Some(id) = name.strip_suffix(suffix).and_then(ArtifactId::parse) else { continue };
            if self.dir(&id).exists() || self.partial_dir(&id).exists() {
                continue;
            }
            if let Some(lock) = Lock::try_take(&self.lock_path(&id), Mode::Exclusive)? {
                tree::remove(&self.root.join(place).join(&name))?;
                if place == LOGS {
                    lock.unlink()?;
                }
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        names_in(&self.root)
    }
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<std::io::Result<_>>().map_err(Error::io("read", dir))
}

fn default_place(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
    absolute("LONGPIN_CACHE")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("longpin")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/longpin")))
}

/// Whether a tool root is of today's recipe. From which mirror it came does not matter: a mirror may be named in one shell
/// and not in the next.
fn is_of_today(root: &Manifest, today: &Inputs) -> bool {
    let without_mirror = |inputs: &BTreeMap<String, String>| {
        let mut inputs = inputs.clone();
        inputs.remove("mirror");
        inputs
    };
    without_mirror(&root.inputs) == without_mirror(today.recorded())
}

/// Fills in `used_by` and `state`. Current are the tool roots of today's recipe, the kernel that was chosen for each, and
/// of each other series the artifact that was used last, if all that it was made from is current.
fn judge(entries: &mut [Entry], today: &Inputs, chosen: &BTreeMap<ArtifactId, ArtifactId>) {
    let present: BTreeSet<ArtifactId> = entries.iter().map(|entry| entry.id.clone()).collect();
    let mut children: BTreeMap<ArtifactId, Vec<ArtifactId>> = BTreeMap::new();
    for entry in entries.iter() {
        for parent in &entry.manifest.parents {
            children.entry(parent.clone()).or_default().push(entry.id.clone());
        }
    }
    let mut stale: BTreeSet<ArtifactId> = BTreeSet::new();
    let mut order: Vec<usize> = (0..entries.len()).collect();
    // Parents before children, and of one series the last used first.
    order.sort_by_key(|&i| (entries[i].id.kind, std::cmp::Reverse(entries[i].last_used)));
    let mut taken: BTreeMap<(Kind, String, Option<ArtifactId>), ArtifactId> = BTreeMap::new();
    for (root, kernel) in chosen.iter().filter(|(_, kernel)| present.contains(kernel)) {
        taken.insert((Kind::Kernel, kernel::SERIES.to_owned(), Some(root.clone())), kernel.clone());
    }
    for i in order {
        let entry = &mut entries[i];
        entry.used_by = children.remove(&entry.id).unwrap_or_default();
        let bad_parent = entry.manifest.parents.iter().find(|id| stale.contains(id) || !present.contains(id));
        let root = entry.manifest.parents.iter().find(|id| id.kind == Kind::ToolRoot).cloned();
        let series = (entry.id.kind, entry.manifest.series.clone(), root);
        let reason = if entry.id.kind == Kind::ToolRoot {
            let old = !is_of_today(&entry.manifest, today);
            old.then(|| "the recipe has changed".to_owned())
        } else if let Some(parent) = bad_parent {
            Some(format!("made from {parent}, which is stale or gone"))
        } else {
            let other = taken.get(&series).filter(|other| **other != entry.id);
            other.map(|other| match chosen.values().any(|kernel| kernel == other) {
                true => format!("{other} is the one that was kept"),
                false => format!("{other} was used later"),
            })
        };
        match reason {
            Some(reason) => {
                stale.insert(entry.id.clone());
                entry.state = State::Stale(reason);
            }
            None => {
                taken.insert(series, entry.id.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    fn id(kind: Kind, name: &str) -> ArtifactId {
        ArtifactId { kind, key: Key::of_bytes(name.as_bytes()) }
    }

    fn manifest(id: ArtifactId, series: &str, parents: &[&ArtifactId]) -> Manifest {
        Manifest {
            schema: Manifest::schema(),
            id,
            series: series.to_owned(),
            parents: parents.iter().copied().cloned().collect(),
            inputs: BTreeMap::from([("recipe".to_owned(), series.to_owned())]),
            versions: BTreeMap::new(),
            facts: BTreeMap::new(),
            created_unix_s: 1,
            build_seconds: 1.0,
            size_bytes: 1,
        }
    }

    fn entry(id: &ArtifactId, series: &str, parents: &[&ArtifactId], used_s: u64) -> Entry {
        Entry {
            id: id.clone(),
            path: PathBuf::from(id.to_string()),
            manifest: manifest(id.clone(), series, parents),
            last_used: UNIX_EPOCH + Duration::from_secs(used_s),
            used_by: vec![],
            state: State::Current,
        }
    }

    /// Today's recipe makes roots of series "r".
    fn judge_roots(entries: &mut [Entry], chosen: &[(&ArtifactId, &ArtifactId)]) {
        let mut today = Inputs::default();
        today.value("recipe", "r").value("mirror", "default");
        let chosen = chosen.iter().map(|(root, kernel)| ((*root).clone(), (*kernel).clone()));
        judge(entries, &today, &chosen.collect());
    }

    fn stale(entries: &[Entry]) -> Vec<&ArtifactId> {
        entries.iter().filter(|entry| entry.state != State::Current).map(|entry| &entry.id).collect()
    }

    #[test]
    fn what_was_made_from_a_stale_root_is_stale_down_to_the_initramfs() {
        let (old, new) = (id(Kind::ToolRoot, "old"), id(Kind::ToolRoot, "new"));
        let (kernel, module) = (id(Kind::Kernel, "k"), id(Kind::Module, "m"));
        let mut entries = [
            entry(&module, "m", &[&kernel], 9),
            entry(&kernel, "k", &[&old], 9),
            entry(&old, "yesterday's", &[], 9),
            entry(&new, "r", &[], 1),
        ];
        judge_roots(&mut entries, &[]);
        assert_eq!(stale(&entries), [&module, &kernel, &old]);
        assert_eq!(entries[2].used_by.iter().collect::<Vec<_>>(), [&kernel]);
        assert_eq!(entries[1].used_by.iter().collect::<Vec<_>>(), [&module]);
    }

    #[test]
    fn of_one_series_the_last_used_is_current_and_other_series_stand_beside_it() {
        let root = id(Kind::ToolRoot, "r");
        let (a, b, own) = (id(Kind::Kernel, "a"), id(Kind::Kernel, "b"), id(Kind::Kernel, "own"));
        let mut entries = [
            entry(&root, "r", &[], 1),
            entry(&a, "debian", &[&root], 5),
            entry(&b, "debian", &[&root], 7),
            entry(&own, "dir", &[&root], 2),
        ];
        judge_roots(&mut entries, &[]);
        assert_eq!(stale(&entries), [&a]);
        assert_eq!(entries[1].state, State::Stale(format!("{b} was used later")));
    }

    #[test]
    fn the_kernel_that_was_kept_is_current_also_when_another_was_used_later() {
        let root = id(Kind::ToolRoot, "r");
        let (good, newer, module) =
            (id(Kind::Kernel, "good"), id(Kind::Kernel, "new"), id(Kind::Module, "m"));
        let mut entries = [
            entry(&root, "r", &[], 1),
            entry(&good, "debian", &[&root], 5),
            entry(&newer, "debian", &[&root], 7),
            entry(&module, "m", &[&root, &good], 5),
        ];
        judge_roots(&mut entries, &[(&root, &good)]);
        assert_eq!(stale(&entries), [&newer]);
        assert_eq!(entries[2].state, State::Stale(format!("{good} is the one that was kept")));
        let gone = id(Kind::Kernel, "gone");
        entries.iter_mut().for_each(|entry| entry.state = State::Current);
        judge_roots(&mut entries, &[(&root, &gone)]);
        assert_eq!(
            stale(&entries),
            [&good, &module],
            "a record of a kernel that is not there decides nothing"
        );
    }

    #[test]
    fn sets_of_two_mirrors_stand_beside_each_other() {
        let (here, there) = (id(Kind::ToolRoot, "here"), id(Kind::ToolRoot, "there"));
        let (a, b) = (id(Kind::Kernel, "a"), id(Kind::Kernel, "b"));
        let mut entries = [
            entry(&here, "r", &[], 1),
            entry(&there, "r", &[], 2),
            entry(&a, "debian", &[&here], 5),
            entry(&b, "debian", &[&there], 7),
        ];
        entries[1].manifest.inputs.insert("mirror".to_owned(), "http://m/debian".to_owned());
        judge_roots(&mut entries, &[]);
        assert!(stale(&entries).is_empty(), "{:?}", stale(&entries));
    }

    #[test]
    fn an_artifact_whose_parent_is_gone_is_stale() {
        let (root, kernel) = (id(Kind::ToolRoot, "r"), id(Kind::Kernel, "k"));
        let mut entries = [entry(&kernel, "debian", &[&root], 1)];
        judge_roots(&mut entries, &[]);
        assert_eq!(stale(&entries), [&kernel]);
    }

    fn put(store: &Store, id: &ArtifactId) {
        let dir = store.dir(id);
        fs::create_dir_all(&dir).unwrap();
        manifest(id.clone(), "s", &[]).write(&dir).unwrap();
    }

    #[test]
    fn gc_takes_the_stale_and_the_interrupted_and_leaves_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (free, used) = (id(Kind::ToolRoot, "free"), id(Kind::ToolRoot, "used"));
        let (dead, alive) = (id(Kind::Kernel, "dead"), id(Kind::Kernel, "alive"));
        put(&store, &free);
        put(&store, &used);
        for id in [&dead, &alive] {
            fs::create_dir_all(store.partial_dir(id).join("half")).unwrap();
        }
        let _user = Lock::try_take(&store.lock_path(&used), Mode::Shared).unwrap().unwrap();
        let _builder = Lock::try_take(&store.lock_path(&alive), Mode::Exclusive).unwrap().unwrap();
        let done = store.gc(false).unwrap();
        assert_eq!(done.removed.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&free]);
        assert_eq!(done.busy.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&used]);
        assert_eq!(done.leftovers, 1);
        assert!(!store.dir(&free).exists() && store.dir(&used).exists());
        assert!(!store.partial_dir(&dead).exists() && store.partial_dir(&alive).exists());
        assert!(!store.lock_path(&free).exists() && !store.lock_path(&dead).exists());
    }

    #[test]
    fn gc_of_all_takes_the_current_too_and_old_logs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let inputs = recipe::tool_root().unwrap().inputs(&Mirror::default());
        let current = ArtifactId { kind: Kind::ToolRoot, key: inputs.key() };
        put(&store, &current);
        let whole = Manifest { inputs: inputs.recorded().clone(), ..manifest(current.clone(), "s", &[]) };
        whole.write(&store.dir(&current)).unwrap();
        let failed = id(Kind::Kernel, "failed");
        fs::write(store.log_path(&failed), "why").unwrap();
        assert!(store.gc(false).unwrap().removed.is_empty());
        assert!(store.log_path(&failed).exists());
        assert_eq!(store.gc(true).unwrap().removed.len(), 1);
        assert!(!store.dir(&current).exists());
        assert!(!store.log_path(&failed).exists());
    }

    #[test]
    fn a_directory_with_a_broken_manifest_is_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let broken = id(Kind::Kernel, "broken");
        fs::create_dir_all(store.dir(&broken)).unwrap();
        fs::write(store.dir(&broken).join("manifest.json"), "{").unwrap();
        assert!(store.list().unwrap().is_empty());
        assert_eq!(store.gc(false).unwrap().leftovers, 1);
        assert!(!store.dir(&broken).exists());
    }

    #[test]
    fn the_place_follows_the_environment_and_ignores_relative_paths() {
        let place = |vars: &[(&str, &str)]| {
            default_place(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(place(&[("HOME", "/h")]), Some("/h/.cache/longpin".into()));
        assert_eq!(place(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/longpin".into()));
        assert_eq!(place(&[("HOME", "/h"), ("LONGPIN_CACHE", "/c")]), Some("/c".into()));
        assert_eq!(place(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Some("/h/.cache/longpin".into()));
        assert_eq!(place(&[]), None);
    }
}
