// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line: only what was typed. Names are checked against the scenario library later.

use crate::formats::{CompareForm, Output};
use crate::kernel_choice::{self, KernelChoice};
use crate::module_choice::ModuleChoice;
use crate::vm::accel::Wish;
use crate::vm::additions;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use longpin_core::bisect::{Fingerprint, HitRate};
use longpin_core::scenario::Pin;
use longpin_core::verdict::Observation;
use longpin_proto::filesystem::{self, FileSystem};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What `run` tells the shell.
const RUN_EXIT_CODES: &str = "\
Exit codes:
  0  every outcome is pass, xfail or skip; with --allow-flaky also flaky
  1  a case failed, or passed where a failure was expected (xpass), or was flaky
  2  an error of the harness or the guest, an interruption, or a case that never reported
  3  wrong usage, a fault in a scenario file, an entry of --ignore-log that has expired, or a kernel, module,
     overlay or device program that cannot be used
  4  every case was skipped

Environment:
  LONGPIN_CACHE    where images are kept [default: $XDG_CACHE_HOME/longpin, or ~/.cache/longpin]
  LONGPIN_DEVICE   the accelerator's daemon, as --device-program names it
  TMPDIR           where sockets and disk images lie while a guest runs
  NO_COLOR         no colours, as --color never";

/// What `replay` tells the shell.
const REPLAY_EXIT_CODES: &str = "\
Exit codes: those of `run`, of the verdict now; 3 also where the kernel, a module, the overlay or the device
program is no more what it was

Example:
  longpin replay longpin-results/latest/cases/lost-update.ext4.pin.clean.json";

/// What `selftest` tells the shell.
const SELFTEST_EXIT_CODES: &str = "\
Exit codes:
  0  every kind got its verdict, exit code and reason, and left nothing behind
  1  a kind did not; the directory of its run is kept
  2  a kind could not be tried, or the selftest was interrupted
  3  wrong usage

Environment:
  LONGPIN_CACHE    where images are kept [default: $XDG_CACHE_HOME/longpin, or ~/.cache/longpin]
  TMPDIR           where the runs are, and what is kept of them";

/// What `minimise` tells the shell.
const MINIMISE_EXIT_CODES: &str = "\
Exit codes:
  0  none of the steps that are left can be left out
  2  an error, an interruption or --max-runs: the file has the fewest steps that were found by then
  3  wrong usage, words that name more than one case, or a case that shows nothing bad

Example:
  longpin minimise longpin-results/latest/scenarios/mine.toml --fs xfs --pin pin --release dirty --out small.toml";

/// What `bisect` tells the shell.
const BISECT_EXIT_CODES: &str = "\
Exit codes:
  0  the commit was found
  1  it is one of several, of which the others cannot be tested
  2  an error or an interruption; the same command goes on where it was
  3  wrong usage, or ends that cannot be told apart

Example:
  longpin bisect --good v1.0 --bad main late-dirty --fs ext4 --pin pin --module-only driver";

/// What `bisect-step` tells `git bisect run`.
const STEP_EXIT_CODES: &str = "\
Exit codes, for git bisect run:
  0    good: enough tries were clean (with --reverse: bad)
  1    bad: enough tries had the fault (with --reverse: good)
  125  cannot be tested: it does not build or boot, crashes otherwise, or proves nothing
  128  stop: the laboratory does not work (disk full, QEMU missing, store locked), or was interrupted
  129  stop: wrong usage

Example:
  git bisect run longpin bisect-step late-dirty --fs ext4 --pin pin --module-dir . --bad-is lost --seen 8/10";

/// What `compare` tells the shell.
const COMPARE_EXIT_CODES: &str = "\
Exit codes:
  0  every case that could be compared is the same
  1  a case differs
  2  no difference was seen, but a run has errors or cases that never reported; or a run could not be made
  3  wrong usage, or a directory that holds no result
  4  no case could be compared

Example:
  longpin compare debian:6.1 stock -- late-dirty reflink-bleed --pin dio";

/// What `soak` tells the shell.
const SOAK_EXIT_CODES: &str = "\
Exit codes:
  0  every plan was intact, or showed what the table of docs/soak.md explains; some may have proven nothing
  1  a plan showed something else: its seed is named
  2  an error of the harness or the guest, an interruption, or no plan that proved anything
  3  wrong usage

Example:
  longpin soak --seed 1000 --cases 50 --fs xfs,btrfs";

/// What `image build` takes from the environment.
const PACKAGE_SOURCES: &str = "\
Environment:
  LONGPIN_MIRROR    address of a Debian mirror to take packages from
  LONGPIN_SNAPSHOT  packages as the archive had them at this time, as 20261126T000000Z; with
                    LONGPIN_MIRROR from there, below ADDRESS/TIME/
  LONGPIN_CACHE     where images are kept [default: $XDG_CACHE_HOME/longpin, or ~/.cache/longpin]
  http_proxy, https_proxy, no_proxy are honoured";

