// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a guest is waited for. Every deadline of a guest goes through one factor: 1 with KVM, 3 or more where guests run
//! translated, by how fast this host translates. A loop in a probe guest says that once for a host and a QEMU.

use crate::vm::probe;
use crate::vm::qemu::Qemu;
use crate::vm::spec::Accel;
use crate::whole_file;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What others are compared with.
const HARDWARE: u32 = 100;
/// Translated, on a host like those on which the deadlines were tried.
const TRANSLATED: u32 = 300;
/// Of a host that is so slow, a person has to say more with `--timeout`.
const MOST: u32 = 4 * TRANSLATED;
/// Nanoseconds of the loop on a host that is half as fast as that on which the deadlines were tried. Up to there they have
/// room: no host of that kind may get other deadlines on a busy day.
const USUAL_NS: f64 = 6.0;
/// On a host that translates forty times slower than usual.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// The factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    percent: u32,
}

impl Patience {
    /// With KVM.
    pub const HARDWARE: Self = Self { percent: HARDWARE };

    /// A loop that takes so many nanoseconds in a translated guest. Never less than what is usual, as deadlines are for guests
    /// that hang and not for slow ones.
    fn translated(loop_ns: f64) -> Self {
        let percent = (f64::from(TRANSLATED) * loop_ns / USUAL_NS).ceil();
        // What is no number becomes 0.
        Self { percent: (percent as u32).clamp(TRANSLATED, MOST) }
    }

    /// Any, for tests.
    #[cfg(test)]
    pub fn of_percent(percent: u32) -> Self {
        Self { percent }
    }

    /// In percent.
    pub fn percent(self) -> u32 {
        self.percent
    }

    /// Of a deadline that is made for a guest on hardware.
    pub fn of_hardware(self, time: Duration) -> Duration {
        time.saturating_mul(self.percent) / HARDWARE
    }

    /// Of one that has room for a translated guest as it is.
    pub fn of_any(self, time: Duration) -> Duration {
        time.saturating_mul(self.percent.max(TRANSLATED)) / TRANSLATED
    }

    /// `3`, `4.5`.
    fn times(self) -> f64 {
        f64::from(self.percent) / f64::from(HARDWARE)
    }
}

/// What was measured on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    /// Model of the CPU.
    cpu: String,
    /// [`Qemu::identity`].
    qemu: String,
    loop_ns: f64,
}

/// A factor, and the sentence that explains it; none with KVM, which needs no explanation.
pub struct Explained {
    /// The factor.
    pub patience: Patience,
    /// For people.
    pub text: Option<String>,
}

impl Explained {
    fn by(measured: &Measured) -> Self {
        let patience = Patience::translated(measured.loop_ns);
        let (times, millions) = (patience.times(), 1000.0 / measured.loop_ns);
        let text = format!(
            "deadlines: {times} times those of hardware, as a translated guest makes {millions:.0} million loops a second here"
        );
        Self { patience, text: Some(text) }
    }

    /// A host where nothing could be measured has what is usual: the boot will say what is wrong.
    fn unknown(error: &anyhow::Error) -> Self {
        let patience = Patience { percent: TRANSLATED };
        let text = format!(
            "deadlines: {} times those of hardware; how fast this host translates could not be measured: {error:#}",
            patience.times()
        );
        Self { patience, text: Some(text) }
    }
}

/// How long guests of `accel` are waited for. What is known of this host lies in `cache`; `scratch` is a directory that QEMU
/// sees.
pub fn patience(accel: Accel, qemu: &Qemu, cpu: &str, cache: &Path, scratch: &Path) -> Explained {
    match accel {
        Accel::Kvm => Explained { patience: Patience::HARDWARE, text: None },
        Accel::Tcg => translated(qemu, cpu, cache, || probe::run(qemu, accel, scratch, PROBE_TIMEOUT)),
    }
}

/// Measure anew, whatever is known.
///
/// Errors: the probe guest does not run.
pub fn measure(qemu: &Qemu, cpu: &str, cache: &Path, scratch: &Path) -> anyhow::Result<String> {
    let identity = qemu.identity()?;
    let loop_ns = middle(probe::run(qemu, Accel::Tcg, scratch, PROBE_TIMEOUT)?)?;
    let measured = Measured { cpu: cpu.to_owned(), qemu: identity, loop_ns };
    write(&file(cache, &measured.cpu, &measured.qemu), &measured)?;
    Ok(Explained::by(&measured).text.unwrap_or_default())
}

fn translated(
    qemu: &Qemu,
    cpu: &str,
    cache: &Path,
    probe: impl FnOnce() -> anyhow::Result<Vec<Duration>>,
) -> Explained {
    let known = qemu.identity().and_then(|identity| {
        let file = file(cache, cpu, &identity);
        if let Some(known) = read(&file).filter(|it| it.cpu == cpu && it.qemu == identity) {
            return Ok(known);
        }
        let measured = Measured { cpu: cpu.to_owned(), qemu: identity, loop_ns: middle(probe()?)? };
        // Where it cannot be kept, the next run measures again.
        let _ = write(&file, &measured);
        Ok(measured)
    });
    known.map_or_else(|error| Explained::unknown(&error), |measured| Explained::by(&measured))
}

