// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest with the driver, the real device beside it, and the tests of `tests/driver` as its only program. The guest
//! tells TAP on a serial line of its own, and asks there for what only the host can do to the device.

use crate::{images, processes, program, wait_for};
use longpin_images::{
    Bind, ExtraFile, Initramfs, InitramfsSpec, Kernel, LabKernel, OwnKernel, Store, ToolRoot, report,
};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Sockets of a process that was just started.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The compiler, and one answer of device or QEMU.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// From the start of QEMU to the first word of the test program.
const BOOT_DEADLINE: Duration = Duration::from_secs(600);
/// All tests of one guest, emulated, on a machine that does much else.
const TESTS_DEADLINE: Duration = Duration::from_secs(1800);
/// A storm, likewise.
const STORM_DEADLINE: Duration = Duration::from_secs(3600);
/// From the last test to the end of the machine.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(180);
/// The largest region is 1 GiB, and its owner is killed on the way to a second one. A kernel that watches its memory takes
/// an eighth of it and more.
const MEMORY_MIB: u32 = 1792;
const LAB_MEMORY_MIB: u32 = 4096;
/// For the file system of the test `file`.
const IMAGE_BYTES: u64 = 64 << 20;

/// The guest's script and the parts of its program.
const INIT: &str = include_str!("../../driver/init.sh");
const SOURCES: [&str; 10] = [
    "main.c",
    "support.c",
    "pins.c",
    "errors.c",
    "programs.c",
    "limits.c",
    "lifetime.c",
    "device.c",
    "storms.c",
    "mirror.c",
];
/// The test that has one accelerator after another, each with a connection of its own to the daemon.
const PLUG_STORM: &str = "plug-storm";
const COMMON_FLAGS: [&str; 6] = ["-std=gnu17", "-static", "-O2", "-Wall", "-Wextra", "-Werror"];
/// The 32-bit program: the compiler comes without the C library for it, and with the kernel's headers in one place only.
const COMPAT_SOURCES: [&str; 1] = ["compat.c"];
const COMPAT_FLAGS: [&str; 7] = [
    "-m32",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-no-pie",
    "-idirafter",
    "/usr/include/x86_64-linux-gnu",
];

/// Result of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestResult {
    /// `ok`.
    Ok,
    /// `ok # SKIP`, with the reason.
    Skipped(String),
    /// `not ok`; the lines behind it say why.
    Failed,
}

/// What a guest left behind.
#[derive(Debug)]
pub struct Told {
    /// Results in order, by the names of the tests.
    pub results: Vec<(String, TestResult)>,
    /// Everything on the console.
    pub console: String,
    /// The device's ledger.
    pub ledger: PathBuf,
    /// The place of the ledger, as long as this lives.
    _dir: tempfile::TempDir,
}

/// Boot, run these tests with these parameters of the module, and power off. Prints what the guest told.
///
/// # Panics
///
/// If anything but a test goes wrong, or takes too long.
pub fn run(tests: &[&str], module_parameters: &[&str]) -> Told {
    run_on(None, tests, module_parameters, 0)
}

/// The same on a kernel of the laboratory, which is built first.
///
/// # Panics
///
/// As [`run`].
pub fn run_on_lab(name: &str, tests: &[&str], module_parameters: &[&str]) -> Told {
    run_on(Some(&LabKernel { name: name.to_owned() }), tests, module_parameters, 0)
}

/// Tests of `storms.c` with so many rounds each, on the stock kernel or one of the laboratory.
///
/// # Panics
///
/// As [`run`].
pub fn run_storms(lab: Option<&str>, storms: &[&str], rounds: u32) -> Told {
    run_on(lab.map(|name| LabKernel { name: name.to_owned() }).as_ref(), storms, &[], rounds)
}

fn run_on(lab: Option<&LabKernel>, tests: &[&str], module_parameters: &[&str], rounds: u32) -> Told {
    images();
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let parts = Parts::prepare(dir.path(), lab);
    let mut guest = Guest::boot(dir.path(), &parts, tests, module_parameters, rounds);
    let tap = guest.listen();
    println!("{}", tap.join("\n"));
    let console = guest.power_off();
    let ledger = dir.path().join("ledger");
    Told { results: tap.iter().filter_map(|line| result_of(line)).collect(), console, ledger, _dir: dir }
}