/// In front of the path of a program that pins.
const EXEC: &str = "exec:";

/// Laboratory for long-term DMA pins on page-cache pages.
#[derive(Debug, Parser)]
#[command(name = "longpin", version, max_term_width = 110)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What was typed. Errors: it is wrong, or asks for help.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(words)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))?;
        cli.take_pinner()?;
        if let (Command::Run(args), Some(("run", run))) = (&mut cli.command, matches.subcommand()) {
            let given = [Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)];
            let ids = run.ids().map(|id| id.as_str());
            args.given = ids.filter(|id| given.contains(&run.value_source(id))).map(str::to_owned).collect();
            if args.machine.own.pinner.is_some() {
                args.given.insert("pinner".to_owned());
            }
        }
        Ok(cli)
    }

    /// `--pin exec:PATH` says two things: a pin mode, and the program.
    fn take_pinner(&mut self) -> Result<(), clap::Error> {
        let (library, own) = match &mut self.command {
            Command::Run(args) => (&mut args.library, &mut args.machine.own),
            Command::Shell(args) => (&mut args.library, &mut args.machine.own),
            Command::Bisect(args) => (&mut args.common.library, &mut args.common.machine.own),
            Command::BisectStep(args) => (&mut args.common.library, &mut args.common.machine.own),
            _ => return Ok(()),
        };
        for word in &mut library.pin {
            let Some(path) = word.strip_prefix(EXEC) else { continue };
            let path = PathBuf::from(path);
            if own.pinner.as_ref().is_some_and(|named| *named != path) || path.as_os_str().is_empty() {
                let text = "one program that pins can be named, and has to be: --pin exec:PATH";
                return Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, text));
            }
            own.pinner = Some(path);
            word.truncate(EXEC.len() - 1);
        }
        Ok(())
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find the commit that brought a fault, or its fix: unattended, and going on where it was cut off
    #[command(after_help = BISECT_EXIT_CODES)]
    Bisect(Box<BisectArgs>),
    /// Try one commit, and say good, bad or neither to `git bisect run`
    #[command(after_help = STEP_EXIT_CODES)]
    BisectStep(Box<BisectStepArgs>),
    /// Put runs side by side: where two kernels, drivers or devices did not do the same
    #[command(after_help = COMPARE_EXIT_CODES)]
    Compare(CompareArgs),
    /// Say what this host lacks, and the command that mends it
    Doctor,
    /// Write down what a run found: each scenario with its verdicts, and for each bad one why, and how to see it again
    Findings(FindingsArgs),
    /// Build, list or remove tool root, kernel, driver module and initramfs
    Image {
        /// What to do with them
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Say what a kernel must be configured with for longpin, or what a configuration lacks
    Kconfig(KconfigArgs),
    /// List scenarios with their matrix
    List(ListArgs),
    /// Leave out of a case whatever it does not need to show what it shows, and write the rest down as a scenario
    #[command(after_help = MINIMISE_EXIT_CODES)]
    Minimise(MinimiseArgs),
    /// Try a program of yours that pins
    Pinner {
        /// What to do
        #[command(subcommand)]
        command: PinnerCommand,
    },
    /// Run one case of an earlier run once more, as it was, and say whether it comes out so
    #[command(after_help = REPLAY_EXIT_CODES)]
    Replay(ReplayArgs),
    /// Draw what a run left behind: one HTML file, and a trace for ui.perfetto.dev
    Report(ReportArgs),
    /// Run cases and judge them
    #[command(after_help = RUN_EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Show that this host gets the right word for what can go wrong: each kind of trouble is provoked, and checked
    #[command(after_help = SELFTEST_EXIT_CODES)]
    Selftest(SelftestArgs),
    /// Run random plans, each made from a seed: what they show is known and explained, or a failure with its seed
    #[command(after_help = SOAK_EXIT_CODES)]
    Soak(Box<SoakArgs>),
    /// Boot a guest, carry out a scenario if one is named, and give a shell in it
    Shell(Box<ShellArgs>),
}

/// Subcommands of `image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build what is missing
    #[command(after_help = PACKAGE_SOURCES)]
    Build {
        /// Ask the distribution for a newer kernel; the stock one is replaced once a guest has booted the new one and
        /// loaded the driver
        #[arg(long)]
        refresh: bool,
        /// For this kernel, as `run --kernel` takes it
        #[arg(long, value_name = "KERNEL", default_value = "stock", value_parser = kernel_choice::Parser)]
        kernel: KernelChoice,
    },
    /// Build the modules of a directory (with Kbuild or Makefile) for a guest's kernel, in place, and print their paths
    BuildModule {
        /// Where the source is
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// For this kernel, as `run --kernel` takes it
        #[arg(long, value_name = "KERNEL", default_value = "stock", value_parser = kernel_choice::Parser)]
        kernel: KernelChoice,
    },
    /// List what is there
    List {
        /// Form of the list
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Remove what would not be used again
    Gc {
        /// Remove everything that is not in use
        #[arg(long)]
        all: bool,
    },
}

