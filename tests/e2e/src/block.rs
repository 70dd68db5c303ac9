// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Disks without a virtual machine: our daemon and qemu-storage-daemon as servers, qemu-io and qemu-img as clients, by
//! vhost-user. QEMU's programs are those of the tool root.

use crate::{program, wait_for};
use longpin_images::{Bind, Store, ToolRoot, report};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Start of a server.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// One run of a client, on a machine that does much else.
const CLIENT_DEADLINE: Duration = Duration::from_secs(300);

/// A directory for images and sockets that the tool root sees too.
pub struct Place {
    dir: tempfile::TempDir,
    root: ToolRoot,
    files: AtomicU64,
}

/// A running server; ends when dropped.
pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it serves has gone by now; in the sandbox everything ends with its first process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How qemu-storage-daemon does its I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// As it does when nothing is said: a pool of threads.
    Default,
    /// io_uring in an event loop of its own, which polls.
    IoUring,
}

impl Place {
    /// A directory in `parent`. Blocks until the tool root is there.
    pub fn new(parent: &Path) -> Self {
        let store = Store::open_default().expect("the image store can be opened");
        let root = store.tool_root(&*report::for_stderr()).expect("the tool root was built");
        let dir = tempfile::tempdir_in(parent).expect("a temporary directory can be made");
        Self { dir, root, files: AtomicU64::new(0) }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of `bytes`, without content.
    pub fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).expect("the place is writable");
        file.set_len(bytes).expect("an image can be that large");
        path
    }

    /// Run our daemon with a disk that it should refuse; what it says.
    ///
    /// # Panics
    ///
    /// If it does not end with an error.
    pub fn refused(&self, disk: &str) -> String {
        let option = self.disk_option(disk).1;
        let output = Command::new(program("longpin-device")).args(["--disk", &option]).output();
        let output = output.expect("the daemon starts");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Socket and `--disk` option for `NAME,KEY=VALUE...`.
    fn disk_option(&self, disk: &str) -> (PathBuf, String) {
        let (name, options) = disk.split_once(',').unwrap_or((disk, "audit=writes"));
        let (socket, image) = (self.path(name), self.path(&format!("{name}.img")));
        let option = format!("socket={},image={},{options}", socket.display(), image.display());
        (socket, option)
    }

    /// Serve disks by our daemon: `NAME,KEY=VALUE...` each has its image and socket in `NAME.img` and `NAME`. The
    /// control socket is `control`.
    pub fn serve(&self, disks: &[&str]) -> Server {
        let mut command = Command::new(program("longpin-device"));
        command.args(["--persist", "--log-level", "warn", "--control"]).arg(self.path("control"));
        command.arg("--ledger").arg(self.path("ledger"));
        let mut sockets = vec![self.path("control")];
        for disk in disks {
            let (socket, option) = self.disk_option(disk);
            command.args(["--disk", &option]);
            sockets.push(socket);
        }
        self.start(command, &sockets)
    }

    /// Serve `NAME.img` at `NAME` by qemu-storage-daemon.
    pub fn serve_by_qemu(&self, name: &str, how: Reference) -> Server {
        let (socket, image) = (self.path(name), self.path(&format!("{name}.img")));
        let mut command = self.root.command("qemu-storage-daemon", &[Bind::read_write(self.dir.path())]);
        let (aio, thread) = match how {
            Reference::Default => ("threads", ""),
            Reference::IoUring => ("io_uring", ",iothread=t"),
        };
        if how == Reference::IoUring {
            command.args(["--object", "iothread,id=t"]);
        }
        let file = format!("driver=file,node-name=f,filename={},aio={aio},discard=unmap", image.display());
        let export = format!(
            "vhost-user-blk,id=e,node-name=r,addr.type=unix,addr.path={},writable=on{thread}",
            socket.display()
        );
        command.args(["--blockdev", &file, "--blockdev", "driver=raw,node-name=r,file=f,discard=unmap"]);
        command.args(["--export", &export]);
        self.start(command, &[socket])
    }

    fn start(&self, mut command: Command, sockets: &[PathBuf]) -> Server {
        command.stdin(Stdio::null());
        let mut server = Server { child: command.spawn().expect("a server starts") };
        wait_for(&format!("{sockets:?}"), START_DEADLINE, || {
            let ended = server.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "the server of {sockets:?} ended: {ended:?}");
            sockets.iter().all(|socket| socket.exists()).then_some(())
        });
        server
    }

    /// The option by which QEMU's programs use the disk `name`.
    pub fn client_option(&self, name: &str) -> String {
        let path = self.path(name);
        format!("driver=virtio-blk-vhost-user,path={},cache.direct=on", path.display())
    }

    /// Run a client to its end with this standard input. Standard output, or all that it said if it fails.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub fn client(&self, program: &str, args: &[&str], input: &str) -> Result<String, String> {
        // Files: a pipe that nobody reads would stop it. Names of their own: clients may run side by side.
        let paths = ["in", "out", "err"].map(|kind| self.path(&format!("{}.{kind}", self.next_number())));
        let [stdin, stdout, stderr] = &paths;
        std::fs::write(stdin, input).expect("the place is writable");
        let create = |path| File::create(path).expect("the place is writable");
        let mut command = self.root.command(program, &[Bind::read_write(self.dir.path())]);
        command.args(args).stdin(File::open(stdin).expect("it was just made"));
        let mut child =
            command.stdout(create(stdout)).stderr(create(stderr)).spawn().expect("a client starts");
        let ended = wait_for(&format!("{program} to end"), CLIENT_DEADLINE, || {
            child.try_wait().expect("our own child")
        });
        let [output, errors] =
            [stdout, stderr].map(|path| std::fs::read_to_string(path).expect("clients write text"));
        if ended.success() { Ok(output) } else { Err(format!("{program}: {ended}\n{output}{errors}")) }
    }

    fn next_number(&self) -> u64 {
        self.files.fetch_add(1, Ordering::Relaxed)
    }

    /// Ask our daemon; the answer.
    pub fn ask(&self, request: &str) -> Value {
        let mut stream = UnixStream::connect(self.path("control")).expect("the daemon listens");
        stream.set_read_timeout(Some(CLIENT_DEADLINE)).expect("a socket takes a timeout");
        writeln!(stream, "{request}").expect("the daemon reads");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("the daemon answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}