/// From "not ok 3 - name # SKIP reason".
fn result_of(line: &str) -> Option<(String, TestResult)> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let text = rest.split_once(" - ")?.1;
    let (name, skip) = text.split_once(" # SKIP ").map_or((text, None), |(name, why)| (name, Some(why)));
    let result = match (ok, skip) {
        (true, None) => TestResult::Ok,
        (true, Some(reason)) => TestResult::Skipped(reason.to_owned()),
        (false, _) => TestResult::Failed,
    };
    Some((name.to_owned(), result))
}

/// What a guest is made of.
struct Parts {
    root: ToolRoot,
    kernel: Kernel,
    initramfs: Initramfs,
}

impl Parts {
    fn prepare(dir: &Path, lab: Option<&LabKernel>) -> Self {
        let store = Store::open_default().expect("the image store can be opened");
        let reporter = report::for_stderr();
        let root = store.tool_root(&*reporter).expect("the tool root was built");
        let kernel = match lab {
            None => store.kernel(&root, &*reporter),
            Some(lab) => store.own_kernel(&root, &OwnKernel::Lab(lab.clone()), false, &*reporter),
        };
        let kernel = kernel.expect("the kernel can be built");
        let module = store.module(&root, &kernel, None, &*reporter).expect("the driver was built");
        let compiled = |name: &str, flags: &[&str], sources: &[&str]| ExtraFile {
            path: format!("/usr/bin/{name}"),
            permissions: 0o755,
            content: compile(&root, dir, name, flags, sources),
        };
        let spec = InitramfsSpec {
            agent: INIT.into(),
            modules: vec![module.path().to_owned()],
            files: vec![
                compiled("driver-test", &["-pthread"], &SOURCES),
                compiled("driver-test-32", &COMPAT_FLAGS, &COMPAT_SOURCES),
            ],
            ..InitramfsSpec::default()
        };
        let initramfs = store.initramfs(&root, &kernel, &spec, &*reporter).expect("an initramfs can be made");
        Self { root, kernel, initramfs }
    }
}

/// A program of the tests, static: the guest has no place for its libraries. By the compiler that built the driver.
fn compile(root: &ToolRoot, dir: &Path, name: &str, flags: &[&str], sources: &[&str]) -> Vec<u8> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let binds = [
        Bind::read_only(repository.join("tests/driver")).at("/driver"),
        Bind::read_only(repository.join("wire/include")).at("/include"),
        Bind::read_write(dir).at("/out"),
    ];
    let mut gcc = root.command("gcc", &binds);
    gcc.args(COMMON_FLAGS).args(flags).args(["-I/include", "-o"]).arg(format!("/out/{name}"));
    gcc.args(sources.iter().map(|source| format!("/driver/{source}")));
    let mut child = gcc.spawn().expect("the compiler starts");
    let status = wait_for("the compiler", ANSWER_DEADLINE, || {
        child.try_wait().expect("our own child can be waited for")
    });
    assert!(status.success(), "{name} of tests/driver does not compile: {status}");
    std::fs::read(dir.join(name)).expect("the compiler wrote it")
}