/// Subcommands of `pinner`.
#[derive(Debug, Subcommand)]
pub enum PinnerCommand {
    /// Start it on this host, without a guest, and see that it keeps to the protocol (docs/pinners.md); exit code 1 if it
    /// does not
    Check {
        /// The program
        #[arg(value_name = "PATH")]
        program: PathBuf,
    },
}

/// Form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: one document on standard output, nothing else there
    Json,
}

fn fs_help() -> String {
    let names = FileSystem::list();
    format!("Only these file systems, with or without mount options (ext4:data=journal): {names}")
}

fn pin_help() -> String {
    format!("Only these pin modes: {}; exec:PATH has a program of yours pin", Pin::list())
}

/// Which scenarios.
#[derive(Debug, Clone, Args)]
pub struct LibraryArgs {
    /// Scenarios by name, case ids or the start of some, patterns of these ('lost-*', '*/xfs/*'), or files (a path that
    /// begins with . or /, or ends in .toml); none: all
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// Take the scenario library from this directory instead of the built-in one
    #[arg(long, value_name = "DIR")]
    pub scenario_dir: Option<PathBuf>,
    /// Only these groups
    #[arg(short = 'g', long, value_name = "GROUP", value_delimiter = ',')]
    pub group: Vec<String>,
    /// Leave out what these words name: scenarios, case ids or patterns
    #[arg(long, value_name = "SCENARIO", value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// Only these file systems, with or without mount options
    #[arg(long, value_name = "FS", value_delimiter = ',', help = fs_help())]
    pub fs: Vec<String>,
    /// Only these pin modes
    #[arg(long, value_name = "MODE", value_delimiter = ',', help = pin_help())]
    pub pin: Vec<String>,
    /// Only these release modes: clean, dirty, none
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    pub release: Vec<String>,
    /// Only these variants
    #[arg(long, value_name = "VARIANT", value_delimiter = ',')]
    pub variant: Vec<String>,
}

impl LibraryArgs {
    /// Everything that is in a directory, on every file system; the built-in library without one.
    pub fn whole(scenario_dir: Option<PathBuf>) -> Self {
        let none = Vec::new;
        Self {
            scenarios: none(),
            scenario_dir,
            group: none(),
            exclude: none(),
            fs: filesystem::ALL.iter().map(|fs| fs.name.to_owned()).collect(),
            pin: none(),
            release: none(),
            variant: none(),
        }
    }
}

/// How the tries of a commit are made and judged.
#[derive(Debug, Clone, Args)]
pub struct TryArgs {
    /// What the case shows with the fault: observations (lost, lost+warned), refused:ERRNO, or crash:TITLE
    #[arg(long, value_name = "SEEN")]
    pub bad_is: Option<Fingerprint>,
    /// What it shows without; all else is neither good nor bad
    #[arg(long, value_name = "SEEN")]
    pub good_is: Option<Fingerprint>,
    /// The greatest probability with which a `good` may be wrong; of `bisect`: with which any of them may
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability)]
    pub error: f64,
    /// Tries with the fault that make a commit bad
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub hits: u32,
    /// Most tries of one commit
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub max_tries: u32,
    /// Tries that share a boot: faster, but what differs from boot to boot is then seen less often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries_per_boot: u32,
    /// Seconds that one try may take; a translated guest (tcg) gets at least three times as much
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = seconds)]
    pub timeout: Duration,
}

/// What both commands of a bisection take.
#[derive(Debug, Clone, Args)]
pub struct BisectionArgs {
    /// Which cases
    #[command(flatten)]
    pub library: LibraryArgs,
    /// How guests are run
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Which of the modules that the driver's directory makes, and parameters
    #[arg(long, value_name = "NAME[,PARAM=VALUE...]", value_parser = OsStringValueParser::new().try_map(ModuleChoice::parse))]
    pub module_name: Option<ModuleChoice>,
    /// The accelerator's daemon that the device's directory makes: a path below it
    #[arg(long, value_name = "PATH")]
    pub device_made: Option<PathBuf>,
    /// How it is made: a command of the shell, run in the device's directory [default: make]
    #[arg(long, value_name = "COMMAND")]
    pub device_build: Option<String>,
    /// Where no directory of a driver or device is named, the kernel's source in --kernel DIR is configured and built: the
    /// configuration that each step begins with [default: that of DIR at the first step, else a small one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How tries are made and judged
    #[command(flatten)]
    pub tries: TryArgs,
    /// In how many tries of a bad commit the fault showed: what a clean try is worth follows from it. `bisect` measures it,
    /// but for --check-ends false
    #[arg(long, value_name = "HITS/TRIES", default_value = "1/1")]
    pub seen: HitRate,
    /// What the kernel says and does not count, as `run --ignore-log` takes it
    #[arg(long, value_name = "FILE")]
    pub ignore_log: Option<PathBuf>,
    /// The fix is looked for: the older commits have the fault
    #[arg(long)]
    pub reverse: bool,
    /// Directory for results: a directory for each step and the log; of `bisect` also the report, and what is needed to go
    /// on
    #[arg(long, value_name = "DIR", default_value = "longpin-bisect")]
    pub out: PathBuf,
}

