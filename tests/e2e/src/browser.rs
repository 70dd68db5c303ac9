// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real browser without a window and without a network, for pages that the program makes.

use crate::wait_for;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Starting it on a busy machine, drawing, and ending.
const DEADLINE: Duration = Duration::from_secs(180);
/// Milliseconds of the page's own time: scripts have run and nothing moves any more.
const PAGE_MS: u32 = 5000;

/// The browser under its names in Debian: packages chromium-headless-shell and chromium.
const PROGRAMS: [&str; 2] = ["chromium-headless-shell", "chromium"];

/// What the browser made of a page.
pub struct Page {
    /// The document after its scripts have run.
    pub dom: String,
    /// Lines that the page wrote to the console: errors, refusals of the content security policy.
    pub console: Vec<String>,
}

impl Page {
    /// Number of elements that have all the classes of `class`, in this order and no other.
    pub fn count(&self, class: &str) -> usize {
        self.dom.matches(&format!("class=\"{class}\"")).count()
    }
}

/// The size and the colours in which a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The user prefers dark colours.
    pub dark: bool,
}

/// Load a page and let its scripts run.
///
/// # Panics
///
/// If there is no browser, or it does not end well.
pub fn load(scratch: &Path, url: &str) -> Page {
    let view = View { width: 1280, height: 1600, dark: false };
    let (dom, stderr) = run(scratch, view, &["--dump-dom"], url);
    let console = stderr.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Page { dom, console }
}

/// Take a picture of a page; the file is PNG.
///
/// # Panics
///
/// As [`load`]; and if the picture is not of the size that was asked for.
pub fn picture(scratch: &Path, url: &str, view: View, file: &Path) {
    let option = format!("--screenshot={}", file.display());
    run(scratch, view, &[&option, "--hide-scrollbars"], url);
    let png = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // PNG: 8 bytes of signature, then IHDR: length, name, width, height, big-endian.
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((number(16), number(20)), (view.width, view.height), "{}", file.display());
}

fn run(scratch: &Path, view: View, options: &[&str], url: &str) -> (String, String) {
    let path = |name: &str| scratch.join(name);
    let file = |name: &str| std::fs::File::create(path(name)).expect("the place is writable");
    let scheme = if view.dark { 0 } else { 1 };
    let mut child = Command::new(program())
        // The page is our own, and sandboxes inside of containers are often forbidden.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        // No name resolves: whatever the page asks for fails, and says so on the console.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg(format!("--user-data-dir={}", path("browser").display()))
        .arg(format!("--window-size={},{}", view.width, view.height))
        .arg(format!("--virtual-time-budget={PAGE_MS}"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .args(options)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(file("browser.out"))
        .stderr(file("browser.err"))
        .spawn()
        .expect("the browser starts");
    let status = wait_for("the browser to end", DEADLINE, || child.try_wait().expect("our own child"));
    let read = |name| String::from_utf8_lossy(&std::fs::read(path(name)).expect("written")).into_owned();
    let (out, err) = (read("browser.out"), read("browser.err"));
    assert!(status.success(), "{status}: {err}");
    (out, err)
}

fn program() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let places =
        PROGRAMS.iter().flat_map(|name| std::env::split_paths(&paths).map(move |dir| dir.join(name)));
    places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "no {} in PATH: the report is tested in a real browser; `scripts/setup --test` installs one (Debian: \
             apt-get install chromium-headless-shell, or chromium)",
            PROGRAMS.join(" or ")
        )
    })
}