/// A machine and its device; both end when dropped.
struct Guest<'a> {
    dir: &'a Path,
    qemu: Process,
    device: Process,
    channel: UnixStream,
    /// How long the tests may take.
    deadline: Duration,
    /// Does the daemon serve one connection after another, and not end with the first?
    persists: bool,
    /// How many accelerators were plugged in.
    plugged: u32,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Guest<'a> {
    fn boot(dir: &'a Path, parts: &Parts, tests: &[&str], module_parameters: &[&str], rounds: u32) -> Self {
        let path = |name: &str| dir.join(name);
        let mut device = Command::new(program("longpin-device"));
        device.args(["--log-level", "warn", "--socket-path"]).arg(path("accelerator"));
        device.arg("--control").arg(path("control")).arg("--ledger").arg(path("ledger"));
        let persists = tests.contains(&PLUG_STORM);
        device.args(persists.then_some("--persist"));
        let device = start(device, &[path("accelerator"), path("control")]);
        File::create(path("disk"))
            .and_then(|image| image.set_len(IMAGE_BYTES))
            .expect("an image can be made");
        let (kernel, initramfs) = (parts.kernel.vmlinuz(), &parts.initramfs.path());
        let binds = [Bind::read_only(kernel), Bind::read_only(initramfs), Bind::read_write(dir)];
        let mut qemu = parts.root.command("qemu-system-x86_64", &binds);
        let memory_mib = if parts.kernel.is_brought() { LAB_MEMORY_MIB } else { MEMORY_MIB };
        qemu.args(machine(dir, memory_mib)).arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
        qemu.arg("-append").arg(format!(
            "console=ttyS0 panic=-1 no_timer_check tsc=nowatchdog loglevel=5 printk.devkmsg=on tests={} rounds={rounds} \
             module={}",
            tests.join(","),
            module_parameters.join(",")
        ));
        let qemu = start(qemu, &[path("channel"), path("qmp")]);
        let channel = UnixStream::connect(path("channel")).expect("QEMU listens");
        let storm = tests.iter().any(|name| name.ends_with("-storm"));
        let deadline = if storm { STORM_DEADLINE } else { TESTS_DEADLINE };
        Self { dir, qemu, device, channel, deadline, persists, plugged: 0 }
    }

    /// The lines of the test program, until it says that it is over. Does what it asks for.
    fn listen(&mut self) -> Vec<String> {
        let started = Instant::now();
        let stream = self.channel.try_clone().expect("a socket can be cloned");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket takes a timeout");
        let mut input = BufReader::new(stream);
        let (mut told, mut line) = (Vec::new(), String::new());
        loop {
            let deadline = if told.is_empty() { BOOT_DEADLINE } else { self.deadline };
            if started.elapsed() > deadline {
                panic!("the tests did not end in {deadline:?}: {told:#?}\n{}", self.state());
            }
            match input.read_line(&mut line) {
                Ok(0) => panic!("the guest ended: {told:#?}\n{}", self.console()),
                Ok(_) => {}
                // What has come so far stays in `line`.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => panic!("the guest ended, {error}: {told:#?}\n{}", self.console()),
            }
            let text = std::mem::take(&mut line).trim_end().to_owned();
            match text.strip_prefix("@ ") {
                Some("end") => return told,
                Some(wish) => {
                    self.grant(wish);
                    writeln!(self.channel, "done").expect("the guest listens");
                }
                None => told.push(text),
            }
        }
    }

    fn grant(&mut self, wish: &str) {
        match wish.split_once(' ') {
            None if wish == "kill" => self.device.0.kill().expect("the daemon runs"),
            None if wish == "unplug" => {
                self.ask_qemu(&json!({"execute": "device_del", "arguments": {"id": "accelerator"}}));
            }
            None if wish == "plug" => self.plug(),
            Some(("fault", fault)) => {
                let answer = self.ask_device(&json!({"request": "fault", "fault": fault}));
                assert_eq!(answer["answer"], "ok", "{answer}");
            }
            _ => panic!("the guest asks for `{wish}`, which nobody knows"),
        }
    }

    /// Another accelerator in the place of the one that was unplugged.
    fn plug(&mut self) {
        let chardev = |number| match number {
            0 => "accelerator".to_owned(),
            _ => format!("accelerator-{number}"),
        };
        let old = chardev(self.plugged);
        self.plugged += 1;
        let new = chardev(self.plugged);
        // The old one is in use until the guest has let its device go.
        wait_for("the old accelerator to be gone", ANSWER_DEADLINE, || {
            let answer = self.converse(&json!({"execute": "chardev-remove", "arguments": {"id": old}}));
            answer.get("return").is_some().then_some(())
        });
        let socket = json!({"type": "unix", "data": {"path": self.dir.join("accelerator")}});
        let backend = json!({"type": "socket", "data": {"addr": socket, "server": false}});
        self.ask_qemu(&json!({"execute": "chardev-add", "arguments": {"id": new, "backend": backend}}));
        let device: serde_json::Map<String, Value> = accelerator(&new)
            .split(',')
            .map(|word| word.split_once('=').unwrap_or(("driver", word)))
            .map(|(name, value)| (name.to_owned(), value.parse::<u64>().map_or(json!(value), Value::from)))
            .collect();
        self.ask_qemu(&json!({"execute": "device_add", "arguments": device}));
    }

    fn ask_device(&self, request: &Value) -> Value {
        self.answered(Conversation::with(&self.dir.join("control")).ask(request), request)
    }

    fn ask_qemu(&self, request: &Value) -> Value {
        let answer = self.converse(request);
        assert!(answer.get("return").is_some(), "{answer}");
        answer
    }

    fn converse(&self, request: &Value) -> Value {
        let mut qmp = Conversation::with(&self.dir.join("qmp"));
        let answer = qmp
            .next()
            .and_then(|_| qmp.answer(&json!({"execute": "qmp_capabilities"})))
            .and_then(|_| qmp.answer(request));
        self.answered(answer, request)
    }

    /// An answer. Where none comes, what QEMU and the daemon wait for is the only trace.
    fn answered(&self, answer: io::Result<Value>, request: &Value) -> Value {
        answer.unwrap_or_else(|error| {
            panic!("no answer to {request}: {error}\n{}\n{}", processes::threads(self.dir), self.console())
        })
    }

    /// What there is to say of a guest that stands still.
    fn state(&self) -> String {
        let registers = json!({"command-line": "info registers -a"});
        let answer = self.ask_qemu(&json!({"execute": "human-monitor-command", "arguments": registers}));
        format!("{}\n{}", self.console(), answer["return"].as_str().unwrap_or_default())
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.join("console")).expect("QEMU writes a console");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The guest goes by itself; the device with it. Returns the console.
    fn power_off(mut self) -> String {
        wait_for("the guest to power off", POWER_OFF_DEADLINE, || {
            self.qemu.0.try_wait().expect("our own child can be waited for")
        });
        if self.persists {
            // Not killed: it writes out what it has of the ledger.
            let pid = rustix::process::Pid::from_child(&self.device.0);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        }
        wait_for("the device to end with it", POWER_OFF_DEADLINE, || {
            self.device.0.try_wait().expect("our own child can be waited for")
        });
        self.console()
    }
}