/// Options of `bisect`.
#[derive(Debug, Clone, Args)]
pub struct BisectArgs {
    /// The commit that has not the fault
    #[arg(long, value_name = "REV")]
    pub good: String,
    /// The commit that has it
    #[arg(long, value_name = "REV")]
    pub bad: String,
    /// The cases, of which the one that tells the ends apart best decides, and how commits are tried
    #[command(flatten)]
    pub common: BisectionArgs,
    /// Directory of the driver whose history is searched, in its repository (with Kbuild or Makefile): it is built for the
    /// kernel as `image build-module` does, and takes the place of longpin.ko
    #[arg(long, value_name = "DIR")]
    pub module_only: Option<PathBuf>,
    /// Directory of the accelerator's daemon whose history is searched, in its repository; see --device-made
    #[arg(long, value_name = "DIR", conflicts_with = "module_only")]
    pub device_only: Option<PathBuf>,
    /// Try both ends first: that they differ, in what, and how often the fault shows
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub check_ends: bool,
    /// Tries at the bad end; five are enough if all show the same
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub end_tries: u32,
}

/// Options of `bisect-step`.
#[derive(Debug, Clone, Args)]
pub struct BisectStepArgs {
    /// The case, exactly one, and how it is tried
    #[command(flatten)]
    pub common: BisectionArgs,
    /// Directory of the driver that is bisected (with Kbuild or Makefile): it is built for the kernel as `image build-module`
    /// does, and takes the place of longpin.ko
    #[arg(long, value_name = "DIR")]
    pub module_dir: Option<PathBuf>,
    /// Directory of the accelerator's daemon that is bisected; see --device-made
    #[arg(long, value_name = "DIR", conflicts_with = "module_dir")]
    pub device_dir: Option<PathBuf>,
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Result directories, or kernels as `run --kernel` takes them: their cases are run first
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    pub runs: Vec<OsString>,
    /// The cases that are the same, too
    #[arg(long)]
    pub all: bool,
    /// Forms: table, json, markdown, html, each with =FILE or for standard output, where at most one goes [default: table]
    #[arg(long, value_name = "FORMAT[=FILE]", value_delimiter = ',')]
    pub format: Vec<Output<CompareForm>>,
    /// Colours in the table
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// What `run` is given for each kernel: scenarios and options
    #[arg(last = true, value_name = "RUN-OPTION")]
    pub run: Vec<OsString>,
}

/// Options of `findings`.
#[derive(Debug, Args)]
pub struct FindingsArgs {
    /// Result directory of a run
    #[arg(value_name = "DIR", default_value = "longpin-results/latest")]
    pub dir: PathBuf,
    /// Result directories of the same cases on other kernels, to say what each of them did
    #[arg(value_name = "OTHER")]
    pub others: Vec<PathBuf>,
    /// Where the page of Markdown goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Options of `minimise`.
#[derive(Debug, Args)]
pub struct MinimiseArgs {
    /// Which case, exactly one
    #[command(flatten)]
    pub library: LibraryArgs,
    /// The word that must stay the headline [default: that of the first run]
    #[arg(long, value_name = "WORD", value_parser = observation)]
    pub shows: Option<Observation>,
    /// How often fewer steps are tried before they are taken not to show it: for a race
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: u32,
    /// Most runs, each a boot
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub max_runs: u32,
    /// The scenario that is written; its name is the file's
    #[arg(long, value_name = "FILE", default_value = "minimal.toml")]
    pub out: PathBuf,
    /// What `run` is given: options, as --kernel
    #[arg(last = true, value_name = "RUN-OPTION")]
    pub run: Vec<OsString>,
}

/// Options of `kconfig`.
#[derive(Debug, Args)]
pub struct KconfigArgs {
    /// Name what this .config (or build directory) lacks and why it is needed; exit code 1 if there is something
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which scenarios
    #[command(flatten)]
    pub library: LibraryArgs,
    /// Form of the list
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Record of the case, DIR/cases/NAME.json, or the result directory of its run
    #[arg(value_name = "CASE-DIR")]
    pub case_dir: PathBuf,
    /// The case (scenario/fs/pin/release[/variant], with #2 for a second attempt), where a directory of several is named
    #[arg(value_name = "CASE")]
    pub case: Option<String>,
    /// Run it although the kernel, a module, the overlay or the device program is no more what it was
    #[arg(long)]
    pub differing: bool,
    /// Say each step as it comes
    #[arg(long, short)]
    pub verbose: bool,
    /// Colours in the table
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Directory for results; must be empty or absent [default: longpin-results/TIME-SEED]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Forms of the result, as `run --format` takes them [default: table]
    #[arg(long, value_name = "FORMAT[=FILE]", value_delimiter = ',')]
    pub format: Vec<Output>,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result directory of a run
    #[arg(value_name = "DIR", default_value = "longpin-results/latest")]
    pub dir: PathBuf,
    /// Where the HTML file goes [default: DIR/report.html]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where the trace goes [default: DIR/trace.json]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Only this case (scenario/fs/pin/release[/variant], with #2 for a second attempt); may be given again
    #[arg(long, value_name = "LABEL")]
    pub case: Vec<String>,
    /// Draw nothing; print the whole run in these forms, as `run --format` does
    #[arg(long, value_name = "FORMAT[=FILE]", value_delimiter = ',', conflicts_with_all = ["out", "trace", "case"])]
    pub format: Vec<Output>,
}

/// What is under the file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiskKind {
    /// Our own, which watches the bytes of each write and can hold, delay and fail requests
    Audited,
    /// QEMU's own virtio disk over a raw image; cases that rule the disk are skipped
    Qemu,
}