/// Nanoseconds of one loop, of the round in the middle: neither what a moment's luck was nor what else the host did then.
fn middle(mut rounds: Vec<Duration>) -> anyhow::Result<f64> {
    rounds.sort();
    let round = rounds.get(rounds.len() / 2).filter(|round| !round.is_zero());
    let round = round.context("the probe guest ran, and its signals were not heard")?;
    Ok(round.as_nanos() as f64 / f64::from(probe::LOOPS))
}

fn file(cache: &Path, cpu: &str, qemu: &str) -> PathBuf {
    let key = blake3::hash(format!("{cpu}\0{qemu}").as_bytes()).to_hex();
    cache.join(format!("translation-{}.json", &key[..20]))
}

/// Nothing, if it is not there or is not what it should be.
fn read(file: &Path) -> Option<Measured> {
    let measured: Measured = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (measured.loop_ns.is_finite() && measured.loop_ns > 0.0).then_some(measured)
}

fn write(file: &Path, measured: &Measured) -> anyhow::Result<()> {
    Ok(whole_file::write(file, &serde_json::to_vec(measured)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::tests::script;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(loop_ns: f64) -> u32 {
        Patience::translated(loop_ns).percent()
    }

    #[test]
    fn a_translated_guest_has_three_times_as_much_and_more_where_translation_is_slow() {
        assert_eq!([of(0.1), of(3.0), of(6.0)], [300, 300, 300], "never less");
        assert_eq!([of(9.0), of(12.0)], [450, 600]);
        assert_eq!([of(24.0), of(1e9), of(f64::INFINITY)], [1200; 3], "never more");
        assert_eq!(of(f64::NAN), 300);
    }

    #[test]
    fn deadlines_for_hardware_and_those_with_room_are_stretched_alike_from_there() {
        let [kvm, usual, slow] = [100, 300, 600].map(|percent| Patience { percent });
        assert_eq!([kvm, usual, slow].map(|it| it.of_hardware(SECOND)), [1, 3, 6].map(|n| n * SECOND));
        assert_eq!([kvm, usual, slow].map(|it| it.of_any(SECOND)), [1, 1, 2].map(|n| n * SECOND));
        assert_eq!(slow.of_hardware(Duration::MAX), Duration::MAX / 100, "no overflow");
    }

    struct Host {
        dir: tempfile::TempDir,
        qemu: Qemu,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("qemu");
            script(&path, "echo QEMU emulator version 11.0.0");
            Self { dir, qemu: Qemu::Host(path) }
        }

        /// The factor, the sentence, and whether the probe ran.
        fn ask(&self, cpu: &str, rounds: anyhow::Result<Vec<u64>>) -> (u32, String, bool) {
            let mut ran = false;
            let explained = translated(&self.qemu, cpu, self.dir.path(), || {
                ran = true;
                Ok(rounds?.into_iter().map(Duration::from_millis).collect())
            });
            (explained.patience.percent(), explained.text.unwrap(), ran)
        }

        fn files(&self) -> Vec<PathBuf> {
            let all = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
            all.filter(|path| path.extension().is_some_and(|it| it == "json")).collect()
        }
    }

    #[test]
    fn a_host_is_measured_once_and_another_cpu_or_qemu_anew() {
        let host = Host::new();
        let (percent, text, ran) = host.ask("a", Ok(vec![90, 360, 5000, 360, 360]));
        assert!(percent == 600 && ran && text.contains("6 times") && text.contains("83 million"), "{text}");
        assert_eq!(host.ask("a", Ok(vec![1])), (600, text, false));
        assert_eq!(host.ask("b", Ok(vec![90])).0, 300);
        let other = host.dir.path().join("other");
        script(&other, "echo QEMU emulator version 12.0.0");
        let host = Host { qemu: Qemu::Host(other), ..host };
        assert!(host.ask("a", Ok(vec![90])).2);
        assert_eq!(host.files().len(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_measured_anew() {
        let host = Host::new();
        assert!(host.ask("a", Ok(vec![90])).2);
        for bad in ["", "{", r#"{"cpu":"a","qemu":"q","loop_ns":1.0}"#, r#"{"cpu":"a","loop_ns":-1}"#] {
            fs::write(&host.files()[0], bad).unwrap();
            assert!(host.ask("a", Ok(vec![360])).2, "{bad}");
            assert_eq!(host.ask("a", Ok(vec![90])).0, 600, "{bad}");
        }
    }

    #[test]
    fn where_nothing_can_be_measured_or_kept_deadlines_are_the_usual_ones() {
        let host = Host::new();
        let (percent, text, _) = host.ask("a", Err(anyhow::anyhow!("no guest ran")));
        assert!(percent == 300 && text.ends_with("could not be measured: no guest ran"), "{text}");
        assert!(host.ask("a", Ok(Vec::new())).1.contains("were not heard"));
        assert!(host.files().is_empty(), "what is unknown is not kept");
        let gone = Host { dir: tempfile::tempdir().unwrap(), ..host };
        fs::remove_dir(gone.dir.path()).unwrap();
        assert_eq!(gone.ask("a", Ok(vec![360])).0, 600);
    }
}