/// A machine as `longpin run` has it, with the accelerator in a slot of its own, so that it can be unplugged.
fn machine(dir: &Path, memory_mib: u32) -> Vec<String> {
    let socket = |name: &str| format!("unix:{},server=on,wait=off", dir.join(name).display());
    let options = [
        ("-machine", "q35,memory-backend=mem".to_owned()),
        ("-object", format!("memory-backend-memfd,id=mem,size={memory_mib}M,share=on")),
        ("-accel", "tcg,thread=multi".to_owned()),
        ("-cpu", "qemu64,+rdrand,+rdseed".to_owned()),
        ("-m", format!("{memory_mib}M")),
        ("-smp", "2".to_owned()),
        ("-display", "none".to_owned()),
        ("-serial", format!("file:{}", dir.join("console").display())),
        ("-serial", socket("channel")),
        ("-qmp", socket("qmp")),
        ("-drive", format!("file={},format=raw,if=virtio", dir.join("disk").display())),
        ("-chardev", format!("socket,id=accelerator,path={}", dir.join("accelerator").display())),
        ("-device", "pcie-root-port,id=rp0".to_owned()),
        ("-device", accelerator("accelerator")),
    ];
    let flags = ["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned);
    flags.into_iter().chain(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value])).collect()
}

/// The accelerator as an option of QEMU.
fn accelerator(chardev: &str) -> String {
    format!(
        "vhost-user-test-device-pci,id=accelerator,bus=rp0,chardev={chardev},virtio-id=38,num_vqs=4,vq_size=256,\
         config_size=64"
    )
}

fn start(mut command: Command, sockets: &[PathBuf]) -> Process {
    command.stdin(Stdio::null());
    let mut process = Process(command.spawn().expect("the program starts"));
    wait_for(&format!("{sockets:?}"), START_DEADLINE, || {
        let ended = process.0.try_wait().expect("our own child");
        assert!(ended.is_none(), "the program of {sockets:?} ended: {ended:?}");
        sockets.iter().all(|socket| socket.exists()).then_some(())
    });
    process
}

/// JSON lines on a socket.
struct Conversation(BufReader<UnixStream>);

impl Conversation {
    fn with(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).expect("a socket takes a timeout");
        Self(BufReader::new(stream))
    }

    fn next(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, request: &Value) -> io::Result<Value> {
        writeln!(self.0.get_mut(), "{request}")?;
        self.next()
    }

    /// The same where events may come between. From QEMU they do as soon as `qmp_capabilities` is under way, so even before
    /// its own answer.
    fn answer(&mut self, request: &Value) -> io::Result<Value> {
        let mut line = self.ask(request)?;
        while line.get("event").is_some() {
            line = self.next()?;
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_tap() {
        let named = |name: &str, result| Some((name.to_owned(), result));
        assert_eq!(result_of("ok 1 - info"), named("info", TestResult::Ok));
        assert_eq!(result_of("not ok 2 - huge-pages"), named("huge-pages", TestResult::Failed));
        assert_eq!(result_of("ok 3 - a # SKIP no b"), named("a", TestResult::Skipped("no b".into())));
        assert_eq!(result_of("not ok 4 - a # SKIP no b"), named("a", TestResult::Failed));
        for other in ["TAP version 13", "1..4", "# ok 1 - info", "okay", ""] {
            assert_eq!(result_of(other), None, "{other}");
        }
    }
}