impl DiskKind {
    /// Word on the command line and in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audited => "audited",
            Self::Qemu => "qemu",
        }
    }
}

/// How guests are run.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Kernel of the guest: `stock` (the distribution's), debian:VERSION[/SUITE] (another of its archive, as debian:6.1),
    /// DIR (where one was built; make O= too), BZIMAGE,modules=DIR, or a linux-image .deb. The driver is built for it if
    /// it can be, or named: DIR,module=FILE. Without a driver only cases that need none run:
    /// --pin dio,none
    #[arg(long, value_name = "KERNEL", default_value = "stock", value_parser = kernel_choice::Parser)]
    pub kernel: KernelChoice,
    /// KVM, or QEMU's translator
    #[arg(long, value_enum, default_value_t = Wish::Auto)]
    pub accel: Wish,
    /// This QEMU (10.2 or later) instead of the host's or the tool root's
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Disks of the guest
    #[arg(long, value_enum, default_value_t = DiskKind::Audited)]
    pub disk: DiskKind,
    /// Where images of these disks lie while they are used: sparse, 512 MiB each [default: $TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    pub disk_dir: Option<PathBuf>,
    /// Keep the images of each boot, beside its logs
    #[arg(long, conflicts_with = "disk_dir")]
    pub keep_disks: bool,
    /// Keep the memory of guests that do not answer, beside their logs: MIB for all dumps of the run together
    /// [default where no number is given: 4096]
    #[arg(long, value_name = "MIB", num_args = 0..=1, require_equals = true, default_missing_value = "4096",
          value_parser = clap::value_parser!(u32).range(256..))]
    pub dump: Option<u32>,
    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub memory: u32,
    /// Guest CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// What is the user's own in it
    #[command(flatten)]
    pub own: OwnArgs,
}

/// What the user adds to a guest, or puts in the place of something of ours.
#[derive(Debug, Clone, Default, Args)]
pub struct OwnArgs {
    /// More words for the guest kernel's command line, behind longpin's own; may be given again
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, value_parser = additions::kernel_words)]
    pub append: Vec<String>,
    /// One more argument for QEMU, behind longpin's own; may be given again, as often as there are arguments
    #[arg(
        long,
        value_name = "ARG",
        allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(additions::qemu_arg)
    )]
    pub qemu_arg: Vec<OsString>,
    /// Directory whose content lies in the guest's root too: programs, firmware
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,
    /// A driver of yours for the accelerator in the place of longpin.ko: it makes /dev/longpin0 with longpin's ioctls
    #[arg(long, value_name = "FILE[,PARAM=VALUE...]", value_parser = OsStringValueParser::new().try_map(ModuleChoice::parse))]
    pub driver: Option<ModuleChoice>,
    /// One more kernel module, or another make of one that the guest has; loaded before the driver, in the order given
    #[arg(long, value_name = "FILE[,PARAM=VALUE...]", value_parser = OsStringValueParser::new().try_map(ModuleChoice::parse))]
    pub module: Vec<ModuleChoice>,
    /// A program of yours that pins, for pin mode exec; --pin exec:PATH says both
    #[arg(long, value_name = "PATH")]
    pub pinner: Option<PathBuf>,
    /// The accelerator's daemon instead of longpin-device [env: LONGPIN_DEVICE=]
    #[arg(long, value_name = "PATH", env = "LONGPIN_DEVICE", hide_env = true)]
    pub device_program: Option<PathBuf>,
}

impl MachineArgs {
    /// As if nothing had been typed.
    pub fn usual() -> Self {
        Self {
            kernel: KernelChoice::Stock,
            accel: Wish::Auto,
            qemu: None,
            disk: DiskKind::Audited,
            disk_dir: None,
            keep_disks: false,
            dump: None,
            memory: 1024,
            cpus: 2,
            own: OwnArgs::default(),
        }
    }
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Which scenarios
    #[command(flatten)]
    pub library: LibraryArgs,
    /// How guests are run
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Run what failed in this result directory once more: cases that ended in fail, xpass, error or flaky, never
    /// reported, or never ran since another failed before. Scenarios are those that lie there; kernel, machine, limits and seed are those of that run where they
    /// are not given again
    #[arg(long, value_name = "DIR", conflicts_with_all = ["scenarios", "scenario_dir"])]
    pub rerun_failed: Option<PathBuf>,
    /// Run each case this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub repeat: u32,
    /// Run a case that ends in fail, xpass or error again, at most N times, each time in a boot of its own; it is flaky if it
    /// is then as expected
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20),
          conflicts_with_all = ["repeat", "until_fail", "fail_fast"])]
    pub retries: u32,
    /// Count a flaky case as one that passed
    #[arg(long, requires = "retries")]
    pub allow_flaky: bool,
    /// End the run after N cases that ended in fail, xpass or error; the rest is never run and counts as errors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_fail: Option<u32>,
    /// Run nothing more after the first case that ends in fail, xpass or error; the rest is skipped
    #[arg(long)]
    pub fail_fast: bool,
    /// Repeat until a case ends so, at most --repeat times [default: 1000]
    #[arg(long)]
    pub until_fail: bool,
    /// Say which cases would run, and boot nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Say the verdict of each case as it comes; without a terminal on standard error this is always so
    #[arg(long, short)]
    pub verbose: bool,
    /// Colours in the table
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Most cases that share one boot
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub cases_per_boot: u32,
    /// Seconds that one case may take; a translated guest (tcg) gets at least three times as much
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = seconds)]
    pub timeout: Duration,
    /// Directory for results; must be empty or absent [default: longpin-results/TIME-SEED]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Forms of the result: table, json, ktap, junit, github, markdown, kcidb, each with =FILE or for standard output, where
    /// at most one goes [default: table]
    #[arg(long, value_name = "FORMAT[=FILE]", value_delimiter = ',')]
    pub format: Vec<Output>,
    /// What the kernel says and does not count: a TOML file of entries, each with a reason and the day on which it expires
    #[arg(long, value_name = "FILE")]
    pub ignore_log: Option<PathBuf>,
    /// Count any observation but `intact` and `refused` as a failure, known-bad rows too
    #[arg(long)]
    pub strict: bool,
    /// Seed of everything that is random in the run
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Names of the options that were given, on the command line or by the environment
    #[arg(skip)]
    pub given: BTreeSet<String>,
    /// The command that was typed, where it was another one than `run`
    #[arg(skip)]
    pub typed: Option<String>,
}

impl RunArgs {
    /// As if `run` had been typed with these words and options. Errors: what clap says of them.
    pub fn of(words: &[OsString], options: &[OsString]) -> Result<Box<Self>, clap::Error> {
        let line = ["longpin".into(), "run".into()].into_iter();
        match Cli::read(line.chain(words.iter().cloned()).chain(options.iter().cloned()))?.command {
            Command::Run(args) => Ok(args),
            _ => unreachable!("the line says run"),
        }
    }

    /// How guests are run, with which limits and seed: as in an earlier run, but for what was given.
    pub fn inherit(&mut self, earlier: Self) {
        fn take<T>(mine: &mut T, given: bool, earlier: T) {
            if !given {
                *mine = earlier;
            }
        }
        // All options of the machine are named here, so that a new one does not compile before it stands below.
        let Self { machine, cases_per_boot, timeout, ignore_log, seed, .. } = earlier;
        let MachineArgs { kernel, accel, qemu, disk, disk_dir, keep_disks, dump, memory, cpus, own } =
            machine;
        let OwnArgs { append, qemu_arg, overlay, driver, module, pinner, device_program } = own;
        let given = |name: &str| self.given.contains(name);
        let mine = &mut self.machine;
        take(&mut mine.kernel, given("kernel"), kernel);
        take(&mut mine.accel, given("accel"), accel);
        take(&mut mine.qemu, given("qemu"), qemu);
        take(&mut mine.disk, given("disk"), disk);
        // Only one of the two can be.
        let images_of_disks = given("disk_dir") || given("keep_disks");
        take(&mut mine.disk_dir, images_of_disks, disk_dir);
        take(&mut mine.keep_disks, images_of_disks, keep_disks);
        take(&mut mine.dump, given("dump"), dump);
        take(&mut mine.memory, given("memory"), memory);
        take(&mut mine.cpus, given("cpus"), cpus);
        take(&mut mine.own.append, given("append"), append);
        take(&mut mine.own.qemu_arg, given("qemu_arg"), qemu_arg);
        take(&mut mine.own.overlay, given("overlay"), overlay);
        take(&mut mine.own.driver, given("driver"), driver);
        take(&mut mine.own.module, given("module"), module);
        take(&mut mine.own.pinner, given("pinner"), pinner);
        take(&mut mine.own.device_program, given("device_program"), device_program);
        take(&mut self.cases_per_boot, given("cases_per_boot"), cases_per_boot);
        take(&mut self.timeout, given("timeout"), timeout);
        take(&mut self.ignore_log, given("ignore_log"), ignore_log);
        take(&mut self.seed, given("seed"), seed);
    }

    /// How often each case runs.
    pub fn attempts(&self) -> u32 {
        match (self.until_fail, self.repeat) {
            (true, 1) => UNTIL_FAIL_ATTEMPTS,
            (_, repeat) => repeat,
        }
    }
}

/// Attempts of `--until-fail` where nobody says.
const UNTIL_FAIL_ATTEMPTS: u32 = 1000;

/// When the table has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Options of `selftest`.
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Only these kinds; none: all
    #[arg(value_name = "KIND")]
    pub kinds: Vec<String>,
    /// Say which kinds there are, and try none
    #[arg(long)]
    pub list: bool,
    /// KVM, or QEMU's translator
    #[arg(long, value_enum, default_value_t = Wish::Auto)]
    pub accel: Wish,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Options of `soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// Seed of the first plan; the others have those that follow [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Number of plans
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub cases: u32,
    /// File systems, of which each seed chooses one [default: ext4,xfs,btrfs,f2fs,tmpfs]
    #[arg(long, value_name = "FS", value_delimiter = ',')]
    pub fs: Vec<String>,
    /// Write the plan of --seed as a scenario, for `longpin run FILE`, and run nothing. The name of the file is to be
    /// soak-SEED.toml, - is standard output
    #[arg(long, value_name = "FILE", requires = "seed", conflicts_with_all = ["cases", "format", "out"])]
    pub write_scenario: Option<PathBuf>,
    /// How guests are run
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Seconds that one plan may take; a translated guest (tcg) gets at least three times as much
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = seconds)]
    pub timeout: Duration,
    /// Say the verdict of each plan as it comes; without a terminal on standard error this is always so
    #[arg(long, short)]
    pub verbose: bool,
    /// Colours in the table
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Directory for results; must be empty or absent [default: longpin-results/TIME-SEED]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Forms of the result, as `run --format` takes them [default: table]
    #[arg(long, value_name = "FORMAT[=FILE]", value_delimiter = ',')]
    pub format: Vec<Output>,
}

/// Options of `shell`.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Which scenario to carry out before; the first case that fits is taken
    #[command(flatten)]
    pub library: LibraryArgs,
    /// Stop before this line of the scenario file [default: after the last step, before clean-up]
    #[arg(long, value_name = "LINE")]
    pub until: Option<usize>,
    /// How guests are run
    #[command(flatten)]
    pub machine: MachineArgs,
    /// A program to run in the guest instead of a shell; its exit code is ours, and 125 says that there was no guest to
    /// run it in
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// A word of `docs/verdicts.md`.
fn observation(text: &str) -> Result<Observation, String> {
    Observation::parse(text).ok_or_else(|| format!("use one of {}", Observation::list()))
}

/// Neither certain nor impossible.
fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if p > 0.0 && p < 1.0 => Ok(p),
        _ => Err("use a number between 0 and 1, as 0.05".into()),
    }
}

/// A positive number of seconds, up to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86400) => Ok(Duration::from_secs(seconds)),
        _ => Err("use a number of seconds from 1 to 86400".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn run(line: &[&str]) -> RunArgs {
        match Cli::try_parse_from([&["longpin", "run"], line].concat()).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_that_contradict_each_other_or_mean_nothing_are_refused() {
        let refused = |words: &[&str]| Cli::try_parse_from([&["longpin", "run"], words].concat()).is_err();
        assert!(refused(&["--allow-flaky"]), "nothing is flaky without --retries");
        assert!(!refused(&["--retries", "1", "--allow-flaky", "--max-fail", "3"]));
        for other in [&["--repeat", "2"][..], &["--until-fail"], &["--fail-fast"]] {
            assert!(refused(&[&["--retries", "1"], other].concat()), "{other:?}");
        }
        assert!(refused(&["--max-fail", "0"]));
    }

    #[test]
    fn the_usual_machine_is_that_of_an_empty_command_line() {
        assert_eq!(format!("{:?}", run(&[]).machine), format!("{:?}", MachineArgs::usual()));
    }

    /// Files of Rust source below a directory.
    fn sources(dir: &std::path::Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, found),
                false if path.extension().is_some_and(|suffix| suffix == "rs") => found.push(path),
                false => {}
            }
        }
    }

    /// Every option of every command.
    fn options(command: &clap::Command, found: &mut BTreeSet<String>) {
        found.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned));
        command.get_subcommands().for_each(|command| options(command, found));
    }

    /// Options that a message recommends: `--OPTION` in a text for people, not in another program's line.
    fn recommended(source: &str) -> Vec<String> {
        const OTHERS: [&str; 9] =
            ["apt-get", "usermod", "cargo ", "sysctl", "rustc", "--privileged", "--version`", "--edit", "dm"];
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let words = lines
            .filter(|line| !OTHERS.iter().any(|other| line.contains(other)))
            .filter_map(|line| line.split_once('"'))
            .flat_map(|(_, text)| {
                let before = std::iter::once("").chain(text.split_whitespace());
                before
                    .zip(text.split_whitespace())
                    .map(|(a, b)| (a.to_owned(), b.to_owned()))
                    .collect::<Vec<_>>()
            });
        words
            .filter(|(before, _)| {
                ["with", "give", "by", "or", "gc", "build", "run", "set"].contains(&before.as_str())
            })
            .filter_map(|(_, word)| {
                let name = word.strip_prefix("--")?;
                let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(name.len());
                Some(name[..end].to_owned()).filter(|name| !name.is_empty())
            })
            .collect()
    }

    #[test]
    fn what_messages_recommend_can_be_typed() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        sources(&here.join("src"), &mut files);
        sources(&here.join("../../images/src"), &mut files);
        let mut known = BTreeSet::from(["help".to_owned(), "version".to_owned()]);
        options(&Cli::command(), &mut known);
        let mut seen = 0;
        for file in files {
            for option in recommended(&std::fs::read_to_string(&file).unwrap()) {
                assert!(known.contains(&option), "{}: there is no --{option}", file.display());
                seen += 1;
            }
        }
        assert!(seen > 0, "no message was found at all");
        assert_eq!(recommended("    \"try it, or give --kernel DIR\","), ["kernel"]);
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let args = run(&["lost-update", "late-dirty", "--fs", "ext4,xfs", "--pin", "pin"]);
        assert_eq!(args.library.scenarios, ["lost-update", "late-dirty"]);
        assert_eq!(args.library.fs, ["ext4", "xfs"]);
        assert_eq!(args.library.pin, ["pin"]);
        assert_eq!((args.repeat, args.strict, args.format), (1, false, Vec::new()));
        let format = run(&["--format", "junit=a.xml,ktap", "--format=json=b"]).format;
        assert_eq!(format, ["junit=a.xml", "ktap=-", "json=b"].map(|word| word.parse().unwrap()));
    }

    #[test]
    fn a_program_that_pins_is_a_pin_mode_and_a_path() {
        let run = |line: &[&str]| {
            let words = ["longpin", "run"].iter().chain(line).map(OsString::from);
            match Cli::read(words).expect("a command line").command {
                Command::Run(args) => *args,
                other => panic!("{other:?}"),
            }
        };
        let args = run(&["--pin", "io_uring,exec:./mine"]);
        assert_eq!(args.library.pin, ["io_uring", "exec"]);
        assert_eq!(args.machine.own.pinner, Some("./mine".into()));
        assert!(args.given.contains("pinner"));
        let args = run(&["--pin=exec", "--pinner=mine"]);
        assert_eq!(
            (args.library.pin, args.machine.own.pinner),
            (vec!["exec".to_owned()], Some("mine".into()))
        );
        assert_eq!(run(&["--pin", "pin"]).machine.own.pinner, None);
        for command in [&["bisect", "--good", "a", "--bad", "b"][..], &["bisect-step"]] {
            let words =
                ["longpin"].iter().chain(command).chain(&["--pin", "exec:./mine"]).map(OsString::from);
            let common = match Cli::read(words).expect("a command line").command {
                Command::Bisect(args) => args.common,
                Command::BisectStep(args) => args.common,
                other => panic!("{other:?}"),
            };
            assert_eq!(common.library.pin, ["exec"]);
            assert_eq!(common.machine.own.pinner, Some("./mine".into()));
        }
        for line in [["--pin", "exec:"], ["--pin", "exec:a,exec:b"], ["--pin=exec:a", "--pinner=b"]] {
            let words = ["longpin", "run"].into_iter().chain(line);
            let error = Cli::read(words.map(OsString::from)).expect_err("two programs or none");
            assert!(error.to_string().contains("one program that pins can be named"), "{error}");
        }
    }

    #[test]
    fn senseless_numbers_are_refused() {
        for line in
            [["--timeout", "0"], ["--repeat", "0"], ["--memory", "1"], ["--cpus", "0"], ["--timeout", "x"]]
        {
            let parsed = Cli::try_parse_from(["longpin", "run"].iter().chain(&line));
            assert!(parsed.is_err(), "{line:?}");
        }
    }
}
